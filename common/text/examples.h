/*
 * Examples: the token ids a run trains or evaluates on, all in host memory.
 *
 * They come from a SQuAD file, each question as the text
 *
 *   Question: {question} Context: {context} Answer: {first answer}
 *
 * or from a file whose name ends in .txt, each line as it stands (lines.h); both cut on the right at
 * max_seq_length tokens. Or they come from a generator, for measurements that need no data:
 *
 *   synthetic:COUNTxLENGTH      COUNT examples of exactly LENGTH tokens
 *   synthetic:COUNTxMEAN-MAX    lengths as SQuAD's: normal around MEAN, standard deviation MEAN / 3, at least
 * 16 (or MEAN where that is less) and at most MAX
 *
 * Every example has at least two tokens, so that each predicts something: a question always has, a line of a
 * single token is an error, and max_seq_length and the lengths above may not be less.
 */
#ifndef COMMON_TEXT_EXAMPLES_H
#define COMMON_TEXT_EXAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/text/tokenizer.h"

struct examples {
    int count;
    size_t *starts;  /* [count + 1] example i is tokens[starts[i]] … tokens[starts[i + 1] − 1] */
    int32_t *tokens; /* [starts[count]] */
};

struct examples_options {
    int max_seq_length; /* tokens, at least 2 */
    int vocabulary;     /* rows of the model's embedding: every id is below it */
    int subset_size;    /* a file's first so many examples; 0: all. A generator's COUNT stands as it is */
    bool append_eos;    /* one eos_id after the text's tokens where there is room; not for a generator */
    int32_t eos_id;
    uint64_t seed; /* a generator's: same seed, same examples on every machine */
};

static inline int examples_length(const struct examples *examples, int example) {
    return (int)(examples->starts[example + 1] - examples->starts[example]);
}
static inline const int32_t *examples_tokens(const struct examples *examples, int example) {
    return examples->tokens + examples->starts[example];
}

/* Whether `source` names a generator (starts with "synthetic:") and so needs no tokenizer. */
bool examples_are_synthetic(const char *source);

/* Reads or generates the examples of `source`: a file's path or a generator. Tokenizes on all OpenMP
 * threads; the result does not depend on their number. `tokenizer` may be NULL for a generator. false with
 * `error` set: an unreadable or malformed file, a malformed generator, ids outside the vocabulary, lengths
 * above max_seq_length, no example left. The caller calls examples_free. */
bool examples_load(struct examples *examples, const char *source, const struct tokenizer *tokenizer,
                   const struct examples_options *options, struct error *error);
void examples_free(struct examples *examples);

#endif
