/*
 * Stage 05: whatever zero_stage says and wherever slices live, a run has the losses, the bytes sent and the
 * checkpoints of the stage that does the same on the device, and every byte is booked where it should be.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/model_files.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { UPDATES = 20, STAGES = 4 };

static const char *const stages[STAGES] = {"01-baseline", "02-zero1", "03-zero2", "04-zero3"};
/* Nine units and chunks of which the largest is a tenth of the model; and one whose gradients are large. */
static const struct model_shape deep_shape = {331, 40, 8, 5, 0.05, 1};
static const struct model_shape loud_shape = {331, 40, 4, 5, 0.05, 30};
static char *folder, *deep, *loud;

struct variant {
    int stage;
    bool optimizer, gradients, parameters; /* on the host */
};

static const struct variant variants[] = {
    {0, false, false, false}, {1, false, false, false}, {2, false, false, false}, {3, false, false, false},
    {1, true, false, false},  {2, true, false, false},  {3, true, false, false},  {2, true, true, false},
    {3, true, true, false},   {3, true, false, true},   {3, true, true, true},
};
enum { VARIANTS = sizeof variants / sizeof *variants, ALL = 0, OFFLOADED = 4 };

static char *settings_of(const struct variant *v, const char *more) {
    return xformat("--zero_stage %d%s%s%s %s", v->stage, v->optimizer ? " --offload_optimizer cpu" : "",
                   v->gradients ? " --offload_gradients" : "", v->parameters ? " --offload_param cpu" : "",
                   more);
}

#define TEXT "--train_file synthetic:70x40-60 --max_seq_length 64 --memory_sample_interval 0 "
#define TRAIN "--learning_rate 1e-3 --max_steps 20 --eval_strategy steps --eval_steps 10 "
#define SAVE "--save_strategy steps --save_steps 9 "

static struct training run(const struct variant *v, int ranks, const char *settings) {
    char *all = settings_of(v, settings);
    struct training training = training_run("05-offload", ranks, "%s", all);
    free(all);
    return training;
}

static int skipped(const struct training *training, int step) {
    return json_is_true(json_object_get(training_event(training, "step", step), "skipped"));
}

/* ---- the same numbers ---- */

/* On the CPU backend both sides compute AdamW's operations in the same order. Sums of squares that the host
 * takes have another order than the device's. */
static bool same_bits(const struct variant *v) {
    return !v->optimizer || (!strcmp(device_backend(), "cpu") && !v->gradients);
}

static void check_sent(const struct training *expected, const struct training *other, const char *settings) {
    const json_t *x = training_event(expected, "communication", -1);
    const json_t *y = training_event(other, "communication", -1);
    if (!json_equal(x, y)) fail_msg("%s: sent %s, expected %s", settings, json_dumps(y, 0), json_dumps(x, 0));
}

static void check_variant(const struct variant *v, int ranks, double bound, const char *settings,
                          const struct training *baseline, const struct training *device) {
    char *name = settings_of(v, settings);
    struct training other = run(v, ranks, settings);
    double off = training_difference(baseline, &other, UPDATES);
    printf("  zero_stage %d%s%s%s: off by %.2g\n", v->stage, v->optimizer ? ", optimizer" : "",
           v->gradients ? ", gradients" : "", v->parameters ? ", parameters" : "", off);
    if (!(off <= bound)) fail_msg("%d ranks %s: losses off by %.3g", ranks, name, off);
    for (int step = 1; step <= UPDATES; step++)
        if (skipped(baseline, step) != skipped(&other, step))
            fail_msg("%s: update %d is skipped", name, step);
    check_sent(device, &other, name);
    if (same_bits(v))
        check_same_runs(device->output_dir, other.output_dir);
    else
        check_similar_runs(device->output_dir, other.output_dir, bound);
    training_free(&other);
    free(name);
}

/* All variants, or those that offload, against stage 01's losses and against the stage that does the same on
 * the device; returns how many updates were skipped. */
