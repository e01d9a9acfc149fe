#include "tests/support/whole_model.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/bloom/weights.h"

static void load(struct whole_model *w, const char *directory) {
    struct error error;
    struct weights *weights =
        directory ? weights_open(directory, &w->layout, &error) : weights_random(42, &w->layout);
    if (!weights) fail("%s", error.text);
    float *staging = host_alloc(w->device, BUFFERS, WEIGHTS_STAGING * sizeof(float), true, "loading");
    for (int u = 0; u < w->layout.count; u++)
        weights_load(weights, w->stream, u, 0, w->layout.units[u].padded,
                     w->master + w->layout.units[u].offset, staging);
    stream_synchronize(w->stream);
    host_free(w->device, staging);
    weights_close(weights);
    if (w->dtype != FP32) convert(w->stream, w->dtype, w->parameters, FP32, w->master, w->layout.padded);
}

void whole_model_open(struct whole_model *w, const char *directory, const struct bloom_config *given,
                      enum dtype dtype, struct pack_size capacity, bool checkpointing, const double *rates,
                      int updates, float loss_scale) {
    *w = (struct whole_model){.dtype = dtype};
    struct bloom_config config;
    if (directory) {
        struct error error;
        char *path = xformat("%s/config.json", directory);
        if (!bloom_config_read(&config, path, &error)) fail("%s", error.text);
        free(path);
    } else {
        config = *given;
    }
    w->device = device_open(&(struct device_options){.world_size = 1, .node_size = 1, .dtype = dtype});
    w->stream = stream_open(w->device, "compute");
    layout_open(&w->layout, &config, 1);
    size_t elements = w->layout.padded, size = dtype_size(dtype);
    w->parameters = device_alloc(w->device, PARAMETERS, elements * size, "parameters");
    w->gradients = device_alloc(w->device, GRADIENTS, elements * size, "gradients");
    w->master = dtype == FP32 ? w->parameters : device_alloc(w->device, OPTIMIZER, elements * 4, "masters");
    w->m = device_alloc(w->device, OPTIMIZER, elements * 4, "m");
    w->v = device_alloc(w->device, OPTIMIZER, elements * 4, "v");
    fill_zero(w->stream, w->gradients, elements * size);
    fill_zero(w->stream, w->m, elements * 4);
    fill_zero(w->stream, w->v, elements * 4);
    model_open(&w->model, w->device, w->stream, &w->layout, dtype, capacity, checkpointing);
    input_open(&w->input, w->device, capacity);
    for (int u = 0; u < w->layout.count; u++) {
        w->model.parameters[u] = (char *)w->parameters + w->layout.units[u].offset * size;
        w->model.gradients[u] = (char *)w->gradients + w->layout.units[u].offset * size;
    }
    load(w, directory);

    w->rule = (struct update_rule){.max_grad_norm = 1,
                                   .beta1 = 0.9,
                                   .beta2 = 0.999,
                                   .epsilon = 1e-8,
                                   .weight_decay = 0.01,
                                   .dynamic_loss_scale = dtype == FP16,
                                   .scale_window = 1000};
    w->learning_rates = device_alloc(w->device, BUFFERS, (size_t)(updates + 1) * sizeof(double), "rates");
    if (updates) copy_to_device(w->stream, w->learning_rates, rates, (size_t)updates * sizeof(double));
    struct update_state state = {.loss_scale = loss_scale};
    w->state = device_alloc(w->device, BUFFERS, sizeof state, "state");
    copy_to_device(w->stream, w->state, &state, sizeof state);
    stream_synchronize(w->stream);
}

void whole_model_close(struct whole_model *w) {
    device_free(w->device, w->state);
    device_free(w->device, w->learning_rates);
    input_close(&w->input);
    model_close(&w->model);
    device_free(w->device, w->v);
    device_free(w->device, w->m);
    if (w->dtype != FP32) device_free(w->device, w->master);
    device_free(w->device, w->gradients);
    device_free(w->device, w->parameters);
    layout_close(&w->layout);
    stream_close(w->stream);
    device_close(w->device);
}

void whole_model_forward(struct whole_model *w, const struct pack *pack) {
    input_upload(&w->input, w->stream, pack);
    embed_lookup(&w->model, &w->input);
    embed_forward(&w->model, &w->input);
    for (int u = w->layout.blocks_begin; u < w->layout.blocks_end; u++)
        block_forward(&w->model, u, &w->input);
    final_norm_forward(&w->model, &w->input);
    for (int c = w->layout.chunks_begin; c < w->layout.chunks_end; c++) head_logits(&w->model, c, &w->input);
}

static struct update_state read_state(struct whole_model *w) {
    struct update_state state;
    copy_to_host(w->stream, &state, w->state, sizeof state);
    stream_synchronize(w->stream);
    return state;
}

double whole_model_backward(struct whole_model *w, double positions, bool accumulate) {
    const struct layout *layout = &w->layout;
    w->model.accumulate = accumulate;
    head_loss(&w->model, &w->input, &w->state->loss_sum, &w->state->loss_scale, positions);
    for (int c = layout->chunks_end; c-- > layout->chunks_begin;) head_dx(&w->model, c, &w->input);
    final_norm_backward(&w->model, &w->input);
    for (int u = layout->blocks_end; u-- > layout->blocks_begin;) block_backward(&w->model, u, &w->input);
    embed_backward(&w->model, &w->input);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) head_dw(&w->model, c, &w->input);
    return read_state(w).loss_sum / positions;
}

void whole_model_begin_update(struct whole_model *w) {
    update_begin(w->stream, w->state);
}

struct update_state whole_model_update(struct whole_model *w) {
    for (int u = 0; u < w->layout.count; u++)
        sum_of_squares(w->stream, w->dtype, &w->state->square_sum, w->model.gradients[u],
                       w->layout.units[u].padded);
    update_prepare(w->stream, w->state, &w->rule, w->learning_rates);
    for (int u = 0; u < w->layout.count; u++) {
        const struct unit *unit = &w->layout.units[u];
        adamw(w->stream, w->dtype, w->model.parameters[u], w->master + unit->offset, w->m + unit->offset,
              w->v + unit->offset, w->model.gradients[u], unit->padded, unit->decayed, w->state, &w->rule);
    }
    return read_state(w);
}

/* Elements of a buffer of dtype as fp32 host memory. */
static void fetch(struct whole_model *w, const void *buffers, size_t begin, size_t count, float *out) {
    void *device = device_alloc(w->device, BUFFERS, count * 4, "a tensor as fp32");
    convert(w->stream, FP32, device, w->dtype, (const char *)buffers + begin * dtype_size(w->dtype), count);
    copy_to_host(w->stream, out, device, count * 4);
    stream_synchronize(w->stream);
    device_free(w->device, device);
}

float *whole_model_tensor(struct whole_model *w, const void *buffers, const char *name, size_t *count) {
    float *values = NULL;
    *count = 0;
    for (int u = 0; u < w->layout.count; u++) {
        const struct unit *unit = &w->layout.units[u];
        for (int t = 0; t < unit->tensors; t++) {
            char own[96];
            tensor_name(unit, t, own);
            if (strcmp(own, name) != 0) continue;
            size_t more = unit->tensor[t].count;
            values = xrealloc(values, (*count + more) * sizeof(float));
            fetch(w, buffers, unit->offset + unit->tensor[t].offset, more, values + *count);
            *count += more;
        }
    }
    return values;
}
