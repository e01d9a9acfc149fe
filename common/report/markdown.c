#include "common/report/markdown.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\r';
}

/* ---- rows ---- */

/* The cells of a line of the text, from its first bar on; how many. A bar behind a backslash is a letter. */
static size_t split_row(const char *text, size_t start, size_t end,
                        struct markdown_cell cells[MARKDOWN_MOST_COLUMNS]) {
    size_t count = 0;
    while (start < end && is_space(text[start])) start++;
    while (end > start && is_space(text[end - 1])) end--;
    if (start < end && text[start] == '|') start++;
    for (size_t at = start; at < end; at++) {
        if (text[at] == '\\') {
            at++;
        } else if (text[at] == '|') {
            if (count < MARKDOWN_MOST_COLUMNS) cells[count++] = (struct markdown_cell){start, at};
            start = at + 1;
        }
    }
    /* A row's last bar may be missing. */
    if (start < end && count < MARKDOWN_MOST_COLUMNS) cells[count++] = (struct markdown_cell){start, end};
    return count;
}

static bool begins_with_bar(const char *text, size_t start, size_t end) {
    while (start < end && is_space(text[start])) start++;
    return start < end && text[start] == '|';
}

/* "|---|:--:|": the line that makes a table of the one before it. */
static bool is_rule(const char *text, size_t start, size_t end) {
    bool dashes = false;
    if (!begins_with_bar(text, start, end)) return false;
    for (size_t at = start; at < end; at++) {
        if (!is_space(text[at]) && text[at] != '|' && text[at] != ':' && text[at] != '-') return false;
        dashes |= text[at] == '-';
    }
    return dashes;
}

static void add_row(struct markdown_table *table, const char *text, size_t start, size_t end) {
    struct markdown_cell cells[MARKDOWN_MOST_COLUMNS] = {{0, 0}};
    size_t count = split_row(text, start, end, cells);
    if (!table->rows) table->columns = count;
    /* Room doubles at powers of two. */
    if ((table->rows & (table->rows - 1)) == 0)
        table->cells = xrealloc(table->cells, (table->rows ? 2 * table->rows : 1) * (table->columns + 1) *
                                                  sizeof *table->cells);
    memcpy(table->cells + table->rows * table->columns, cells, table->columns * sizeof *cells);
    table->rows++;
}

/* ---- the text ---- */

struct reader {
    struct markdown *markdown;
    int question;
    long line;
    bool in_code;    /* between ``` and ``` */
    bool in_table;   /* of rows */
    size_t previous; /* start of the line before; its end is the line's start */
};

static struct markdown_table *add_table(struct markdown *m) {
    if ((m->count & (m->count - 1)) == 0)
        m->tables = xrealloc(m->tables, (m->count ? 2 * m->count : 1) * sizeof *m->tables);
    m->tables[m->count] = (struct markdown_table){.columns = 0};
    return &m->tables[m->count++];
}

/* The number of a heading "## 3. …"; 0 for another one, −1 for a line that is none. */
static int heading_number(const char *text, size_t start, size_t end) {
    if (end - start < 3 || strncmp(text + start, "## ", 3) != 0) return -1;
    int number = 0;
    size_t at = start + 3;
    for (; at < end && text[at] >= '0' && text[at] <= '9' && number < 1000; at++)
        number = 10 * number + (text[at] - '0');
    return at < end && text[at] == '.' ? number : 0;
}

static void read_line(struct reader *r, size_t start, size_t end) {
    struct markdown *m = r->markdown;
    const char *text = m->text;
    if (end - start >= 3 && !strncmp(text + start, "```", 3)) r->in_code = !r->in_code;
    int number = r->in_code ? -1 : heading_number(text, start, end);
    if (number >= 0) r->question = number;
    bool bar = !r->in_code && begins_with_bar(text, start, end);
    if (bar && r->in_table) {
        add_row(&m->tables[m->count - 1], text, start, end);
    } else if (bar && r->previous < start && is_rule(text, start, end) &&
               begins_with_bar(text, r->previous, start - 1)) {
        struct markdown_table *table = add_table(m);
        table->question = r->question;
        table->line = r->line - 1;
        add_row(table, text, r->previous, start - 1);
    }
    r->in_table = bar && (r->in_table || (m->count && m->tables[m->count - 1].line == r->line - 1));
}

bool markdown_parse(struct markdown *markdown, const char *data, size_t size, const char *name,
                    struct error *error) {
    *markdown = (struct markdown){0};
    if (size > MARKDOWN_MOST_BYTES || memchr(data, '\0', size))
        return error_set(error, "%s: this is no exercise sheet: it is larger than 4 MiB, or no text", name);
    markdown->text = xmalloc(size + 1);
    memcpy(markdown->text, data, size);
    markdown->text[size] = '\0';
    markdown->size = size;
    struct reader reader = {.markdown = markdown, .line = 1};
    for (size_t start = 0; start < size; reader.line++) {
        const char *newline = memchr(markdown->text + start, '\n', size - start);
        size_t end = newline ? (size_t)(newline - markdown->text) : size;
        read_line(&reader, start, end);
        reader.previous = start;
        start = end + 1;
    }
    return true;
}

bool markdown_read(struct markdown *markdown, const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return false;
    bool read = markdown_parse(markdown, map.data, map.size, path, error);
    file_unmap(&map);
    return read;
}

void markdown_free(struct markdown *markdown) {
    for (size_t t = 0; t < markdown->count; t++) free(markdown->tables[t].cells);
    free(markdown->tables);
    free(markdown->text);
    *markdown = (struct markdown){0};
}

/* ---- cells ---- */

char *markdown_text(const struct markdown *markdown, const struct markdown_table *table, size_t row,
                    size_t column) {
    if (row >= table->rows || column >= table->columns) return xstrdup("");
    struct markdown_cell cell = table->cells[row * table->columns + column];
    while (cell.start < cell.end && is_space(markdown->text[cell.start])) cell.start++;
    while (cell.end > cell.start && is_space(markdown->text[cell.end - 1])) cell.end--;
    return xformat("%.*s", (int)(cell.end - cell.start), markdown->text + cell.start);
}

bool markdown_is_filled(const char *cell) {
    size_t length = strlen(cell);
    if (!length || !strcmp(cell, "-") || !strcmp(cell, "–") || !strcmp(cell, "—")) return false;
    return cell[0] != '(' || cell[length - 1] != ')';
}

static int by_place(const void *a, const void *b) {
    const struct markdown_change *first = a, *second = b;
    return (first->cell.start > second->cell.start) - (first->cell.start < second->cell.start);
}

char *markdown_changed(const struct markdown *markdown, struct markdown_change *changes, size_t count) {
    size_t size = markdown->size + 1, at = 0, length = 0;
    for (size_t i = 0; i < count; i++) size += strlen(changes[i].text) + 2;
    char *text = xmalloc(size);
    if (count) qsort(changes, count, sizeof *changes, by_place);
    for (size_t i = 0; i < count; i++) {
        size_t before = changes[i].cell.start - at, own = strlen(changes[i].text);
        memcpy(text + length, markdown->text + at, before);
        length += before;
        text[length++] = ' ';
        memcpy(text + length, changes[i].text, own);
        length += own;
        text[length++] = ' ';
        at = changes[i].cell.end;
    }
    memcpy(text + length, markdown->text + at, markdown->size - at);
    length += markdown->size - at;
    text[length] = '\0';
    return text;
}
