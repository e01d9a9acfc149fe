#include "common/report/sheet_cells.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/report/run_settings.h"
#include "common/train/settings_table.h"

/* ---- laying objects over each other ---- */

/* What is no setting of a run. */
static const char *const own_members[] = {"number",  "parts", "predicted", "stage",     "ranks", "precision",
                                          "backend", "over",  "dividing",  "less_than", "times", "or"};

static bool is_own_member(const char *name) {
    for (size_t i = 0; i < sizeof own_members / sizeof *own_members; i++)
        if (!strcmp(name, own_members[i])) return true;
    return false;
}

/* Lays an object, or a text that is a number's name, over another one. */
static void lay_over(json_t *base, const json_t *top) {
    const char *name;
    json_t *value;
    if (json_is_string(top)) json_object_set_new(base, "number", json_string(json_string_value(top)));
    json_object_foreach((json_t *)(size_t)top, name, value) {
        if (json_is_null(value))
            json_object_del(base, name);
        else
            json_object_set(base, name, value);
    }
}

/* ---- a run ---- */

static const char *text_or(const json_t *object, const char *name, const char *otherwise) {
    const json_t *value = json_object_get(object, name);
    return json_is_string(value) ? json_string_value(value) : otherwise;
}

static bool read_run(struct wanted_run *run, const json_t *object, const char *stage, struct error *error) {
    const json_t *ranks = json_object_get(object, "ranks");
    const char *backend = text_or(object, "backend", "computing"), *name;
    json_t *value;
    run->stage = xstrdup(text_or(object, "stage", stage));
    run->precision = xstrdup(text_or(object, "precision", "fp32"));
    run->dry = !strcmp(backend, "dry");
    run->ranks = ranks ? (long)json_integer_value(ranks) : 1;
    run->changes = json_object();
    json_object_foreach((json_t *)(size_t)object, name, value) {
        bool other_backends = !run->dry && !strncmp(name, "dry_", 4);
        if (!is_own_member(name) && !other_backends) json_object_set(run->changes, name, value);
    }
    if (run->ranks < 1) return error_set(error, "ranks must be a number from 1 on");
    if (!run->dry && strcmp(backend, "computing") != 0)
        return error_set(error, "backend '%s': dry or computing", backend);
    run->settings = stage_settings(run->stage, run->changes, error);
    return run->settings != NULL;
}

static void free_run(struct wanted_run *run) {
    free(run->stage);
    free(run->precision);
    json_decref(run->changes);
    json_decref(run->settings);
}

/* ---- a cell ---- */

static bool read_other(struct cell_part *part, const json_t *object, const char *stage, struct error *error) {
    static const char *const names[] = {"over", "dividing", "less_than"};
    static const enum combination combinations[] = {OVER, DIVIDING, LESS_THAN};
    part->other.stage = xstrdup("");
    for (int i = 0; i < 3; i++) {
        const json_t *other = json_object_get(object, names[i]);
        if (!other) continue;
        json_t *laid = json_copy((json_t *)(size_t)object);
        lay_over(laid, other);
        free(part->other.stage);
        part->combination = combinations[i];
        bool read = read_run(&part->other, laid, stage, error);
        json_decref(laid);
        return read;
    }
    return true;
}

static bool read_times(struct cell_part *part, const json_t *object, struct error *error) {
    const json_t *times = json_object_get(object, "times");
    part->times = 1;
    if (!times) return true;
    if (json_is_number(times)) {
        part->times = json_number_value(times);
        return true;
    }
    const char *size = part->run.dry ? "dry_node_size" : "ranks_per_node";
    part->times = json_number_value(json_object_get(part->run.settings, size));
    return part->times >= 1 || error_set(error, "times: a number, or ranks_per_node where %s is set", size);
}

static bool read_part(struct cell *cell, const char *name, const json_t *object, const char *stage,
                      struct error *error) {
    if (cell->count == CELL_PARTS) return error_set(error, "more than %d numbers", CELL_PARTS);
    struct cell_part *part = &cell->parts[cell->count++];
    part->number = run_number_find(name, &part->argument);
    if (!part->number) return error_set(error, "there is no number '%s' of a run (run_numbers.c)", name);
    const char *alternative = text_or(object, "or", "");
    double none;
    part->alternative = run_number_find(alternative, &none);
    if (alternative[0] && !part->alternative)
        return error_set(error, "there is no number '%s' of a run (run_numbers.c)", alternative);
    return read_run(&part->run, object, stage, error) && read_other(part, object, stage, error) &&
           read_times(part, object, error);
}

