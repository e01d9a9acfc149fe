/* Runs that are killed, and what a resumed one makes of it: the same bits as one that nobody killed. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/checkpoint.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/killing.h"
#include "tests/support/run_files.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { UPDATES = 14, MOST_SECONDS = 120 };

static char *folder;          /* of all runs of this program */
static double update_seconds; /* of one update with its saving, as measured */
static int kills, kills_while_saving, kills_before_saving;

/* ---- starting runs ---- */

static char *output(const char *name) {
    return xformat("%s/%s", folder, name);
}

/* Two epochs of 37 examples, 6 of them an update at any of 1, 2, 3 ranks, a checkpoint after each. */
static char *train_command(int ranks, const char *output_dir, const char *settings) {
    return xformat(BUILD_DIR
                   "/01-baseline/train --model_name_or_path %1$s/model --train_file %1$s/train.json "
                   "--validation_file %1$s/dev.json --append_eos false --learning_rate 1e-3 "
                   "--per_device_train_batch_size 1 --gradient_accumulation_steps %2$d --num_train_epochs 2 "
                   "--max_seq_length 96 --threads 1 --save_strategy steps --save_steps 1 "
                   "--memory_sample_interval 0 --fp16 false --output_dir %3$s %4$s %5$s",
                   SOURCE_DIR "/tests/fixtures/trainer-short", 6 / (ranks ? ranks : 1), output_dir,
                   command_sharing(ranks), settings);
}

/* Runs to the end; `ranks` 0: without mpirun. The caller frees the result. */
static struct command_result run_any(int ranks, const char *output_dir, const char *settings) {
    char *command = train_command(ranks, output_dir, settings);
    struct command_result result = ranks ? command_run(MOST_SECONDS, COMMAND_MPIRUN "%s", ranks, command)
                                         : command_run(MOST_SECONDS, "%s", command);
    free(command);
    return result;
}

/* It must succeed, and say on standard error what is expected, or ("") nothing. */
static void run_whole(int ranks, const char *output_dir, const char *settings, const char *expected) {
    struct command_result result = run_any(ranks, output_dir, settings);
    if (result.exit_code != 0 || (expected[0] ? !strstr(result.err, expected) : result.err_size > 0))
        fail_msg("exit code %d, expected '%s' in:\n%s", result.exit_code, expected, result.err);
    command_free(&result);
}

/* A run that nobody kills, made once for each number of ranks and precision. */
static char *reference(int ranks, const char *precision) {
    char *name = xformat("reference-%d%s", ranks, precision), *path = output(name);
    if (!directory_exists(path)) run_whole(ranks, path, precision, "");
    int count;
    assert_int_equal(check_checkpoints(path, &count), UPDATES);
    assert_int_equal(count, UPDATES);
    free(name);
    return path;
}

/* ---- killing them ---- */

static unsigned random_state = 20240607;

static unsigned random_below(unsigned n) {
    random_state = random_state * 1664525u + 1013904223u;
    return (unsigned)((unsigned long long)random_state * n >> 32);
}

static void sleep_seconds(double seconds) {
    struct timespec time = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&time, NULL);
}

/* When, and what, to kill: once the update's checkpoint stands and some seconds have passed, or (saving) once
 * this file of it is there, which is not yet a checkpoint. */
struct kill {
    int update;
    const char *saving; /* NULL: not then */
    double wait;
    int rank; /* one of them, KILL_ALL or KILL_LAUNCHER */
};

/* A random moment in the part that is number `number` of `parts` of a run. */
static struct kill random_kill(int number, int parts, int rank) {
    static const char *const files[] = {"",
                                        "/config.json",
                                        "/tokenizer.json",
                                        "/model.safetensors.part",
                                        "/model.safetensors",
                                        "/state.json",
                                        "/manifest.json"};
    int first = number * (UPDATES - 1) / parts, end = (number + 1) * (UPDATES - 1) / parts;
    struct kill kill = {.update = first + (int)random_below((unsigned)(end - first > 0 ? end - first : 1)),
                        .rank = rank};
    if (random_below(2) == 0) {
        kill.update++;
        kill.saving = files[random_below(sizeof files / sizeof *files)];
    } else {
        kill.wait = update_seconds * 0.0012 * random_below(1000);
    }
    return kill;
}

