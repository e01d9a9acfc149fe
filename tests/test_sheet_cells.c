/*
 * What ./workshop sheet and check stand on: numbers as people write them, tables of a Markdown text, and
 * exercises/cells/, which has to say of every cell of every sheet what it is.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/report/markdown.h"
#include "common/report/sheet_cells.h"
#include "common/report/written_number.h"
#include "tests/support/check.h"
#include "tests/support/temporary.h"

static char *folder;

/* ---- numbers ---- */

static void check_number(const char *text, double low, double high, double step, const char *unit,
                         bool about) {
    struct written_number number;
    if (!written_number_read(&number, text)) fail_msg("'%s' was not read", text);
    if (fabs(number.low - low) > 1e-12 * fabs(low) || fabs(number.high - high) > 1e-12 * fabs(high))
        fail_msg("'%s': %.17g to %.17g", text, number.low, number.high);
    if (fabs(number.step / step - 1) > 1e-9) fail_msg("'%s': to %.17g", text, number.step);
    if (strcmp(number.unit->name, unit) != 0 || number.about != about)
        fail_msg("'%s': unit '%s', about %d", text, number.unit->name, number.about);
}

static void numbers_as_people_write_them(void **state) {
    (void)state;
    check_number("1024", 1024, 1024, 1, "", false);
    check_number("1,024", 1024, 1024, 1, "", false);
    check_number("1 024", 1024, 1024, 1, "", false);
    check_number("1\u202f024", 1024, 1024, 1, "", false);
    check_number("1\u00a0024\u00a0576", 1024576, 1024576, 1, "", false);
    check_number("1'024", 1024, 1024, 1, "", false);
    check_number("1024.0", 1024, 1024, 0.1, "", false);
    check_number("1,024.5", 1024.5, 1024.5, 0.1, "", false);
    check_number("14,05", 14.05, 14.05, 0.01, "", false);
    check_number("0,125", 0.125, 0.125, 0.001, "", false);
    check_number("1.024", 1.024, 1.024, 0.001, "", false);
    check_number("12.", 12, 12, 1, "", false);
    check_number("−24.0", -24, -24, 0.1, "", false);
    check_number("1.0 GiB", 1, 1, 0.1, "GiB", false);
    check_number("1.0GiB", 1, 1, 0.1, "GiB", false);
    check_number("174.2 mib on each rank", 174.2, 174.2, 0.1, "MiB", false);
    check_number("~12", 12, 12, 1, "", true);
    check_number("about 370", 370, 370, 1, "", true);
    check_number("≈ 12 ms", 12, 12, 1, "ms", true);
    check_number("12?", 12, 12, 1, "", true);
    check_number("10 to 12", 10, 12, 1, "", false);
    check_number("10-12", 10, 12, 1, "", false);
    check_number("10 – 12.5 s", 10, 12.5, 1, "s", false);
    check_number("between 12 and 10", 10, 12, 1, "", false);
    check_number("7.03 + 7.03", 14.06, 14.06, 0.01, "", false);
    check_number("4Ψ = 14.05 MiB", 14.05, 14.05, 0.01, "MiB", false);
    check_number("ceil(500 / 16) = 32", 32, 32, 1, "", false);
    check_number("**6.37**", 6.37, 6.37, 0.01, "", false);
    check_number("`6.37` (of the last run)", 6.37, 6.37, 0.01, "", false);
    check_number("70%", 70, 70, 1, "%", false);
    check_number("1.5e3", 1500, 1500, 100, "", false);
    check_number("3.4 · 10^2", 340, 340, 10, "", false);
    static const char *const none[] = {"",   "yours", "?",        "GiB", "–",   "~", "=",
                                       "a1", "…",     "\xff\xfe", "-",   "+ 3", "e5"};
    struct written_number number;
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (written_number_read(&number, none[i])) fail_msg("'%s' was read as %g", none[i], number.low);
}

