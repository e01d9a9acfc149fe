/* Units and slices: every parameter in one place, for all published shapes and many world sizes. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"

static const char *const shapes[] = {"bloom-560m", "bloom-1b1", "bloom-1b7",
                                     "bloom-3b",   "bloom-7b1", "bloom"};
static const int world_sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 16, 48, 64, 100, 384, 512};

/* Small ones, also of sizes that are no multiple of 8 and smaller than the ranks can share. */
static struct bloom_config small_config(size_t vocabulary, size_t hidden, size_t layers) {
    return (struct bloom_config){
        .vocabulary = vocabulary, .hidden = hidden, .layers = layers, .heads = 1, .head_dim = hidden};
}

static void check_unit(const struct layout *layout, int number) {
    const struct unit *unit = &layout->units[number];
    size_t h = layout->config.hidden, count = 0;
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        assert_int_equal(tensor->offset, count); /* one after the other: each element in one tensor */
        assert_int_equal(tensor->count, tensor->rows * tensor->columns);
        assert_int_equal(tensor_is_matrix(unit, t), tensor->offset < unit->decayed);
        count += tensor->count;
        if (h % 8 == 0) assert_int_equal(tensor->offset % 8, 0);
    }
    assert_int_equal(unit->count, count);
    assert_true(unit->padded >= unit->count && unit->decayed <= unit->count);
    assert_int_equal(unit->slice % 8, 0);
    assert_int_equal(unit->slice * (size_t)layout->world_size, unit->padded);
    assert_int_equal(unit->offset % (8 * (size_t)layout->world_size), 0);
    if (unit->kind == EMBEDDING_CHUNK)
        assert_int_equal(unit->slice % h, 0); /* whole rows */
    else
        assert_true(unit->padded - unit->count < 8 * (size_t)layout->world_size);
    size_t covered = 0;
    for (int r = 0; r < layout->world_size; r++) {
        struct slice slice = layout_slice(unit, r);
        assert_int_equal(slice.begin, covered);
        covered += slice.count;
    }
    assert_int_equal(covered, unit->padded);
}

static void check_walk(const struct layout *layout) {
    assert_int_equal(layout->units[0].kind, EMBEDDING_NORM);
    assert_int_equal(layout->blocks_begin, 1);
    assert_int_equal(layout->blocks_end - layout->blocks_begin, layout->config.layers);
    for (int u = layout->blocks_begin; u < layout->blocks_end; u++) {
        assert_int_equal(layout->units[u].kind, BLOCK);
        assert_int_equal(layout->units[u].layer, u - layout->blocks_begin);
        assert_int_equal(layout->units[u].tensors, BLOCK_TENSORS);
    }
    assert_int_equal(layout->final_norm, layout->blocks_end);
    assert_int_equal(layout->units[layout->final_norm].kind, FINAL_NORM);
    assert_int_equal(layout->chunks_begin, layout->final_norm + 1);
    assert_int_equal(layout->chunks_end, layout->count);
}

/* In a buffer of all units the chunks are the embedding's rows, one after the other. */
static void check_embedding(const struct layout *layout) {
    size_t h = layout->config.hidden, row = 0, ranks = (size_t)layout->world_size;
    size_t block = layout->units[layout->blocks_begin].count;
    const struct unit *first = &layout->units[layout->chunks_begin];
    assert_true(layout->chunks_end > layout->chunks_begin);
    for (int u = layout->chunks_begin; u < layout->chunks_end; u++) {
        const struct unit *chunk = &layout->units[u];
        bool last = u == layout->chunks_end - 1;
        assert_int_equal(chunk->kind, EMBEDDING_CHUNK);
        assert_int_equal(chunk->layer, u - layout->chunks_begin);
        assert_int_equal(chunk->first_row, row);
        assert_int_equal(chunk->offset, first->offset + row * h);
        assert_int_equal(chunk->decayed, chunk->count);
        assert_int_equal(chunk->padded, chunk->padded_rows * h);
        assert_true(chunk->rows > 0 && chunk->padded_rows <= layout->chunk_rows);
        if (!last) assert_true(chunk->rows == layout->chunk_rows && chunk->padded_rows == layout->chunk_rows);
        /* No larger than a block, unless a few rows per rank are already more. */
        assert_true(chunk->padded <= block || chunk->padded_rows <= 8 * ranks);
        if (block / h >= 8 * ranks) assert_int_equal(chunk->first_row % 8, 0);
        row += chunk->rows;
    }
    assert_int_equal(row, layout->config.vocabulary);
    assert_int_equal(layout->padded_vocabulary, layout->units[layout->count - 1].first_row +
                                                    layout->units[layout->count - 1].padded_rows);
    assert_true(layout->padded_vocabulary - row < 8 * ranks);
}

