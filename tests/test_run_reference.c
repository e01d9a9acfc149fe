/*
 * ./workshop reference's program: the pages in exercises/reference are what it shows of the results beside
 * them; its tables, their cells and origins; a run that it makes; its one line where something is wrong.
 */
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

#define REFERENCE BUILD_DIR "/tools/reference "

static char *folder; /* of the small files here */

/* Two runs, the second on two ranks and twice as fast; and one that was never made. */
#define RESULTS(speed, peak, losses)                                                                         \
    "{\"date\":\"2026-01-02\",\"commit\":\"abc\",\"losses\":[" losses "],\"run\":{\"precision\":\"fp32\"},"  \
    "\"memory\":{\"device\":{\"total\":{\"peak_bytes\":" peak "}}},"                                         \
    "\"communication\":{\"updates\":4,\"all_reduce\":{\"bytes\":8388608},\"all_gather\":{\"bytes\":4194304}" \
    "},"                                                                                                     \
    "\"summary\":{\"update_samples_per_second\":" speed "}}"
#define RUNS                                                                                                 \
    "\"runs\":{\"a\":{\"backend\":\"cpu\",\"stage\":\"01-baseline\",\"ranks\":1,\"settings\":\"--seed 1\","  \
    "\"results\":" RESULTS("1200", "1048576",                                                                \
                           "8,7") "},"                                                                       \
                                  "\"b\":{\"backend\":\"cpu\",\"stage\":\"02-zero1\",\"ranks\":2,"           \
                                  "\"settings\":\"\",\"base\":\"a\","                                        \
                                  "\"results\":" RESULTS(                                                    \
                                      "2400.04", "1073741824",                                               \
                                      "8,7.07") "},"                                                         \
                                                "\"c\":{\"backend\":\"dry\",\"stage\":\"02-zero1\","         \
                                                "\"ranks\":8,\"settings\":\"\",\"base\":\"a\"}}"

static void write_small(const char *name, const char *tables) {
    char *text = xformat(
        "{\"title\":\"Small\",\"text\":\"One.\",\"machine\":{\"cores\":2},%s,\"tables\":[%s]}", RUNS, tables);
    temporary_write_text(folder, name, text);
    free(text);
}

static void check_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

/* ---- the repository's own ---- */

static void check_page(const char *json) {
    struct error error;
    struct file_map page;
    char *markdown = xformat("%.*s.md", (int)(strlen(json) - strlen(".json")), json);
    if (!file_map(&page, markdown, &error)) fail_msg("%s: %s", json, error.text);
    struct command_result shown = command_run(60, REFERENCE "show %s", json);
    if (shown.exit_code != 0) fail_msg("%s: %s", json, shown.err);
    if (shown.out_size != page.size || memcmp(shown.out, page.data, page.size) != 0)
        fail_msg("%s is not what is shown of %s: ./workshop reference show %s --output %s", markdown, json,
                 json, markdown);
    file_unmap(&page);
    command_free(&shown);
    free(markdown);
}

