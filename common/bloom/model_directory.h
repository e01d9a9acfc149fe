/*
 * Everything but the weights that AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained look
 * for in a model's folder: config.json, generation_config.json and the tokenizer's files. (The weights:
 * weights.h.)
 */
#ifndef COMMON_BLOOM_MODEL_DIRECTORY_H
#define COMMON_BLOOM_MODEL_DIRECTORY_H

#include <stdbool.h>

#include "common/base/error.h"
#include "common/bloom/config.h"
#include "common/device/dtype.h"

struct model_sources {
    const char *model; /* folder that the model came from; NULL: random weights, a config.json is made up */
    const char *tokenizer; /* folder with tokenizer.json; NULL: none is copied */
};

/* Writes the files into `directory` (created where it is missing), for weights of `dtype`: config.json is the
 * source's own, every key kept, but for the type; the other files are copied where the source has them. Each
 * is synced and replaces an old one whole. False with the path and cause in `error`. */
bool model_directory_write(const char *directory, const struct model_sources *sources,
                           const struct bloom_config *config, enum dtype dtype, struct error *error);

#endif
