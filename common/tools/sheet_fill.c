/* A copy of the sheet with what runs know. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/tools/sheet.h"

struct filling {
    struct sheet *sheet;
    struct markdown_change *changes; /* [count] */
    size_t count, kept, own, unknown;
    struct missing_list missing;
};

/* ---- links ---- */

/* A path from one folder to another, both absolute; the caller frees it. */
static char *path_between(const char *from, const char *to) {
    size_t common = 0;
    for (size_t i = 0;; i++) {
        if ((!from[i] || from[i] == '/') && (!to[i] || to[i] == '/')) common = i;
        if (!from[i] || from[i] != to[i]) break;
    }
    char *path = xstrdup(to[common] == '/' ? to + common + 1 : to + common);
    for (const char *up = from + common; (up = strchr(up, '/')) && up[1]; up++) {
        char *longer = xformat("../%s", path);
        free(path);
        path = longer;
    }
    return path;
}

/* The text with links that lead from the sheet's own folder leading there from the copy's; the caller frees
 * it. */
static char *moved_links(const char *text, const char *prefix) {
    size_t links = 0, length = 0;
    for (const char *at = text; (at = strstr(at, "](")); at += 2) links++;
    char *moved = xmalloc(strlen(text) + links * (strlen(prefix) + 1) + 1);
    while (*text) {
        bool link = !strncmp(text, "](", 2);
        bool elsewhere = link && (text[2] == '#' || text[2] == '/' || !strncmp(text + 2, "http", 4));
        moved[length++] = *text++;
        if (!link) continue;
        moved[length++] = *text++;
        if (!elsewhere) length += (size_t)sprintf(moved + length, "%s/", prefix);
    }
    moved[length] = '\0';
    return moved;
}

/* The folder that a path's last name is in, absolute; the caller frees it. */
static char *folder_of(const char *path) {
    char real[PATH_MAX];
    char *folder = xstrdup(path), *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = '\0';
    if (!realpath(slash ? folder : ".", real)) fail("%s: this folder cannot be found", slash ? folder : ".");
    free(folder);
    return xstrdup(real);
}

/* ---- cells ---- */

static bool is_dash(const char *text) {
    return !strcmp(text, "–") || !strcmp(text, "-") || !strcmp(text, "—");
}

/* The contents of a cell; NULL where a run is missing, which is noted. */
static char *cell_contents(struct filling *f, const struct cell *cell, int question) {
    char *text = xstrdup("");
    for (size_t p = 0; p < cell->count; p++) {
        const struct cell_part *part = &cell->parts[p];
        struct part_value value = part_value(f->sheet, part);
        if (value.missing_count) {
            missing_add_all(&f->missing, f->sheet, &value, question);
            free(text);
            return NULL;
        }
        struct run_number ratio = {.digits = 2};
        bool is_ratio = part->combination == OVER || part->combination == DIVIDING;
        char *number = run_number_text(is_ratio ? &ratio : part->number, value.value);
        char *longer = xformat("%s%s%s", text, p ? cell->separator : "", number);
        free(number);
        free(text);
        text = longer;
    }
    return text;
}

static void fill_cell(struct filling *f, const struct cells_table *table, const struct cell *cell,
                      const struct markdown_table *found, size_t row, size_t column) {
    const struct markdown *markdown = &f->sheet->markdown;
    if (cell->kind == CELL_OWN || cell->kind == CELL_PREDICTED) f->own++;
    if (cell->kind != CELL_MEASURED) return;
    struct markdown_cell place = found->cells[row * found->columns + column];
    char *now = markdown_text(markdown, found, row, column);
    bool kept = markdown_is_filled(now) && !f->sheet->refill, none = is_dash(now) || !place.end;
    free(now);
    if (kept) f->kept++;
    if (kept || none) return;
    char *text = cell_contents(f, cell, table->question);
    if (text) f->changes[f->count++] = (struct markdown_change){place, text};
}

static void fill_table(struct filling *f, const struct cells_table *table) {
    const struct markdown_table *found = cells_find_table(table, &f->sheet->markdown);
    if (table->own) return;
    if (!found) {
        printf("question %d: no table with the columns '%s', … here: left as it is\n", table->question,
               table->columns[0]);
        return;
    }
    f->changes =
        xrealloc(f->changes, (f->count + table->row_count * table->column_count) * sizeof *f->changes);
    for (size_t r = 0; r < table->row_count; r++) {
        size_t row = cells_find_row(table, r, &f->sheet->markdown, found);
        if (!row) printf("question %d: no row '%s' here: left as it is\n", table->question, table->rows[r]);
        for (size_t c = 0; row && c < table->column_count; c++)
            fill_cell(f, table, &table->cells[r * table->column_count + c], found, row, c + 1);
    }
}

static void write_sheet(struct filling *f) {
    struct sheet *sheet = f->sheet;
    struct error error;
    char *text = markdown_changed(&sheet->markdown, f->changes, f->count);
    char *slash = strrchr(sheet->path, '/'), *parent = xstrdup(sheet->path);
    if (slash && slash > sheet->path) {
        parent[slash - sheet->path] = '\0';
        if (!directory_create(parent, &error)) fail("%s", error.text);
    }
    free(parent);
    if (sheet->is_new) {
        char *from = folder_of(sheet->path), *to = folder_of(sheet->original),
             *prefix = path_between(from, to);
        char *moved = prefix[0] ? moved_links(text, prefix) : xstrdup(text);
        free(text);
        text = moved;
        free(from);
        free(to);
        free(prefix);
    }
    if (!file_write(sheet->path, text, strlen(text), &error)) fail("%s", error.text);
    free(text);
}

void sheet_fill(struct sheet *sheet) {
    struct filling f = {.sheet = sheet};
    for (size_t t = 0; t < sheet->cells.count; t++) fill_table(&f, &sheet->cells.tables[t]);
    write_sheet(&f);
    printf("written to %s: %zu cell%s filled in from %zu run%s", sheet->path, f.count,
           f.count == 1 ? "" : "s", sheet->run_count, sheet->run_count == 1 ? "" : "s");
    if (f.kept) printf(", %zu kept as they were", f.kept);
    printf("\npredictions, and what no run can know, are yours to fill in\n");
    if (f.missing.count) printf("more runs would fill more:\n");
    missing_print(&f.missing);
    for (size_t i = 0; i < f.count; i++) free(f.changes[i].text);
    free(f.changes);
    missing_free(&f.missing);
}
