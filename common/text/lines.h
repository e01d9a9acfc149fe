/*
 * Plain text files: every line is one text, as it stands. For pre-training, where a text is no question with
 * its answer.
 *
 * A line ends with LF or CR LF; a line of nothing but spaces and tabs is left out.
 */
#ifndef COMMON_TEXT_LINES_H
#define COMMON_TEXT_LINES_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"
#include "common/base/file.h"

struct line {
    const char *data; /* in the mapped file; not NUL-terminated, and may contain NUL bytes */
    size_t bytes;     /* at least 1 */
};

struct lines {
    int count;
    struct line *lines; /* [count] in file order */
    struct file_map map;
};

/* Whether a file is read line by line: its name ends in ".txt". */
bool lines_are_in(const char *path);

/* The first `limit` texts of a file, or all of them where `limit` is 0. false with the path and what is wrong
 * in `error`. The caller calls lines_free. A file without texts is fine here: count is 0. */
bool lines_load(struct lines *lines, const char *path, int limit, struct error *error);
void lines_free(struct lines *lines);

#endif
