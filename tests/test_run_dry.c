/*
 * The dry backend plays any rank of any world in one process: its ledger, its bytes sent and its count of
 * work must be those of the CPU backend's run of the same command, to the byte. Needs the dry build beside
 * this one (./workshop test makes both).
 */
#include <stdio.h>
#include <string.h>

#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/training.h"

static void assert_same(const struct training *a, const struct training *b, const char *event,
                        const char *member, const char *settings) {
    const json_t *x = json_object_get(training_event(a, event, -1), member);
    const json_t *y = json_object_get(training_event(b, event, -1), member);
    if (!json_equal(x, y))
        fail_msg("%s: %s %s: cpu %s, dry %s", settings, event, member, json_dumps(x, JSON_SORT_KEYS),
                 json_dumps(y, JSON_SORT_KEYS));
}

static void check_like_cpu(int ranks, const char *settings) {
    struct training cpu = training_run("01-baseline", ranks, "%s", settings);
    for (int rank = 0; rank < ranks; rank++) {
        struct training dry = training_run_dry("01-baseline", rank, ranks, settings);
        assert_same(&cpu, &dry, "memory", "device", settings);
        if (rank == 0) { /* which is the one whose counts the CPU backend reports, and the one that saves */
            assert_same(&cpu, &dry, "communication", "all_reduce", settings);
            assert_same(&cpu, &dry, "memory", "host", settings);
            assert_same(&cpu, &dry, "summary", "work", settings);
        }
        training_free(&dry);
    }
    training_free(&cpu);
}

#define SMALL                                                                                                \
    "--train_file synthetic:40x30-64 --max_seq_length 64 --max_steps 3 --gradient_accumulation_steps 2 "     \
    "--save_strategy no --save_model false "

/* On GPUs the libraries' workspaces are a guess of the dry backend's: there test_run_plan compares. */
static void same_ledger(void **state) {
    (void)state;
    if (strcmp(device_backend(), "cpu") != 0 || !training_has_dry()) skip();
    static const char *const variants[] = {
        SMALL "--fp16 false",
        SMALL "--bf16 true --fp16 false",
        SMALL "--fp16 true --gradient_checkpointing true",
        SMALL "--fp16 false --pad_to_max_length true --model_name_or_path tests/fixtures/odd-heads",
    };
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++)
        for (int ranks = 1; ranks <= 3; ranks += 2) check_like_cpu(ranks, variants[v]);
}

/* The largest BLOOM on a laptop: 16 bytes a parameter on each of 512 ranks, and nothing of it allocated. */
static void published_shapes(void **state) {
    (void)state;
    if (!training_has_dry()) skip();
    static const char *const shapes[] = {"bloom-560m", "bloom-1b1", "bloom-1b7",
                                         "bloom-3b",   "bloom-7b1", "bloom"};
    static const double parameters[] = {559214592,  1065314304, 1722408960,
                                        3002557440, 7069016064, 176247271424};
    for (int i = 0; i < 6; i++) {
        char settings[512];
        snprintf(settings, sizeof settings,
                 "--model_name_or_path random:%s --train_file synthetic:64x190-512 --fp16 true --max_steps 1 "
                 "--per_device_train_batch_size 1 --gradient_accumulation_steps 1",
                 shapes[i]);
        struct training dry = training_run_dry("01-baseline", 3, 512, settings);
        const json_t *memory = training_event(&dry, "memory", -1);
        double bytes = training_number(memory, "device.parameters.bytes") +
                       training_number(memory, "device.gradients.bytes") +
                       training_number(memory, "device.optimizer.bytes");
        double formula = 16 * parameters[i];
        if (!(bytes >= formula && bytes <= 1.01 * formula))
            fail_msg("%s: %g bytes a parameter", shapes[i], bytes / parameters[i]);
        double sent = training_number(training_event(&dry, "communication", -1), "all_reduce.bytes");
        double expected = 2 * 2 * parameters[i] * 511 / 512;
        if (!(sent >= 0.98 * expected && sent <= 1.02 * expected))
            fail_msg("%s: sent %g", shapes[i], sent / expected);
        training_free(&dry);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_ledger), cmocka_unit_test(published_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
