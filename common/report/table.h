/*
 * Tables of texts for a terminal, and numbers as people read them. page.h shows the same tables in a browser.
 *
 *   struct table table = table_make(2, 1);
 *   table.titles[0] = "run", table.words[0] = true;
 *   table.titles[1] = "MiB";
 *   table_set(&table, 0, 0, "runs/01-baseline-1");
 *   table_set_digits(&table, 0, 1, 1, 174.21);
 *   table_print(&table);
 *   table_free(&table);
 */
#ifndef COMMON_REPORT_TABLE_H
#define COMMON_REPORT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

enum { TABLE_COLUMNS = 24 };

/* The titles are borrowed. */
struct table {
    size_t columns, rows;
    const char *titles[TABLE_COLUMNS]; /* [columns] */
    bool words[TABLE_COLUMNS];         /* [columns] of words rather than numbers: aligned left */
    char **cells;                      /* [rows][columns]; NULL: nothing was set */
};

/* At most TABLE_COLUMNS columns. The caller frees the table. */
struct table table_make(size_t columns, size_t rows);
void table_free(struct table *table);

/* Copies the text; a cell may be set again. */
void table_set(struct table *table, size_t row, size_t column, const char *text);
/* As number_text() writes it. */
void table_set_number(struct table *table, size_t row, size_t column, double value);
/* With this many digits after the point; "-" for NAN and what is larger than any number of a run. */
void table_set_digits(struct table *table, size_t row, size_t column, int digits, double value);
/* "" where nothing was set. */
const char *table_cell(const struct table *table, size_t row, size_t column);

/* On standard output, a line a row. Control characters of the texts become spaces. */
void table_print(const struct table *table);

/* Characters of UTF-8: its bytes but for those that continue one. */
size_t letters(const char *text);
/* The last characters of a label, at most so many of them, as its end is what tells runs apart; "…" before
 * them where there are more. The caller frees it. */
char *label_end(const char *label, size_t most);
/* Text from a file's or a folder's name, fit to be shown: U+FFFD for what is no UTF-8, spaces for control
 * characters. The caller frees it. */
char *shown_text(const char *text);
/* A number as people read it, of four digits or so: "0.0123", "167.2", "12040"; "-" for NAN. */
void number_text(char text[32], double value);

#endif
