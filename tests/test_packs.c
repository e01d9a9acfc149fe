/* Packs by hand in every layout; batches against what they promise, at many world sizes; epochs against the
 * Trainer's. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/text/batches.h"
#include "common/text/order.h"
#include "common/text/synthetic.h"

/* ------------------------------------------------------- packs
 * ----------------------------------------------- */

static const int32_t abc[] = {10, 11, 12}, de[] = {13, 10}, abcde[] = {10, 11, 12, 13, 14},
                     abcd[] = {10, 11, 12, 13};

static struct pack open_pack(int tokens, int sequences) {
    struct pack pack;
    pack_open(&pack, (struct pack_size){tokens, sequences, tokens});
    return pack;
}

#define ASSERT_ARRAY(array, ...)                                                                             \
    do {                                                                                                     \
        const int32_t expected[] = {__VA_ARGS__};                                                            \
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)                                      \
            if ((double)(array)[i] != (double)expected[i])                                                   \
                fail_msg(#array "[%zu] is %g, not %d", i, (double)(array)[i], (int)expected[i]);             \
    } while (0)

static void assert_counts(const struct pack *pack, int tokens, int sequences, int labelled) {
    assert_int_equal(pack->tokens, tokens);
    assert_int_equal(pack->sequences, sequences);
    assert_int_equal(pack->labelled, labelled);
}

static void test_default_layout(void **state) {
    (void)state;
    struct pack_layout layout = {.max_seq_length = 5, .pad_id = 3, .eos_id = 2};
    struct pack pack = open_pack(10, 3);
    for (int round = 0; round < 2; round++) { /* refilled, it is the same */
        pack_clear(&pack);
        pack_add(&pack, &layout, abc, 3, 7);
        pack_add(&pack, &layout, de, 2, 4);
        pack_add(&pack, &layout, abcde, 5, 0);
        pack_finish(&pack);
        assert_counts(&pack, 10, 3, 7);
        ASSERT_ARRAY(pack.ids, 10, 11, 12, 13, 10, 10, 11, 12, 13, 14);
        ASSERT_ARRAY(pack.starts, 0, 3, 5, 10);
        ASSERT_ARRAY(pack.keys, 3, 2, 5);
        ASSERT_ARRAY(pack.examples, 7, 4, 0);
        ASSERT_ARRAY(pack.rows, 0, 1, 3, 5, 6, 7, 8);
        ASSERT_ARRAY(pack.row_sequence, 0, 0, 1, 2, 2, 2, 2);
        ASSERT_ARRAY(pack.labels, 11, 12, 10, 11, 12, 13, 14);
        ASSERT_ARRAY(pack.weights, 1, 1, 1, 1, 1, 1, 1);
        ASSERT_ARRAY(pack.by_id, 0, 4, 5, 1, 6, 2, 7, 3, 8, 9);
    }
    pack_clear(&pack);
    pack_finish(&pack);
    assert_counts(&pack, 0, 0, 0);
    assert_int_equal(pack.starts[0], 0);
    /* One token alone predicts nothing, and is legal. */
    pack_add(&pack, &layout, abc, 1, 0);
    pack_finish(&pack);
    assert_counts(&pack, 1, 1, 0);
    pack_close(&pack);
}