static void several_numbers(void **state) {
    (void)state;
    struct written_number numbers[3];
    assert_true(written_numbers_read(numbers, 3, "174.2 / 174.1/174"));
    assert_true(numbers[0].low == 174.2 && numbers[1].low == 174.1 && numbers[2].low == 174);
    assert_true(written_numbers_read(numbers, 2, "7.03, 1,024.5"));
    assert_true(numbers[0].low == 7.03 && numbers[1].low == 1024.5);
    assert_true(written_numbers_read(numbers, 2, "7.03 + 7.03 / 3.51 + 3.51"));
    assert_true(fabs(numbers[0].low - 14.06) < 1e-9 && fabs(numbers[1].low - 7.02) < 1e-9);
    assert_false(written_numbers_read(numbers, 3, "1 / 2"));
    assert_false(written_numbers_read(numbers, 2, "1 / 2 / 3"));
    assert_false(written_numbers_read(numbers, 2, "1 / "));
}

static bool agree(const char *text, const char *unit, double value, double tolerance) {
    struct written_number number;
    assert_true(written_number_read(&number, text));
    return written_number_convert(&number, unit_find(unit, strlen(unit))) &&
           written_number_agrees(&number, value, tolerance);
}

static void agreement(void **state) {
    (void)state;
    assert_true(agree("96", "", 96, 0) && !agree("97", "", 96, 0) && !agree("95 to 97", "", 96, 0));
    /* Losses: the digits written, rounded or cut off. */
    assert_true(agree("7.58", "", 7.575276287, 1e-13) && agree("7.575276", "", 7.5752769, 1e-13));
    assert_false(agree("7.57", "", 7.5752762, 1e-13));
    assert_false(agree("7.575275", "", 7.5752769, 1e-13));
    /* Memory: one in a hundred, or what is left after rounding. */
    assert_true(agree("14.1", "MiB", 14.05, 0.01) && agree("14", "MiB", 14.4, 0.01) &&
                agree("0", "MiB", 0.003, 0.01));
    assert_false(agree("14.74", "MiB", 14.05, 0.01));
    assert_false(agree("28", "MiB", 28.9, 0.01));
    /* Units. */
    assert_true(agree("1.0 GiB", "MiB", 1024, 0.01) && agree("14.737 MB", "MiB", 14.0547, 0.01));
    assert_true(agree("14,737,408 bytes", "MiB", 14.0547, 0.01) && agree("0.5 min", "s", 30, 0.15));
    assert_true(agree("70%", "", 0.7, 0.02));
    assert_false(agree("14.05 s", "MiB", 14.05, 0.01));
    /* Wider: about, and ranges. */
    assert_true(agree("~13", "MiB", 14.05, 0.01) && !agree("~12", "MiB", 14.05, 0.01));
    assert_true(agree("10 to 15", "", 14.05, 0.01) && !agree("10 to 13", "", 14.05, 0.01));
    assert_false(agree("14", "", NAN, 0.1));
}

/* ---- tables ---- */

static const char *const text = "# Sheet\n"
                                "| not | a question |\n|---|---|\n| a | b |\n"
                                "## 1. First\n```\n| code |\n|---|\n```\n"
                                "| | one | two |\r\n| :-- | --: |---|\r\n"
                                "| row | 1 | |\r\n| short | 2 |\n| `a\\|b` | x | y | z |\nno row\n"
                                "| alone |\ntext\n## Without a number\n## 12. Last\n|a|\n|-|\n|b";

