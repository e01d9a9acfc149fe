#include "common/bloom/layout.h"

#include <stdio.h>
#include <stdlib.h>

/* A slice is a multiple of this many elements: 16 bytes in half precision. */
enum { SLICE_ELEMENTS = 8 };
/* A chunk starts at a multiple of this many rows, so that its logits start at 16 bytes within a row of
 * logits. */
enum { CHUNK_ALIGNMENT = 8 };

static size_t divide_up(size_t a, size_t b) {
    return (a + b - 1) / b;
}

static size_t round_up(size_t a, size_t b) {
    return divide_up(a, b) * b;
}

static size_t greatest_common_divisor(size_t a, size_t b) {
    while (b) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static size_t least_common_multiple(size_t a, size_t b) {
    return a / greatest_common_divisor(a, b) * b;
}

static void add_tensor(struct unit *unit, size_t rows, size_t columns) {
    struct tensor *tensor = &unit->tensor[unit->tensors++];
    *tensor =
        (struct tensor){.offset = unit->count, .count = rows * columns, .rows = rows, .columns = columns};
    unit->count += tensor->count;
}

/* Takes the unit, whose tensors are there, into the layout. */
static void add_unit(struct layout *layout, struct unit *unit, size_t padded) {
    unit->offset = layout->padded;
    unit->padded = padded;
    unit->slice = padded / (size_t)layout->world_size;
    unit->slice_offset = layout->sliced;
    layout->parameters += unit->count;
    layout->padded += padded;
    layout->sliced += unit->slice;
    if (padded > layout->largest) layout->largest = padded;
    layout->units[layout->count++] = *unit;
}

static size_t padded_count(const struct layout *layout, size_t count) {
    return round_up(count, SLICE_ELEMENTS * (size_t)layout->world_size);
}

static void add_norm(struct layout *layout, enum unit_kind kind) {
    struct unit unit = {.kind = kind};
    for (int i = 0; i < NORM_TENSORS; i++) add_tensor(&unit, 1, layout->config.hidden);
    add_unit(layout, &unit, padded_count(layout, unit.count));
}

static void add_block(struct layout *layout, int layer) {
    size_t h = layout->config.hidden;
    struct unit unit = {.kind = BLOCK, .layer = layer};
    add_tensor(&unit, 3 * h, h); /* QKV_WEIGHT */
    add_tensor(&unit, h, h);     /* DENSE_WEIGHT */
    add_tensor(&unit, 4 * h, h); /* UP_WEIGHT */
    add_tensor(&unit, h, 4 * h); /* DOWN_WEIGHT */
    unit.decayed = unit.count;
    static const size_t vectors[] = {1, 1, 3, 1,
                                     1, 1, 4, 1}; /* INPUT_NORM_WEIGHT … DOWN_BIAS, in units of h */
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) add_tensor(&unit, 1, vectors[i] * h);
    add_unit(layout, &unit, padded_count(layout, unit.count));
}

/* How the embedding is cut: rows of every chunk but the last, and the number of rows that all are multiples
 * of. */
struct chunks {
    size_t step, rows, count;
};

/* Every chunk has whole rows per rank, slices of whole 16 bytes, and where a block is large enough starts at
 * a multiple of CHUNK_ALIGNMENT rows. Chunks are as equal as that allows, and no larger than a block if one
 * row per rank is not. */
static struct chunks cut_embedding(const struct bloom_config *config, int world_size) {
    size_t block_rows = 12 * config->hidden + 13; /* a block's parameters, in rows of the embedding */
    size_t rank_rows = SLICE_ELEMENTS / greatest_common_divisor(SLICE_ELEMENTS, config->hidden);
    size_t whole = rank_rows * (size_t)world_size;
    size_t step = least_common_multiple(whole, CHUNK_ALIGNMENT);
    if (step > block_rows) step = whole;
    size_t most = block_rows < step ? step : block_rows / step * step;
    size_t count = divide_up(config->vocabulary, most);
    size_t rows = round_up(divide_up(config->vocabulary, count), step);
    return (struct chunks){step, rows, divide_up(config->vocabulary, rows)};
}

static void add_chunk(struct layout *layout, const struct chunks *chunks, size_t number) {
    const struct bloom_config *config = &layout->config;
    struct unit unit = {.kind = EMBEDDING_CHUNK, .layer = (int)number, .first_row = number * chunks->rows};
    size_t left = config->vocabulary - unit.first_row;
    unit.rows = left < chunks->rows ? left : chunks->rows;
    unit.padded_rows = round_up(unit.rows, chunks->step);
    add_tensor(&unit, unit.rows, config->hidden);
    unit.decayed = unit.count;
    add_unit(layout, &unit, unit.padded_rows * config->hidden);
    layout->padded_vocabulary += unit.padded_rows;
}

