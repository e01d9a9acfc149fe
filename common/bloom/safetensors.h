/*
 * The safetensors format: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
 * then the tensors' bytes. (https://huggingface.co/docs/safetensors)
 */
#ifndef COMMON_BLOOM_SAFETENSORS_H
#define COMMON_BLOOM_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/error.h"
#include "common/device/dtype.h"

struct safetensors_entry {
    char *name;
    enum dtype dtype; /* F32, F16, BF16, F64, I32 */
    int dimensions;
    size_t shape[8];
    size_t count;     /* elements */
    const void *data; /* in the mapped file; may be unaligned: memcpy from it */
};

/* One mapped file. */
struct safetensors;

/* Maps a file and checks every entry: known type, shape and offsets agree, inside the file, no overlap, no gap. NULL with
 * `error` set. */
struct safetensors *safetensors_open(const char *path, struct error *error);
/* The same from bytes in memory, which must outlive the result; `name` stands for the path in errors. */
struct safetensors *safetensors_parse(const void *data, size_t size, const char *name, struct error *error);
void safetensors_close(struct safetensors *file);

/* The entry, or NULL. */
const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name);
size_t safetensors_count(const struct safetensors *file);
const struct safetensors_entry *safetensors_at(const struct safetensors *file, size_t index);
const char *safetensors_path(const struct safetensors *file);

/* Elements [begin, begin + count) of an entry (F32, F16, BF16) as fp32 into host memory. */
void safetensors_to_float(const struct safetensors_entry *entry, size_t begin, size_t count, float *out);

/* Writing: announce every tensor, then begin, then write data at any tensor's any part. */
struct safetensors_writer;
struct safetensors_writer *safetensors_writer_open(const char *path, struct error *error);
void safetensors_announce(struct safetensors_writer *writer, const char *name, enum dtype dtype, int dimensions,
                          const size_t *shape);
bool safetensors_begin(struct safetensors_writer *writer, struct error *error); /* writes the header ("format": "pt") */
/* Elements [begin, begin + count) of the announced tensor number `index` (order of announcement), host memory. */
bool safetensors_write(struct safetensors_writer *writer, size_t index, size_t begin, size_t count,
                       const void *values, struct error *error);
/* Syncs and closes; every tensor must have been written whole. Frees the writer either way. */
bool safetensors_writer_finish(struct safetensors_writer *writer, struct error *error);
void safetensors_writer_abandon(struct safetensors_writer *writer);

#endif
