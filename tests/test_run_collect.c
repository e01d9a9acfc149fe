/*
 * ./workshop collect's program on a tree of small metrics files: several participants' runs, a dry one,
 * broken ones and one that was cut off; its two tables, the CSV, the page, and its one line where something
 * is wrong.
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
    ",\"hosts\":[\"h\"],\"model\":\"tiny\",\"precision\":\"fp32\",\"train_examples\":64,\"updates\":3,"      \
    "\"settings\":{\"per_device_train_batch_size\":2,\"gradient_accumulation_steps\":4" settings "}}\n"
#define STEP(step, loss) "{\"event\":\"step\",\"step\":" step ",\"epoch\":0." step ",\"loss\":" loss "}\n"
#define END(rate, mib, loss)                                                                                 \
    "{\"event\":\"memory\",\"device\":{\"total\":{\"peak_bytes\":" mib "048576}}}\n"                         \
    "{\"event\":\"memory_samples\",\"node\":[{\"peak\":200},{\"peak\":210.5}]}\n"                            \
    "{\"event\":\"communication\",\"all_reduce\":{\"bytes\":6291456},\"updates\":3}\n"                       \
    "{\"event\":\"summary\",\"steps\":3,\"train_loss\":" loss ",\"update_samples_per_second\":" rate "}\n"
#define USUAL ",\"learning_rate\":5e-5"
#define ONE(rate, mib, loss) RUN("01-baseline", "cpu", "1", USUAL) STEP("3", "6.75") END(rate, mib, loss)

static void make_class(void) {
    temporary_write_text(folder, "class/ann/runs/01-baseline-1/metrics.jsonl", ONE("100.5", "1", "7.25"));
    temporary_write_text(folder, "class/ann/runs/01-baseline-10/metrics.jsonl", ONE("102.5", "1", "7.25"));
    temporary_write_text(folder, "class/ann/runs/01-baseline-2/metrics.jsonl",
                         RUN("01-baseline", "cpu", "1", ",\"learning_rate\":0.5") END("90", "1", "9.25"));
    temporary_write_text(folder, "class/ben/deep/er/one/metrics.jsonl", ONE("98.5", "1", "7.25"));
    temporary_write_text(folder, "class/=cy \"<b>\"/one/metrics.jsonl", ONE("12.5", "2", "7.25"));
    temporary_write_text(folder, "class/d\xff\x1b[1m/one/metrics.jsonl", ONE("101.5", "1", "7.25"));
    temporary_write_text(folder, "class/ben/dry/metrics.jsonl",
                         RUN("02-zero1", "dry", "8", ",\"dry_node_size\":2,\"offload_optimizer\":\"cpu\"")
                             END("null", "3", "null"));
    temporary_write_text(folder, "class/ben/cut/metrics.jsonl",
                         RUN("01-baseline", "cpu", "1", USUAL) STEP("1", "8.0") "{\"event\":\"st");
    temporary_write_text(folder, "class/ben/broken/metrics.jsonl", "{\"event\":\n");
    temporary_write_text(folder, "class/ben/empty/metrics.jsonl", "");
    temporary_write_text(folder, "class/ben/notes.txt", "metrics.jsonl");
    temporary_write_text(folder, "class/.hidden/metrics.jsonl", ONE("1", "1", "1"));
}

static struct command_result collect(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/collect %s", folder, arguments);
}

static void check_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

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

/* All lines of a text that `part` stands in, blanks made one. */
static void check_line(const char *text, const char *expected) {
    char *plain = xstrdup(text), *to = plain;
    for (const char *from = text; *from; from++)
        if (*from != ' ' || (to > plain && to[-1] != ' ')) *to++ = *from;
    *to = '\0';
    check_has(plain, expected);
    free(plain);
}

