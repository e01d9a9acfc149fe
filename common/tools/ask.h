/*
 * ./workshop ask DIR [QUESTION…]: a fine-tuned model answers questions on a text.
 *
 * Any BLOOM directory will do: a run's output_dir, a checkpoint of it, or what ./workshop fetch brought. The
 * prompt is the one that the model was fine-tuned on (common/text/questions.h), the answer comes greedily
 * (common/bloom/generate.h) and is written as it comes. Answers go to standard output, all else to standard
 * error.
 */
#ifndef COMMON_TOOLS_ASK_H
#define COMMON_TOOLS_ASK_H

#include <stdbool.h>

#include "common/bloom/generate.h"
#include "common/bloom/weights.h"
#include "common/text/questions.h"
#include "common/text/tokenizer.h"

/* ---- ask_model.c: a model that answers ---- */

struct ask_model {
    char *directory;
    struct device *device;
    struct stream *stream;
    struct bloom_config config;
    struct layout layout;
    struct tokenizer *tokenizer;
    enum dtype dtype;
    char *parameters; /* device memory, all units, whole */
};

/* Loads it: `name` is a directory or a name in the Hugging Face cache. `precision` is fp32, bf16 or fp16,
 * NULL the backend's usual one (fp16 on a GPU, else fp32). fail()s where a file is missing or wrong. */
void ask_model_open(struct ask_model *model, const char *name, const char *precision);
void ask_model_close(struct ask_model *model);

struct ask_limits {
    int max_new_tokens;
    int window; /* tokens of prompt and answer together */
};

/* Writes the answer to standard output as it comes, and a line's end. Returns its text, which the caller
 * frees; NULL with `error` set where the prompt does not fit the window. */
char *ask_model_answer(struct ask_model *model, struct squad_text question, struct squad_text context,
                       const struct ask_limits *limits, struct error *error);

#endif
