/*
 * The safetensors files of a Hugging Face directory as one set of tensors: model.safetensors, or the shards
 * that model.safetensors.index.json names ({"weight_map": {TENSOR: FILE}}). All are mapped while the set is
 * open.
 */
#ifndef COMMON_BLOOM_SHARDS_H
#define COMMON_BLOOM_SHARDS_H

#include <stddef.h>

#include "common/base/error.h"
#include "common/base/json.h"
#include "common/bloom/safetensors.h"

struct shards;

/* NULL with `error` set: no such file there (a directory with PyTorch's pickles only is told how to convert
 * them), a shard is missing, or one is damaged. */
struct shards *shards_open(const char *directory, struct error *error);
void shards_close(struct shards *shards); /* NULL is fine */

/* The tensor, or NULL where no file has it. `file` (NULL is fine) gets the path of the file which has it or
 * which, so the index says, should have it; it is left alone where there is none. */
const struct safetensors_entry *shards_find(const struct shards *shards, const char *name, const char **file);

/* The index, or the only file. */
const char *shards_path(const struct shards *shards);

/* The files one by one. */
size_t shards_count(const struct shards *shards);
const struct safetensors *shards_file(const struct shards *shards, size_t index);

/* The weight_map of an index: an object whose values are all plain file names. A new reference; NULL with
 * `error` set. */
json_t *shards_parse_index(const char *data, size_t size, const char *path, struct error *error);

#endif
