#include "common/text/tokenizer.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/utf8.h"
#include "common/text/byte_map.h"
#include "common/text/pretokenize.h"
#include "common/text/tokenizer_file.h"

/* Workers that no thread uses at the moment. A thread that encodes takes the one last returned, whose cache
 * is warm, or makes a new one: so there are as many as threads ever encoded at once. */
struct worker_pool {
    pthread_mutex_t lock;
    struct pooled_worker {
        struct bpe_worker worker;
        struct pooled_worker *next;
    } * idle;
};

struct tokenizer {
    struct tokenizer_file file;
    struct worker_pool *pool;
};

struct tokenizer *tokenizer_parse(const char *data, size_t size, const char *name, struct error *error) {
    struct tokenizer *tokenizer = xcalloc(1, sizeof *tokenizer);
    if (!tokenizer_file_read(&tokenizer->file, data, size, name, error)) {
        tokenizer_free(tokenizer);
        return NULL;
    }
    tokenizer->pool = xcalloc(1, sizeof *tokenizer->pool);
    if (pthread_mutex_init(&tokenizer->pool->lock, NULL) != 0) fail("%s: no lock could be made for it", name);
    return tokenizer;
}

struct tokenizer *tokenizer_load(const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return NULL;
    struct tokenizer *tokenizer = tokenizer_parse(map.data, map.size, path, error);
    file_unmap(&map);
    return tokenizer;
}

void tokenizer_free(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    if (tokenizer->pool) {
        for (struct pooled_worker *one = tokenizer->pool->idle, *next; one; one = next) {
            next = one->next;
            bpe_worker_free(&one->worker);
            free(one);
        }
        pthread_mutex_destroy(&tokenizer->pool->lock);
        free(tokenizer->pool);
    }
    tokenizer_file_free(&tokenizer->file);
    free(tokenizer);
}

static struct pooled_worker *take_worker(struct worker_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    struct pooled_worker *worker = pool->idle;
    if (worker) pool->idle = worker->next;
    pthread_mutex_unlock(&pool->lock);
    return worker ? worker : xcalloc(1, sizeof *worker);
}

static void return_worker(struct worker_pool *pool, struct pooled_worker *worker) {
    pthread_mutex_lock(&pool->lock);
    worker->next = pool->idle;
    pool->idle = worker;
    pthread_mutex_unlock(&pool->lock);
}

static void encode_pieces(const struct tokenizer *tokenizer, struct bpe_worker *worker, const char *text,
                          size_t bytes, struct ids *out) {
    for (size_t at = 0, length; at < bytes; at += length) {
        length = pretokenize_next(text + at, bytes - at);
        bpe_encode(&tokenizer->file.bpe, worker, text + at, length, out);
    }
}

/* Cuts out the added tokens of this pass and hands what is between them to the next. */
static void encode_pass(const struct tokenizer *tokenizer, int pass, struct bpe_worker *worker,
                        const char *text, size_t bytes, struct ids *out) {
    if (pass == 2) {
        encode_pieces(tokenizer, worker, text, bytes, out);
        return;
    }
    for (size_t from = 0; from < bytes;) {
        size_t at = bytes;
        const struct added_token *token =
            added_tokens_find(&tokenizer->file.added[pass], text, bytes, from, &at);
        encode_pass(tokenizer, pass + 1, worker, text + from, at - from, out);
        if (token) ids_append(out, &token->id, 1);
        from = at + (token ? token->bytes : 0);
    }
}

void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct ids *out) {
    if (bytes > UINT32_MAX - 1)
        fail("a text of %zu bytes: at most 4 GiB can be tokenized in one piece; cut it up", bytes);
    struct pooled_worker *worker = take_worker(tokenizer->pool);
    encode_pass(tokenizer, 0, &worker->worker, text, bytes, out);
    return_worker(tokenizer->pool, worker);
}

/* Writes the bytes that a token's spelling stands for to `to`, which has room for `bytes`; returns how many.
 * A spelling with a character that stands for no byte (an added token's may have one) stands for itself. */
static size_t spelled_bytes(const char *spelling, size_t bytes, char *to) {
    size_t count = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t character;
        at += utf8_read(spelling + at, bytes - at, &character);
        int byte = byte_map_byte(character);
        if (byte < 0) {
            memcpy(to, spelling, bytes);
            return bytes;
        }
        to[count++] = (char)byte;
    }
    return count;
}

/* Copies `text` into a new string, each broken stretch replaced by U+FFFD. */
static char *replace_broken(const char *text, size_t bytes, size_t *result_bytes) {
    char *result = xmalloc(3 * bytes + 1);
    size_t count = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t character;
        length = utf8_read(text + at, bytes - at, &character);
        if (character == UTF8_BROKEN) {
            count += utf8_write(result + count, 0xfffd);
        } else {
            memcpy(result + count, text + at, length);
            count += length;
        }
    }
    result[count] = '\0';
    if (result_bytes) *result_bytes = count;
    return result;
}

char *tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *bytes) {
    const struct tokenizer_file *file = &tokenizer->file;
    char *text = NULL;
    size_t length = 0, room = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= file->size || file->numbers[ids[i]] == TOKENIZER_NO_TOKEN) continue;
        uint32_t number = file->numbers[ids[i]];
        size_t spelling_bytes = string_table_bytes(&file->tokens, number);
        if (spelling_bytes > room - length) {
            room = 2 * room + spelling_bytes;
            text = xrealloc(text, room);
        }
        if (spelling_bytes)
            length += spelled_bytes(string_table_data(&file->tokens, number), spelling_bytes, text + length);
    }
    char *result = replace_broken(text, length, bytes);
    free(text);
    return result;
}

int tokenizer_size(const struct tokenizer *tokenizer) {
    return tokenizer->file.size;
}

int tokenizer_id(const struct tokenizer *tokenizer, const char *token) {
    return tokenizer_file_id(&tokenizer->file, token, strlen(token));
}
