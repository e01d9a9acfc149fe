/*
 * ./workshop compare's program on small metrics files: the table it prints, the page and the pictures it
 * writes, runs that are resumed, cut off or dry, and its one line where something is wrong.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

static char *folder; /* the current folder of all runs here */

#define RUN(stage, backend, ranks, settings)                                                                 \
    "{\"event\":\"run\",\"stage\":\"" stage "\",\"backend\":\"" backend "\",\"world_size\":" ranks           \
    ",\"device\":\"abacus\",\"model\":\"tiny\",\"precision\":\"fp32\",\"train_examples\":64,\"updates\":3,"  \
    "\"settings\":{\"per_device_train_batch_size\":2," settings "}}\n"
#define STEP(step, loss) "{\"event\":\"step\",\"step\":" step ",\"epoch\":0." step ",\"loss\":" loss "}\n"
#define EVAL(step, loss)                                                                                     \
    "{\"event\":\"eval\",\"step\":" step ",\"epoch\":0." step ",\"eval_loss\":" loss "}\n"
#define MEMORY                                                                                               \
    "{\"event\":\"memory\",\"device\":{\"parameters\":{\"predicted_bytes\":2097152,\"peak_bytes\":2097152}," \
    "\"buffers\":{\"peak_bytes\":1048576},\"total\":{\"peak_bytes\":3145728}}}\n"
#define SENT                                                                                                 \
    "{\"event\":\"communication\",\"all_reduce\":{\"bytes\":6291456,\"predicted_bytes\":6291456},"           \
    "\"updates\":3}\n"
#define SUMMARY(milliseconds)                                                                                \
    "{\"event\":\"summary\",\"steps\":3,\"train_loss\":7.25,\"update_samples_per_second\":12.5,"             \
    "\"update_ms\":{\"median\":" milliseconds "},\"phase_ms\":{\"forward\":100,\"backward\":200}}\n"

static const char *const one_rank =
    RUN("01-baseline", "cpu", "1", "\"gradient_accumulation_steps\":4") EVAL("0", "8.5") STEP("1", "8.0")
        STEP("2", "7.0") STEP("3", "6.75") EVAL("3", "6.5") MEMORY SUMMARY("320");
/* Its second loss is off by one in 70. */
static const char *const two_ranks =
    RUN("02-zero1", "cpu", "2", "\"gradient_accumulation_steps\":2") EVAL("0", "8.5") STEP("1", "8.0")
        STEP("2", "7.1") STEP("3", "6.75") EVAL("3", "6.5") MEMORY SENT SUMMARY("240");

static struct command_result compare(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/compare %s", folder, arguments);
}

static void check_succeeds(struct command_result result) {
    if (result.exit_code != 0 || result.timed_out)
        fail_msg("exit code %d: %s%s", result.exit_code, result.out, result.err);
}

