/*
 * JSON read as it comes, without building a tree: for files of many megabytes, of which a caller copies what
 * it needs. (jansson, behind json.h, allocates every value: 0.3 s for the 500,000 strings of BLOOM's
 * tokenizer.json, a tenth of that here.) Strict: RFC 8259, valid UTF-8, no lone surrogates.
 *
 *     struct json_stream stream;
 *     json_stream_open(&stream, data, size, path, error);
 *     struct json_list list = json_stream_begin(&stream, '[');
 *     while (json_stream_element(&stream, &list))
 *         if (json_stream_string(&stream, &text, &bytes)) …
 *     bool ok = !stream.failed;
 *     json_stream_close(&stream);
 *
 * Every element and member must be read or skipped before the next one. After the first error, which goes to
 * `error` as "NAME:LINE:COLUMN: reason", every function returns false, so loops end and one check at the end
 * is enough.
 */
#ifndef COMMON_BASE_JSON_STREAM_H
#define COMMON_BASE_JSON_STREAM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

struct json_stream {
    const char *data; /* [size] bytes, which the caller keeps */
    size_t size;
    size_t at; /* where the next value begins (or white space before it); callers may save and restore it */
    size_t value; /* where the value last looked at began: what errors point at */
    const char *name;
    struct error *error;
    bool failed;
    char *text; /* [room] the last string with escapes, decoded */
    size_t room;
};

/* An object or array that is being read. */
struct json_list {
    char close; /* '}' or ']' */
    bool started;
};

void json_stream_open(struct json_stream *stream, const char *data, size_t size, const char *name,
                      struct error *error);
void json_stream_close(struct json_stream *stream);

/* What the next value is, without reading it: '{' '[' '"' 't' 'f' 'n', or '0' for a number. Anything else is
 * an error, and '\0'. */
char json_stream_peek(struct json_stream *stream);

/* Enters an object or array; `open` is '{' or '['. Anything else there is an error. */
struct json_list json_stream_begin(struct json_stream *stream, char open);
/* Moves to the next element of an array, or member of an object, whose name comes back as a string. false at
 * its end. */
bool json_stream_element(struct json_stream *stream, struct json_list *list);
bool json_stream_member(struct json_stream *stream, struct json_list *list, const char **name, size_t *bytes);

/* Reads a string: `bytes` of UTF-8, which may contain NUL and are not NUL-terminated. It lies in the data,
 * or, where it has escapes, in the stream until the next string (or member name) is read. */
bool json_stream_string(struct json_stream *stream, const char **text, size_t *bytes);
/* Reads an integer without fraction and exponent that fits a long long. */
bool json_stream_integer(struct json_stream *stream, long long *value);
/* Reads any value and drops it, checking it all the same. Nesting deeper than 200 is an error. */
bool json_stream_skip(struct json_stream *stream);
/* Reads any value into a jansson tree, which the caller decrefs; NULL after an error. For small ones. */
json_t *json_stream_tree(struct json_stream *stream);
/* Checks that only white space is left. */
bool json_stream_end(struct json_stream *stream);

/* Sets the error, at the value last looked at, and returns false. The first error stays. */
bool json_stream_refuse(struct json_stream *stream, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