static bool has(const char *output_dir, int update, const char *inside) {
    char *path = xformat("%s/checkpoint-%d%s", output_dir, update, inside);
    bool found = file_exists(path);
    free(path);
    return found;
}

/* With save_steps 2 only every other update has a checkpoint. */
static bool begins(const char *output_dir, struct kill kill) {
    char *metrics = xformat("%s/metrics.jsonl", output_dir);
    char *file = xformat(".part%s", kill.saving ? kill.saving : "");
    bool begun = kill.update == 0 && file_exists(metrics);
    for (int update = kill.update; update <= kill.update + 1 && kill.update; update++)
        begun = begun || has(output_dir, update, "") || (kill.saving && has(output_dir, update, file));
    free(file);
    free(metrics);
    return begun;
}

/* Waits for the moment; where the machine is faster than it was, the last checkpoint's is late enough. */
static void wait_for(struct killable *run, const char *output_dir, struct kill kill) {
    while (!begins(output_dir, kill)) {
        if (!killable_runs(run)) fail_msg("the run ended (%d) before update %d", run->exit_code, kill.update);
        sleep_seconds(0.0001);
    }
    for (double waited = 0; waited < kill.wait && !has(output_dir, UPDATES, ".part"); waited += 0.0005)
        sleep_seconds(kill.wait - waited < 0.0005 ? kill.wait - waited : 0.0005);
}

/* Starts a run and kills it. Every checkpoint that it leaves must be whole. */
static void run_killed(int ranks, const char *output_dir, const char *settings, struct kill kill) {
    char *command = train_command(ranks, output_dir, settings);
    struct killable run = killable_start(folder, ranks, command);
    wait_for(&run, output_dir, kill);
    if (!killable_runs(&run)) fail_msg("the run ended before it was killed");
    killable_kill(&run, kill.rank, kill.rank == KILL_LAUNCHER ? 0 : 30);
    free(command);
    int count, last = check_checkpoints(output_dir, &count);
    bool unfinished = has_unfinished_checkpoint(output_dir);
    print_message("  killed %s after %d updates%s\n",
                  kill.rank == KILL_ALL        ? "all"
                  : kill.rank == KILL_LAUNCHER ? "mpirun"
                                               : "one rank",
                  last > 0 ? last : 0, unfinished ? " were saved, while the next was" : " were saved");
    if (kill.rank == KILL_LAUNCHER) return; /* and its ranks are still at work */
    kills++;
    kills_while_saving += unfinished;
    kills_before_saving += last < 0;
}

static void resume(int ranks, const char *output_dir, const char *settings) {
    int count, last = check_checkpoints(output_dir, &count);
    char *all = xformat("--resume_from_checkpoint true %s", settings);
    run_whole(ranks, output_dir, all, last < 0 ? "no whole checkpoint to resume from" : "");
    assert_false(has_unfinished_checkpoint(output_dir));
    free(all);
}

/* Starts, kills at a random moment, resumes, compares; then removes the run. */
static void kill_and_compare(int ranks, const char *precision, const char *settings, struct kill kill) {
    char *whole = reference(ranks, precision), *killed = output("killed");
    char *all = xformat("%s %s", precision, settings);
    run_killed(ranks, killed, all, kill);
    resume(ranks, killed, all);
    check_same_runs(killed, whole);
    struct error error;
    if (!directory_remove(killed, &error)) fail_msg("%s", error.text);
    free(all);
    free(killed);
    free(whole);
}

/* ---- tests ---- */

static void test_same_twice(void **state) {
    (void)state;
    char *whole = reference(0, ""), *again = output("again");
    run_whole(0, again, "", "");
    check_same_runs(again, whole);
    json_t *summary = run_events(again, "summary");
    update_seconds =
        json_number_value(json_object_get(json_array_get(summary, 0), "train_runtime")) / UPDATES;
    assert_true(update_seconds > 0);
    json_decref(summary);
    free(again);
    free(whole);
}

/* Many kills find other moments, not other code: once, without the sanitizers, is enough. */
static void test_killed_on_one_rank(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    for (int i = 0; i < 8; i++)
        kill_and_compare(0, "", i % 4 == 3 ? "--save_steps 2" : "", random_kill(i, 8, KILL_ALL));
}

