/*
 * Which run is it? Settings of a run, beside those that a table or another run has: only settings that change
 * a run's numbers count. Where a run writes and what it logs does not.
 */
#ifndef COMMON_REPORT_RUN_SETTINGS_H
#define COMMON_REPORT_RUN_SETTINGS_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/error.h"

/* Does a setting change losses, memory, bytes or speed? Precision does, but a run says it in its own words:
 * fp16 and bf16 do not count here. */
bool setting_matters(const char *name);

/* All settings in force of a stage ("01-baseline") with these changes, an object of settings; a new
 * reference. A change to "*" stands for any value: it is that string here, too. NULL with `error` set where a
 * setting is not one, or the stage does not have it. */
json_t *stage_settings(const char *stage, const json_t *changes, struct error *error);

/* In how many settings that matter a run's settings differ from those wanted, where "*" is any value. Files
 * and models are compared by the last name of their paths; num_train_epochs does not count where max_steps is
 * set. `text`, unless NULL, gets the first few: "max_steps -1, not 8"; the caller frees it. */
int settings_differ(const json_t *settings, const json_t *wanted, char **text);

/* Settings as on a command line, in the order of settings.md: " --max_steps 8 --bf16"; the caller frees it.
 * "*" is shown as "…". */
char *settings_command(const json_t *changes);

#endif
