/*
 * SQuAD files, versions 1.1 and 2.0 (Rajpurkar et al., arXiv 1606.05250, 1806.03822).
 *
 *   {"data": [{"paragraphs": [
 *     {"context": "…", "qas": [{"question": "…", "answers": [{"text": "…"}, …]}, …]}, …]}, …]}
 *
 * Other members (title, id, answer_start, is_impossible, plausible_answers, version) are not looked at.
 */
#ifndef COMMON_TEXT_SQUAD_H
#define COMMON_TEXT_SQUAD_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

/* UTF-8 that may contain NUL bytes; not NUL-terminated. */
struct squad_text {
    const char *data;
    size_t bytes;
};

struct squad_example {
    struct squad_text question;
    struct squad_text context;        /* shared by all questions of a paragraph */
    struct squad_text answer;         /* the first one; "No Answer" where the list of answers is empty */
    const struct squad_text *answers; /* [answer_count] all of them, from the first one on */
    int answer_count;                 /* at least 1 */
};

struct squad {
    int count;
    struct squad_example *examples; /* [count] in file order */
    void *memory;                   /* what the texts point into */
    struct squad_text *answers;     /* of all questions, in their order */
};

/* Reads the first `limit` questions of a file, or all of them where `limit` is 0; a file that is broken
 * further down is an error all the same. false with "PATH:LINE:COLUMN: malformed JSON: reason", or
 * "PATH:LINE:COLUMN: data[1].paragraphs[0].qas[2].question: what is wrong". The caller calls squad_free. A
 * file without questions is fine here: count is 0. */
bool squad_load(struct squad *squad, const char *path, int limit, struct error *error);
/* The same from bytes in memory, `name` standing for the path. */
bool squad_parse(struct squad *squad, const char *data, size_t size, const char *name, int limit,
                 struct error *error);
void squad_free(struct squad *squad);

#endif