static void test_killed_on_two_ranks(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    for (int i = 0; i < 4; i++) kill_and_compare(2, "", "", random_kill(i, 4, i % 2 ? i / 2 : KILL_ALL));
}

static void test_killed_in_half_precision(void **state) {
    (void)state;
    kill_and_compare(0, "--bf16", "", random_kill(1, 3, KILL_ALL));
    kill_and_compare(0, "--fp16", "", random_kill(2, 3, KILL_ALL));
}

/* Ranks whose mpirun was killed go on for a moment: the resumed run must not write beside them. */
static void test_killed_mpirun(void **state) {
    (void)state;
    kill_and_compare(2, "", "", (struct kill){.update = 5, .rank = KILL_LAUNCHER});
}

static void test_killed_twice(void **state) {
    (void)state;
    char *whole = reference(0, ""), *killed = output("twice");
    run_killed(0, killed, "", random_kill(1, 4, KILL_ALL));
    run_killed(0, killed, "--resume_from_checkpoint true", random_kill(3, 4, KILL_ALL));
    resume(0, killed, "");
    check_same_runs(killed, whole);
    free(killed);
    free(whole);
}

static void test_enough_kills(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    print_message("%d kills, %d of them while a checkpoint was written (.part), %d before the first stood\n",
                  kills, kills_while_saving, kills_before_saving);
    assert_true(kills >= 10);
    assert_true(kills_while_saving >= 3);
}

/* In another folder each time: 5 updates on one rank, 4 on two, the rest on three. */
static void test_other_world_sizes(void **state) {
    (void)state;
    char *one = reference(0, ""), *two = output("two"), *three = output("three");
    char *from_one = xformat("--resume_from_checkpoint %s/checkpoint-5", one);
    char *from_two = xformat("--resume_from_checkpoint %s/checkpoint-9/", two);
    run_whole(2, two, from_one, "");
    check_similar_runs(two, one, 1e-6);
    run_whole(3, three, from_two, "");
    check_similar_runs(three, one, 1e-6);
    free(from_two);
    free(from_one);
    free(three);
    free(two);
    free(one);
}

static void test_save_total_limit(void **state) {
    (void)state;
    char *whole = reference(0, ""), *limited = output("limited");
    int count;
    run_killed(0, limited, "--save_total_limit 2",
               (struct kill){.update = 7, .saving = "", .rank = KILL_ALL});
    assert_true(check_checkpoints(limited, &count) >= 6);
    assert_true(count == 2 || count == 3); /* the oldest goes once the newest stands */
    resume(0, limited, "--save_total_limit 2");
    assert_int_equal(check_checkpoints(limited, &count), UPDATES);
    assert_int_equal(count, 2);
    check_same_runs(limited, whole);
    free(limited);
    free(whole);
}

static char *copy_of(const char *path, const char *name) {
    char *copy = output(name);
    struct command_result result = command_run(30, "cp -r %s %s", path, copy);
    assert_int_equal(result.exit_code, 0);
    command_free(&result);
    return copy;
}

/* Later checkpoints, and what metrics.jsonl says of later updates, are of a run that is given up. */
static void test_folder_of_an_earlier_checkpoint(void **state) {
    (void)state;
    char *whole = reference(0, ""), *earlier = copy_of(whole, "earlier");
    char *settings = xformat("--save_steps 10 --resume_from_checkpoint %s/checkpoint-4", earlier);
    run_whole(0, earlier, settings, "");
    check_same_runs(earlier, whole);
    int count;
    check_checkpoints(earlier, &count);
    assert_int_equal(count, 6); /* 1 to 4, 10, 14 */
    json_t *runs = run_events(earlier, "run");
    assert_int_equal(json_array_size(runs), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(runs, 1), "resumed_from")),
                        strstr(settings, folder));
    json_decref(runs);
    free(settings);
    free(earlier);
    free(whole);
}

static void test_nothing_to_resume(void **state) {
    (void)state;
    char *whole = reference(0, ""), *fresh = output("fresh");
    run_whole(0, fresh, "--resume_from_checkpoint true",
              "no whole checkpoint to resume from; the run starts from the beginning");
    check_same_runs(fresh, whole);
    free(fresh);
    free(whole);
}

