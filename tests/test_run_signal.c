/* Runs that a batch system warns by a signal: they save, leave with their exit code, and resumed they are the
 * same, to the last bit, as one that was never warned. */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/train/warning_signal.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/killing.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"

/* Runs that are to be warned would last for hours: however long mpirun takes to pass the signal on, and
 * however fast the device is, they are still at work. */
enum { ENDLESS = 1000000, MOST_SECONDS = 120 };

static char *folder; /* of all runs of this program */

/* 37 examples, 6 of them an update at 1 or 2 ranks. The learning rate is constant: updates are then the same
 * in a run of another length. */
static char *train_command(const char *stage, int ranks, int updates, const char *output_dir,
                           const char *settings) {
    return xformat(BUILD_DIR "/%1$s/train --model_name_or_path %2$s/model --train_file %2$s/train.json "
                             "--validation_file %2$s/dev.json --append_eos false --learning_rate 1e-3 "
                             "--lr_scheduler_type constant --per_device_train_batch_size 1 "
                             "--gradient_accumulation_steps %3$d --max_steps %7$d --save_total_limit 2 "
                             "--max_seq_length 96 --threads 1 --memory_sample_interval 0 --fp16 false "
                             "--output_dir %4$s %5$s %6$s",
                   stage, SOURCE_DIR "/tests/fixtures/trainer-short", 6 / (ranks ? ranks : 1), output_dir,
                   command_sharing(ranks), settings, updates);
}

static void run_whole(const char *stage, int ranks, int updates, const char *output_dir,
                      const char *settings) {
    char *command = train_command(stage, ranks, updates, output_dir, settings);
    struct command_result result = ranks ? command_run(MOST_SECONDS, COMMAND_MPIRUN "%s", ranks, command)
                                         : command_run(MOST_SECONDS, "%s", command);
    if (result.exit_code != 0) fail_msg("exit code %d: %s", result.exit_code, result.err);
    command_free(&result);
    free(command);
}

/* Updates that metrics.jsonl has so far. */
static int updates_done(const char *output_dir) {
    char *path = xformat("%s/metrics.jsonl", output_dir), *line = NULL;
    size_t capacity = 0;
    int count = 0;
    FILE *file = fopen(path, "r");
    while (file && getline(&line, &capacity, file) > 0) count += strstr(line, "\"event\":\"step\"") != NULL;
    if (file) fclose(file);
    free(line);
    free(path);
    return count;
}

/* How many ranks have started; *one: the process number of one of them. */
static int ranks_started(const struct killable *run, pid_t *one) {
    int count = 0;
    DIR *ranks = opendir(run->ranks);
    for (struct dirent *entry; ranks && (entry = readdir(ranks));) {
        pid_t number = (pid_t)atoi(entry->d_name);
        if (number <= 0) continue; /* "." and ".." */
        *one = number;
        count++;
    }
    if (ranks) closedir(ranks);
    return count;
}

static pid_t some_rank(const struct killable *run) {
    pid_t one = 0;
    ranks_started(run, &one);
    return one;
}

static void sleep_ms(long milliseconds) {
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000}, NULL);
}

/* Starts a run, sends the signal once `update` updates are done, and waits. Returns the exit code. */
static int warn_run(const char *stage, int ranks, bool one_rank, int signal_number, int update,
                    const char *output_dir, const char *settings) {
    char *command = train_command(stage, ranks, ENDLESS, output_dir, settings);
    struct killable run = killable_start(folder, ranks, command);
    while (killable_runs(&run) && updates_done(output_dir) < update) sleep_ms(1);
    if (run.ended) fail_msg("the run ended (%d) before update %d", run.exit_code, update);
    kill(one_rank ? some_rank(&run) : run.process, signal_number);
    for (int waited = 0; killable_runs(&run); waited++) {
        if (waited > 30000) {
            killable_kill(&run, KILL_ALL, 20);
            fail_msg("30 s after the signal the run still runs");
        }
        sleep_ms(1);
    }
    free(run.ranks);
    free(command);
    return run.exit_code;
}