static void check_sums(const struct layout *layout) {
    size_t parameters = 0, padded = 0, largest = 0;
    for (int u = 0; u < layout->count; u++) {
        assert_int_equal(layout->units[u].offset, padded);
        parameters += layout->units[u].count;
        padded += layout->units[u].padded;
        if (layout->units[u].padded > largest) largest = layout->units[u].padded;
    }
    assert_int_equal(layout->parameters, parameters);
    assert_int_equal(layout->parameters, bloom_parameters(&layout->config));
    assert_int_equal(layout->padded, padded);
    assert_int_equal(layout->largest, largest);
}

static void check_layout(const struct bloom_config *config, int world_size, double most_padding) {
    struct layout layout;
    layout_open(&layout, config, world_size);
    check_walk(&layout);
    for (int u = 0; u < layout.count; u++) check_unit(&layout, u);
    check_embedding(&layout);
    check_sums(&layout);
    double padding = (double)(layout.padded - layout.parameters) / (double)layout.parameters;
    if (padding > most_padding)
        fail_msg("%s for %d ranks: %.3f%% padding", config->name, world_size, 100 * padding);
    layout_close(&layout);
}

static void test_published(void **state) {
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t w = 0; w < sizeof world_sizes / sizeof *world_sizes; w++) {
            struct bloom_config config;
            assert_true(bloom_config_published(&config, shapes[s], NULL));
            check_layout(&config, world_sizes[w], 0.003);
        }
}

static void test_small(void **state) {
    (void)state;
    /* The fixtures' shapes: at most 2% of padding with the ranks that tests use. */
    const struct bloom_config fixtures[] = {small_config(640, 64, 2), small_config(320, 96, 1),
                                            small_config(512, 32, 2), small_config(400, 48, 2),
                                            small_config(352, 32, 3)};
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        for (int w = 1; w <= 4; w++) check_layout(&fixtures[i], w, 0.02);
        for (size_t w = 0; w < sizeof world_sizes / sizeof *world_sizes; w++)
            check_layout(&fixtures[i], world_sizes[w], 100);
    }
    const size_t odd[] = {1, 2, 3, 4, 6, 7, 12, 20, 33};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        for (size_t w = 0; w < sizeof world_sizes / sizeof *world_sizes; w++) {
            const struct bloom_config a = small_config(1, odd[i], 1), b = small_config(1000, odd[i], 3);
            check_layout(&a, world_sizes[w], 1e6);
            check_layout(&b, world_sizes[w], 1e6);
        }
}

/* Numbers that other documents quote. */
static void test_560m(void **state) {
    (void)state;
    struct bloom_config config;
    assert_true(bloom_config_published(&config, "bloom-560m", NULL));
    struct layout layout;
    layout_open(&layout, &config, 2);
    assert_int_equal(layout.units[1].count, 12596224);
    assert_int_equal(layout.chunk_rows, 11952);
    assert_int_equal(layout.chunks_end - layout.chunks_begin, 21);
    assert_int_equal(layout.padded_vocabulary, 250880);
    assert_int_equal(layout.padded, layout.parameters);
    assert_int_equal(layout.largest, 12596224);
    assert_int_equal(layout.units[1].decayed, 12 * 1024 * 1024);
    layout_close(&layout);
}

