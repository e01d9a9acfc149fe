/*
 * BLOOM's tokenizer: text to token ids and back, exactly as Hugging Face's tokenizers does it from a
 * `tokenizer.json`.
 *
 *   text ──► added tokens (<unk> <s> </s> <pad> …) are cut out and map straight to their ids   added_tokens.h
 *        ──► the stretches between them are cut into pieces, roughly words                     pretokenize.h
 *        ──► each piece is a string of bytes; every byte is a token to begin with              byte_map.h
 *        ──► pairs of neighbours are merged, the pair learned first (lowest rank) first        bpe.h
 *
 * This is byte-level byte-pair encoding: Sennrich et al., arXiv 1508.07909; on bytes, Radford et al. 2019
 * (GPT-2). As every byte is a token, no text is ever unknown.
 *
 * What a tokenizer.json may say beyond that is refused with an error that names the key: another model than
 * BPE, another pre-tokenizer or regex than BLOOM's, a normalizer, a post-processor that adds tokens, dropout,
 * ignore_merges, byte_fallback, affixes, added tokens that strip white space or want word boundaries.
 * `truncation` and `padding` are left alone: whoever calls the tokenizer decides about those.
 *
 * Thread-safe: any number of threads may encode and decode with one tokenizer. Words repeat, so each thread
 * that encodes uses a cache of pieces (bpe.h); results do not depend on it.
 */
#ifndef COMMON_TEXT_TOKENIZER_H
#define COMMON_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/text/ids.h"

struct tokenizer;

/* Reads a tokenizer.json; NULL with "PATH: key: what is wrong" in `error`. The caller frees. */
struct tokenizer *tokenizer_load(const char *path, struct error *error);
/* The same from `size` bytes in memory; `name` stands for the path in errors. */
struct tokenizer *tokenizer_parse(const char *data, size_t size, const char *name, struct error *error);
void tokenizer_free(struct tokenizer *tokenizer); /* NULL is fine */

/* Appends the ids of `bytes` bytes of UTF-8 at `text` (NUL bytes are characters like any other) to `out`; no
 * special tokens are added. Bytes that are no valid UTF-8 become the tokens of those bytes. */
void tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t bytes, struct ids *out);

/* The text of `count` ids, special tokens included, as a new NUL-terminated string that the caller frees; its
 * length without the NUL in *bytes (which may be NULL). What is no valid UTF-8 (an id may be half a
 * character) becomes U+FFFD, one for each maximal broken sequence. Ids that are no token are skipped. */
char *tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, size_t *bytes);

/* The highest id plus one: a model needs at least so many embedding rows. */
int tokenizer_size(const struct tokenizer *tokenizer);
/* The id of a token as tokenizer.json spells it ("</s>", "Ġthe"); -1 where there is none. */
int tokenizer_id(const struct tokenizer *tokenizer, const char *token);

#endif
