/*
 * The folder of a checkpoint: its manifest, whether it is whole, and which others there are. Private to
 * checkpoint*.c.
 */
#ifndef COMMON_TRAIN_CHECKPOINT_FILES_H
#define COMMON_TRAIN_CHECKPOINT_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

/* Writes folder/manifest.json: every file in the folder with its size. Synced, the folder too. */
bool manifest_write(const char *folder, struct error *error);
/* Whether the manifest is there and every file it names has its size; the manifest (a new reference) or NULL.
 */
json_t *manifest_check(const char *folder, struct error *error);

/* The two JSON files from `size` bytes at `data` (path names them in errors), every member checked: a new
 * reference, or NULL. */
json_t *manifest_parse(const char *data, size_t size, const char *path, struct error *error);
json_t *checkpoint_parse_state(const char *data, size_t size, const char *path, struct error *error);

/* Updates of the checkpoint-<update> folders in output_dir, ascending; the caller frees. Unfinished ones
 * (.part) are not among them. */
long long *checkpoint_list(const char *output_dir, int *count);
/* Removes the oldest checkpoints until `limit` whole ones stay. */
void checkpoint_prune(const char *output_dir, int limit);

#endif