static int check_variants(int first, int ranks, double bound, const char *model, const char *format) {
    char *settings = xformat(TEXT TRAIN SAVE "--model_name_or_path %s %s", model, format);
    struct training device[STAGES];
    int count = 0;
    printf("%d rank(s) %s\n", ranks, format);
    for (int s = 0; s < STAGES; s++) device[s] = training_run(stages[s], ranks, "%s", settings);
    for (int i = first; i < VARIANTS; i++)
        check_variant(&variants[i], ranks, bound, settings, &device[0], &device[variants[i].stage]);
    for (int step = 1; step <= UPDATES; step++) count += skipped(&device[0], step);
    for (int s = 0; s < STAGES; s++) training_free(&device[s]);
    free(settings);
    return count;
}

/* What there is time for under the sanitizers: all that can be on the host, and updates that are skipped. */
static void some_variants(void **state) {
    (void)state;
    static const int some[] = {7, 10};
    char *settings =
        xformat(TEXT TRAIN SAVE "--model_name_or_path %s --fp16 true --gradient_accumulation_steps 2 "
                                "--learning_rate 2e-5",
                loud);
    struct training baseline = training_run(stages[0], 2, "%s", settings);
    for (int i = 0; i < 2; i++) {
        const struct variant *v = &variants[some[i]];
        struct training device = training_run(stages[v->stage], 2, "%s", settings);
        check_variant(v, 2, 1e-3, settings, &baseline, &device);
        training_free(&device);
    }
    training_free(&baseline);
    free(settings);
}

static void one_rank(void **state) {
    (void)state;
    check_variants(OFFLOADED, 1, 1e-6, deep, "--fp16 false --gradient_accumulation_steps 2");
}

static void two_ranks(void **state) {
    (void)state;
    check_variants(ALL, 2, 1e-3, deep,
                   "--bf16 true --fp16 false --gradient_accumulation_steps 3 "
                   "--per_device_train_batch_size 2 --pad_to_max_length true");
}

/* One pack an update: the device sums the squares of gradients that leave it. Prefetching none, or much. */
static void three_ranks(void **state) {
    (void)state;
    check_variants(OFFLOADED, 3, 1e-6, deep,
                   "--fp16 false --gradient_accumulation_steps 1 --gradient_checkpointing true "
                   "--stage3_prefetch 0");
}

static void overflows(void **state) {
    (void)state;
    int count = check_variants(OFFLOADED, 2, 1e-3, loud,
                               "--fp16 true --gradient_accumulation_steps 2 --learning_rate 2e-5");
    printf("%d of %d updates skipped\n", count, UPDATES);
    assert_true(count >= 1 && count <= UPDATES / 2);
}

static void same_command_same_bits(void **state) {
    (void)state;
    static const struct variant all = {3, true, true, true};
    static const char *const precisions[] = {"--fp16 false", "--fp16 true"};
    for (int i = 0; i < 2; i++) {
        char *settings = xformat(TEXT TRAIN SAVE "%s --model_name_or_path %s --gradient_accumulation_steps 2",
                                 precisions[i], deep);
        struct training one = run(&all, 3, settings), other = run(&all, 3, settings);
        check_same_runs(one.output_dir, other.output_dir);
        training_free(&one);
        training_free(&other);
        free(settings);
    }
}

/* ---- checkpoints ---- */

/* A run of `stage` that goes on from another run's checkpoint; it must end as `expected` did. */
static void check_resume(const char *stage, int ranks, const struct training *from, const char *settings,
                         const struct training *expected, bool bits) {
    struct training other =
        training_run(stage, ranks, "--resume_from_checkpoint %s/checkpoint-9 %s", from->output_dir, settings);
    if (bits)
        check_same_runs(expected->output_dir, other.output_dir);
    else
        check_similar_runs(expected->output_dir, other.output_dir, 1e-3);
    training_free(&other);
}

