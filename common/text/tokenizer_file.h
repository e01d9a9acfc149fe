/*
 * A tokenizer.json in memory: what tokenizer_file.c reads and tokenizer.c uses. Only these two include it.
 */
#ifndef COMMON_TEXT_TOKENIZER_FILE_H
#define COMMON_TEXT_TOKENIZER_FILE_H

#include "common/base/error.h"
#include "common/text/added_tokens.h"
#include "common/text/bpe.h"
#include "common/text/string_table.h"

#define TOKENIZER_NO_TOKEN UINT32_MAX

struct tokenizer_file {
    struct string_table tokens; /* as the file spells them: characters of the byte map; added tokens too */
    int32_t *ids;               /* [tokens.count] id of each */
    uint32_t ids_room;
    uint32_t *numbers; /* [size] number of the token with this id, or TOKENIZER_NO_TOKEN */
    int size;          /* highest id + 1 */
    struct bpe bpe;
    /* Added tokens are found in two passes: those with "normalized" true only in what the others leave. */
    struct added_tokens added[2];
};

/* Reads it; `name` stands for the path in errors. The caller calls tokenizer_file_free, also after an error.
 */
bool tokenizer_file_read(struct tokenizer_file *file, const char *data, size_t size, const char *name,
                         struct error *error);
void tokenizer_file_free(struct tokenizer_file *file);

/* The id of the token spelled so, −1 where there is none. */
int32_t tokenizer_file_id(const struct tokenizer_file *file, const char *spelling, size_t bytes);

#endif
