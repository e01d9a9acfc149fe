/*
 * The folder of a checkpoint: manifest, whole or not, which is the last. Private to checkpoint*.c.
 */
#ifndef COMMON_TRAIN_CHECKPOINT_FILES_H
#define COMMON_TRAIN_CHECKPOINT_FILES_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/error.h"

/* Writes folder/manifest.json: every file in the folder with its size. Synced, the folder too. */
bool manifest_write(const char *folder, struct error *error);
/* Whether the manifest is there and every file it names has its size; the manifest (a new reference) or NULL.
 */
json_t *manifest_check(const char *folder, struct error *error);

/* Updates of the checkpoint-<update> folders in output_dir, ascending; the caller frees. Unfinished ones
 * (.part) are not among them. */
long long *checkpoint_list(const char *output_dir, int *count);
/* Removes what unfinished saving and removing left. */
void checkpoint_clean(const char *output_dir);
/* Removes the oldest checkpoints until `limit` whole ones stay. */
void checkpoint_prune(const char *output_dir, int limit);

#endif