static void resumed(void **state) {
    (void)state;
    static const char *const precisions[] = {"--fp16 false", "--bf16 true --fp16 false"};
    bool cpu = !strcmp(device_backend(), "cpu");
    for (int i = 0; i < 2; i++) {
        char *settings = xformat(TEXT TRAIN SAVE "%s --model_name_or_path %s --gradient_accumulation_steps 1",
                                 precisions[i], deep);
        char *host = settings_of(&(struct variant){3, true, false, true}, settings);
        char *second = settings_of(&(struct variant){2, true, true, false}, settings);
        char *zero = settings_of(&(struct variant){0, false, false, false}, settings);
        struct training device = training_run(stages[3], 2, "%s", settings);
        struct training offloaded = training_run("05-offload", 2, "%s", host);
        check_resume(stages[3], 2, &offloaded, settings, &device, cpu);
        check_resume("05-offload", 2, &device, host, &device, cpu);
        check_resume("05-offload", 2, &offloaded, second, &device, false);
        struct training first = training_run(stages[0], 2, "%s", settings);
        check_resume("05-offload", 2, &first, zero, &first, true);
        check_resume("05-offload", 2, &first, host, &first, false);
        check_resume(stages[0], 2, &offloaded, settings, &first, false);
        training_free(&first);
        training_free(&offloaded);
        training_free(&device);
        free(zero);
        free(second);
        free(host);
        free(settings);
    }
}

/* ---- ledgers ---- */

enum { ON_DEVICE, ON_HOST, PLACES };
static const char *const places[PLACES] = {"device", "host"};

static void check_heading(const struct training *run, int place, enum heading heading, double expected,
                          const char *settings) {
    char path[64];
    snprintf(path, sizeof path, "%s.%s", places[place], heading_name(heading));
    const json_t *memory = training_event(run, "memory", -1);
    const json_t *line = json_object_get(json_object_get(memory, places[place]), heading_name(heading));
    double bytes = training_number(line, "peak_bytes"), predicted = training_number(line, "predicted_bytes");
    bool fits = expected > 0 ? fabs(bytes / expected - 1) <= 0.02 : bytes == 0;
    if (!fits || fabs(predicted - expected) > 1)
        fail_msg("%s: %s: %.0f bytes, predicted %.0f, expected %.0f", settings, path, bytes, predicted,
                 expected);
}

/* Parameters, gradients and optimizer's state by the contract's formulas. */
static void check_state(const struct variant *v, const struct training *run, int ranks, double element,
                        const char *settings) {
    double psi = training_number(training_event(run, "run", -1), "parameters"), n = ranks;
    double expected[PLACES][OPTIMIZER + 1] = {{0}};
    expected[v->parameters][PARAMETERS] = element * psi / (v->stage < 3 ? 1 : n);
    expected[v->gradients][GRADIENTS] = element * psi / (v->stage < 2 ? 1 : n);
    double state = v->optimizer || element < 4 ? 12 : 8;
    expected[v->optimizer][OPTIMIZER] = state * psi / (v->stage < 1 ? 1 : n);
    for (int place = 0; place < PLACES; place++)
        for (int h = PARAMETERS; h <= OPTIMIZER; h++)
            check_heading(run, place, (enum heading)h, expected[place][h], settings);
    const json_t *memory = training_event(run, "memory", -1);
    assert_true(training_number(memory, "device.activations.peak_bytes") ==
                training_number(memory, "device.activations.predicted_bytes"));
}

static void check_same(const struct training *cpu, const struct training *dry, const char *event,
                       const char *member, const char *settings) {
    const json_t *x = json_object_get(training_event(cpu, event, -1), member);
    const json_t *y = json_object_get(training_event(dry, event, -1), member);
    if (!json_equal(x, y))
        fail_msg("%s: %s %s: cpu %s, dry %s", settings, event, member, json_dumps(x, JSON_SORT_KEYS),
                 json_dumps(y, JSON_SORT_KEYS));
}

