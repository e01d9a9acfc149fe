/*
 * The table behind settings.h: every setting's name, kind, default, bounds and one line of help, once.
 */
#ifndef COMMON_TRAIN_SETTINGS_TABLE_H
#define COMMON_TRAIN_SETTINGS_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/train/settings.h"

enum setting_kind { SETTING_BOOL, SETTING_INTEGER, SETTING_REAL, SETTING_STRING, SETTING_CHOICE };

struct setting {
    const char *name;
    enum setting_kind kind;
    size_t offset; /* in struct settings */
    const char *initial;
    double minimum, maximum;    /* of numbers */
    const char *const *choices; /* of a choice: names in the enum's order, then NULL */
    const char *help;
    int since; /* number of the first stage that has it; 0: all have */
};

extern const struct setting settings_table[]; /* ends with a NULL name */

/* NULL where there is no setting of that name. */
const struct setting *settings_find(const char *name);

/* Reads one value from text. `from` names its source in errors. */
bool settings_set(struct settings *settings, const struct setting *setting, const char *text,
                  const char *from, struct error *error);

/* "true or false", "an integer", …: what a setting expects. */
const char *setting_kind_name(const struct setting *setting);

void settings_print_help(const char *program);

#endif
