#include "common/report/table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/utf8.h"

struct table table_make(size_t columns, size_t rows) {
    if (columns > TABLE_COLUMNS) fail("a table of %zu columns: it has %d at most", columns, TABLE_COLUMNS);
    return (struct table){
        .columns = columns, .rows = rows, .cells = xcalloc(columns * rows + 1, sizeof(char *))};
}

void table_free(struct table *table) {
    for (size_t i = 0; i < table->columns * table->rows; i++) free(table->cells[i]);
    free(table->cells);
}

void table_set(struct table *table, size_t row, size_t column, const char *text) {
    char **cell = &table->cells[row * table->columns + column];
    free(*cell);
    *cell = xstrdup(text);
}

void table_set_number(struct table *table, size_t row, size_t column, double value) {
    char text[32];
    number_text(text, value);
    table_set(table, row, column, text);
}

void table_set_digits(struct table *table, size_t row, size_t column, int digits, double value) {
    char text[32] = "-";
    if (fabs(value) < 1e15) snprintf(text, sizeof text, "%.*f", digits, value);
    table_set(table, row, column, text);
}

const char *table_cell(const struct table *table, size_t row, size_t column) {
    const char *text = table->cells[row * table->columns + column];
    return text ? text : "";
}

/* ---- on a terminal ---- */

/* Text from a run's file may hold what a terminal would obey. */
static void print_plain(const char *text) {
    for (; *text; text++) putchar((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text);
}

static void print_cell(const char *text, size_t width, bool words, bool last) {
    int room = (int)(width - letters(text));
    if (!words) printf("%*s", room, "");
    print_plain(text);
    if (words && !last) printf("%*s", room, "");
    printf("%s", last ? "\n" : "  ");
}

void table_print(const struct table *table) {
    size_t widths[TABLE_COLUMNS];
    for (size_t c = 0; c < table->columns; c++) {
        widths[c] = letters(table->titles[c]);
        for (size_t r = 0; r < table->rows; r++) {
            size_t width = letters(table_cell(table, r, c));
            if (width > widths[c]) widths[c] = width;
        }
    }
    for (size_t c = 0; c < table->columns; c++)
        print_cell(table->titles[c], widths[c], table->words[c], c + 1 == table->columns);
    for (size_t r = 0; r < table->rows; r++)
        for (size_t c = 0; c < table->columns; c++)
            print_cell(table_cell(table, r, c), widths[c], table->words[c], c + 1 == table->columns);
}

/* ---- texts ---- */

size_t letters(const char *text) {
    size_t count = 0;
    for (; *text; text++) count += (*text & 0xC0) != 0x80;
    return count;
}

char *label_end(const char *label, size_t most) {
    size_t count = letters(label);
    if (count <= most) return xstrdup(label);
    for (; count >= most; label++) count -= (label[1] & 0xC0) != 0x80;
    return xformat("…%s", label);
}

char *shown_text(const char *text) {
    size_t size = strlen(text), at = 0, length = 0;
    char *shown = xmalloc(3 * size + 1); /* a broken byte becomes three */
    while (at < size) {
        uint32_t character;
        at += utf8_read(text + at, size - at, &character);
        if (character == UTF8_BROKEN) character = 0xFFFD;
        if (character < 0x20 || (character >= 0x7f && character < 0xa0)) character = ' ';
        length += utf8_write(shown + length, character);
    }
    shown[length] = '\0';
    return shown;
}

void number_text(char text[32], double value) {
    double size = fabs(value);
    if (isnan(value))
        snprintf(text, 32, "-");
    else if (size >= 1e7)
        snprintf(text, 32, "%.4g", value);
    else
        snprintf(text, 32, "%.*f",
                 size >= 1000 || value == 0 ? 0
                 : size >= 100              ? 1
                 : size >= 1                ? 2
                                            : 4,
                 value);
}