static void test_the_pages_are_what_is_shown(void **state) {
    (void)state;
    glob_t found;
    assert_int_equal(glob(SOURCE_DIR "/exercises/reference/*.json", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) check_page(found.gl_pathv[i]);
    globfree(&found);
}

/* ---- measured beside planned ---- */

/* A run's number in a file of results, by keys; NAN where it has none. */
static double number_of(const json_t *document, const char *id, const char *path) {
    const json_t *value = json_object_get(json_object_get(json_object_get(document, "runs"), id), "results");
    char keys[128], *state;
    snprintf(keys, sizeof keys, "%s", path);
    for (char *key = strtok_r(keys, ".", &state); key; key = strtok_r(NULL, ".", &state))
        value = json_object_get(value, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void check_close(const char *id, const char *what, double measured, double planned, double tolerance) {
    if (!(fabs(measured / planned - 1) <= tolerance))
        fail_msg("%s: %s measured %.9g, planned %.9g: not within %g", id, what, measured, planned, tolerance);
}

/* How many of the runs were made. */
static int check_pair(const json_t *measured, const json_t *planned, const char *stage, int gpus) {
    static const char peak[] = "memory.device.total.peak_bytes",
                      speed[] = "summary.update_samples_per_second";
    char *ours = xformat("gpu%d-%s-a4", gpus, stage), *plan = xformat("bloom-560m-a4-%s-%d", stage, gpus);
    bool made = !isnan(number_of(measured, ours, speed));
    if (made) {
        check_close(ours, "peak", number_of(measured, ours, peak), number_of(planned, plan, peak), 0.01);
        check_close(ours, "speed", number_of(measured, ours, speed), number_of(planned, plan, speed), 0.1);
    }
    free(ours);
    free(plan);
    return made;
}

static void test_what_was_measured_agrees_with_the_plan(void **state) {
    (void)state;
    static const char *const stages[] = {"01", "02", "03", "04"};
    struct error error;
    json_t *measured = json_read_file(SOURCE_DIR "/exercises/reference/two-h200.json", &error);
    json_t *planned = json_read_file(SOURCE_DIR "/exercises/reference/plan.json", &error);
    if (!measured || !planned) fail_msg("%s", error.text);
    int made = 0;
    for (int s = 0; s < 4; s++)
        for (int gpus = 1; gpus <= 2; gpus++) made += check_pair(measured, planned, stages[s], gpus);
    assert_int_equal(made, 8);
    json_decref(measured);
    json_decref(planned);
}

/* ---- tables ---- */

static struct command_result show(const char *name) {
    return command_run(60, REFERENCE "show %s/%s", folder, name);
}

static void test_runs_as_columns(void **state) {
    (void)state;
    write_small("columns.json",
                "{\"title\":\"T\",\"sheet\":\"x.md#y\",\"columns\":[[\"one\",\"a\"],[\"two\",\"b\"],"
                "[\"eight\",\"c\"]],\"quantities\":[\"speed\",\"ratio\",\"peak\",\"all_reduce\","
                "\"sent\",\"losses_off\"]}");
    struct command_result r = show("columns.json");
    assert_int_equal(r.exit_code, 0);
    check_has(r.out, "# Small\n\nOne.\n");
    check_has(r.out, "| cores | 2 |\n");
    check_has(r.out, "For [this question of the sheet](../x.md#y).");
    check_has(r.out, "|  | one | two | eight |\n|---|---|---|---|\n");
    check_has(r.out, "| examples/s | 1,200.0 | 2,400.0 | – |\n");
    check_has(r.out, "| × its base | – | 2.00 | – |\n");
    check_has(r.out, "| total peak, MiB | 1.0 | 1,024.0 | – |\n");
    check_has(r.out, "| sent per rank and update: all-reduce, MiB | 2.00 | 2.00 | – |\n");
    check_has(r.out, "| sent per rank and update, MiB | 3.00 | 3.00 | – |\n");
    check_has(r.out, "| losses off | – | 1.0e-02 | – |\n");
    check_has(r.out, "- one: `./workshop run 01-baseline --seed 1` (fp32, 2026-01-02, abc)\n");
    check_has(r.out, "- two: `./workshop run 02-zero1 --ranks 2` (fp32, 2026-01-02, abc)\n");
    assert_null(strstr(r.out, "- eight:"));
    command_free(&r);
}

static void test_runs_as_rows_and_grids(void **state) {
    (void)state;
    write_small("rows.json",
                "{\"title\":\"R\",\"corner\":\"who\",\"rows\":[[\"one\",\"a\"],[\"two\",\"b\"]],"
                "\"quantities\":[\"peak_gib\",\"reduce_scatter\"],\"commands\":false},"
                "{\"title\":\"G\",\"corner\":\"model\",\"grid\":\"peak\",\"columns\":[\"01\",\"02\",\"03\"],"
                "\"rows\":[[\"tiny\",\"a\",\"b\",\"\"]]}");
    struct command_result r = show("rows.json");
    assert_int_equal(r.exit_code, 0);
    check_has(r.out,
              "| who | total peak, GiB | sent per rank and update: reduce-scatter, MiB |\n|---|---|---|\n"
              "| one | 0.00 | 0.00 |\n| two | 1.00 | 0.00 |\n");
    check_has(r.out, "| model | 01 | 02 | 03 |\n|---|---|---|---|\n| tiny | 1.0 | 1,024.0 | – |\n");
    check_has(r.out, "- tiny, 02: `./workshop run 02-zero1 --ranks 2`");
    assert_null(strstr(r.out, "- one:"));
    command_free(&r);
}

/* ---- making and taking ---- */

static void test_a_run_is_made_once(void **state) {
    (void)state;
    char *programs = xformat("%s/programs", folder), *link = xformat("%s/cpu", programs);
    struct error error;
    assert_true(directory_create(programs, &error));
    assert_int_equal(symlink(BUILD_DIR, link), 0);
    temporary_write_text(
        folder, "make.json",
        "{\"title\":\"M\",\"runs\":{\"two\":{\"backend\":\"cpu\",\"stage\":\"02-zero1\",\"ranks\":2,"
        "\"settings\":\"--model_name_or_path random:tiny --max_steps 2 --eval_strategy no --save_strategy no "
        "--save_model false "
        "--share_device\"},\"wrong\":{\"backend\":\"cpu\",\"stage\":\"02-zero1\",\"ranks\":1,"
        "\"settings\":\"--max_steps two\"}},\"tables\":[{\"title\":\"T\",\"columns\":[[\"2\",\"two\"]],"
        "\"quantities\":[\"updates\",\"loss_1\"]}]}");
    struct command_result r = command_run(
        120,
        REFERENCE "make %s/make.json --programs %s --launcher 'mpirun --oversubscribe --bind-to none -n @'",
        folder, programs);
    assert_int_equal(r.exit_code, 1);
    check_has(r.err, "two: made\n");
    check_has(r.err, "wrong: ");
    check_has(r.err, "max_steps");
    command_free(&r);
    r = show("make.json");
    check_has(r.out, "| updates of the run | 2 |\n| first loss | 8.2");
    command_free(&r);
    r = command_run(60, REFERENCE "make %s/make.json --programs %s --launcher x --only two", folder,
                    programs);
    assert_int_equal(r.exit_code, 0);
    assert_string_equal(r.err, "");
    command_free(&r);
    free(programs);
    free(link);
}

static void test_results_are_taken(void **state) {
    (void)state;
    write_small("take.json",
                "{\"title\":\"T\",\"columns\":[[\"8\",\"c\"]],\"quantities\":[\"eval_losses\",\"norm_1\"]}");
    temporary_write_text(
        folder, "run/metrics.jsonl",
        "{\"event\":\"run\",\"precision\":\"bf16\",\"hosts\":[\"secret\"]}\n"
        "{\"event\":\"eval\",\"eval_loss\":9}\n{\"event\":\"step\",\"loss\":8,\"grad_norm\":2.5}\n"
        "{\"event\":\"eval\",\"eval_loss\":7.5}\n{\"event\":\"summary\",\"output_dir\":\"secret\"}\n");
    struct command_result r =
        command_run(60, REFERENCE "take %s/take.json c %s/run --commit def", folder, folder);
    assert_int_equal(r.exit_code, 0);
    command_free(&r);
    r = show("take.json");
    check_has(
        r.out,
        "| evaluation loss after epochs 1 / 2 / 3 | 7.5000 / – / – |\n| first `grad_norm` | 2.5000 |\n");
    check_has(r.out, "- 8: `build/dry/02-zero1/train` (bf16, ");
    command_free(&r);
    r = command_run(60, "grep -c secret %s/take.json", folder);
    assert_string_equal(r.out, "0\n");
    command_free(&r);
}

/* ---- what is wrong ---- */

static void check_complaint(const char *arguments, const char *complaint) {
    struct command_result r = command_run(60, "cd %s && " REFERENCE "%s", folder, arguments);
    assert_int_equal(r.exit_code, 1);
    check_has(r.err, complaint);
    assert_int_equal(lines_with(r.err, "error: "), 1);
    command_free(&r);
}

static void test_complaints(void **state) {
    (void)state;
    write_small("run.json", "{\"title\":\"T\",\"columns\":[[\"1\",\"z\"]],\"quantities\":[\"speed\"]}");
    write_small("quantity.json", "{\"title\":\"T\",\"columns\":[[\"1\",\"a\"]],\"quantities\":[\"haste\"]}");
    temporary_write_text(folder, "list.json", "[1]");
    temporary_write_text(folder, "unfinished/metrics.jsonl", "{\"event\":\"run\"}\n");
    check_complaint("show run.json", "run.json: table \"T\" names a run 'z', and there is none");
    check_complaint("show quantity.json", "quantity.json: table \"T\" names a quantity 'haste'");
    check_complaint("show list.json", "list.json: has no \"runs\"");
    check_complaint("show nowhere.json", "nowhere.json");
    check_complaint("show", "needs a command and a file");
    check_complaint("praise run.json", "has no command 'praise'");
    check_complaint("show run.json --loudly", "has no option '--loudly'");
    check_complaint("take run.json z unfinished", "run.json: has no run 'z'");
    check_complaint("take run.json a unfinished", "unfinished/metrics.jsonl: has no summary");
    check_complaint("take run.json a nowhere", "nowhere");
    check_complaint("make run.json", "needs --programs and --launcher");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_pages_are_what_is_shown),
        cmocka_unit_test(test_what_was_measured_agrees_with_the_plan),
        cmocka_unit_test(test_runs_as_columns),
        cmocka_unit_test(test_runs_as_rows_and_grids),
        cmocka_unit_test(test_a_run_is_made_once),
        cmocka_unit_test(test_results_are_taken),
        cmocka_unit_test(test_complaints),
    };
    folder = temporary_folder();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    temporary_remove(folder);
    return failed;
}