static bool has_file(const char *output_dir, const char *name) {
    char *path = xformat("%s/%s", output_dir, name);
    bool found = file_exists(path);
    free(path);
    return found;
}

/* Warned `times` times, each time resumed, the last time for some more updates; then the same as a run of
 * that length that was not. */
static void check_warned(const char *stage, int ranks, bool one_rank, int times, int signal_number,
                         const char *settings) {
    char *reference = xformat("%s/reference-%s-%d", folder, stage, ranks);
    char *output_dir = xformat("%s/warned-%s-%d", folder, stage, ranks);
    char *resuming = xformat("%s --resume_from_checkpoint true", settings);
    int count, last = 0;
    for (int i = 0; i < times; i++) {
        int code = warn_run(stage, ranks, one_rank, signal_number, last + 2, output_dir, resuming);
        assert_int_equal(code, WARNING_EXIT_CODE);
        int saved = check_checkpoints(output_dir, &count);
        assert_true(saved > last + 1);
        assert_false(has_file(output_dir, "model.safetensors"));
        last = saved;
    }
    run_whole(stage, ranks, last + 10, output_dir, resuming);
    run_whole(stage, ranks, last + 10, reference, "");
    check_same_runs(output_dir, reference);
    free(resuming);
    free(output_dir);
    free(reference);
}

static void test_one_process(void **state) {
    (void)state;
    check_warned("01-baseline", 0, false, 1, SIGTERM, "--save_on_signal term");
}

/* Does this machine's mpirun give ranks, here of a shell that would sleep for ten seconds, this signal? */
static bool mpirun_passes_on(int signal_number) {
    pid_t one;
    struct killable run = killable_start(folder, 2, "sleep 10");
    while (killable_runs(&run) && ranks_started(&run, &one) < 2) sleep_ms(1);
    kill(run.process, signal_number);
    while (killable_runs(&run)) sleep_ms(1);
    free(run.ranks);
    return run.exit_code != 0;
}

/* As a job's script does it: the signal goes to mpirun, which gives it to all ranks. */
static void test_through_mpirun(void **state) {
    (void)state;
    if (!mpirun_passes_on(SIGUSR1)) {
        print_message("skipped: mpirun gives its ranks no SIGUSR1 on this machine\n");
        skip();
    }
    check_warned("01-baseline", 2, false, 2, SIGUSR1, "--save_on_signal usr1");
}

/* Only one rank knows, and each has only its slices. */
static void test_one_of_two_ranks(void **state) {
    (void)state;
    check_warned("04-zero3", 2, true, 1, SIGUSR2, "--save_on_signal usr2");
}

/* Where nothing else is saved, this checkpoint is. */
static void test_saves_what_is_not_saved(void **state) {
    (void)state;
    char *output_dir = xformat("%s/unsaved", folder);
    const char *settings = "--save_strategy no --save_on_signal usr1";
    assert_int_equal(warn_run("01-baseline", 0, false, SIGUSR1, 2, output_dir, settings), WARNING_EXIT_CODE);
    int count;
    assert_true(check_checkpoints(output_dir, &count) >= 2);
    assert_int_equal(count, 1);
    free(output_dir);
}

static void test_not_asked_for(void **state) {
    (void)state;
    char *output_dir = xformat("%s/not-asked", folder);
    int code = warn_run("01-baseline", 0, false, SIGUSR1, 1, output_dir, "--save_strategy no");
    assert_int_equal(code, 128 + SIGUSR1);
    int count;
    assert_int_equal(check_checkpoints(output_dir, &count), -1);
    free(output_dir);
}

static int open_folder(void **state) {
    (void)state;
    folder = temporary_folder();
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_process),      cmocka_unit_test(test_through_mpirun),
        cmocka_unit_test(test_one_of_two_ranks), cmocka_unit_test(test_saves_what_is_not_saved),
        cmocka_unit_test(test_not_asked_for),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