static void ledgers(void **state) {
    (void)state;
    static const char *const precisions[] = {"--fp16 false", "--fp16 true"};
    bool dry_too = training_has_dry() && !strcmp(device_backend(), "cpu");
    for (int i = 0; i < VARIANTS; i++) {
        int ranks = 1 + i % 3, p = (i + i / 2) % 2;
        char *more = xformat(TEXT "--model_name_or_path %s --max_steps 2 --save_strategy no --save_model "
                                  "false --gradient_accumulation_steps %d --stage3_prefetch 2 %s",
                             deep, 1 + i / 3 % 2, precisions[p]);
        char *settings = settings_of(&variants[i], more);
        struct training training = training_run("05-offload", ranks, "%s", settings);
        check_state(&variants[i], &training, ranks, p ? 2 : 4, settings);
        for (int rank = 0; rank < ranks && dry_too; rank++) {
            struct training dry = training_run_dry("05-offload", rank, ranks, settings);
            check_same(&training, &dry, "memory", "device", settings);
            if (rank == 0) check_same(&training, &dry, "memory", "host", settings);
            if (rank == 0 && ranks == 1) check_same(&training, &dry, "summary", "work", settings);
            training_free(&dry);
        }
        training_free(&training);
        free(settings);
        free(more);
    }
}

/* The largest published models that one device is to train: nothing of them depends on depth there but what
 * activations keep. */
static void published_shapes(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    static const struct {
        const char *shape;
        double parameters, device; /* most bytes of it */
    } models[] = {{"bloom-3b", 3002557440, 1.5 * (1 << 30)}, {"bloom-7b1", 7069016064, 2.5 * (1 << 30)}};
    for (int i = 0; i < 2; i++) {
        char *settings = xformat(
            "--zero_stage 3 --offload_optimizer cpu --offload_gradients --offload_param cpu --fp16 true "
            "--gradient_checkpointing --model_name_or_path random:%s --train_file synthetic:20x512 "
            "--per_device_train_batch_size 1 --gradient_accumulation_steps 1 --max_steps 1",
            models[i].shape);
        struct training dry = training_run_dry("05-offload", 0, 1, settings);
        const json_t *memory = training_event(&dry, "memory", -1);
        double device = training_number(memory, "device.total.peak_bytes");
        double host = training_number(memory, "host.total.peak_bytes") / models[i].parameters;
        printf("%s: %.0f MiB of device memory, %.2f bytes a parameter of the host's\n", models[i].shape,
               device / (1 << 20), host);
        assert_true(device <= models[i].device);
        assert_true(host >= 16 && host <= 17);
        training_free(&dry);
        free(settings);
    }
}

/* ---- the original's variants ---- */

static void deepspeed_files(void **state) {
    (void)state;
    static const struct {
        const char *file;
        struct variant variant;
    } files[] = {
        {"zero0", {0, false, false, false}},        {"zero1", {1, false, false, false}},
        {"zero2", {2, false, false, false}},        {"zero3", {3, false, false, false}},
        {"zero1-offload", {1, true, false, false}}, {"zero2-offload", {2, true, false, false}},
        {"zero3-offload", {3, true, false, false}}, {"zero3-offload-all", {3, true, false, true}},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *settings = xformat(TEXT "--deepspeed 05-offload/deepspeed/%s.json --model_name_or_path %s "
                                      "--max_steps 1 --save_strategy no --save_model false --fp16 false",
                                 files[i].file, deep);
        struct training training = training_run("05-offload", 1, "%s", settings);
        check_state(&files[i].variant, &training, 1, 4, settings);
        training_free(&training);
        free(settings);
    }
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    deep = xformat("%s/deep", folder);
    loud = xformat("%s/loud", folder);
    model_files_write(deep, &deep_shape);
    model_files_write(loud, &loud_shape);
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    free(deep);
    free(loud);
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank),
        cmocka_unit_test(two_ranks),
        cmocka_unit_test(three_ranks),
        cmocka_unit_test(overflows),
        cmocka_unit_test(same_command_same_bits),
        cmocka_unit_test(resumed),
        cmocka_unit_test(ledgers),
        cmocka_unit_test(published_shapes),
        cmocka_unit_test(deepspeed_files),
    };
    const struct CMUnitTest few[] = {cmocka_unit_test(some_variants)};
    return training_is_brief() ? cmocka_run_group_tests(few, set_up, remove_all)
                               : cmocka_run_group_tests(tests, set_up, remove_all);
}
