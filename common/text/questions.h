/*
 * Questions to be answered: a SQuAD file's, each as the text that a model fine-tuned on examples.h goes on
 * with,
 *
 *   Question: {question} Context: {context} Answer:
 *
 * and the answers that count as right. A prompt is never cut. (The space before an answer belongs to its
 * first word's token, so the prompt ends without one.)
 */
#ifndef COMMON_TEXT_QUESTIONS_H
#define COMMON_TEXT_QUESTIONS_H

#include <stdbool.h>

#include "common/base/error.h"
#include "common/text/examples.h"
#include "common/text/ids.h"
#include "common/text/squad.h"
#include "common/text/tokenizer.h"

struct questions {
    struct examples prompts; /* their tokens, one prompt a question */
    int longest;             /* tokens of the longest prompt */
    struct squad squad;      /* the texts, answers among them */
};

/* Appends a prompt's tokens to `ids`. */
void question_prompt(const struct tokenizer *tokenizer, struct squad_text question, struct squad_text context,
                     struct ids *ids);

/* Reads the first `limit` questions of a file (0: all). False with `error` set: as examples_load. The caller
 * calls questions_free. */
bool questions_load(struct questions *questions, const char *path, const struct tokenizer *tokenizer,
                    int vocabulary, int limit, struct error *error);
void questions_free(struct questions *questions);

#endif
