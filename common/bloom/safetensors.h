/*
 * The safetensors format: an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}}, then the tensors' bytes. (https://huggingface.co/docs/safetensors)
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
    const char *type; /* as the file says: "F32", "BF16", "I64", … */
    bool readable;    /* false: a type that `dtype` has no name for (I64, U8, BOOL, …) */
    enum dtype dtype; /* F32, F16, BF16, F64, I32 */
    int dimensions;
    size_t shape[8];
    size_t count;     /* elements */
    size_t size;      /* bytes */
    const void *data; /* in the mapped file; may be unaligned: memcpy from it */
};

/* One mapped file. */
struct safetensors;

/* Maps a file and checks every entry: known type, shape and offsets agree, inside the file, no overlap, no
 * gap. NULL with `error` set. */
struct safetensors *safetensors_open(const char *path, struct error *error);
/* The same from bytes in memory, which must outlive the result; `name` stands for the path in errors. */
struct safetensors *safetensors_parse(const void *data, size_t size, const char *name, struct error *error);
void safetensors_close(struct safetensors *file);

/* The entry, or NULL. */
const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name);
size_t safetensors_count(const struct safetensors *file);
/* Entries sorted by name. */
const struct safetensors_entry *safetensors_at(const struct safetensors *file, size_t index);
const char *safetensors_path(const struct safetensors *file);
/* For people: "F16 [1024, 4096]". */
struct safetensors_text {
    char text[224];
};
struct safetensors_text safetensors_describe(const struct safetensors_entry *entry);

/* Elements [begin, begin + count) of an entry (F32, F16, BF16) as fp32 into host memory. */
void safetensors_to_float(const struct safetensors_entry *entry, size_t begin, size_t count, float *out);

/* Writing: announce every tensor, begin, then write data at any tensor's any part, in any order. Until it is
 * finished the file is PATH.part; the caller syncs its directory. False with `error` set, naming path and
 * cause: the caller then abandons the writer. */
struct safetensors_writer;
struct safetensors_writer *safetensors_writer_open(const char *path); /* touches no file yet */
/* The tensors' numbers are 0, 1, … in the order of announcement, and so they lie in the file. At most 8
 * dimensions. */
void safetensors_announce(struct safetensors_writer *writer, const char *name, enum dtype dtype,
                          int dimensions, const size_t *shape);
/* Bytes that the file will have with what has been announced so far. */
size_t safetensors_writer_bytes(const struct safetensors_writer *writer);
/* Creates the file in its full size, so that a full disk is met now, and writes the header ("format": "pt").
 */
bool safetensors_begin(struct safetensors_writer *writer, struct error *error);
/* Elements [begin, begin + count) of the announced tensor number `index`, from host memory; each element
 * once. */
bool safetensors_write(struct safetensors_writer *writer, size_t index, size_t begin, size_t count,
                       const void *values, struct error *error);
/* Syncs, closes and renames; every tensor must have been written whole. Frees the writer either way, and
 * removes the file where it fails. */
bool safetensors_writer_finish(struct safetensors_writer *writer, struct error *error);
/* Closes, removes the file, frees the writer. NULL is fine. */
void safetensors_writer_abandon(struct safetensors_writer *writer);

#endif
