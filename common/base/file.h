/*
 * Files: mapped for reading, and written so that a crash leaves either the old content or the new.
 */
#ifndef COMMON_BASE_FILE_H
#define COMMON_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

/* A whole file, mapped read-only. `data` is not NUL-terminated; an empty file has data "" and size 0. */
struct file_map {
    const char *data;
    size_t size; /* bytes */
};

/* Maps the file. false with the path and the system's reason in `error` where it cannot be read or is no
 * regular file. The caller unmaps. */
bool file_map(struct file_map *map, const char *path, struct error *error);
void file_unmap(struct file_map *map);

bool file_exists(const char *path); /* anything by that name */
bool directory_exists(const char *path);

/* Creates the directory and its parents; an existing one is fine. */
bool directory_create(const char *path, struct error *error);
/* Removes a directory and all in it; one that does not exist is fine. Links are removed, not followed. */
bool directory_remove(const char *path, struct error *error);
/* Syncs a directory, so that the names in it survive a crash. */
bool directory_sync(const char *path, struct error *error);

/* Writes all bytes to `path` (replaced by a rename from PATH.part), synced. */
bool file_write(const char *path, const void *data, size_t size, struct error *error);
/* Copies a file's bytes likewise. */
bool file_copy(const char *from, const char *to, struct error *error);

/* Bytes that an ordinary user may still write on the file system of `path` (its nearest existing parent);
 * -1 where the system does not say. */
long long file_space(const char *path);

#endif