/* The numbers of "a / b / c". */
static bool read_names(struct cell *cell, const char *names, const json_t *object, const char *stage,
                       struct error *error) {
    static const char *const separators[] = {" / ", "; ", ", "};
    for (int i = 0; i < 3 && !cell->separator[0]; i++)
        if (strstr(names, separators[i])) strcpy(cell->separator, separators[i]);
    bool read = true;
    for (const char *at = names; read && at;) {
        const char *end = cell->separator[0] ? strstr(at, cell->separator) : NULL;
        char *name = end ? xformat("%.*s", (int)(end - at), at) : xstrdup(at);
        read = read_part(cell, name, object, stage, error);
        free(name);
        at = end ? end + strlen(cell->separator) : NULL;
    }
    return read;
}

static bool read_parts(struct cell *cell, const json_t *object, const char *stage, struct error *error) {
    const json_t *parts = json_object_get(object, "parts"), *part;
    size_t i;
    if (!parts) return read_names(cell, text_or(object, "number", ""), object, stage, error);
    strcpy(cell->separator, " / ");
    bool read = true;
    json_array_foreach(parts, i, part) {
        json_t *laid = json_copy((json_t *)(size_t)object);
        lay_over(laid, part);
        read = read && read_part(cell, text_or(laid, "number", ""), laid, stage, error);
        json_decref(laid);
    }
    return read;
}

static bool read_cell(struct cell *cell, const json_t *object, const char *stage, struct error *error) {
    const char *number = text_or(object, "number", "");
    if (!strcmp(number, "own") || !strcmp(number, "given")) {
        cell->kind = number[0] == 'o' ? CELL_OWN : CELL_GIVEN;
        return true;
    }
    cell->kind = json_is_true(json_object_get(object, "predicted")) ? CELL_PREDICTED : CELL_MEASURED;
    return read_parts(cell, object, stage, error);
}

/* ---- a table ---- */

static const char *label(const json_t *list, size_t i) {
    return json_string_value(json_array_get(json_array_get(list, i), 0));
}

static bool read_labels(char ***labels, size_t *count, const json_t *list, const char *what,
                        struct error *error) {
    size_t size = json_array_size(list);
    *labels = xcalloc(size + 1, sizeof **labels);
    for (; *count < size; (*count)++) {
        if (!label(list, *count)) return error_set(error, "%s %zu: [label, what it is]", what, *count + 1);
        (*labels)[*count] = xstrdup(label(list, *count));
    }
    return size ? true : error_set(error, "no %ss", what);
}

/* "own" and "given" of a row or a column are stronger than what a number the other one has. */
static bool is_nobodys(const json_t *value) {
    const char *text = json_string_value(value);
    return text && (!strcmp(text, "own") || !strcmp(text, "given"));
}

/* What the table says of a cell; a new reference. */
static json_t *cell_object(const json_t *table, size_t row, size_t column) {
    const json_t *rows = json_object_get(table, "rows"), *columns = json_object_get(table, "columns"), *entry;
    const json_t *of_row = json_array_get(json_array_get(rows, row), 1),
                 *of_column = json_array_get(json_array_get(columns, column), 1);
    json_t *object = json_object();
    size_t i;
    lay_over(object, json_object_get(table, "runs"));
    lay_over(object, of_row);
    lay_over(object, of_column);
    if (is_nobodys(of_row)) lay_over(object, of_row);
    json_array_foreach(json_object_get(table, "cells"), i, entry) {
        const char *of = json_string_value(json_array_get(entry, 0)),
                   *in = json_string_value(json_array_get(entry, 1));
        if (of && in && !strcmp(of, label(rows, row)) && !strcmp(in, label(columns, column)))
            lay_over(object, json_array_get(entry, 2));
    }
    return object;
}

static bool read_all_cells(struct cells_table *table, const json_t *object, const char *stage,
                           struct error *error) {
    table->cells = xcalloc(table->row_count * table->column_count, sizeof *table->cells);
    for (size_t r = 0; r < table->row_count; r++)
        for (size_t c = 0; c < table->column_count; c++) {
            struct error reason;
            json_t *merged = cell_object(object, r, c);
            bool read = read_cell(&table->cells[r * table->column_count + c], merged, stage, &reason);
            json_decref(merged);
            if (!read)
                return error_set(error, "'%s', '%s': %s", table->rows[r], table->columns[c], reason.text);
        }
    return true;
}