static void check_names(const struct layout *layout, int unit, const char *const *names) {
    char name[96];
    for (int t = 0; t < layout->units[unit].tensors; t++) {
        tensor_name(&layout->units[unit], t, name);
        assert_string_equal(name, names[t]);
    }
}

static void test_names(void **state) {
    (void)state;
    const struct bloom_config config = small_config(1000, 8, 13);
    struct layout layout;
    layout_open(&layout, &config, 2);
    check_names(&layout, 0,
                (const char *[]){"transformer.word_embeddings_layernorm.weight",
                                 "transformer.word_embeddings_layernorm.bias"});
    check_names(&layout, 13,
                (const char *[]){
                    "transformer.h.12.self_attention.query_key_value.weight",
                    "transformer.h.12.self_attention.dense.weight",
                    "transformer.h.12.mlp.dense_h_to_4h.weight",
                    "transformer.h.12.mlp.dense_4h_to_h.weight",
                    "transformer.h.12.input_layernorm.weight",
                    "transformer.h.12.input_layernorm.bias",
                    "transformer.h.12.self_attention.query_key_value.bias",
                    "transformer.h.12.self_attention.dense.bias",
                    "transformer.h.12.post_attention_layernorm.weight",
                    "transformer.h.12.post_attention_layernorm.bias",
                    "transformer.h.12.mlp.dense_h_to_4h.bias",
                    "transformer.h.12.mlp.dense_4h_to_h.bias",
                });
    check_names(&layout, layout.final_norm,
                (const char *[]){"transformer.ln_f.weight", "transformer.ln_f.bias"});
    check_names(&layout, layout.chunks_begin + 1, (const char *[]){"transformer.word_embeddings.weight"});
    static const size_t block_counts[BLOCK_TENSORS] = {192, 64, 256, 256, 8, 8, 24, 8, 8, 8, 32, 8};
    for (int t = 0; t < BLOCK_TENSORS; t++)
        assert_int_equal(layout.units[5].tensor[t].count, block_counts[t]);

    static const char *const people[] = {"embedding layer norm", "block 12", "final layer norm",
                                         "embedding chunk 1"};
    const int units[] = {0, 13, layout.final_norm, layout.chunks_begin + 1};
    for (int i = 0; i < 4; i++) {
        char name[32];
        unit_name(&layout.units[units[i]], name);
        assert_string_equal(name, people[i]);
    }
    layout_close(&layout);
}

/* Numbers and places do not depend on the cut, and no two parameters share one. */
static void test_parameter_numbers(void **state) {
    (void)state;
    const struct bloom_config config = small_config(1000, 8, 4);
    for (int world_size = 1; world_size <= 5; world_size++) {
        struct layout layout;
        layout_open(&layout, &config, world_size);
        size_t count = parameter_count(&layout), rows = 0;
        assert_int_equal(count, 1 + 2 + 4 * 12 + 2);
        char(*names)[96] = xcalloc(count, sizeof *names);
        for (int u = 0; u < layout.count; u++)
            for (int t = 0; t < layout.units[u].tensors; t++) {
                size_t number = parameter_number(&layout, &layout.units[u], t);
                char name[96];
                tensor_name(&layout.units[u], t, name);
                assert_true(number < count);
                if (u > layout.chunks_begin)
                    assert_string_equal(names[number], name);
                else
                    assert_string_equal(names[number], "");
                strcpy(names[number], name);
                bool chunk = layout.units[u].kind == EMBEDDING_CHUNK;
                assert_int_equal(parameter_begin(&layout, &layout.units[u]), chunk ? rows * 8 : 0);
                if (chunk) rows += layout.units[u].rows;
            }
        assert_string_equal(names[0], "transformer.word_embeddings.weight");
        assert_string_equal(names[count - 1], "transformer.ln_f.bias");
        free(names);
        layout_close(&layout);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_small),
        cmocka_unit_test(test_560m),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_parameter_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
