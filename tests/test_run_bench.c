/*
 * ./workshop bench's program on the tiny model: the rows it writes, the table it prints, what it leaves alone
 * when it is started again, and its one line where something is wrong.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/device/phases.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

static char *folder; /* the current folder of all runs here */

/* A model so small, and so few updates, that a run takes a second. */
#define SMALL                                                                                                \
    "--model_name_or_path random:tiny --max_seq_length 32 --per_device_train_batch_size 2 "                  \
    "--gradient_accumulation_steps 2 --max_steps 8 --threads 1"

/* bench in the folder; it is told to share the GPU where there is but one. */
static struct command_result bench(const char *arguments) {
    return command_run(200, "cd %s && " BUILD_DIR "/tools/bench %s", folder, arguments);
}

static struct command_result bench_runs(const char *stages, const char *more) {
    char *arguments = xformat("%s --programs " BUILD_DIR " --launcher 'mpirun --oversubscribe --bind-to none "
                              "-n @' %s " SMALL " %s",
                              stages, more, command_sharing(2));
    struct command_result result = bench(arguments);
    free(arguments);
    return result;
}

static void check_succeeds(struct command_result result) {
    if (result.exit_code != 0 || result.timed_out)
        fail_msg("exit code %d: %s%s", result.exit_code, result.out, result.err);
}

static json_t *document_of(const char *name) {
    struct error error;
    char *path = xformat("%s/%s", folder, name);
    json_t *document = json_read_file(path, &error);
    if (!document) fail_msg("%s", error.text);
    free(path);
    return document;
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("no number '%s'", key);
    return json_number_value(value);
}

static const json_t *row_at(const json_t *document, size_t index) {
    const json_t *row = json_array_get(json_object_get(document, "rows"), index);
    assert_non_null(row);
    return row;
}

static void check_order(const json_t *object) {
    assert_true(number(object, "lower_quartile") > 0);
    assert_true(number(object, "lower_quartile") <= number(object, "median"));
    assert_true(number(object, "median") <= number(object, "upper_quartile"));
}

/* The parts of an update are about as long as the update: medians of parts do not add up exactly. */
static void check_times(const json_t *row, int ranks) {
    const json_t *phases = json_object_get(row, "phase_ms"), *update = json_object_get(row, "update_ms");
    double sum = 0;
    for (int p = 0; p < PHASES; p++) sum += number(phases, phase_name((enum phase)p));
    check_order(update);
    assert_float_equal(number(update, "updates"), 5, 0);
    double median = number(update, "median");
    if (!(sum > 0.5 * median && sum < 2 * median)) fail_msg("phases take %g ms, updates %g", sum, median);
    assert_true(number(phases, "forward") > 0 && number(phases, "backward") > 0);
    assert_true(number(phases, "optimizer") > 0);
    assert_true((number(phases, "communication_exposed") > 0) == (ranks > 1));
    double rate = number(json_object_get(row, "examples_per_second"), "median");
    assert_float_equal(rate * median, 1e3 * 2 * 2 * ranks, 1e-6 * rate * median);
}

static void check_row(const json_t *row, int ranks) {
    assert_string_equal(json_string_value(json_object_get(row, "stage")), "01-baseline");
    assert_float_equal(number(row, "ranks"), ranks, 0);
    assert_float_equal(number(row, "accumulation"), 2, 0);
    check_order(json_object_get(row, "examples_per_second"));
    check_times(row, ranks);
    assert_true(number(row, "tokens_per_second") > 0);
    double share = number(row, "share_of_peak");
    assert_true(share > 0 && share < 100); /* a busy machine may have measured its peak in a bad moment */
    assert_int_equal(json_array_size(json_object_get(row, "losses")), 8);
    const json_t *total = json_object_get(json_object_get(row, "device_memory"), "total");
    assert_true(number(total, "peak_bytes") > 16 * 3.6e6);
}

static void rows_and_tables(void **state) {
    (void)state;
    struct command_result result = bench_runs("01-baseline", "--ranks 1,2 --output two.json");
    check_succeeds(result);
    assert_int_equal(lines_with(result.out, "01-baseline        1       2"), 3);
    assert_int_equal(lines_with(result.out, "01-baseline        2       2"), 3);
    assert_int_equal(lines_with(result.out, "communication exposed"), 1);
    assert_int_equal(lines_with(result.out, "with --model_name_or_path random:tiny --max_seq_length 32 "), 1);
    assert_int_equal(lines_with(result.out, "written to two.json"), 1);
    command_free(&result);
    json_t *document = document_of("two.json");
    assert_int_equal(json_array_size(json_object_get(document, "rows")), 2);
    for (int ranks = 1; ranks <= 2; ranks++) check_row(row_at(document, (size_t)ranks - 1), ranks);
    assert_float_equal(number(row_at(document, 0), "ratio_to_one_rank"), 1, 0);
    double one = number(json_object_get(row_at(document, 0), "examples_per_second"), "median");
    double two = number(json_object_get(row_at(document, 1), "examples_per_second"), "median");
    assert_float_equal(number(row_at(document, 1), "ratio_to_one_rank"), two / one, 1e-9);
    json_t *sent = json_object_get(json_object_get(row_at(document, 1), "communication"), "all_reduce");
    assert_true(number(sent, "bytes") > 0);
    json_decref(document);
}

