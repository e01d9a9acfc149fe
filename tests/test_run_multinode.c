/*
 * Stage 06: on nodes that are declared, whatever zero_stage says and wherever slices live, a run has stage
 * 01's losses; it sends inside and across what the two levels' formulas say; the ledger has what a node keeps
 * a second time; checkpoints are those of all stages.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/model_files.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { UPDATES = 20 };

static const char stage[] = "06-multinode";
static const struct model_shape deep_shape = {331, 40, 8, 5, 0.05, 1};
static char *folder, *deep;

struct variant {
    int zero_stage;
    bool twice;       /* parameters once more on each node */
    const char *more; /* settings */
};

static const struct variant variants[] = {
    {0, false, ""},
    {1, false, ""},
    {2, false, ""},
    {3, false, ""},
    {3, true, ""},
    {1, false, "--offload_optimizer cpu"},
    {2, false, "--offload_optimizer cpu --offload_gradients"},
    {3, false, "--offload_optimizer cpu --offload_param cpu"},
    {3, true, "--offload_optimizer cpu --offload_gradients"},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

/* Ranks, and how many of them are a node. */
struct shape {
    int ranks, local;
};
static const struct shape two_by_two = {4, 2};

static bool two_levels(struct shape shape) {
    return shape.local > 1 && shape.ranks > shape.local;
}

#define TEXT "--train_file synthetic:70x40-60 --max_seq_length 64 --memory_sample_interval 0 "
#define TRAIN "--learning_rate 1e-3 --max_steps 20 --eval_strategy steps --eval_steps 10 "
#define FP32_RUN TEXT TRAIN "--fp16 false --gradient_accumulation_steps 1 "
#define BF16_RUN                                                                                             \
    TEXT TRAIN "--fp16 false --bf16 true --gradient_accumulation_steps 3 --per_device_train_batch_size 2 "   \
               "--pad_to_max_length true "
#define NO_FILES "--save_strategy no --save_model false "

static char *settings_of(const struct variant *v, struct shape shape, const char *more) {
    return xformat("--model_name_or_path %s --ranks_per_node %d --zero_stage %d --zero_hpz_partition_size %d "
                   "%s %s",
                   deep, shape.local, v->zero_stage, v->twice ? shape.local : 1, v->more, more);
}

static struct training run(const struct variant *v, struct shape shape, const char *more) {
    char *settings = settings_of(v, shape, more);
    struct training training = training_run(stage, shape.ranks, "%s", settings);
    free(settings);
    return training;
}

static struct training baseline(struct shape shape, const char *more) {
    return training_run("01-baseline", shape.ranks, "--model_name_or_path %s %s", deep, more);
}

static void open_layout(struct layout *layout, int ranks) {
    struct bloom_config config;
    struct error error;
    char *path = xformat("%s/config.json", deep);
    if (!bloom_config_read(&config, path, &error)) fail_msg("%s", error.text);
    layout_open(layout, &config, ranks);
    free(path);
}

/* ---- bytes sent ---- */

static double sent(const struct training *run, const char *collective, const char *what) {
    const json_t *line = json_object_get(training_event(run, "communication", -1), collective);
    return line ? training_number(line, what) : 0;
}

static void check_predicted(const struct training *run, const char *name, const char *collective) {
    static const char *const pairs[][2] = {{"bytes", "predicted_bytes"},
                                           {"across_bytes", "predicted_across_bytes"}};
    for (int i = 0; i < 2; i++) {
        double bytes = sent(run, collective, pairs[i][0]), predicted = sent(run, collective, pairs[i][1]);
        bool fits = bytes == 0 || predicted == 0 ? bytes == predicted : fabs(bytes / predicted - 1) <= 0.02;
        if (!fits)
            fail_msg("%s: %s: %s %.0f, predicted %.0f", name, collective, pairs[i][0], bytes, predicted);
    }
}

static void expect_sent(const struct training *run, const char *name, const char *collective, double inside,
                        double across) {
    double inside_sent = sent(run, collective, "inside_bytes");
    double across_sent = sent(run, collective, "across_bytes");
    if (inside_sent != inside || across_sent != across)
        fail_msg("%s: %s: %.0f bytes inside and %.0f across, expected %.0f and %.0f", name, collective,
                 inside_sent, across_sent, inside, across);
}

/* Reduce-scatters and all-gathers of the whole model, to the byte, by the table in 06-multinode/README.md; in
 * stage 3 the last units of a forward are not gathered again, which leaves bounds. */
static void check_sent(const struct variant *v, struct shape shape, const struct training *run,
                       double element, int packs, const char *name) {
    struct layout layout;
    open_layout(&layout, shape.ranks);
    double n = shape.ranks, g = shape.local, m = n / g, model = element * (double)layout.padded * UPDATES;
    double inside = model * (two_levels(shape) ? (g - 1) / g : (g - 1) / n);
    double across = model * (two_levels(shape) ? (m - 1) / n : (n - g) / n);
    if (v->zero_stage == 0) {
        check_predicted(run, name, "all_reduce");
        double small = 64.0 * n * UPDATES; /* the losses' sums */
        assert_true(fabs(sent(run, "all_reduce", "across_bytes") - 2 * across) <= small);
        assert_true(fabs(sent(run, "all_reduce", "inside_bytes") - 2 * inside) <= small);
    } else {
        int reduced = v->zero_stage > 1 ? packs : 1;
        check_predicted(run, name, "reduce_scatter");
        check_predicted(run, name, "all_gather");
        expect_sent(run, name, "reduce_scatter", reduced * inside, reduced * across);
    }
    if (v->zero_stage == 1 || v->zero_stage == 2) expect_sent(run, name, "all_gather", inside, across);
    if (v->zero_stage == 3) {
        double gathered = sent(run, "all_gather", "inside_bytes"), times = gathered / inside / packs;
        if (g > 1) assert_true(times > 1 && times <= 2);
        double expected = v->twice && two_levels(shape) ? across : gathered * across / inside;
        if (g > 1) assert_true(sent(run, "all_gather", "across_bytes") == expected);
    }
    layout_close(&layout);
}

/* ---- the same numbers ---- */

static void check_variant(const struct variant *v, struct shape shape, double bound, const char *more,
                          const struct training *first) {
    char *name = settings_of(v, shape, more);
    struct training other = run(v, shape, more);
    double off = training_difference(first, &other, UPDATES);
    printf("  %d nodes of %d, zero_stage %d%s %s: off by %.2g\n", shape.ranks / shape.local, shape.local,
           v->zero_stage, v->twice ? ", kept twice" : "", v->more, off);
    if (!(off <= bound)) fail_msg("%s: losses off by %.3g", name, off);
    bool half = strstr(more, "--bf16") != NULL;
    check_sent(v, shape, &other, half ? 2 : 4, half ? 3 : 1, name);
    training_free(&other);
    free(name);
}

static void single_precision(void **state) {
    (void)state;
    struct training first = baseline(two_by_two, FP32_RUN NO_FILES);
    for (int i = 0; i < VARIANTS; i++)
        check_variant(&variants[i], two_by_two, 1e-6, FP32_RUN NO_FILES, &first);
    training_free(&first);
}

static void half_precision(void **state) {
    (void)state;
    static const int some[] = {0, 2, 4, 7};
    struct training first = baseline(two_by_two, BF16_RUN NO_FILES);
    for (int i = 0; i < 4; i++)
        check_variant(&variants[some[i]], two_by_two, 1e-3, BF16_RUN NO_FILES, &first);
    training_free(&first);
}

/* What there is time for under the sanitizers: all that can be on the host, and parameters
 * kept twice. */
static void some_variants(void **state) {
    (void)state;
    static const int some[] = {7, 8};
    struct training first = baseline(two_by_two, FP32_RUN NO_FILES);
    for (int i = 0; i < 2; i++)
        check_variant(&variants[some[i]], two_by_two, 1e-6, FP32_RUN NO_FILES, &first);
    training_free(&first);
}

/* More than two nodes, and more than two ranks in one. */
static void other_shapes(void **state) {
    (void)state;
    static const struct shape shapes[] = {{6, 2}, {6, 3}};
    struct training first = baseline(shapes[0], FP32_RUN NO_FILES);
    check_variant(&variants[4], shapes[0], 1e-6, FP32_RUN NO_FILES, &first);
    check_variant(&variants[0], shapes[1], 1e-6, FP32_RUN NO_FILES, &first);
    check_variant(&variants[6], shapes[1], 1e-6, FP32_RUN NO_FILES, &first);
    training_free(&first);
}

/* One node, and nodes of one rank: one level, and stage 05's bits. Nothing is kept twice. */
static void one_level(void **state) {
    (void)state;
    static const struct shape shapes[] = {{4, 4}, {4, 1}};
    for (int i = 0; i < 2; i++) {
        const struct variant *v = &variants[i == 0 ? 4 : 6];
        char *settings = settings_of(&(struct variant){v->zero_stage, false, v->more}, shapes[i], FP32_RUN);
        struct training five = training_run("05-offload", 4, "%s", settings),
                        six = run(v, shapes[i], FP32_RUN);
        check_same_runs(five.output_dir, six.output_dir);
        check_sent(v, shapes[i], &six, 4, 1, settings);
        const json_t *topology = training_event(&six, "topology", -1);
        assert_true(training_number(topology, "levels") == 1);
        assert_true(training_number(topology, "ranks_per_node") == shapes[i].local);
        training_free(&six);
        training_free(&five);
        free(settings);
    }
}

/* The same command twice; and keeping parameters twice changes none of them. */
static void same_bits(void **state) {
    (void)state;
    static const struct variant slices = {3, false, ""}, twice = {3, true, ""};
    struct training one = run(&twice, two_by_two, BF16_RUN), again = run(&twice, two_by_two, BF16_RUN);
    struct training once = run(&slices, two_by_two, BF16_RUN);
    check_same_runs(one.output_dir, again.output_dir);
    check_same_runs(one.output_dir, once.output_dir);
    training_free(&once);
    training_free(&again);
    training_free(&one);
}

/* ---- checkpoints ---- */

static void go_on(const char *other, int ranks, const char *settings, const struct training *from,
                  const struct training *expected, bool bits) {
    struct training resumed =
        training_run(other, ranks, "--resume_from_checkpoint %s/checkpoint-9 %s", from->output_dir, settings);
    if (bits)
        check_same_runs(expected->output_dir, resumed.output_dir);
    else
        check_similar_runs(expected->output_dir, resumed.output_dir, 1e-6);
    training_free(&resumed);
}

/* Slices have other owners in stage 06: checkpoints are keyed by parameters, not by ranks. */
static void resumed(void **state) {
    (void)state;
    static const char save[] = FP32_RUN "--save_strategy steps --save_steps 9 ";
    char *four_settings = xformat("--model_name_or_path %s %s", deep, save);
    char *twice = settings_of(&variants[4], two_by_two, save);
    char *offloaded = settings_of(&variants[6], two_by_two, save);
    struct training four = training_run("04-zero3", 4, "%s", four_settings);
    struct training six = training_run(stage, 4, "%s", twice);
    check_similar_runs(four.output_dir, six.output_dir, 1e-6);
    go_on("04-zero3", 4, four_settings, &six, &four, false);
    go_on(stage, 4, twice, &four, &four, false);
    go_on(stage, 4, twice, &six, &six, true);
    go_on(stage, 4, offloaded, &six, &four, false);
    /* On another number of nodes: 2 ranks with twice the accumulation make the same updates. */
    char *fewer = settings_of(&variants[2], (struct shape){2, 1},
                              TEXT TRAIN "--fp16 false --gradient_accumulation_steps 2 --save_strategy no");
    go_on(stage, 2, fewer, &six, &four, false);
    free(fewer);
    training_free(&six);
    training_free(&four);
    free(offloaded);
    free(twice);
    free(four_settings);
}

/* ---- ledgers ---- */

static void check_same(const struct training *cpu, const struct training *dry, const char *event,
                       const char *member, const char *settings) {
    const json_t *x = json_object_get(training_event(cpu, event, -1), member);
    const json_t *y = json_object_get(training_event(dry, event, -1), member);
    if ((x || y) && !json_equal(x, y))
        fail_msg("%s: %s %s: cpu %s, dry %s", settings, event, member, json_dumps(x, JSON_SORT_KEYS),
                 json_dumps(y, JSON_SORT_KEYS));
}

static void check_dry(const struct training *cpu, struct shape shape, const char *settings) {
    static const char *const collectives[] = {"all_reduce", "reduce_scatter", "all_gather"};
    for (int rank = 0; rank < shape.ranks; rank++) {
        struct training dry = training_run_dry(stage, rank, shape.ranks, settings);
        check_same(cpu, &dry, "memory", "device", settings);
        if (rank == 0) check_same(cpu, &dry, "memory", "host", settings);
        for (int c = 0; c < 3 && rank == 0; c++)
            check_same(cpu, &dry, "communication", collectives[c], settings);
        training_free(&dry);
    }
}

/* Slices of every unit, and as parts as many as there are nodes: to the byte. */
static void check_parameters(const struct variant *v, struct shape shape, const struct training *run,
                             double element) {
    struct layout layout;
    open_layout(&layout, shape.ranks);
    const json_t *memory = training_event(run, "memory", -1);
    double slices = element * (double)layout.sliced,
           parts = v->twice ? slices * shape.ranks / shape.local : 0;
    double psi = element * (double)layout.parameters;
    double whole = element * (double)layout.padded;
    bool cut = v->zero_stage == 3, on_host = strstr(v->more, "offload_param") != NULL;
    double expected = on_host ? 0 : cut ? slices + parts : whole;
    double predicted = on_host ? 0 : cut ? psi / shape.ranks + (v->twice ? psi / shape.local : 0) : psi;
    assert_true(training_number(memory, "device.parameters.peak_bytes") == expected);
    assert_float_equal(training_number(memory, "device.parameters.predicted_bytes"), predicted, 1);
    assert_true(predicted == 0 || fabs(expected / predicted - 1) <= 0.02);
    layout_close(&layout);
}

static void ledgers(void **state) {
    (void)state;
    bool dry_too = training_has_dry() && !strcmp(device_backend(), "cpu");
    static const int some[] = {0, 2, 4, 7, 8};
    for (int i = 0; i < 5; i++) {
        const struct variant *v = &variants[some[i]];
        struct shape shape = i == 2 ? (struct shape){6, 3} : two_by_two;
        char *settings = settings_of(v, shape,
                                     i % 2 ? TEXT NO_FILES "--max_steps 2 --fp16 true"
                                           : TEXT NO_FILES "--max_steps 2 --fp16 false");
        struct training training = training_run(stage, shape.ranks, "%s", settings);
        check_parameters(v, shape, &training, i % 2 ? 2 : 4);
        if (dry_too) check_dry(&training, shape, settings);
        training_free(&training);
        free(settings);
    }
}

/* Nodes that differ in size, as only a real machine or the dry backend has them. */
static void uneven_nodes(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    char *settings = xformat("--model_name_or_path %s --dry_node_size 2 --zero_stage 3 --max_steps 1 "
                             "--zero_hpz_partition_size 2 " TEXT NO_FILES,
                             deep);
    for (int rank = 0; rank < 5; rank += 4) {
        struct training dry = training_run_dry(stage, rank, 5, settings);
        const json_t *topology = training_event(&dry, "topology", -1);
        assert_true(training_number(topology, "levels") == 1 && training_number(topology, "nodes") == 3);
        double bytes = sent(&dry, "reduce_scatter", "across_bytes");
        assert_true(bytes > 0 && bytes == sent(&dry, "reduce_scatter", "bytes") * (rank ? 1 : 0.75));
        check_predicted(&dry, settings, "reduce_scatter");
        check_predicted(&dry, settings, "all_gather");
        training_free(&dry);
    }
    free(settings);
}

/* ---- the start ---- */

/* Who is where, and how fast it is there: 0.8 Gbit/s leave a node, of which each of its ranks has half. */
static void start_report(void **state) {
    (void)state;
    bool slow = !strcmp(device_backend(), "cpu");
    struct training training =
        run(&variants[2], two_by_two,
            slow ? TEXT NO_FILES "--max_steps 1 --slow_network 0.8" : TEXT NO_FILES "--max_steps 1");
    const json_t *topology = training_event(&training, "topology", -1);
    const json_t *ranks = json_object_get(topology, "ranks");
    assert_int_equal(json_array_size(ranks), 4);
    assert_true(training_number(topology, "nodes") == 2 && training_number(topology, "levels") == 2);
    for (size_t r = 0; r < 4; r++) {
        const json_t *rank = json_array_get(ranks, r);
        assert_true(training_number(rank, "rank") == (double)r);
        assert_true(training_number(rank, "node") == (double)(r / 2));
        assert_true(json_string_length(json_object_get(rank, "host")) > 0);
        assert_true(json_string_length(json_object_get(rank, "device")) > 0);
        assert_true(json_string_length(json_object_get(rank, "cores")) > 0);
        double inside = training_number(rank, "inside_bytes_per_second");
        double across = training_number(rank, "across_bytes_per_second");
        assert_true(inside > 0 && across > 0);
        if (slow) assert_true(across < 50.5e6 && across > 20e6 && inside > across);
    }
    training_free(&training);
}

static void refused(const char *settings, const char *part) {
    char *text = xformat(BUILD_DIR "/06-multinode/train --output_dir %s/refused --model_name_or_path %s " TEXT
                                   "--max_steps 1 --zero_stage 3 %s %s",
                         folder, deep, settings, command_sharing(4));
    struct command_result r = command_run(60, COMMAND_MPIRUN "%s", 4, text);
    assert_int_not_equal(r.exit_code, 0);
    if (!strstr(r.err, part)) fail_msg("'%s' is not in: %s", part, r.err);
    command_free(&r);
    free(text);
}

static void bad_settings(void **state) {
    (void)state;
    refused("--ranks_per_node 3", "ranks_per_node 3: 4 ranks cannot be cut into nodes of 3");
    refused("--ranks_per_node 2 --zero_hpz_partition_size 4",
            "zero_hpz_partition_size 4: nodes have 2 ranks here");
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    deep = xformat("%s/deep", folder);
    model_files_write(deep, &deep_shape);
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    free(deep);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_precision), cmocka_unit_test(half_precision), cmocka_unit_test(other_shapes),
        cmocka_unit_test(one_level),        cmocka_unit_test(same_bits),      cmocka_unit_test(resumed),
        cmocka_unit_test(ledgers),          cmocka_unit_test(uneven_nodes),   cmocka_unit_test(start_report),
        cmocka_unit_test(bad_settings),
    };
    const struct CMUnitTest few[] = {cmocka_unit_test(some_variants)};
    return training_is_brief() ? cmocka_run_group_tests(few, set_up, remove_all)
                               : cmocka_run_group_tests(tests, set_up, remove_all);
}
