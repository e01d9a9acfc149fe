/*
 * Stages 01 to 04 train the same model: at each number of ranks, on even and uneven shapes, every stage has
 * 01's losses, 03 and 04 have the same bits, and an overflow skips the same updates everywhere. All runs
 * evaluate and save in between.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/check.h"
#include "tests/support/model_files.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { STAGES = 4 };

static const char *const stages[STAGES] = {"01-baseline", "02-zero1", "03-zero2", "04-zero3"};
static char *folder;     /* of the shapes below */
static int updates = 20; /* of every run */

#define FP32_RUN "--fp16 false "
#define BF16_RUN "--bf16 true --fp16 false "
#define FP16_RUN "--fp16 true "

static struct training run(const char *stage, int ranks, const char *settings) {
    return training_run(
        stage, ranks,
        "--learning_rate 1e-3 --max_steps %d --memory_sample_interval 0 --eval_strategy steps "
        "--eval_steps 5 --save_strategy steps --save_steps 7 --save_total_limit 1 %s",
        updates, settings);
}

static double difference(double x, double y) {
    return x == y ? 0 : fabs(x / y - 1);
}

static bool skipped(const struct training *training, int step) {
    return json_is_true(json_object_get(training_event(training, "step", step), "skipped"));
}

/* The norm of the whole gradient, which the loss shows only where it is clipped. */
static void check_norms(const struct training *expected, const struct training *run, double bound) {
    for (int step = 1; step <= updates; step++) {
        if (skipped(expected, step)) continue;
        double x = training_number(training_event(expected, "step", step), "grad_norm");
        double y = training_number(training_event(run, "step", step), "grad_norm");
        if (!(difference(y, x) <= bound))
            fail_msg("%s: update %d has a gradient of norm %.9g, stage 01 %.9g", run->output_dir, step, y, x);
    }
}

/* How far the losses are from those of 01; fails where others than its updates were skipped. */
static double losses_off(const struct training *expected, const struct training *run) {
    double worst = training_difference(expected, run, updates);
    assert_int_equal(training_count(run, "step"), updates);
    assert_int_equal(training_count(run, "eval"), training_count(expected, "eval"));
    for (int step = 0; step <= updates; step++) {
        if (step > 0 && skipped(expected, step) != skipped(run, step))
            fail_msg("update %d is skipped in one of %s and %s", step, expected->output_dir, run->output_dir);
        if (step % 5) continue;
        double x = training_number(training_event(expected, "eval", step), "eval_loss");
        double y = training_number(training_event(run, "eval", step), "eval_loss");
        worst = fmax(worst, difference(y, x));
    }
    return worst;
}

/* All stages with the same settings; returns stage 01's run. */
static struct training compare_stages(int ranks, double bound, const char *settings) {
    struct training runs[STAGES];
    printf("%d rank(s) %s: losses off by", ranks, settings);
    for (int s = 0; s < STAGES; s++) {
        runs[s] = run(stages[s], ranks, settings);
        double off = losses_off(&runs[0], &runs[s]);
        check_norms(&runs[0], &runs[s], bound < 1e-3 ? 1e-4 : 0.25); /* half precision parts from it */
        printf(" %.2g", off);
        if (!(off <= bound)) fail_msg("%s, %d ranks %s: off by %.3g", stages[s], ranks, settings, off);
    }
    printf("\n");
    check_same_runs(runs[3].output_dir, runs[2].output_dir);
    for (int s = 1; s < STAGES; s++) training_free(&runs[s]);
    return runs[0];
}

static void check_stages(int ranks, double bound, const char *format, const char *model) {
    char *settings = xformat("--model_name_or_path %s %s", model, format);
    struct training first = compare_stages(ranks, bound, settings);
    training_free(&first);
    free(settings);
}

static char *shape(const char *name) {
    return xformat("%s/%s", folder, name);
}

/* ---- tests ---- */

#define TEXT "--train_file synthetic:70x40-60 --max_seq_length 64 "

static void one_rank(void **state) {
    (void)state;
    check_stages(1, 1e-6, FP32_RUN TEXT "--gradient_accumulation_steps 2", "tests/fixtures/tiny");
}