static void one_table_of_all(void **state) {
    (void)state;
    struct command_result result = collect("class --output out");
    assert_int_equal(result.exit_code, 0);
    static const char *const lines[] = {
        "\nann 01-baseline-1 1 01-baseline 1 tiny 2 x 4 fp32 - 100.50 1.0 210 2.00 7.2500 - finished\n",
        "\nann 01-baseline-10 1 01-baseline 1 tiny 2 x 4 fp32 - 102.50 ",
        "\nann 01-baseline-2 2 01-baseline 1 tiny 2 x 4 fp32 - 90.00 ",
        "\nben deep/er/one 1 ",
        "=cy \"<b>\" one 1 01-baseline 1 tiny 2 x 4 fp32 - 12.50 * 2.0 * 210 2.00 7.2500 - finished\n",
        "\nd\xef\xbf\xbd [1m one 1 ",
        "\nben cut 1 01-baseline 1 tiny 2 x 4 fp32 - - - - - - - unfinished: 1 of 3\n",
        "\nben dry 3 02-zero1 8 on 4 nodes tiny 2 x 4 fp32 optimizer - 2.9 - 2.00 - - dry run\n",
        ("\n 1 01-baseline 1 tiny 2 x 4 fp32 - 5 of 6 100.50 (12.50 to 102.50) 1.0 (1.0 to 2.0) 210 2.00 "
         "7.2500 - -\n"),
        "\n 2 01-baseline 1 tiny 2 x 4 fp32 - 1 90.00 1.0 210 2.00 9.2500 - --learning_rate 0.5\n",
        "\n 3 02-zero1 8 on 4 nodes tiny 2 x 4 fp32 optimizer 0 of 1 - - - - - - -\n",
        "\nben cut: unfinished: 1 of 3\n",
        "\nben dry: dry run\n",
        "\nclass/ben/broken/metrics.jsonl:1:",
        "\nclass/ben/empty/metrics.jsonl: no run has begun in it\n",
        "\n* far from the median",
        "\nwritten to out/collect.csv\nwritten to out/collect.html\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) check_line(result.out, lines[i]);
    assert_null(strstr(result.out, "hidden"));
    assert_null(strchr(result.out, '\x1b'));
    assert_int_equal(lines_with(result.out, "  finished"), 6);
    command_free(&result);
}

static void csv_and_page(void **state) {
    (void)state;
    char *csv = text_of("out/collect.csv"), *page = text_of("out/collect.html");
    check_has(csv, "participant,run,group,stage,backend,ranks,nodes,");
    check_has(csv, "\r\n\"ann\",\"01-baseline-1\",1,\"01-baseline\",\"cpu\",1,1,\"tiny\",2,4,\"fp32\",\"\","
                   "100.5,1,210.5,2,"
                   "7.25,,\"finished\",,\"class/ann/runs/01-baseline-1/metrics.jsonl\"\r\n");
    check_has(csv, "\"'=cy \"\"<b>\"\"\",\"one\",");
    check_has(csv, "\"finished\",examples_per_second device_peak_mib,");
    assert_int_equal(lines_with(csv, "metrics.jsonl"), 8);
    assert_null(strchr(csv, '\x1b'));
    check_has(page, "<h1>8 runs collected</h1>");
    check_has(page, "=cy &quot;&lt;b&gt;&quot;");
    check_has(page, "<p>class/ben/empty/metrics.jsonl: no run has begun in it</p>");
    static const char *const foreign[] = {"<b>", "<script", "http", "src=", "nan", "\x1b"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strstr(page, foreign[i])) fail_msg("'%s' in the page", foreign[i]);
    free(csv);
    free(page);
}

/* Several folders are a participant's each; a file comes once, whichever way it is found. */
static void several_folders(void **state) {
    (void)state;
    struct command_result result = collect("class/ann/ class/ben class/ann/runs --output=several");
    assert_int_equal(result.exit_code, 0);
    check_line(result.out, "\nann 01-baseline-1 1 ");
    check_line(result.out, "\nben deep/er/one 1 ");
    assert_int_equal(lines_with(result.out, "01-baseline-10"), 1);
    command_free(&result);
    char *link = xformat("%s/links/me", folder), *loop = xformat("%s/links/loop", folder);
    temporary_write_text(folder, "links/none", "");
    assert_int_equal(symlink("../class/ann", link), 0);
    assert_int_equal(symlink("../links", loop), 0);
    result = collect("links --output links-out");
    assert_int_equal(result.exit_code, 0);
    check_line(result.out, "\nme 01-baseline-1 1 ");
    assert_int_equal(lines_with(result.out, "01-baseline-10"), 1);
    command_free(&result);
    free(link);
    free(loop);
    result = collect("class/ann/runs/01-baseline-1/metrics.jsonl");
    assert_int_equal(result.exit_code, 0);
    check_has(result.out, "written to runs/collect-1/collect.csv\n");
    command_free(&result);
}

static void check_error(const char *arguments, const char *part) {
    check_program_refuses(collect(arguments), arguments, part);
}

static void mistakes_are_one_line(void **state) {
    (void)state;
    check_error("", "collect needs the folders of a class");
    check_error("class --output", "--output needs a folder");
    check_error("class --outptu x", "collect has no option '--outptu'");
    check_error("class nowhere", "nowhere: there is no such folder");
    check_error("class/ben/empty", "no run has begun in it");
    check_error("class/ben/notes.txt", "no run's metrics.jsonl below it");
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    make_class();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistakes_are_one_line),
        cmocka_unit_test(one_table_of_all),
        cmocka_unit_test(csv_and_page),
        cmocka_unit_test(several_folders),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
