/*
 * What stages 01 to 04 book and send: model state as the formulas say, buffers of a few units at most, every
 * collective's bytes, and the dry backend's ledger the same to the byte on each rank.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"
#include "common/device/device.h"
#include "common/text/batches.h"
#include "tests/support/check.h"
#include "tests/support/model_files.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { STAGES = 4, EXAMPLES = 60, LONGEST = 60, BATCH = 4, UPDATES = 3, PREFETCH = 2, SEED = 42 };

static const char *const stages[STAGES] = {"01-baseline", "02-zero1", "03-zero2", "04-zero3"};
static const char *const precisions[] = {"--fp16 false", "--fp16 true", "--fp16 false --bf16 true"};
static const struct model_shape shape = {331, 40, 8, 5, 0.05, 1};
static char *folder, *model;

/* The stages' runs with the same settings. */
struct compared {
    int ranks;
    double element; /* bytes of a parameter */
    char *settings;
    struct layout layout;
    struct training first; /* stage 01's */
};

static double booked(const struct training *run, const char *heading, const char *what) {
    char path[128];
    snprintf(path, sizeof path, "device.%s.%s", heading, what);
    return training_number(training_event(run, "memory", -1), path);
}

static double sent(const struct training *run, const char *collective, const char *what) {
    const json_t *line = json_object_get(training_event(run, "communication", -1), collective);
    return line ? training_number(line, what) : 0;
}

/* ---- memory ---- */

static void check_state(const struct compared *c, int stage, const struct training *run) {
    double psi = (double)c->layout.parameters, n = c->ranks;
    static const char *const headings[] = {"parameters", "gradients", "optimizer"};
    double expected[] = {c->element * psi, c->element * psi, (c->element < 4 ? 12 : 8) * psi};
    for (int i = 0; i < 3; i++) {
        if (stage >= 3 - i) expected[i] /= n; /* optimizer from 02 on, gradients from 03, parameters in 04 */
        double bytes = booked(run, headings[i], "peak_bytes");
        if (fabs(bytes / expected[i] - 1) > 0.02)
            fail_msg("%s, %d ranks %s: %s %.0f bytes, expected %.0f", stages[stage], c->ranks, c->settings,
                     headings[i], bytes, expected[i]);
        if (fabs(booked(run, headings[i], "predicted_bytes") - expected[i]) > 1)
            fail_msg("%s predicts %.0f bytes of %s", stages[stage],
                     booked(run, headings[i], "predicted_bytes"), headings[i]);
    }
    assert_true(booked(run, "activations", "peak_bytes") == booked(run, "activations", "predicted_bytes"));
}

/* Against stage 01's: 03 has two whole units more, 04 as many again and what is prefetched. Staging differs
 * by which collectives are in flight together. */
static void check_buffers(const struct compared *c, int stage, const struct training *run) {
    double unit = (double)c->layout.largest * c->element;
    double added = booked(run, "buffers", "peak_bytes") - booked(&c->first, "buffers", "peak_bytes");
    double most = stage < 2 ? 0 : stage == 2 ? 2 : PREFETCH + 3;
    if (added > most * unit)
        fail_msg("%s, %d ranks %s: adds buffers of %g units, more than %g", stages[stage], c->ranks,
                 c->settings, added / unit, most);
}

/* ---- bytes ---- */

/* Rows of the embedding that rank 0 sends: those of other ranks' tokens that lie in its slices. */
static double rows_of_rank_0(const struct compared *c) {
    struct examples_options options = {
        .max_seq_length = LONGEST, .vocabulary = (int)shape.vocabulary, .seed = SEED};
    struct examples examples;
    struct error error;
    char source[64];
    snprintf(source, sizeof source, "synthetic:%dx40-%d", EXAMPLES, LONGEST);
    if (!examples_load(&examples, source, NULL, &options, &error)) fail_msg("%s", error.text);
    double rows = 0;
    for (int rank = 1; rank < c->ranks; rank++) {
        struct batches *batches =
            batches_open(&examples, &(struct batches_options){.batch = BATCH,
                                                              .accumulation = 2,
                                                              .world_size = c->ranks,
                                                              .rank = rank,
                                                              .seed = SEED,
                                                              .layout = {.max_seq_length = LONGEST}});
        struct pack pack;
        pack_open(&pack, batches_largest(batches, UPDATES));
        for (int u = 0; u < UPDATES; u++) {
            struct update update;
            batches_update(batches, u, &update);
            for (int p = 0; p < update.packs; p++) {
                batches_fill(batches, p, &pack);
                for (int i = 0; i < pack.tokens; i++) {
                    size_t chunk = (size_t)pack.ids[i] / c->layout.chunk_rows;
                    size_t row = (size_t)pack.ids[i] % c->layout.chunk_rows;
                    const struct unit *unit = &c->layout.units[c->layout.chunks_begin + (int)chunk];
                    rows += row * shape.hidden < unit->slice;
                }
            }
        }
        pack_close(&pack);
        batches_close(batches);
    }
    examples_free(&examples);
    return rows;
}

