#include "common/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void added_tokens_add(struct added_tokens *list, const char *content, size_t bytes, int32_t id) {
    list->tokens = xrealloc(list->tokens, (list->count + 1ul) * sizeof *list->tokens);
    list->tokens[list->count++] =
        (struct added_token){.content = memcpy(xmalloc(bytes), content, bytes), .bytes = bytes, .id = id};
}

static int compare(const void *left, const void *right) {
    const struct added_token *a = left, *b = right;
    unsigned char first_a = (unsigned char)a->content[0], first_b = (unsigned char)b->content[0];
    if (first_a != first_b) return first_a < first_b ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
    return memcmp(a->content, b->content, a->bytes);
}

void added_tokens_sort(struct added_tokens *list) {
    if (list->count) qsort(list->tokens, list->count, sizeof *list->tokens, compare);
    uint32_t token = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        list->first[byte] = token;
        while (token < list->count && (unsigned char)list->tokens[token].content[0] == byte) token++;
    }
    list->first[256] = token;
}

void added_tokens_free(struct added_tokens *list) {
    for (uint32_t i = 0; i < list->count; i++) free(list->tokens[i].content);
    free(list->tokens);
    *list = (struct added_tokens){0};
}

const struct added_token *added_tokens_find(const struct added_tokens *list, const char *text, size_t bytes,
                                            size_t from, size_t *at) {
    if (list->count == 0) return NULL;
    for (size_t i = from; i < bytes; i++) {
        unsigned char first = (unsigned char)text[i];
        for (uint32_t t = list->first[first]; t < list->first[first + 1]; t++) {
            const struct added_token *token = &list->tokens[t];
            if (token->bytes > bytes - i || memcmp(text + i, token->content, token->bytes) != 0) continue;
            *at = i;
            return token;
        }
    }
    return NULL;
}