static bool is_there(const char *name) {
    char *path = xformat("%s/%s", folder, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

/* The text of a file; the caller frees. */
static char *text_of(const char *name) {
    struct error error;
    struct file_map map;
    char *path = xformat("%s/%s", folder, name);
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    char *text = xformat("%.*s", (int)map.size, (const char *)map.data);
    file_unmap(&map);
    free(path);
    return text;
}

static void check_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

/* What awk prints for a line of the table: columns by their number. */
static void check_cells(const char *runs, const char *row, const char *cells, const char *expected) {
    struct command_result result =
        command_run(60,
                    "cd %s && " BUILD_DIR
                    "/tools/compare %s --output cells 2>/dev/null | awk '$1 == \"%s\" {print %s; exit}'",
                    folder, runs, row, cells);
    assert_string_equal(result.out, expected);
    command_free(&result);
}

static void table_of_runs(void **state) {
    (void)state;
    check_cells("one two", "one", "$2,$4,$6,$7,$8,$9,$10,$11,$12,$14",
                "01-baseline 1 finished 7.2500 6.5000 - 12.50 320.0 3.0 -\n");
    check_cells("one two", "two", "$2,$4,$6,$7,$8,$9,$10,$11,$12,$14",
                "02-zero1 2 finished 7.2500 6.5000 1.4e-02 12.50 240.0 3.0 2.00\n");
    check_cells("two one/metrics.jsonl", "one", "$9",
                "1.4e-02\n"); /* from the first one's, whichever it is */
    struct command_result result = compare("one two --output out");
    check_succeeds(result);
    check_has(result.out, "settings that differ\nrun  gradient_accumulation_steps\n"
                          "one                            4\ntwo                            2\n");
    check_has(result.out, "written to out/compare.html\n");
    command_free(&result);
}

static void page_stands_alone(void **state) {
    (void)state;
    struct command_result result = compare("one two 'odd <b>&' --output=page");
    check_succeeds(result);
    command_free(&result);
    char *page = text_of("page/compare.html");
    static const char *const parts[] = {"<h1>3 runs compared</h1>",
                                        "<td class=\"left\">01-baseline</td>",
                                        "<h2>Training loss</h2>",
                                        "<h2>Evaluation loss</h2>",
                                        "<h2>Device memory of a rank, by heading</h2>",
                                        "<h2>Training samples a second</h2>",
                                        "<h2>Time of an update, by phase</h2>",
                                        "<h2>Bytes that a rank sends in an update</h2>",
                                        "<h2>Settings that differ</h2>",
                                        "<title>buffers 1.00</title>",
                                        ">320.0 ms</text>",
                                        "<tspan class=\"strong\">6.750</tspan> two</text>",
                                        "odd &lt;b&gt;&amp;",
                                        "prefers-color-scheme:dark"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) check_has(page, parts[i]);
    static const char *const foreign[] = {"<b>", "<script", "http", "src=", "nan", "inf\""};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strstr(page, foreign[i])) fail_msg("'%s' in the page", foreign[i]);
    assert_int_equal(lines_with(page, "<svg "), 6);
    assert_int_equal(lines_with(page, "</svg>"), 6);
    assert_int_equal(lines_with(page, "class=\"curve "), 6);
    free(page);
}

static void pictures_where_gnuplot_is(void **state) {
    (void)state;
    struct command_result result = command_run(60, "command -v gnuplot");
    bool here = result.exit_code == 0;
    command_free(&result);
    result = compare("one two --output pictures");
    check_succeeds(result);
    assert_int_equal(lines_with(result.err, "no PNGs: gnuplot is not here"), here ? 0 : 1);
    assert_true(is_there("pictures/charts.gnuplot"));
    static const char *const names[] = {"loss", "evaluation", "memory", "speed", "time", "communication"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *light = xformat("pictures/%s.png", names[i]), *dark = xformat("pictures/%s-dark.png", names[i]);
        assert_int_equal(is_there(light), here);
        assert_int_equal(is_there(dark), here);
        free(light);
        free(dark);
    }
    command_free(&result);
    result = command_run(60, "cd %s && PATH=/nowhere " BUILD_DIR "/tools/compare one --output none", folder);
    check_succeeds(result);
    assert_int_equal(lines_with(result.err, "warning: no PNGs: gnuplot is not here"), 1);
    assert_true(is_there("none/compare.html"));
    assert_false(is_there("none/loss.png"));
    command_free(&result);
}

static void runs_that_did_not_end(void **state) {
    (void)state;
    temporary_write_text(folder, "cut/metrics.jsonl",
                         RUN("01-baseline", "cpu", "1", "\"gradient_accumulation_steps\":4") STEP("1", "8.0")
                             STEP("2", "7.0") "{\"event\":\"step\",\"step\":3,\"lo");
    check_cells("cut", "cut", "$6,$7,$8,$9,$10", "unfinished: 2 of 3 -\n");
    temporary_write_text(folder, "broken/metrics.jsonl",
                         RUN("01-baseline", "cpu", "1", "\"gradient_accumulation_steps\":4") STEP("1", "8.0")
                             STEP("2", "null"));
    check_cells("broken", "broken", "$6,$7,$8,$9,$10,$11", "no number: loss of update 2\n");
    /* Resumed after update 1: what came after it counts for nothing. */
    temporary_write_text(folder, "resumed/metrics.jsonl",
                         RUN("01-baseline", "cpu", "1", "\"gradient_accumulation_steps\":4") STEP("1", "8.0")
                             STEP("2", "9.0")
                                 RUN("01-baseline", "cpu", "1", "\"gradient_accumulation_steps\":4")
                                     STEP("2", "7.0") STEP("3", "6.75") SUMMARY("320"));
    check_cells("one resumed", "resumed", "$6,$9", "finished 0\n");
    temporary_write_text(folder, "dry/metrics.jsonl",
                         RUN("02-zero1", "dry", "2", "\"gradient_accumulation_steps\":2") EVAL("0", "null")
                             MEMORY "{\"event\":\"summary\",\"steps\":3,\"train_loss\":null}\n");
    check_cells("one dry", "dry", "$3,$6,$7,$8,$9,$10,$11,$12,$13", "dry dry run - - - - - 3.0\n");
}

/* Long names are cut between characters, and told apart by their parents. */
static void labels(void **state) {
    (void)state;
    temporary_write_text(folder, "a/run/metrics.jsonl", one_rank);
    temporary_write_text(folder, "b/run/metrics.jsonl", two_ranks);
    struct command_result result = compare("a/run b/run/ --output out");
    check_succeeds(result);
    assert_int_equal(lines_with(result.out, "a/run  "), 2);
    assert_int_equal(lines_with(result.out, "b/run  "), 2);
    command_free(&result);
    temporary_write_text(folder, "ä日äöüäöüäöüäöüäöüäöüäöü-end'x/metrics.jsonl", one_rank);
    result = compare("ä* --output long");
    check_succeeds(result);
    command_free(&result);
    char *page = text_of("long/compare.html"), *script = text_of("long/charts.gnuplot");
    check_has(page, "> …äöüäöüäöüäöüäöüäöü-end'x</text>");
    check_has(script, "'…äöüäöüäöüäöüäöüäöü-end''x");
    free(page);
    free(script);
}

static void folders_are_numbered(void **state) {
    (void)state;
    for (int number = 1; number <= 2; number++) {
        struct command_result result = compare("one");
        char *line = xformat("written to runs/compare-%d/compare.html\n", number);
        check_succeeds(result);
        check_has(result.out, line);
        free(line);
        command_free(&result);
    }
}

static void check_error(const char *arguments, const char *part) {
    check_program_refuses(compare(arguments), arguments, part);
}

static void mistakes_are_one_line(void **state) {
    (void)state;
    check_error("", "compare needs runs");
    check_error("one --output", "--output needs a folder");
    check_error("one --outptu x", "compare has no option '--outptu'");
    check_error("one nowhere", "nowhere");
    temporary_write_text(folder, "empty.jsonl", "");
    check_error("empty.jsonl", "empty.jsonl: no run has begun in it");
    temporary_write_text(folder, "other.jsonl", "{\"a\": 1}\n");
    check_error("other.jsonl", "other.jsonl:1: no event of a run");
    temporary_write_text(folder, "half.jsonl", RUN("01-baseline", "cpu", "1", "\"seed\":1") "{\"event\":\n");
    check_error("half.jsonl", "half.jsonl:2:");
    temporary_write_text(folder, "file", "");
    check_error("one --output file", "file");
}

static void other_folders_are_left_out(void **state) {
    (void)state;
    temporary_write_text(folder, "sheets/01-baseline.md", "# A sheet\n");
    struct command_result result = compare("sheets one two --output with-others");
    check_succeeds(result);
    check_has(result.err, "sheets holds no run: left out");
    command_free(&result);
    check_error("sheets", "sheets/metrics.jsonl");
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    temporary_write_text(folder, "one/metrics.jsonl", one_rank);
    temporary_write_text(folder, "two/metrics.jsonl", two_ranks);
    temporary_write_text(folder, "odd <b>&/metrics.jsonl", one_rank);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_one_line),
        cmocka_unit_test(other_folders_are_left_out),
        cmocka_unit_test(table_of_runs),
        cmocka_unit_test(page_stands_alone),
        cmocka_unit_test(pictures_where_gnuplot_is),
        cmocka_unit_test(runs_that_did_not_end),
        cmocka_unit_test(labels),
        cmocka_unit_test(folders_are_numbered),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