static void check_sent(const struct compared *c, int stage, const struct training *run) {
    static const char *const used[STAGES][3] = {{"all_reduce"},
                                                {"reduce_scatter", "all_gather"},
                                                {"reduce_scatter", "all_gather"},
                                                {"reduce_scatter", "all_gather"}};
    for (int i = 0; i < 3 && used[stage][i] && c->ranks > 1; i++) {
        double bytes = sent(run, used[stage][i], "bytes");
        double predicted = sent(run, used[stage][i], "predicted_bytes");
        if (!(fabs(bytes / predicted - 1) <= 0.02))
            fail_msg("%s, %d ranks %s: %s sent %.0f bytes, predicted %.0f", stages[stage], c->ranks,
                     c->settings, used[stage][i], bytes, predicted);
    }
    /* Of losses and norms only: two doubles, cut among the ranks. */
    if (stage > 0) assert_true(sent(run, "all_reduce", "bytes") <= 32.0 * c->ranks * UPDATES);
    double rows = stage == 3 ? rows_of_rank_0(c) : 0;
    double expected = rows * (double)shape.hidden * c->element;
    if (sent(run, "all_to_all", "bytes") != expected)
        fail_msg("%s, %d ranks: rows of %.0f bytes sent, %.0f expected", stages[stage], c->ranks,
                 sent(run, "all_to_all", "bytes"), expected);
    /* As many on average: ranks have other numbers of tokens, and of the rows that others need. */
    double predicted = sent(run, "all_to_all", "predicted_bytes");
    if (stage == 3 && c->ranks > 1 && fabs(expected / predicted - 1) > 0.2)
        fail_msg("%d ranks: rows of %.0f bytes sent, %.0f predicted", c->ranks, expected, predicted);
}

/* ---- the dry backend ---- */

static void check_same(const struct compared *c, int stage, const struct training *run,
                       const struct training *dry, const char *event, const char *member) {
    const json_t *x = json_object_get(training_event(run, event, -1), member);
    const json_t *y = json_object_get(training_event(dry, event, -1), member);
    if ((x || y) && !json_equal(x, y))
        fail_msg("%s, %d ranks %s: %s %s: cpu %s, dry %s", stages[stage], c->ranks, c->settings, event,
                 member, json_dumps(x, JSON_SORT_KEYS), json_dumps(y, JSON_SORT_KEYS));
}

/* Which rows other ranks ask for is not known there: neither rows sent nor the work of taking them. */
static void check_dry(const struct compared *c, int stage, const struct training *run) {
    for (int rank = 0; rank < c->ranks; rank++) {
        struct training dry = training_run_dry(stages[stage], rank, c->ranks, c->settings);
        check_same(c, stage, run, &dry, "memory", "device");
        if (rank == 0) { /* the one whose counts and host ledger a run reports */
            check_same(c, stage, run, &dry, "memory", "host");
            check_same(c, stage, run, &dry, "communication", "all_reduce");
            check_same(c, stage, run, &dry, "communication", "reduce_scatter");
            check_same(c, stage, run, &dry, "communication", "all_gather");
            if (stage < 3) check_same(c, stage, run, &dry, "summary", "work");
        }
        training_free(&dry);
    }
}

/* ---- tests ---- */

static void check_ranks(int ranks, int precision, bool with_dry) {
    struct compared c = {.ranks = ranks, .element = precision ? 2 : 4};
    c.settings =
        xformat("--model_name_or_path %s --train_file synthetic:%dx40-%d --max_seq_length %d "
                "--per_device_train_batch_size %d --gradient_accumulation_steps 2 --max_steps %d "
                "--stage3_prefetch %d --save_strategy no --save_model false "
                "--memory_sample_interval 0 --seed %d %s",
                model, EXAMPLES, LONGEST, LONGEST, BATCH, UPDATES, PREFETCH, SEED, precisions[precision]);
    struct bloom_config config;
    struct error error;
    char *path = xformat("%s/config.json", model);
    if (!bloom_config_read(&config, path, &error)) fail_msg("%s", error.text);
    free(path);
    layout_open(&c.layout, &config, ranks);
    for (int stage = 0; stage < STAGES; stage++) {
        struct training run = training_run(stages[stage], ranks, "%s", c.settings);
        if (stage == 0) c.first = run;
        check_state(&c, stage, &run);
        check_buffers(&c, stage, &run);
        check_sent(&c, stage, &run);
        if (with_dry) check_dry(&c, stage, &run);
        if (stage > 0) training_free(&run);
    }
    training_free(&c.first);
    layout_close(&c.layout);
    free(c.settings);
}

static void check_precision(int precision) {
    bool with_dry = strcmp(device_backend(), "cpu") == 0 && training_has_dry();
    for (int ranks = 1; ranks <= 4; ranks++) check_ranks(ranks, precision, with_dry);
}

static void single_precision(void **state) {
    (void)state;
    check_precision(0);
}

static void fp16(void **state) {
    (void)state;
    check_precision(1);
}

static void bf16(void **state) {
    (void)state;
    check_precision(2);
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    model = xformat("%s/model", folder);
    model_files_write(model, &shape);
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    free(model);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(single_precision), cmocka_unit_test(fp16),
                                       cmocka_unit_test(bf16)};
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