static void cut_file(const char *output_dir, int update, const char *name, long bytes) {
    char *path = xformat("%s/checkpoint-%d/%s", output_dir, update, name);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(truncate(path, status.st_size - bytes), 0);
    free(path);
}

static void test_damaged_checkpoints(void **state) {
    (void)state;
    char *whole = reference(0, ""), *damaged = copy_of(whole, "damaged");
    cut_file(damaged, 14, "optimizer-00000-of-00001.safetensors", 1000);
    char *path = xformat("%s/checkpoint-13/manifest.json", damaged);
    assert_int_equal(unlink(path), 0);
    cut_file(damaged, 12, "manifest.json", 20);
    temporary_write_text(damaged, "checkpoint-11/model.safetensors", "");
    /* As long as it was, but not JSON. */
    free(path);
    path = xformat("%s/checkpoint-10/state.json", damaged);
    int file = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(file, "garbage", 7), 7);
    close(file);
    struct command_result result = run_any(0, damaged, "--resume_from_checkpoint true");
    assert_int_equal(result.exit_code, 0);
    assert_int_equal(lines_with(result.err, "is passed over: "), 5);
    assert_int_equal(lines_with(result.err, ""), 5);
    assert_int_equal(lines_with(result.out, "/damaged/checkpoint-9, after update 9"), 1);
    command_free(&result);
    check_same_runs(damaged, whole);
    free(path);
    free(damaged);
    free(whole);
}

/* What a crash of the whole machine may leave: half a line, or nothing. */
static void test_damaged_metrics(void **state) {
    (void)state;
    char *whole = reference(0, ""), *torn = copy_of(whole, "torn");
    char *path = xformat("%s/metrics.jsonl", torn);
    int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(file, "{\"event\":\"st", 12), 12);
    close(file);
    run_whole(0, torn, "--resume_from_checkpoint true", "");
    check_same_runs(torn, whole);
    assert_int_equal(unlink(path), 0);
    run_whole(0, torn, "--resume_from_checkpoint true", "metrics.jsonl: is shorter than it was");
    json_t *summary = run_events(torn, "summary");
    assert_int_equal(json_array_size(summary), 1);
    json_decref(summary);
    free(path);
    free(torn);
    free(whole);
}

static void test_folder_that_holds_a_run(void **state) {
    (void)state;
    char *whole = reference(0, ""), *held = copy_of(whole, "held");
    temporary_write_text(held, "notes.txt", "mine");
    struct command_result result = run_any(0, held, "--max_steps 2");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.err, "held already holds a run: choose another output_dir"));
    command_free(&result);
    check_same_runs(held, whole); /* untouched */
    run_whole(0, held, "--max_steps 2 --overwrite_output_dir", "");
    int count;
    assert_int_equal(check_checkpoints(held, &count), 2);
    assert_int_equal(count, 2);
    json_t *steps = run_events(held, "step");
    assert_int_equal(json_array_size(steps), 2);
    json_decref(steps);
    char *notes = xformat("%s/notes.txt", held);
    assert_true(file_exists(notes));
    free(notes);
    free(held);
    free(whole);
}

/* A resumed run that takes other examples says so. */
static void test_another_order(void **state) {
    (void)state;
    char *whole = reference(0, ""), *other = output("other");
    char *settings = xformat("--seed 43 --resume_from_checkpoint %s/checkpoint-13", whole);
    run_whole(0, other, settings, "checkpoint-13: was written with seed 42, this run has 43");
    free(settings);
    free(other);
    free(whole);
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_twice),          cmocka_unit_test(test_killed_on_one_rank),
        cmocka_unit_test(test_killed_on_two_ranks), cmocka_unit_test(test_killed_in_half_precision),
        cmocka_unit_test(test_killed_mpirun),       cmocka_unit_test(test_killed_twice),
        cmocka_unit_test(test_enough_kills),        cmocka_unit_test(test_other_world_sizes),
        cmocka_unit_test(test_save_total_limit),    cmocka_unit_test(test_folder_of_an_earlier_checkpoint),
        cmocka_unit_test(test_nothing_to_resume),   cmocka_unit_test(test_damaged_checkpoints),
        cmocka_unit_test(test_damaged_metrics),     cmocka_unit_test(test_folder_that_holds_a_run),
        cmocka_unit_test(test_another_order),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