static void tables_are_found(void **state) {
    (void)state;
    struct markdown markdown;
    struct error error;
    temporary_write_text(folder, "sheet.md", text);
    char *path = xformat("%s/sheet.md", folder);
    assert_true(markdown_read(&markdown, path, &error));
    free(path);
    assert_int_equal(markdown.count, 3);
    const struct markdown_table *table = &markdown.tables[1];
    assert_true(markdown.tables[0].question == 0 && table->question == 1 &&
                markdown.tables[2].question == 12);
    assert_true(table->columns == 3 && table->rows == 4 && table->line == 10);
    static const char *const cells[4][3] = {
        {"", "one", "two"}, {"row", "1", ""}, {"short", "2", ""}, {"`a\\|b`", "x", "y"}};
    for (size_t r = 0; r < 4; r++)
        for (size_t c = 0; c < 3; c++) {
            char *cell = markdown_text(&markdown, table, r, c);
            assert_string_equal(cell, cells[r][c]);
            free(cell);
        }
    assert_true(table->cells[2 * 3 + 2].end == 0); /* the short row's last one is not there */
    struct markdown_change changes[] = {{table->cells[3 * 3 + 1], (char *)(size_t) "new"},
                                        {table->cells[1 * 3 + 2], (char *)(size_t) "filled"}};
    char *changed = markdown_changed(&markdown, changes, 2);
    assert_non_null(strstr(changed, "| row | 1 | filled |\r\n"));
    assert_non_null(strstr(changed, "| `a\\|b` | new | y | z |\n"));
    assert_int_equal(strlen(changed), strlen(text) + strlen("filled") + 1 + strlen("new") - strlen("x"));
    free(changed);
    markdown_free(&markdown);
}

static void what_is_filled(void **state) {
    (void)state;
    assert_true(markdown_is_filled("1") && markdown_is_filled("a (b) c") && markdown_is_filled("−1"));
    assert_false(markdown_is_filled("") || markdown_is_filled("–") || markdown_is_filled("-") ||
                 markdown_is_filled("(peak)"));
}

static void odd_texts(void **state) {
    (void)state;
    struct markdown markdown;
    struct error error;
    char *path = xformat("%s/odd.md", folder);
    static const char *const odd[] = {"",
                                      "|",
                                      "|\n|-|",
                                      "|-|\n|-|\n",
                                      "## 1.\n|\\\n|-|\n|\\",
                                      "\xff|\n|-\xff|\n",
                                      "|a|\n|--|\n||||||\n|",
                                      "## 99999999999999. x\n|a|\n|-|\n",
                                      "|||\n|-|\n|a|b|c|d|\n"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        temporary_write_text(folder, "odd.md", odd[i]);
        assert_true(markdown_read(&markdown, path, &error));
        markdown_free(&markdown);
    }
    /* Many columns, and more than a sheet has bytes. */
    char *wide = xmalloc(20001);
    memset(wide, '|', 20000);
    memcpy(wide + 10000, "\n|-|\n", 5);
    wide[20000] = '\0';
    temporary_write_text(folder, "odd.md", wide);
    assert_true(markdown_read(&markdown, path, &error));
    assert_true(markdown.tables[0].columns == MARKDOWN_MOST_COLUMNS);
    markdown_free(&markdown);
    free(wide);
    temporary_write(folder, "odd.md", "a\0b", 3);
    assert_false(markdown_read(&markdown, path, &error));
    CHECK_ERROR(&error, "odd.md", "no text");
    free(path);
}

/* ---- the sheets ---- */

static const char *const stages[] = {"01-baseline", "02-zero1",   "03-zero2",
                                     "04-zero3",    "05-offload", "06-multinode"};

static void check_table(const char *stage, const struct cells_table *cells, const struct markdown *sheet,
                        const struct markdown_table *table, size_t *measured) {
    if (cells->question != table->question)
        fail_msg("%s, line %ld: question %d, described as of %d", stage, table->line, table->question,
                 cells->question);
    if (cells->own) return;
    if (cells_find_table(cells, sheet) != table)
        fail_msg("%s, line %ld: other columns than described", stage, table->line);
    assert_int_equal(cells->row_count, table->rows - 1);
    for (size_t r = 0; r < cells->row_count; r++)
        for (size_t c = 0; c < cells->column_count; c++) {
            const struct cell *cell = &cells->cells[r * cells->column_count + c];
            char *entry = markdown_text(sheet, table, r + 1, c + 1);
            if (cells_find_row(cells, r, sheet, table) != r + 1)
                fail_msg("%s, line %ld: row '%s' is not there", stage, table->line, cells->rows[r]);
            bool given = entry[0] && entry[0] != '(' && strcmp(entry, "–") != 0;
            if (given ? cell->kind != CELL_GIVEN : cell->kind == CELL_GIVEN && !entry[0])
                fail_msg("%s, '%s', '%s': has '%s'", stage, cells->rows[r], cells->columns[c], entry);
            *measured += cell->kind == CELL_MEASURED && strcmp(entry, "–") != 0;
            free(entry);
        }
}