static void test_label_padding(void **state) {
    (void)state;
    struct pack_layout layout = {.max_seq_length = 5, .label_padding = true, .pad_id = 3, .eos_id = 2};
    struct pack pack = open_pack(16, 4);
    pack_add(&pack, &layout, de, 2, 0);    /* two of three padding positions predict: one row of weight 2 */
    pack_add(&pack, &layout, abc, 3, 1);   /* one of two */
    pack_add(&pack, &layout, abcd, 4, 2);  /* the only one predicts nothing: no row */
    pack_add(&pack, &layout, abcde, 5, 3); /* none */
    pack_finish(&pack);
    assert_counts(&pack, 16, 4, 15);
    ASSERT_ARRAY(pack.ids, 13, 10, 2, 10, 11, 12, 2, 10, 11, 12, 13, 10, 11, 12, 13, 14);
    ASSERT_ARRAY(pack.starts, 0, 3, 7, 11, 16);
    ASSERT_ARRAY(pack.keys, 2, 3, 4, 5);
    ASSERT_ARRAY(pack.rows, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
    ASSERT_ARRAY(pack.row_sequence, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    ASSERT_ARRAY(pack.labels, 10, 2, 2, 11, 12, 2, 2, 11, 12, 13, 2, 11, 12, 13, 14);
    ASSERT_ARRAY(pack.weights, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
    pack_close(&pack);
}

static void test_pad_to_max_length(void **state) {
    (void)state;
    struct pack_layout layout = {.max_seq_length = 5, .pad_to_max_length = true, .pad_id = 3, .eos_id = 2};
    struct pack pack = open_pack(10, 2);
    pack_add(&pack, &layout, abc, 3, 0);
    pack_add(&pack, &layout, abcde, 5, 1);
    pack_finish(&pack);
    assert_counts(&pack, 10, 2, 10);
    ASSERT_ARRAY(pack.ids, 10, 11, 12, 3, 3, 10, 11, 12, 13, 14);
    ASSERT_ARRAY(pack.starts, 0, 5, 10);
    ASSERT_ARRAY(pack.keys, 3, 5);
    ASSERT_ARRAY(pack.rows, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
    ASSERT_ARRAY(pack.labels, 11, 12, 0, 0, 0, 11, 12, 13, 14, 0);
    ASSERT_ARRAY(pack.weights, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0);
    layout.label_padding = true;
    pack_clear(&pack);
    pack_add(&pack, &layout, abc, 3, 0);
    pack_add(&pack, &layout, abcde, 5, 1);
    pack_finish(&pack);
    assert_counts(&pack, 10, 2, 10);
    ASSERT_ARRAY(pack.ids, 10, 11, 12, 2, 2, 10, 11, 12, 13, 14);
    ASSERT_ARRAY(pack.keys, 3, 5);
    ASSERT_ARRAY(pack.labels, 11, 12, 2, 2, 0, 11, 12, 13, 14, 0);
    ASSERT_ARRAY(pack.weights, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0);
    pack_close(&pack);
}

/* What the layout functions say of an example is what a pack gets, in every layout and at every length. */
static void test_layout_counts(void **state) {
    (void)state;
    int32_t tokens[9] = {5, 6, 7, 8, 9, 10, 11, 12, 13};
    struct pack pack = open_pack(9, 1);
    for (int kind = 0; kind < 4; kind++)
        for (int length = 1; length <= 9; length++) {
            struct pack_layout layout = {
                .max_seq_length = 9, .label_padding = kind & 1, .pad_to_max_length = kind & 2, .eos_id = 2};
            pack_clear(&pack);
            pack_add(&pack, &layout, tokens, length, 0);
            assert_counts(&pack, layout_rows(&layout, length), 1, layout_labelled(&layout, length));
            double sum = 0;
            for (int i = 0; i < pack.labelled; i++) sum += pack.weights[i];
            assert_true(sum == layout_predicted(&layout, length));
            assert_true(sum == (kind & 1 ? 8 : length - 1));
        }
    pack_close(&pack);
}

static void test_by_id(void **state) {
    (void)state;
    enum { TOKENS = 3000 };
    struct pack_layout layout = {.max_seq_length = TOKENS};
    struct pack pack = open_pack(TOKENS, 1);
    int32_t *tokens = xmalloc(TOKENS * sizeof *tokens);
    /* Few ids, many, and more than three passes of the sort can tell apart. */
    static const uint32_t ranges[] = {2, 1000, 250880, 1u << 31};
    for (int r = 0; r < 4; r++) {
        struct mersenne_twister twister;
        mersenne_twister_seed(&twister, 9);
        for (int i = 0; i < TOKENS; i++) tokens[i] = (int32_t)(mersenne_twister_next(&twister) % ranges[r]);
        pack_clear(&pack);
        pack_add(&pack, &layout, tokens, TOKENS, 0);
        pack_finish(&pack);
        for (int i = 1; i < TOKENS; i++) {
            int32_t last = pack.by_id[i - 1], row = pack.by_id[i];
            assert_in_range(row, 0, TOKENS - 1);
            assert_true(tokens[last] < tokens[row] || (tokens[last] == tokens[row] && last < row));
        }
    }
    free(tokens);
    pack_close(&pack);
}

/* ------------------------------------------------------ batches
 * ---------------------------------------------- */

static struct examples make_examples(int count, int mean, int longest) {
    char *source = xformat("synthetic:%dx%d-%d", count, mean, longest);
    struct examples examples;
    struct error error;
    struct examples_options options = {.max_seq_length = longest, .vocabulary = 100, .seed = 3};
    if (!examples_load(&examples, source, NULL, &options, &error)) fail_msg("%s", error.text);
    free(source);
    return examples;
}

/* Which batch of the epoch each example of the update went to, from the packs of all ranks; −1 elsewhere.
 * Checks on the way what every pack and every rank must hold. */
static void collect(const struct examples *examples, struct batches_options options, long long number,
                    bool evaluation, struct pack *pack, int *rank_of, int *pack_of) {
    struct update first = {0}, update;
    double weights = 0;
    long long tokens = 0;
    int count = 0;
    for (int e = 0; e < examples->count; e++) rank_of[e] = pack_of[e] = -1;
    for (int rank = 0; rank < options.world_size; rank++) {
        options.rank = rank;
        struct batches *batches =
            evaluation ? batches_open_evaluation(examples, &options) : batches_open(examples, &options);
        batches_update(batches, number, &update);
        if (rank == 0) first = update;
        assert_memory_equal(&first, &update, sizeof update);
        for (int p = 0; p < update.packs; p++) {
            batches_fill(batches, p, pack);
            for (int s = 0; s < pack->sequences; s++) {
                int e = pack->examples[s];
                assert_int_equal(rank_of[e], -1);
                rank_of[e] = rank;
                pack_of[e] = p;
                assert_int_equal(pack->keys[s], examples_length(examples, e));
                assert_memory_equal(pack->ids + pack->starts[s], examples_tokens(examples, e),
                                    (size_t)pack->keys[s] * sizeof *pack->ids);
                tokens += pack->keys[s];
                count++;
            }
            for (int i = 0; i < pack->labelled; i++) weights += pack->weights[i];
        }
        batches_close(batches);
    }
    assert_true(weights == (double)first.predicted);
    assert_int_equal(tokens, first.tokens);
    assert_int_equal(count, first.examples);
}

/* The rank that batches.h promises each example of an update, and packs that are as full as they can be. */
static void check_update(const struct examples *examples, const struct batches_options *options,
                         long long number, struct pack *pack) {
    int *rank_of = xmalloc((size_t)examples->count * sizeof *rank_of);
    int *pack_of = xmalloc((size_t)examples->count * sizeof *pack_of);
    int32_t *order = xmalloc((size_t)examples->count * sizeof *order);
    int global = options->batch * options->accumulation * options->world_size;
    int per_epoch = (examples->count + global - 1) / global;
    collect(examples, *options, number, false, pack, rank_of, pack_of);
    shuffled_order(order, examples->count, options->seed, (uint32_t)(number / per_epoch));
    int first = (int)(number % per_epoch) * global;
    int rows[64] = {0}, current[64], last_batch[64];
    for (int r = 0; r < options->world_size; r++) current[r] = last_batch[r] = -1;
    for (int i = 0; i < examples->count; i++) {
        int e = order[i];
        if (i < first || i >= first + global) {
            assert_int_equal(rank_of[e], -1);
            continue;
        }
        int batch = i / options->batch, rank = (i - first) / options->batch % options->world_size;
        assert_int_equal(rank_of[e], rank);
        int needs = layout_rows(&options->layout, examples_length(examples, e));
        bool opens =
            options->layout.pad_to_max_length
                ? batch != last_batch[rank]
                : current[rank] < 0 || rows[rank] + needs > options->batch * options->layout.max_seq_length;
        if (opens) {
            current[rank]++;
            rows[rank] = 0;
        }
        rows[rank] += needs;
        last_batch[rank] = batch;
        assert_int_equal(pack_of[e], current[rank]);
    }
    free(rank_of);
    free(pack_of);
    free(order);
}

static void test_updates(void **state) {
    (void)state;
    static const struct {
        int count, batch, accumulation, world_size;
    } runs[] = {{37, 2, 3, 1}, {37, 2, 3, 2}, {37, 2, 3, 3}, {50, 4, 4, 1}, {50, 4, 1, 4},
                {3, 4, 4, 2},  {1, 1, 1, 5},  {40, 1, 8, 8}, {41, 7, 2, 3}, {100, 5, 1, 64}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct examples examples = make_examples(runs[i].count, 20, 48);
        for (int kind = 0; kind < 4; kind++) {
            struct batches_options options = {.batch = runs[i].batch,
                                              .accumulation = runs[i].accumulation,
                                              .world_size = runs[i].world_size,
                                              .seed = 42,
                                              .layout = {.max_seq_length = 48,
                                                         .label_padding = kind & 1,
                                                         .pad_to_max_length = kind & 2,
                                                         .eos_id = 2}};
            struct batches *batches = batches_open(&examples, &options);
            int global = runs[i].batch * runs[i].accumulation * runs[i].world_size;
            int updates = batches_updates_per_epoch(batches);
            assert_int_equal(updates, (runs[i].count + global - 1) / global);
            struct pack pack;
            pack_open(&pack, batches_largest(batches, 3 * updates));
            for (int u = 0; u < 3 * updates; u++) check_update(&examples, &options, u, &pack);
            batches_close(batches);
            pack_close(&pack);
        }
        examples_free(&examples);
    }
}

/* The capacity is reached by some pack of some rank in each of its three numbers, and exceeded by none. */
static void test_largest(void **state) {
    (void)state;
    struct examples examples = make_examples(90, 20, 60);
    for (int kind = 0; kind < 4; kind++) {
        struct batches_options options = {
            .batch = 3,
            .accumulation = 2,
            .world_size = 3,
            .seed = 1,
            .layout = {
                .max_seq_length = 60, .label_padding = kind & 1, .pad_to_max_length = kind & 2, .eos_id = 2}};
        struct pack_size largest = {0}, seen = {0};
        for (int rank = 0; rank < 3; rank++) {
            options.rank = rank;
            struct batches *batches = batches_open(&examples, &options);
            struct pack_size size = batches_largest(batches, 10);
            if (rank == 0) largest = size;
            assert_memory_equal(&size, &largest, sizeof size);
            struct pack pack;
            pack_open(&pack, size);
            struct update update;
            for (int u = 0; u < 10; u++) {
                batches_update(batches, u, &update);
                for (int p = 0; p < update.packs; p++) {
                    batches_fill(batches, p, &pack);
                    if (pack.tokens > seen.tokens) seen.tokens = pack.tokens;
                    if (pack.sequences > seen.sequences) seen.sequences = pack.sequences;
                    if (pack.labelled > seen.labelled) seen.labelled = pack.labelled;
                }
            }
            pack_close(&pack);
            batches_close(batches);
        }
        assert_memory_equal(&seen, &largest, sizeof seen);
    }
    examples_free(&examples);
}

/* The same examples in the same order whatever the split into ranks and accumulation. */
static void test_known_sizes(void **state) {
    (void)state;
    struct examples examples = make_examples(500, 190, 512);
    struct batches_options options = {
        .batch = 4, .accumulation = 4, .world_size = 1, .seed = 42, .layout = {.max_seq_length = 512}};
    struct batches *one = batches_open(&examples, &options);
    assert_int_equal(batches_updates_per_epoch(one), 32);
    options.accumulation = 2;
    options.world_size = 2;
    options.rank = 1;
    struct batches *two = batches_open(&examples, &options);
    struct update a, b;
    for (int u = 0; u < 96; u++) {
        batches_update(one, u, &a);
        batches_update(two, u, &b);
        assert_int_equal(a.examples, u % 32 == 31 ? 4 : 16);
        assert_int_equal(a.examples, b.examples);
        assert_int_equal(a.tokens, b.tokens);
        assert_int_equal(a.predicted, b.predicted);
        assert_int_equal(a.predicted, a.tokens - a.examples);
    }
    assert_true(a.epoch == 3.0);
    /* In the epoch's last update rank 1 has nothing: its one pack is empty. */
    struct pack pack;
    pack_open(&pack, batches_largest(two, 96));
    assert_int_equal(b.packs, 1);
    batches_fill(two, 0, &pack);
    assert_counts(&pack, 0, 0, 0);
    /* Going back gives what was there. */
    batches_update(two, 0, &b);
    batches_update(one, 0, &a);
    assert_int_equal(a.tokens, b.tokens);
    pack_close(&pack);
    batches_close(one);
    batches_close(two);
    examples_free(&examples);
}

/* 16 examples of 190 tokens are two packs of at most 4 × 512, of 10 and 6. */
static void test_merging(void **state) {
    (void)state;
    struct examples examples;
    struct error error;
    struct examples_options generator = {.max_seq_length = 512, .vocabulary = 100};
    assert_true(examples_load(&examples, "synthetic:16x190", NULL, &generator, &error));
    struct batches_options options = {
        .batch = 4, .accumulation = 4, .world_size = 1, .layout = {.max_seq_length = 512}};
    struct batches *batches = batches_open(&examples, &options);
    struct update update;
    struct pack pack;
    pack_open(&pack, batches_largest(batches, 1));
    assert_int_equal(pack.capacity.tokens, 1900);
    batches_update(batches, 0, &update);
    assert_int_equal(update.packs, 2);
    batches_fill(batches, 0, &pack);
    assert_counts(&pack, 1900, 10, 1890);
    batches_fill(batches, 1, &pack);
    assert_counts(&pack, 1140, 6, 1134);
    batches_fill(batches, 2, &pack);
    assert_counts(&pack, 0, 0, 0);
    batches_close(batches);
    /* A capacity below one example's is raised to it. */
    options.pack_tokens = 1;
    batches = batches_open(&examples, &options);
    batches_update(batches, 0, &update);
    assert_int_equal(update.packs, 8);
    batches_close(batches);
    pack_close(&pack);
    examples_free(&examples);
}

static void test_evaluation(void **state) {
    (void)state;
    struct examples examples = make_examples(50, 20, 48);
    int rank_of[50], pack_of[50];
    struct pack pack;
    for (int world_size = 1; world_size <= 16; world_size += 3)
        for (int kind = 0; kind < 4; kind++) {
            struct batches_options options = {.batch = 4,
                                              .world_size = world_size,
                                              .pack_tokens = 300,
                                              .layout = {.max_seq_length = 48,
                                                         .label_padding = kind & 1,
                                                         .pad_to_max_length = kind & 2,
                                                         .eos_id = 2}};
            struct batches *batches = batches_open_evaluation(&examples, &options);
            assert_int_equal(batches_updates_per_epoch(batches), 1);
            struct pack_size largest = batches_largest(batches, 1);
            assert_true(largest.tokens <= 300);
            pack_open(&pack, largest);
            collect(&examples, options, 0, true, &pack, rank_of, pack_of);
            for (int e = 0; e < 50; e++) {
                assert_int_equal(rank_of[e], e / 4 % world_size);
                if (kind & 2) assert_int_equal(pack_of[e], e / 4 / world_size);
                if (e > 0 && rank_of[e] == rank_of[e - 1]) assert_in_range(pack_of[e] - pack_of[e - 1], 0, 1);
            }
            batches_close(batches);
            pack_close(&pack);
        }
    examples_free(&examples);
}

/* The epoch that the Hugging Face Trainer logged after each update. */
static void check_epochs(const char *run) {
    struct error error;
    char *name = xformat("tests/fixtures/%s/trainer.json", run), *path = source_path(name);
    json_t *root = json_read_file(path, &error), *entry;
    if (!root) fail_msg("%s", error.text);
    const json_t *settings = json_object_get(root, "settings");
    char *train_name = xformat("tests/fixtures/%s/train.json", run), *train = source_path(train_name);
    char *model_name = xformat("tests/fixtures/%s/model/tokenizer.json", run),
         *model = source_path(model_name);
    struct tokenizer *tokenizer = tokenizer_load(model, &error);
    struct examples_options reading = {
        .max_seq_length = (int)json_integer_value(json_object_get(settings, "max_seq_length")),
        .vocabulary = 1000};
    struct examples examples;
    if (!examples_load(&examples, train, tokenizer, &reading, &error)) fail_msg("%s", error.text);
    struct batches_options options = {
        .batch = (int)json_integer_value(json_object_get(settings, "per_device_train_batch_size")),
        .accumulation = (int)json_integer_value(json_object_get(settings, "gradient_accumulation_steps")),
        .world_size = 1,
        .layout = {.max_seq_length = reading.max_seq_length}};
    struct batches *batches = batches_open(&examples, &options);
    size_t i;
    int checked = 0;
    json_array_foreach(json_object_get(root, "log"), i, entry) {
        if (!json_object_get(entry, "loss")) continue;
        struct update update;
        batches_update(batches, json_integer_value(json_object_get(entry, "step")) - 1, &update);
        assert_true(update.epoch == json_number_value(json_object_get(entry, "epoch")));
        checked++;
    }
    assert_int_equal(checked, batches_updates_per_epoch(batches) *
                                  json_integer_value(json_object_get(settings, "num_train_epochs")));
    batches_close(batches);
    examples_free(&examples);
    tokenizer_free(tokenizer);
    json_decref(root);
    free(name);
    free(path);
    free(train_name);
    free(train);
    free(model_name);
    free(model);
}

static void test_epochs(void **state) {
    (void)state;
    check_epochs("trainer-short");
    check_epochs("trainer-cut");
    check_epochs("trainer-seed");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_layout),
        cmocka_unit_test(test_label_padding),
        cmocka_unit_test(test_pad_to_max_length),
        cmocka_unit_test(test_layout_counts),
        cmocka_unit_test(test_by_id),
        cmocka_unit_test(test_updates),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_known_sizes),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_epochs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
