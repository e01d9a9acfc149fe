/*
 * What stages 02 to 04 say when they cannot go on: one line on standard error, and an end of all ranks. And
 * the one thing they warn of.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

enum { MOST_SECONDS = 60, RANKS = 3 };

static char *folder;

/* Runs a stage; `rank_1` is what the shell of rank 1 does before. */
static struct command_result run(const char *stage, const char *rank_1, const char *settings) {
    return command_run(MOST_SECONDS,
                       COMMAND_MPIRUN "sh -c 'if test \"$OMPI_COMM_WORLD_RANK\" = 1; then %s; fi; exec "
                                      "\"$0\" \"$@\"' " BUILD_DIR
                                      "/%s/train --output_dir %s/run --overwrite_output_dir --threads 1 "
                                      "--memory_sample_interval 0 --fp16 false --save_model false %s %s",
                       RANKS, rank_1, stage, folder, settings, command_sharing(RANKS));
}

static void check_error(struct command_result result, const char *what, const char *const says[3]) {
    command_drop_reads_of_the_dead(&result);
    size_t line = strcspn(result.err, "\n");
    if (result.timed_out || result.exit_code == 0 || strncmp(result.err, "error: ", 7) != 0 ||
        line + 1 != result.err_size)
        fail_msg("%s: exit code %d%s, rather than one line of error: %s", what, result.exit_code,
                 result.timed_out ? " after the time limit" : "", result.err);
    for (int i = 0; i < 3 && says[i]; i++)
        if (!strstr(result.err, says[i]))
            fail_msg("%s: does not say '%s' but: %s", what, says[i], result.err);
    print_message("  %s", result.err);
    command_free(&result);
}

/* The sample's model: 3.7 M parameters, 14 MiB; a block has 3 MiB. */
static void test_device_memory(void **state) {
    (void)state;
    static const struct {
        const char *stage, *limit, *says[3];
    } cases[] = {
        {"01-baseline", "40", {"optimizer asked for", "stages 02 to 04 need less"}},
        {"02-zero1", "12", {"parameters asked for", "stage 04 needs less"}},
        {"03-zero2", "16", {"optimizer asked for", "the less the more ranks"}},
        {"03-zero2", "25", {"gradients asked for", "the less the more ranks"}},
        {"04-zero3", "4", {"parameters asked for", "the less the more ranks"}},
        {"04-zero3", "8", {"buffers asked for", "stage3_prefetch"}},
        {"04-zero3", "32", {"activations asked for", "gradient_checkpointing"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *settings = xformat("--device_memory_limit %s --per_device_train_batch_size 16 "
                                 "--save_strategy no --eval_strategy no",
                                 cases[i].limit);
        check_error(run(cases[i].stage, ":", settings), cases[i].stage, cases[i].says);
        free(settings);
    }
}

#define LONG_RUN                                                                                             \
    "--model_name_or_path tests/fixtures/tiny --train_file synthetic:64x32 --max_steps 1000000 "             \
    "--eval_strategy no "

/* Rank 1 stands still in the middle of the run: after 20 updates. Rank 2, which may wait for it somewhere
 * else, is not to blame. */
static void test_silent_rank(void **state) {
    (void)state;
    static const char *const says[3] = {"no answer from rank 1 in ", "communication_timeout"};
    char *stop = xformat("{ (until test \"$(cat %s/silent/metrics.jsonl | wc -l)\" -gt 20; do sleep 0.1; "
                         "done; kill -STOP $$) 2>&- >&- & }",
                         folder);
    char *settings =
        xformat(LONG_RUN "--save_strategy no --communication_timeout 8 --output_dir %s/silent", folder);
    struct command_result result = run("04-zero3", stop, settings);
    assert_null(strstr(result.err, "host_broadcast")); /* which it was: the start */
    check_error(result, "a silent rank", says);
    free(settings);
    free(stop);
}

/* Rank 1 cannot write its part of the checkpoint; a limit on files' sizes stands for a full disk. */
static void test_failing_rank(void **state) {
    (void)state;
    static const char *const says[3] = {"optimizer-00001-of-00003", "cannot be written"};
    check_error(run("04-zero3", "ulimit -f 200",
                    LONG_RUN "--save_strategy steps --save_steps 3 --save_total_limit 1"),
                "a rank that fails", says);
}

/* One block is most of odd-heads: a whole one takes what slices save. */
static void test_warning(void **state) {
    (void)state;
    static const char *const stages[] = {"02-zero1", "03-zero2", "04-zero3"};
    static const char *const models[] = {"tests/fixtures/odd-heads", "tests/fixtures/sharded"};
    for (int s = 0; s < 3; s++)
        for (int m = 0; m < 2; m++) {
            char *settings = xformat("--model_name_or_path %s --train_file synthetic:16x16 --max_steps 1 "
                                     "--save_strategy no --eval_strategy no",
                                     models[m]);
            struct command_result result = run(stages[s], ":", settings);
            assert_int_equal(result.exit_code, 0);
            bool warns = s >= 1 && m == 0;
            assert_int_equal(lines_with(result.err, ""), warns);
            assert_int_equal(lines_with(result.err, "warning: block 0 has 78% of the model's parameters"),
                             warns);
            command_free(&result);
            free(settings);
        }
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_device_memory),
                                       cmocka_unit_test(test_silent_rank),
                                       cmocka_unit_test(test_failing_rank), cmocka_unit_test(test_warning)};
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