/* All cells of all tables are described; so many are measured. */
static void sheets_are_described(void **state) {
    (void)state;
    static const size_t least[] = {80, 90, 90, 100, 90, 90};
    for (int s = 0; s < 6; s++) {
        struct sheet_cells cells;
        struct markdown sheet;
        struct error error;
        char *inside = xformat("exercises/cells/%s.json", stages[s]), *path = source_path(inside);
        if (!sheet_cells_read(&cells, path, &error)) fail_msg("%s", error.text);
        free(inside);
        free(path);
        inside = xformat("exercises/%s.md", stages[s]);
        path = source_path(inside);
        assert_true(markdown_read(&sheet, path, &error));
        free(inside);
        free(path);
        assert_string_equal(cells.stage, stages[s]);
        size_t described = 0, measured = 0;
        for (size_t t = 0; t < sheet.count; t++) {
            if (!sheet.tables[t].question) continue;
            if (described == cells.count)
                fail_msg("%s, line %ld: not described", stages[s], sheet.tables[t].line);
            check_table(stages[s], &cells.tables[described++], &sheet, &sheet.tables[t], &measured);
        }
        assert_int_equal(described, cells.count);
        if (measured < least[s]) fail_msg("%s: only %zu cells are measured", stages[s], measured);
        markdown_free(&sheet);
        sheet_cells_free(&cells);
    }
}

static void check_refused(const char *cells, const char *part) {
    struct sheet_cells sheet;
    struct error error;
    char *path = xformat("%s/cells.json", folder);
    temporary_write_text(folder, "cells.json", cells);
    if (sheet_cells_read(&sheet, path, &error)) fail_msg("read: %s", cells);
    CHECK_ERROR(&error, "cells.json", part);
    free(path);
}

#define TABLE(runs, number)                                                                                  \
    "{\"stage\":\"02-zero1\",\"tables\":[{\"question\":1,\"runs\":" runs                                     \
    ",\"columns\":[[\"a\",{}]],\"rows\":[[\"b\"," number "]]}]}"

static void mistakes_in_descriptions(void **state) {
    (void)state;
    check_refused("{", "cells.json:1");
    check_refused("[]", "no stage");
    check_refused("{\"stage\":\"02-zero1\",\"tables\":[3]}", "no question");
    check_refused("{\"stage\":\"02-zero1\",\"tables\":[{\"question\":1}]}", "no columns");
    check_refused("{\"stage\":\"02-zero1\",\"tables\":[{\"question\":1,\"columns\":[3]}]}", "column 1");
    check_refused(TABLE("{}", "\"train_los\""), "'b', 'a': there is no number 'train_los'");
    check_refused(TABLE("{}", "\"eval_loss@x\""), "'eval_loss@x'");
    check_refused(TABLE("{}", "{}"), "there is no number ''");
    check_refused(TABLE("{\"max_step\":8}", "\"updates\""), "did you mean 'max_steps'");
    check_refused(TABLE("{\"offload_optimizer\":\"cpu\"}", "\"updates\""), "does not have this");
    check_refused(TABLE("{\"ranks\":0}", "\"updates\""), "ranks");
    check_refused(TABLE("{\"backend\":\"gpu\"}", "\"updates\""), "backend 'gpu'");
    check_refused(TABLE("{\"times\":\"ranks_per_node\"}", "\"updates\""), "times");
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_as_people_write_them),
        cmocka_unit_test(several_numbers),
        cmocka_unit_test(agreement),
        cmocka_unit_test(tables_are_found),
        cmocka_unit_test(what_is_filled),
        cmocka_unit_test(odd_texts),
        cmocka_unit_test(sheets_are_described),
        cmocka_unit_test(mistakes_in_descriptions),
    };
    return cmocka_run_group_tests(tests, NULL, remove_all);
}