/* A second command makes the runs that are missing, and leaves the others as they are. */
static void goes_on_where_it_stopped(void **state) {
    (void)state;
    struct command_result result = bench_runs("01-baseline", "--output more.json");
    check_succeeds(result);
    command_free(&result);
    json_t *before = document_of("more.json");
    result = bench_runs("01-baseline", "--output more.json --ranks 1,2");
    check_succeeds(result);
    assert_int_equal(lines_with(result.err, "in more.json already"), 1);
    assert_int_equal(lines_with(result.err, "01-baseline"), 2);
    command_free(&result);
    json_t *after = document_of("more.json");
    assert_int_equal(json_array_size(json_object_get(after, "rows")), 2);
    assert_true(json_equal((json_t *)(size_t)row_at(after, 0), (json_t *)(size_t)row_at(before, 0)));
    json_decref(before);
    json_decref(after);
}

/* Worlds and accumulations, and one rank that makes the same updates. */
static void table_of_scaling(void **state) {
    (void)state;
    struct command_result result = bench_runs("01-baseline", "--table scaling --ranks 1,2");
    check_succeeds(result);
    command_free(&result);
    static const int expected[][2] = {{1, 4}, {2, 4}, {1, 1}, {2, 1}, {1, 8}, {1, 2}};
    json_t *document = document_of("runs/bench-scaling.json");
    assert_int_equal(json_array_size(json_object_get(document, "rows")), 6);
    for (size_t i = 0; i < 6; i++) {
        const json_t *row = row_at(document, i);
        assert_float_equal(number(row, "ranks"), expected[i][0], 0);
        assert_float_equal(number(row, "accumulation"), expected[i][1], 0);
        if (expected[i][0] == 1) continue;
        double off = number(row, "losses_off");
        if (!(off < 1e-3)) fail_msg("losses of 2 ranks are off by %g", off);
    }
    json_decref(document);
}

/* One run that fails costs the others nothing. */
static void failing_runs_are_told(void **state) {
    (void)state;
    struct command_result result = bench_runs("01-baseline", "--output failing.json --device_memory_limit 1");
    assert_int_equal(result.exit_code, 1);
    assert_int_equal(lines_with(result.err, "error: 01-baseline on 1 rank: out of device memory:"), 1);
    char *path = xformat("%s/failing.json", folder);
    assert_false(file_exists(path));
    free(path);
    command_free(&result);
}

static void files_are_numbered(void **state) {
    (void)state;
    for (int number_of_run = 1; number_of_run <= 2; number_of_run++) {
        struct command_result result = bench_runs("", "--max_steps 4");
        char *name = xformat("runs/bench-%d.json", number_of_run);
        check_succeeds(result);
        assert_non_null(strstr(result.out, name));
        json_t *document = document_of(name);
        assert_true(json_array_size(json_object_get(document, "rows")) >= 1); /* all stages there are */
        json_decref(document);
        command_free(&result);
        free(name);
    }
}

static void check_error(const char *arguments, const char *part) {
    check_program_refuses(bench(arguments), arguments, part);
}

#define HERE "--programs " BUILD_DIR " "

static void mistakes_are_one_line(void **state) {
    (void)state;
    check_error("01-baseline", "bench needs --programs");
    check_error("--programs nowhere", "nowhere: no stage is built there");
    check_error("09-none " HERE, "no stage '09-none' is built in ");
    check_error(HERE "--ranks", "--ranks needs a value");
    check_error(HERE "--ranks 0", "--ranks 0: not numbers of processes");
    check_error(HERE "--ranks 1,", "--ranks 1,: not numbers");
    check_error(HERE "--ranks 1,x", "--ranks 1,x: not numbers");
    check_error(HERE "--ranks=-1", "--ranks -1: not numbers");
    check_error(HERE "--ranks 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "more than 16 numbers");
    check_error(HERE "--table speed", "--table speed: there is only the table scaling");
    check_error(HERE "--config x.json", "bench takes no --config");
    check_error(HERE "--output_dir x", "bench takes no --output_dir");
    check_error(HERE "--max_step 9", "did you mean 'max_steps'");
    check_error(HERE "--max_steps 3", "the first 3 updates warm up");
    check_error(HERE "--bf16 --fp16", "exclude each other");
    temporary_write_text(folder, "other.json", "{\"device\": \"abacus\", \"rows\": [], \"peaks\": {}}");
    check_error(HERE "--output other.json", "other.json: was measured on abacus, this is ");
    temporary_write_text(folder, "settings.json", "{\"max_steps\": 3}");
    check_error(HERE "--output settings.json", "settings.json: was not written by bench");
    temporary_write_text(folder, "cut.json", "{\"rows\": [");
    check_error(HERE "--output cut.json", "cut.json:1:");
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_one_line),    cmocka_unit_test(rows_and_tables),
        cmocka_unit_test(goes_on_where_it_stopped), cmocka_unit_test(failing_runs_are_told),
        cmocka_unit_test(table_of_scaling),         cmocka_unit_test(files_are_numbered),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
