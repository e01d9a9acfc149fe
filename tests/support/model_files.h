/*
 * A model's folder of any shape, with random weights, for runs on shapes that no fixture has.
 */
#ifndef TESTS_SUPPORT_MODEL_FILES_H
#define TESTS_SUPPORT_MODEL_FILES_H

#include <stddef.h>

struct model_shape {
    size_t vocabulary, hidden, layers, heads;
    double deviation; /* of matrices and embedding */
    double gain;      /* of layer norms: large ones make large gradients */
};

/* Writes config.json and model.safetensors (fp32) into `folder`, which is made. No tokenizer: synthetic text
 * only. */
void model_files_write(const char *folder, const struct model_shape *shape);

#endif
