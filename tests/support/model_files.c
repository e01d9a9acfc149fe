#include "tests/support/model_files.h"

#include <stdlib.h>

#include "common/base/file.h"
#include "common/bloom/model_directory.h"
#include "common/bloom/weights.h"
#include "tests/support/check.h"

/* Uniform in [−1, 1). */
static float next(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 33) * 0x1p-30 - 1);
}

static void fill(float *values, const struct unit *unit, const struct model_shape *shape, uint64_t *state) {
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        bool matrix = tensor_is_matrix(unit, t);
        bool gain = unit->kind == BLOCK ? t == INPUT_NORM_WEIGHT || t == POST_NORM_WEIGHT
                                        : !matrix && t == NORM_WEIGHT;
        float width = (float)(matrix ? 1.7320508 * shape->deviation : 0.02); /* of a uniform distribution */
        for (size_t i = 0; i < tensor->count; i++)
            values[tensor->offset + i] = width * next(state) + (gain ? (float)shape->gain : 0);
    }
}

void model_files_write(const char *folder, const struct model_shape *shape) {
    struct bloom_config config = {.name = "shape",
                                  .vocabulary = shape->vocabulary,
                                  .hidden = shape->hidden,
                                  .layers = shape->layers,
                                  .heads = shape->heads,
                                  .head_dim = shape->hidden / shape->heads,
                                  .layer_norm_epsilon = 1e-5f,
                                  .initializer_range = 0.02f,
                                  .bos = 1,
                                  .eos = 2,
                                  .pad = 3};
    struct error error;
    struct layout layout;
    layout_open(&layout, &config, 1);
    if (!model_directory_write(folder, &(struct model_sources){0}, &config, FP32, &error))
        fail_msg("%s", error.text);
    struct weights_writer *writer = weights_writer_open(folder, &layout, FP32, &error);
    if (!writer) fail_msg("%s", error.text);
    float *values = xmalloc(layout.largest * sizeof *values);
    uint64_t state = 7;
    for (int u = 0; u < layout.count; u++) {
        fill(values, &layout.units[u], shape, &state);
        if (!weights_write_unit(writer, u, values, &error)) fail_msg("%s", error.text);
    }
    if (!weights_writer_finish(writer, &error)) fail_msg("%s", error.text);
    free(values);
    layout_close(&layout);
}
