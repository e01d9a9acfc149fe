/*
 * What must not change a run's numbers does not: how many ranks share the work, how many micro-batches an
 * update has, padding, gradient checkpointing; and the same command gives the same bits.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/check.h"
#include "tests/support/training.h"

/* Fits 20 updates of 16 examples, with an uneven last one in each epoch. */
#define TEXT                                                                                                 \
    "--model_name_or_path tests/fixtures/trainer-short/model --train_file synthetic:70x24-60 "               \
    "--max_seq_length 64 "                                                                                   \
    "--per_device_train_batch_size 4 --learning_rate 1e-3 --max_steps 20 --save_strategy no --save_model "   \
    "false "

static struct training run(int ranks, int accumulation, const char *more) {
    return training_run("01-baseline", ranks, TEXT "--gradient_accumulation_steps %d %s", accumulation, more);
}

static void check_like(const struct training *expected, int ranks, int accumulation, const char *more,
                       double bound) {
    struct training other = run(ranks, accumulation, more);
    double off = training_difference(expected, &other, 20);
    printf("%d ranks × accumulation %d %s: losses off by %.2g\n", ranks, accumulation, more, off);
    if (!(off <= bound))
        fail_msg("%d ranks, accumulation %d %s: off by %.3g", ranks, accumulation, more, off);
    training_free(&other);
}

static void ranks_and_accumulation(void **state) {
    (void)state;
    struct training one = run(1, 4, "--fp16 false");
    check_like(&one, 2, 2, "--fp16 false", 1e-6);
    check_like(&one, 4, 1, "--fp16 false", 1e-6);
    check_like(&one, 1, 4, "--fp16 false --pad_to_max_length true", 1e-6);
    check_like(&one, 1, 4, "--fp16 false --gradient_checkpointing true", 0);
    training_free(&one);
}

static void half_precision(void **state) {
    (void)state;
    static const char *const precisions[] = {"--bf16 true --fp16 false", "--fp16 true"};
    for (int i = 0; i < 2; i++) {
        struct training one = run(1, 4, precisions[i]);
        check_like(&one, 2, 2, precisions[i], 1e-3);
        check_like(&one, 4, 1, precisions[i], 1e-3);
        const json_t *last = training_event(&one, "step", 20);
        assert_true(json_is_boolean(json_object_get(last, "skipped")));
        assert_true(training_number(last, "loss_scale") >= 1);
        training_free(&one);
    }
}

/* Every digit of every loss, norm and evaluation. */
static void assert_same_bits(const struct training *a, const struct training *b) {
    for (int step = 1; step <= 20; step++) {
        const json_t *x = training_event(a, "step", step), *y = training_event(b, "step", step);
        if (!json_equal(x, y)) fail_msg("step %d: %s against %s", step, json_dumps(x, 0), json_dumps(y, 0));
    }
    double x = training_number(training_event(a, "eval", 20), "eval_loss");
    double y = training_number(training_event(b, "eval", 20), "eval_loss");
    assert_memory_equal(&x, &y, sizeof x);
}

static void same_command_same_bits(void **state) {
    (void)state;
    static const char *const precisions[] = {"--fp16 false", "--bf16 true --fp16 false", "--fp16 true"};
    for (int i = 0; i < 3; i++)
        for (int ranks = 1; ranks <= 2; ranks++) {
            struct training first = run(ranks, 2, precisions[i]), second = run(ranks, 2, precisions[i]);
            assert_same_bits(&first, &second);
            training_free(&first);
            training_free(&second);
        }
}

/* More ranks than some updates have micro-batches: these ranks have nothing to do, and take part all the
 * same. */
static void ranks_without_work(void **state) {
    (void)state;
#define FEW                                                                                                  \
    "--model_name_or_path tests/fixtures/trainer-short/model --train_file synthetic:9x30 --max_seq_length "  \
    "32 "                                                                                                    \
    "--per_device_train_batch_size 2 --num_train_epochs 3 --learning_rate 1e-3 --save_strategy no --fp16 "   \
    "false "
    struct training one = training_run("01-baseline", 1, FEW "--gradient_accumulation_steps 4");
    struct training four = training_run("01-baseline", 4, FEW "--gradient_accumulation_steps 1");
    assert_int_equal(training_count(&one, "step"), 6);
    assert_int_equal(training_count(&four, "step"), 6);
    assert_true(training_difference(&one, &four, 6) <= 1e-6);
    double x = training_number(training_event(&one, "eval", 6), "eval_loss");
    double y = training_number(training_event(&four, "eval", 6), "eval_loss");
    assert_true(fabs(x / y - 1) <= 1e-6);
    training_free(&one);
    training_free(&four);
}

/* 16 bytes a parameter, to 2% on a fixture; the bytes sent are the formula's. */
static void ledger_and_bytes(void **state) {
    (void)state;
    static const char *const precisions[] = {"--fp16 false", "--bf16 true --fp16 false", "--fp16 true"};
    for (int i = 0; i < 3; i++)
        for (int ranks = 1; ranks <= 4; ranks++) {
            struct training r = run(ranks, 1, precisions[i]);
            const json_t *memory = training_event(&r, "memory", -1);
            double parameters = training_number(training_event(&r, "run", -1), "parameters");
            double bytes = training_number(memory, "device.parameters.peak_bytes") +
                           training_number(memory, "device.gradients.peak_bytes") +
                           training_number(memory, "device.optimizer.peak_bytes");
            if (fabs(bytes / (16 * parameters) - 1) > 0.02)
                fail_msg("%g bytes a parameter", bytes / parameters);
            assert_true(training_number(memory, "device.activations.bytes") ==
                        training_number(memory, "device.activations.predicted_bytes"));
            if (ranks > 1) {
                const json_t *sent = training_event(&r, "communication", -1);
                double ratio = training_number(sent, "all_reduce.bytes") /
                               training_number(sent, "all_reduce.predicted_bytes");
                if (fabs(ratio - 1) > 0.02)
                    fail_msg("%d ranks: sent %g of the predicted bytes", ranks, ratio);
                assert_true(training_number(sent, "all_reduce.across_bytes") == 0);
            }
            training_free(&r);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_and_accumulation), cmocka_unit_test(half_precision),
        cmocka_unit_test(same_command_same_bits), cmocka_unit_test(ranks_without_work),
        cmocka_unit_test(ledger_and_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