/* Each of "cells" must be of a row and a column that are there. */
static bool check_overrides(const json_t *object, const struct cells_table *table, struct error *error) {
    const json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(object, "cells"), i, entry) {
        const char *of = json_string_value(json_array_get(entry, 0)),
                   *in = json_string_value(json_array_get(entry, 1));
        bool row = false, column = false;
        for (size_t r = 0; of && r < table->row_count; r++) row |= !strcmp(of, table->rows[r]);
        for (size_t c = 0; in && c < table->column_count; c++) column |= !strcmp(in, table->columns[c]);
        if (!row || !column) return error_set(error, "cells, entry %zu: no such row or column", i + 1);
    }
    return true;
}

static bool read_table(struct cells_table *table, const json_t *object, const char *stage,
                       struct error *error) {
    const char *own = json_string_value(json_object_get(object, "own"));
    table->question = (int)json_integer_value(json_object_get(object, "question"));
    if (table->question < 1) return error_set(error, "no question");
    if (own) table->own = xstrdup(own);
    if (own) return true;
    return read_labels(&table->columns, &table->column_count, json_object_get(object, "columns"), "column",
                       error) &&
           read_labels(&table->rows, &table->row_count, json_object_get(object, "rows"), "row", error) &&
           check_overrides(object, table, error) && read_all_cells(table, object, stage, error);
}

bool sheet_cells_read(struct sheet_cells *sheet, const char *path, struct error *error) {
    *sheet = (struct sheet_cells){0};
    json_t *file = json_read_file(path, error);
    if (!file) return false;
    const char *stage = json_string_value(json_object_get(file, "stage"));
    const json_t *tables = json_object_get(file, "tables"), *table;
    size_t t;
    bool read = stage && json_is_array(tables);
    if (!read) error_set(error, "%s: no stage, or no tables", path);
    sheet->stage = xstrdup(stage ? stage : "");
    sheet->tables = xcalloc(json_array_size(tables) + 1, sizeof *sheet->tables);
    json_array_foreach(tables, t, table) {
        struct error reason;
        if (!read) break;
        struct cells_table *into = &sheet->tables[sheet->count++];
        read = read_table(into, table, stage, &reason);
        if (!read)
            error_set(error, "%s: table %zu (question %d): %s", path, t + 1, into->question, reason.text);
    }
    json_decref(file);
    if (!read) sheet_cells_free(sheet);
    return read;
}

static void free_table(struct cells_table *table) {
    for (size_t i = 0; table->cells && i < table->row_count * table->column_count; i++)
        for (size_t p = 0; p < table->cells[i].count; p++) {
            free_run(&table->cells[i].parts[p].run);
            free_run(&table->cells[i].parts[p].other);
        }
    for (size_t r = 0; r < table->row_count; r++) free(table->rows[r]);
    for (size_t c = 0; c < table->column_count; c++) free(table->columns[c]);
    free(table->rows);
    free(table->columns);
    free(table->cells);
    free(table->own);
}

void sheet_cells_free(struct sheet_cells *sheet) {
    for (size_t t = 0; t < sheet->count; t++) free_table(&sheet->tables[t]);
    free(sheet->tables);
    free(sheet->stage);
    *sheet = (struct sheet_cells){0};
}

/* ---- in a sheet ---- */

static bool cell_is(const struct markdown *markdown, const struct markdown_table *table, size_t row,
                    size_t column, const char *text) {
    char *cell = markdown_text(markdown, table, row, column);
    bool is = !strcmp(cell, text);
    free(cell);
    return is;
}

const struct markdown_table *cells_find_table(const struct cells_table *table,
                                              const struct markdown *markdown) {
    for (size_t t = 0; t < markdown->count; t++) {
        const struct markdown_table *candidate = &markdown->tables[t];
        bool is = candidate->question == table->question && candidate->columns == table->column_count + 1;
        for (size_t c = 0; is && c < table->column_count; c++)
            is = cell_is(markdown, candidate, 0, c + 1, table->columns[c]);
        if (is) return candidate;
    }
    return NULL;
}

size_t cells_find_row(const struct cells_table *table, size_t r, const struct markdown *markdown,
                      const struct markdown_table *found) {
    size_t same_before = 0;
    for (size_t i = 0; i < r; i++) same_before += !strcmp(table->rows[i], table->rows[r]);
    for (size_t row = 1; row < found->rows; row++)
        if (cell_is(markdown, found, row, 0, table->rows[r]) && same_before-- == 0) return row;
    return 0;
}
