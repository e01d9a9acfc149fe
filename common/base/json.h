/*
 * JSON files, read with jansson; errors carry file, line and column.
 * The getters tell a missing member from one of the wrong type, and name both.
 */
#ifndef COMMON_BASE_JSON_H
#define COMMON_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

/* Parses a whole file (or `size` bytes at `data`, `name` standing for the path in errors). Duplicate keys are
 * an error. The caller calls json_decref on the result; NULL with `error` set otherwise:
 * "PATH:LINE:COLUMN: reason". */
json_t *json_read_file(const char *path, struct error *error);
json_t *json_read_bytes(const char *data, size_t size, const char *name, struct error *error);

/* Reads member `key` of `object` into *value. An absent (or null) member leaves *value alone and is fine;
 * false with "PATH: KEY: …" in `error` where the type is wrong or the number does not fit. The string belongs
 * to the object. */
bool json_get_int(const json_t *object, const char *key, long long minimum, long long maximum,
                  long long *value, const char *path, struct error *error);
bool json_get_double(const json_t *object, const char *key, double *value, const char *path,
                     struct error *error);
bool json_get_bool(const json_t *object, const char *key, bool *value, const char *path, struct error *error);
bool json_get_string(const json_t *object, const char *key, const char **value, const char *path,
                     struct error *error);

/* A number for JSON: the real where it is finite, null where it is not (JSON has no NaN). A new reference. */
json_t *json_number(double value);

#endif
