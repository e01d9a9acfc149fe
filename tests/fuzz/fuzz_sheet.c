/* Any bytes as an exercise sheet: its tables, each cell as numbers, and all cells written anew. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/markdown.h"
#include "common/report/written_number.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_numbers(const char *text) {
    struct written_number numbers[3];
    for (size_t count = 1; count <= 3; count++) {
        if (!written_numbers_read(numbers, count, text)) continue;
        for (size_t i = 0; i < count; i++) {
            if (!isfinite(numbers[i].low) || numbers[i].low > numbers[i].high) abort();
            written_number_convert(&numbers[i], unit_find("MiB", 3));
            written_number_agrees(&numbers[i], 14.05, 0.01);
        }
    }
}

/* Writes each cell's own text into it: nothing but white space may change. */
static void check_table(const struct markdown *sheet, const struct markdown_table *table) {
    for (size_t row = 0; row < table->rows; row++)
        for (size_t column = 0; column < table->columns; column++) {
            struct markdown_cell place = table->cells[row * table->columns + column];
            if (place.start > place.end || place.end > sheet->size) abort();
            char *text = markdown_text(sheet, table, row, column);
            read_numbers(text);
            if (markdown_is_filled(text) && row < 4) {
                struct markdown_change change = {place, text};
                char *changed = markdown_changed(sheet, &change, 1);
                if (strlen(changed) > sheet->size + 2) abort();
                free(changed);
            }
            free(text);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {""};
    struct markdown sheet;
    if (!markdown_parse(&sheet, (const char *)data, size, "fuzz.md", &error)) {
        if (!error.text[0] || strchr(error.text, '\n')) abort();
        return 0;
    }
    for (size_t t = 0; t < sheet.count; t++) check_table(&sheet, &sheet.tables[t]);
    markdown_free(&sheet);
    return 0;
}
