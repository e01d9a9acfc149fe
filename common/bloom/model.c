#include "common/bloom/model.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

/* The list of activations stands once, here: it allocates, it frees and, with allocate off, it adds up. */
struct inventory {
    struct device *device;
    enum { ADD_UP, ALLOCATE, RELEASE } task;
    size_t bytes;
};

static void item(struct inventory *inventory, void *pointer, size_t count, size_t size, const char *what) {
    void **where = pointer;
    inventory->bytes += count * size;
    if (inventory->task == ALLOCATE)
        *where = device_alloc(inventory->device, ACTIVATIONS, count * size, what);
    if (inventory->task == RELEASE) device_free(inventory->device, *where);
}

static void block_items(struct inventory *inventory, struct block_activations *block, size_t n, size_t h,
                        size_t heads, size_t size) {
    item(inventory, &block->qkv, 3 * n * h, size, "a block's queries, keys and values");
    item(inventory, &block->context, n * h, size, "a block's attention output");
    item(inventory, &block->middle, n * h, size, "a block's residual stream");
    item(inventory, &block->up, 4 * n * h, size, "a block's wide activation");
    item(inventory, &block->mean1, n, sizeof(float), "layer-norm statistics");
    item(inventory, &block->rstd1, n, sizeof(float), "layer-norm statistics");
    item(inventory, &block->mean2, n, sizeof(float), "layer-norm statistics");
    item(inventory, &block->rstd2, n, sizeof(float), "layer-norm statistics");
    item(inventory, &block->lse, heads * n, sizeof(float), "attention statistics");
}

static void all_items(struct inventory *inventory, struct activations *a, const struct bloom_config *config,
                      size_t padded_vocabulary, enum dtype dtype, struct pack_size capacity,
                      bool checkpointing) {
    size_t n = (size_t)capacity.tokens, r = (size_t)capacity.labelled;
    size_t h = config->hidden, heads = config->heads, size = dtype_size(dtype);
    for (size_t layer = 0; layer < config->layers; layer++) {
        item(inventory, &a->blocks[layer].x, n * h, size, "a block's input");
        if (layer == 0 || !checkpointing) block_items(inventory, &a->blocks[layer], n, h, heads, size);
    }
    item(inventory, &a->embedded, n * h, size, "looked-up rows");
    item(inventory, &a->embedded_mean, n, sizeof(float), "layer-norm statistics");
    item(inventory, &a->embedded_rstd, n, sizeof(float), "layer-norm statistics");
    item(inventory, &a->last, n * h, size, "the last block's output");
    item(inventory, &a->selected, r * h, size, "labelled rows");
    item(inventory, &a->selected_mean, r, sizeof(float), "layer-norm statistics");
    item(inventory, &a->selected_rstd, r, sizeof(float), "layer-norm statistics");
    item(inventory, &a->normed, r * h, size, "the head's input");
    item(inventory, &a->logits, r * padded_vocabulary, size, "logits");
    item(inventory, &a->losses, r, sizeof(float), "losses");
    item(inventory, &a->norm, n * h, size, "a layer norm's output");
    item(inventory, &a->wide, 4 * n * h, size, "GELU's output");
    item(inventory, &a->d_wide, 4 * n * h, size, "the wide activation's gradient");
    item(inventory, &a->d_x, n * h, size, "the residual stream's gradient");
    item(inventory, &a->d_middle, n * h, size, "a gradient between a block's halves");
    item(inventory, &a->d_temporary, n * h, size, "a gradient on its way");
    item(inventory, &a->d_qkv, 3 * n * h, size, "gradients of queries, keys and values");
    item(inventory, &a->d_normed, r * h, sizeof(float), "the head input's gradient");
    item(inventory, &a->d_scratch, heads * n, sizeof(float), "attention statistics");
}

size_t model_activation_bytes(const struct bloom_config *config, const struct layout *layout,
                              enum dtype dtype, struct pack_size capacity, bool gradient_checkpointing) {
    struct activations nothing = {.blocks = xcalloc(config->layers, sizeof *nothing.blocks)};
    struct inventory inventory = {.task = ADD_UP};
    all_items(&inventory, &nothing, config, layout->padded_vocabulary, dtype, capacity,
              gradient_checkpointing);
    free(nothing.blocks);
    return inventory.bytes + input_bytes(capacity);
}

void model_open(struct model *model, struct device *device, struct stream *stream,
                const struct layout *layout, enum dtype dtype, struct pack_size capacity,
                bool gradient_checkpointing) {
    *model = (struct model){.config = layout->config,
                            .layout = layout,
                            .dtype = dtype,
                            .gradient_checkpointing = gradient_checkpointing,
                            .device = device,
                            .stream = stream,
                            .weights_stream = stream_open_background(device, "gradients of weights"),
                            .queued = event_open(device),
                            .down_done = event_open(device),
                            .capacity = capacity};
    model->parameters = xcalloc((size_t)layout->count, sizeof *model->parameters);
    model->gradients = xcalloc((size_t)layout->count, sizeof *model->gradients);
    struct activations *a = &model->activations;
    a->blocks = xcalloc(layout->config.layers, sizeof *a->blocks);
    struct inventory inventory = {.task = ALLOCATE, .device = device};
    all_items(&inventory, a, &model->config, layout->padded_vocabulary, dtype, capacity,
              gradient_checkpointing);
    for (size_t layer = 1; gradient_checkpointing && layer < layout->config.layers; layer++) {
        void *x = a->blocks[layer].x;
        a->blocks[layer] = a->blocks[0];
        a->blocks[layer].x = x;
    }
}

void model_close(struct model *model) {
    struct inventory inventory = {.task = RELEASE, .device = model->device};
    all_items(&inventory, &model->activations, &model->config, model->layout->padded_vocabulary, model->dtype,
              model->capacity, model->gradient_checkpointing);
    event_close(model->down_done);
    event_close(model->queued);
    stream_close(model->weights_stream);
    free(model->activations.blocks);
    free(model->parameters);
    free(model->gradients);
}

double model_flops(const struct bloom_config *config, const struct input *input) {
    double n = input->tokens, r = input->labelled, h = (double)config->hidden,
           layers = (double)config->layers;
    double products = layers * 12 * h * h * n + (double)config->vocabulary * h * r;
    double attention = layers * 2 * h * input->sequences.pairs; /* scores and context, a multiply-add each */
    return 3 * 2 * (products + attention);                      /* backward costs twice the forward */
}

void *model_tensor(const struct model *model, void *const *buffers, int unit, int tensor) {
    size_t offset = model->layout->units[unit].tensor[tensor].offset;
    return (char *)buffers[unit] + offset * dtype_size(model->dtype);
}