/* 906 rows of the embedding in chunks that 2 ranks cannot share evenly; text, several packs an update. */
static void two_ranks(void **state) {
    (void)state;
    check_stages(2, 1e-6,
                 FP32_RUN "--train_file tests/fixtures/trainer-short/train.json --validation_file "
                          "tests/fixtures/trainer-short/dev.json --max_seq_length 96 --stage3_prefetch 3 "
                          "--per_device_train_batch_size 2 --gradient_accumulation_steps 3",
                 "tests/fixtures/trainer-short/model");
}

/* One block, 6 heads; a unit of 111,840 is no multiple of 3 · 8. */
static void three_ranks(void **state) {
    (void)state;
    check_stages(3, 1e-6,
                 FP32_RUN TEXT "--gradient_accumulation_steps 2 --gradient_checkpointing true "
                               "--stage3_prefetch 0",
                 "tests/fixtures/odd-heads");
}

/* Of 9 examples in batches of 2 an update of 4 ranks leaves three without any: their packs are empty, and so
 * are the last ones of ranks with fewer. */
static void ranks_without_work(void **state) {
    (void)state;
    char *deep = shape("deep");
    check_stages(4, 1e-6,
                 FP32_RUN "--train_file synthetic:9x30 --max_seq_length 32 --per_device_train_batch_size 2 "
                          "--gradient_accumulation_steps 1 --stage3_prefetch 3",
                 deep);
    free(deep);
}

static void computed_padding(void **state) {
    (void)state;
    char *deep = shape("deep");
    check_stages(3, 1e-6,
                 FP32_RUN "--train_file synthetic:21x20-30 --max_seq_length 32 --pad_to_max_length true "
                          "--per_device_train_batch_size 2 --gradient_accumulation_steps 2",
                 deep);
    free(deep);
}

static void bfloat16(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    char *deep = shape("deep");
    check_stages(3, 1e-3, BF16_RUN TEXT "--gradient_accumulation_steps 2 --stage3_prefetch 0", deep);
    free(deep);
}

/* Weights so large that the first gradients overflow at a loss scale of 65536. */
static void overflows(void **state) {
    (void)state;
    char *loud = shape("loud"),
         *settings = xformat(FP16_RUN TEXT "--gradient_accumulation_steps 2 --learning_rate 2e-5 "
                                           "--model_name_or_path %s",
                             loud);
    struct training first = compare_stages(4, 1e-3, settings);
    int count = 0;
    for (int step = 1; step <= updates; step++) count += skipped(&first, step);
    printf("%d of %d updates skipped\n", count, updates);
    assert_true(count >= 1 && count <= updates / 2);
    training_free(&first);
    free(settings);
    free(loud);
}

static void same_command_same_bits(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    char *deep = shape("deep");
    static const char *const precisions[] = {FP32_RUN, BF16_RUN, FP16_RUN};
    for (int s = 1; s < STAGES; s++) {
        char *settings = xformat("%s" TEXT "--model_name_or_path %s", precisions[s - 1], deep);
        struct training one = run(stages[s], 2, settings), other = run(stages[s], 2, settings);
        check_same_runs(one.output_dir, other.output_dir);
        training_free(&one);
        training_free(&other);
        free(settings);
    }
    free(deep);
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    char *deep = shape("deep"), *loud = shape("loud");
    /* Nine units of which the largest is a tenth of the model: rotations are as deep as they are asked to. */
    model_files_write(deep, &(struct model_shape){331, 40, 8, 5, 0.05, 1});
    model_files_write(loud, &(struct model_shape){331, 40, 4, 5, 0.05, 30});
    free(loud);
    free(deep);
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank),         cmocka_unit_test(two_ranks),
        cmocka_unit_test(three_ranks),      cmocka_unit_test(ranks_without_work),
        cmocka_unit_test(computed_padding), cmocka_unit_test(bfloat16),
        cmocka_unit_test(overflows),        cmocka_unit_test(same_command_same_bits),
    };
    if (training_is_brief()) updates = 8; /* at the 9th the loud shape is on the verge of an overflow */
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
