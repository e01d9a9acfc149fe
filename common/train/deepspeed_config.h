/*
 * --deepspeed FILE: a DeepSpeed configuration as a source of settings, so that people can bring their own.
 *
 * The names are those of https://www.deepspeed.ai/docs/config-json. What becomes of each key is one table in
 * deepspeed_config.c:
 *
 *   - a key for which the kit has a setting sets it; "auto" leaves the setting as it is, as Hugging Face's
 *     Trainer does;
 *   - a key that changes only how DeepSpeed works (bucket sizes, overlap, logging) is ignored, and a note
 * says so;
 *   - a key that would change the numbers of a run in a way that the kit does not have (another optimizer,
 *     quantization, nvme) is an error, and so is a key that is not in the table.
 *
 * A key that is absent leaves its setting alone, but for those of zero_optimization, fp16 and bf16: where
 * such a section is there, what it leaves out has DeepSpeed's default (stage 0, nothing offloaded or pinned,
 * not enabled).
 */
#ifndef COMMON_TRAIN_DEEPSPEED_CONFIG_H
#define COMMON_TRAIN_DEEPSPEED_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/error.h"
#include "common/train/settings.h"

/* Sets `settings` from a configuration and adds its notes (settings_note()). With a train_batch_size, batch
 * or accumulation may be 0 afterwards, where the file does not have it: settings_fit_world() works it out.
 * False with "PATH: zero_optimization.stage: …" in `error`. */
bool deepspeed_config_apply(struct settings *settings, const json_t *config, const char *path,
                            struct error *error);
bool deepspeed_config_read(struct settings *settings, const char *path, struct error *error);

#endif
