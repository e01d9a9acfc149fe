#include <stdint.h>
#include <stdlib.h>

#include "common/base/file.h"
#include "common/bloom/model_directory.h"
#include "common/bloom/weights.h"
#include "common/tools/task.h"

struct bloom_config task_model_shape(void) {
    return (struct bloom_config){.name = "task",
                                 .vocabulary = 331,
                                 .hidden = 40,
                                 .layers = 8,
                                 .heads = 5,
                                 .head_dim = 8,
                                 .layer_norm_epsilon = 1e-5f,
                                 .initializer_range = 0.1f,
                                 .bos = 1,
                                 .eos = 2,
                                 .pad = 3};
}

/* Uniform in [−1, 1): xorshift (Marsaglia 2003). */
static float draw(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (float)((double)(*state >> 40) * 0x1p-23 - 1);
}

/* Layer norms multiply by 16: so that gradients are large, and those of a first update in fp16 overflow. */
static void fill(float *values, const struct unit *unit, float range, uint64_t *state) {
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        bool gain = unit->kind == BLOCK ? t == INPUT_NORM_WEIGHT || t == POST_NORM_WEIGHT
                                        : unit->kind != EMBEDDING_CHUNK && t == NORM_WEIGHT;
        for (size_t i = 0; i < tensor->count; i++)
            values[tensor->offset + i] = range * draw(state) + (gain ? 16.0f : 0.0f);
    }
}

static bool write_weights(const char *folder, const struct layout *layout, struct error *error) {
    struct weights_writer *writer = weights_writer_open(folder, layout, FP32, error);
    if (!writer) return false;
    float *values = xcalloc(layout->largest, sizeof *values);
    uint64_t state = 88172645463325252u;
    bool written = true;
    for (int u = 0; u < layout->count && written; u++) {
        fill(values, &layout->units[u], layout->config.initializer_range, &state);
        written = weights_write_unit(writer, u, values, error);
    }
    free(values);
    if (written) return weights_writer_finish(writer, error);
    weights_writer_abandon(writer);
    return false;
}

bool task_model_write(const char *folder, struct error *error) {
    char *file = xformat("%s/model.safetensors", folder);
    bool there = file_exists(file);
    free(file);
    if (there) return true;
    struct bloom_config config = task_model_shape();
    struct layout layout;
    layout_open(&layout, &config, 1);
    bool written = model_directory_write(folder, &(struct model_sources){0}, &config, FP32, error) &&
                   write_weights(folder, &layout, error);
    layout_close(&layout);
    return written;
}
