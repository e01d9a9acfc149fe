/*
 * Checkpoints across stages: saved by one stage on so many ranks, a run goes on in another stage on another
 * number of ranks as if nothing had happened; and a run of stage 04 that is killed while it saves goes on
 * with the same bits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/killing.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"

enum { UPDATES = 14, MOST_SECONDS = 120 };

static char *folder; /* of all runs of this program */

static char *output(const char *name) {
    return xformat("%s/%s", folder, name);
}

/* 37 examples, 12 of them an update at any of 1 to 4 ranks, a checkpoint after every second update. */
static char *train_command(const char *stage, int ranks, const char *output_dir, const char *settings) {
    return xformat(BUILD_DIR
                   "/%6$s/train --model_name_or_path %1$s/model --train_file %1$s/train.json "
                   "--validation_file %1$s/dev.json --learning_rate 1e-3 --per_device_train_batch_size 1 "
                   "--gradient_accumulation_steps %2$d --max_steps %7$d --max_seq_length 96 --threads 1 "
                   "--save_strategy steps --save_steps 2 --fp16 false --memory_sample_interval 0 "
                   "--output_dir %3$s %4$s %5$s",
                   SOURCE_DIR "/tests/fixtures/trainer-short", 12 / ranks, output_dir, command_sharing(ranks),
                   settings, stage, UPDATES);
}

static void run_whole(const char *stage, int ranks, const char *output_dir, const char *settings) {
    char *command = train_command(stage, ranks, output_dir, settings);
    struct command_result result = command_run(MOST_SECONDS, COMMAND_MPIRUN "%s", ranks, command);
    if (result.exit_code != 0 || result.err_size > 0)
        fail_msg("%s on %d ranks %s: exit code %d: %s", stage, ranks, settings, result.exit_code, result.err);
    command_free(&result);
    free(command);
}

/* Goes on from update `update` of another run, in a folder of its own, which it returns. */
static char *go_on(const char *stage, int ranks, const char *from, int update, const char *name) {
    char *output_dir = output(name);
    char *settings = xformat("--resume_from_checkpoint %s/checkpoint-%d", from, update);
    run_whole(stage, ranks, output_dir, settings);
    free(settings);
    json_t *run = run_events(output_dir, "run");
    assert_true(json_array_size(run) >= 2); /* the curve of the run before, and what was added */
    json_decref(run);
    return output_dir;
}

/* Stage 01 on one rank, never interrupted, is what all others are compared with. */
static char *reference(void) {
    char *path = output("reference");
    if (!directory_exists(path)) run_whole("01-baseline", 1, path, "");
    return path;
}

/* ---- tests ---- */

static void test_down_the_stages(void **state) {
    (void)state;
    char *whole = reference(), *four = output("four");
    run_whole("04-zero3", 4, four, "");
    check_similar_runs(four, whole, 1e-6);
    char *two = go_on("02-zero1", 2, four, 4, "two");
    check_similar_runs(two, whole, 1e-6);
    char *three = go_on("03-zero2", 3, four, 6, "three");
    check_similar_runs(three, whole, 1e-6);
    char *one = go_on("01-baseline", 1, four, 8, "one");
    check_similar_runs(one, whole, 1e-6);
    /* From each to the next: 4 updates at 04, 4 at 02, 2 at 03, the rest at 01. */
    char *mixed = go_on("03-zero2", 3, two, 8, "mixed"), *last = go_on("01-baseline", 2, mixed, 10, "last");
    check_similar_runs(last, whole, 1e-6);
    free(last);
    free(mixed);
    free(one);
    free(three);
    free(two);
    free(four);
    free(whole);
}

static void test_up_the_stages(void **state) {
    (void)state;
    char *whole = reference(), *four = go_on("04-zero3", 4, whole, 6, "up");
    check_similar_runs(four, whole, 1e-6);
    free(four);
    free(whole);
}

/* ---- killed ---- */

static void sleep_ms(long milliseconds) {
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

/* Waits until this file of a checkpoint that is being written is there. */
static void wait_for(struct killable *run, const char *output_dir, int update, const char *inside) {
    char *path = xformat("%s/checkpoint-%d.part%s", output_dir, update, inside);
    char *done = xformat("%s/checkpoint-%d", output_dir, update + 2);
    while (!file_exists(path) && !directory_exists(path)) {
        if (!killable_runs(run)) fail_msg("the run ended (%d) before %s", run->exit_code, path);
        if (directory_exists(done)) break; /* too late: it is killed all the same */
        sleep_ms(0);
    }
    free(done);
    free(path);
}

static void test_killed_while_saving(void **state) {
    (void)state;
    static const struct {
        int update, rank;
        const char *inside;
    } kills[] = {{4, KILL_ALL, "/model.safetensors.part"},
                 {8, 1, "/optimizer-00001-of-00003.safetensors.part"},
                 {10, KILL_ALL, "/manifest.json"}};
    int unfinished = 0;
    char *whole = output("whole"), *killed = output("killed");
    run_whole("04-zero3", 3, whole, "");
    for (size_t i = 0; i < sizeof kills / sizeof *kills; i++) {
        char *command = train_command("04-zero3", 3, killed, "--resume_from_checkpoint true");
        struct killable run = killable_start(folder, 3, command);
        wait_for(&run, killed, kills[i].update, kills[i].inside);
        killable_kill(&run, kills[i].rank, 30);
        int count, last = check_checkpoints(killed, &count);
        bool part = has_unfinished_checkpoint(killed);
        unfinished += part;
        print_message("  killed after %d updates were saved%s\n", last, part ? ", while the next was" : "");
        free(command);
    }
    assert_true(unfinished >= 1);
    run_whole("04-zero3", 3, killed, "--resume_from_checkpoint true");
    assert_false(has_unfinished_checkpoint(killed));
    check_same_runs(killed, whole);
    free(killed);
    free(whole);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_down_the_stages),
                                       cmocka_unit_test(test_up_the_stages),
                                       cmocka_unit_test(test_killed_while_saving)};
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