void layout_open(struct layout *layout, const struct bloom_config *config, int world_size) {
    if (world_size < 1) fail("a model cannot be cut for %d ranks", world_size);
    struct chunks chunks = cut_embedding(config, world_size);
    *layout = (struct layout){.config = *config, .world_size = world_size, .chunk_rows = chunks.rows};
    layout->units = xcalloc(config->layers + chunks.count + 2, sizeof *layout->units);

    add_norm(layout, EMBEDDING_NORM);
    layout->blocks_begin = layout->count;
    for (size_t l = 0; l < config->layers; l++) add_block(layout, (int)l);
    layout->blocks_end = layout->count;
    layout->final_norm = layout->count;
    add_norm(layout, FINAL_NORM);
    layout->chunks_begin = layout->count;
    for (size_t c = 0; c < chunks.count; c++) add_chunk(layout, &chunks, c);
    layout->chunks_end = layout->count;
}

void layout_close(struct layout *layout) {
    free(layout->units);
    *layout = (struct layout){.units = NULL};
}

struct slice layout_slice(const struct unit *unit, int slice) {
    return (struct slice){.begin = (size_t)slice * unit->slice, .count = unit->slice};
}

size_t parameter_number(const struct layout *layout, const struct unit *unit, int tensor) {
    size_t blocks = 1 + NORM_TENSORS;
    switch (unit->kind) {
    case EMBEDDING_CHUNK:
        return 0;
    case EMBEDDING_NORM:
        return 1 + (size_t)tensor;
    case BLOCK:
        return blocks + (size_t)unit->layer * BLOCK_TENSORS + (size_t)tensor;
    case FINAL_NORM:
        return blocks + layout->config.layers * BLOCK_TENSORS + (size_t)tensor;
    }
    fail("a unit has the unknown kind %d", (int)unit->kind);
}

size_t parameter_count(const struct layout *layout) {
    return 1 + NORM_TENSORS + layout->config.layers * BLOCK_TENSORS + NORM_TENSORS;
}

size_t parameter_begin(const struct layout *layout, const struct unit *unit) {
    return unit->first_row * layout->config.hidden;
}

bool tensor_is_matrix(const struct unit *unit, int tensor) {
    return unit->tensor[tensor].offset < unit->decayed;
}

void tensor_name(const struct unit *unit, int tensor, char name[96]) {
    static const char *const block[BLOCK_TENSORS] = {
        [QKV_WEIGHT] = "self_attention.query_key_value.weight",
        [DENSE_WEIGHT] = "self_attention.dense.weight",
        [UP_WEIGHT] = "mlp.dense_h_to_4h.weight",
        [DOWN_WEIGHT] = "mlp.dense_4h_to_h.weight",
        [INPUT_NORM_WEIGHT] = "input_layernorm.weight",
        [INPUT_NORM_BIAS] = "input_layernorm.bias",
        [QKV_BIAS] = "self_attention.query_key_value.bias",
        [DENSE_BIAS] = "self_attention.dense.bias",
        [POST_NORM_WEIGHT] = "post_attention_layernorm.weight",
        [POST_NORM_BIAS] = "post_attention_layernorm.bias",
        [UP_BIAS] = "mlp.dense_h_to_4h.bias",
        [DOWN_BIAS] = "mlp.dense_4h_to_h.bias",
    };
    const char *norm = tensor == NORM_WEIGHT ? "weight" : "bias";
    switch (unit->kind) {
    case EMBEDDING_NORM:
        snprintf(name, 96, "transformer.word_embeddings_layernorm.%s", norm);
        break;
    case BLOCK:
        snprintf(name, 96, "transformer.h.%d.%s", unit->layer, block[tensor]);
        break;
    case FINAL_NORM:
        snprintf(name, 96, "transformer.ln_f.%s", norm);
        break;
    case EMBEDDING_CHUNK:
        snprintf(name, 96, "transformer.word_embeddings.weight");
        break;
    }
}

void unit_name(const struct unit *unit, char name[32]) {
    switch (unit->kind) {
    case EMBEDDING_NORM:
        snprintf(name, 32, "embedding layer norm");
        break;
    case BLOCK:
        snprintf(name, 32, "block %d", unit->layer);
        break;
    case FINAL_NORM:
        snprintf(name, 32, "final layer norm");
        break;
    case EMBEDDING_CHUNK:
        snprintf(name, 32, "embedding chunk %d", unit->layer);
        break;
    }
}
