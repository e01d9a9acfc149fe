/*
 * Added tokens: strings such as </s> that are tokens as they stand, wherever they occur in a text. They are
 * cut out before anything else looks at it: the leftmost one, and of several that begin there the longest.
 */
#ifndef COMMON_TEXT_ADDED_TOKENS_H
#define COMMON_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct added_token {
    char *content; /* not NUL-terminated; the list's own copy */
    size_t bytes;  /* at least 1 */
    int32_t id;
};

/* Starts as {0}. Add all, then sort once, then find. */
struct added_tokens {
    struct added_token *tokens; /* [count] once sorted: by first byte, longer ones first */
    uint32_t count;
    uint32_t first[257]; /* tokens that begin with byte b are first[b] … first[b + 1] − 1 */
};

void added_tokens_add(struct added_tokens *list, const char *content, size_t bytes, int32_t id);
void added_tokens_sort(struct added_tokens *list);
void added_tokens_free(struct added_tokens *list);

/* The first added token in text[from … bytes − 1], and in *at where it begins; NULL where there is none. */
const struct added_token *added_tokens_find(const struct added_tokens *list, const char *text, size_t bytes,
                                            size_t from, size_t *at);

#endif
