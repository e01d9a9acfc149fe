/*
 * Tables of a Markdown text (GitHub's: lines of cells between bars, the second one of dashes), found with the
 * question that they belong to, and filled without touching anything else of the text.
 */
#ifndef COMMON_REPORT_MARKDOWN_H
#define COMMON_REPORT_MARKDOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

enum { MARKDOWN_MOST_COLUMNS = 32, MARKDOWN_MOST_BYTES = 4 << 20 };

/* A piece of the text: what stands between two bars, white space included. */
struct markdown_cell {
    size_t start, end; /* of the text; both 0 where the row has fewer cells than the table's first one */
};

struct markdown_table {
    int question;                /* of the last heading "## 3. …" before it; 0: none */
    long line;                   /* of its first row, from 1 */
    size_t columns, rows;        /* rows with the titles' */
    struct markdown_cell *cells; /* [rows][columns] */
};

struct markdown {
    char *text; /* [size] and a NUL */
    size_t size;
    struct markdown_table *tables; /* [count] */
    size_t count;
};

/* Reads a file: any bytes but NUL, 4 MiB at most. Rows of more than 32 cells keep the first 32. False with
 * `error` set and nothing to free where it cannot be read. */
bool markdown_read(struct markdown *markdown, const char *path, struct error *error);
/* The same of bytes, `name` standing for the path in errors. */
bool markdown_parse(struct markdown *markdown, const char *data, size_t size, const char *name,
                    struct error *error);
void markdown_free(struct markdown *markdown);

/* A cell's text without white space around it; "" where it is not there. The caller frees it. */
char *markdown_text(const struct markdown *markdown, const struct markdown_table *table, size_t row,
                    size_t column);
/* Is there something in a cell that a reader would take for an entry? Not blank, no dash, no words in
 * parentheses (which the sheets use for hints). */
bool markdown_is_filled(const char *cell);

/* New contents for some cells, which must be there. */
struct markdown_change {
    struct markdown_cell cell;
    char *text;
};
/* The text with these changes, in any order; the caller frees it. */
char *markdown_changed(const struct markdown *markdown, struct markdown_change *changes, size_t count);

#endif
