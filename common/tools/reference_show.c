#include <stdlib.h>
#include <string.h>

#include "common/tools/reference.h"

enum { LONGEST_CELL = 256 };

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static const char *text_in(const json_t *list, size_t index) {
    const char *text = json_string_value(json_array_get(list, index));
    return text ? text : "";
}

/* ---- a cell ---- */

struct shown {
    FILE *out;
    const json_t *document, *runs;
    const char *path;  /* of the file, for errors */
    const char *table; /* its title, likewise */
    struct error *error;
};

static bool show_cell(const struct shown *shown, const char *id, const char *quantity) {
    char text[LONGEST_CELL];
    const json_t *run = json_object_get(shown->runs, id);
    if (id[0] && !run)
        return error_set(shown->error, "%s: table \"%s\" names a run '%s', and there is none", shown->path,
                         shown->table, id);
    if (!quantity_text(quantity, shown->runs, run, text, sizeof text))
        return error_set(
            shown->error,
            "%s: table \"%s\" names a quantity '%s', and there is none: reference_quantities.c lists them",
            shown->path, shown->table, quantity);
    fprintf(shown->out, " %s |", text);
    return true;
}

/* A head's second line: as many columns as that, and one before them. */
static void end_head(FILE *out, size_t columns) {
    fprintf(out, "\n|---|");
    for (size_t c = 0; c < columns; c++) fprintf(out, "---|");
    fprintf(out, "\n");
}

/* ---- the three forms ---- */

static bool show_runs_as_columns(const struct shown *shown, const json_t *table) {
    const json_t *columns = json_object_get(table, "columns"), *names = json_object_get(table, "quantities");
    fprintf(shown->out, "| %s |", text_of(table, "corner"));
    for (size_t c = 0; c < json_array_size(columns); c++)
        fprintf(shown->out, " %s |", text_in(json_array_get(columns, c), 0));
    end_head(shown->out, json_array_size(columns));
    for (size_t q = 0; q < json_array_size(names); q++) {
        const char *title = quantity_title(text_in(names, q));
        fprintf(shown->out, "| %s |", title ? title : "");
        for (size_t c = 0; c < json_array_size(columns); c++)
            if (!show_cell(shown, text_in(json_array_get(columns, c), 1), text_in(names, q))) return false;
        fprintf(shown->out, "\n");
    }
    return true;
}

static bool show_runs_as_rows(const struct shown *shown, const json_t *table) {
    const json_t *rows = json_object_get(table, "rows"), *names = json_object_get(table, "quantities");
    fprintf(shown->out, "| %s |", text_of(table, "corner"));
    for (size_t q = 0; q < json_array_size(names); q++) {
        const char *title = quantity_title(text_in(names, q));
        fprintf(shown->out, " %s |", title ? title : "");
    }
    end_head(shown->out, json_array_size(names));
    for (size_t r = 0; r < json_array_size(rows); r++) {
        const json_t *row = json_array_get(rows, r);
        fprintf(shown->out, "| %s |", text_in(row, 0));
        for (size_t q = 0; q < json_array_size(names); q++)
            if (!show_cell(shown, text_in(row, 1), text_in(names, q))) return false;
        fprintf(shown->out, "\n");
    }
    return true;
}

static bool show_grid(const struct shown *shown, const json_t *table) {
    const json_t *rows = json_object_get(table, "rows"), *columns = json_object_get(table, "columns");
    fprintf(shown->out, "| %s |", text_of(table, "corner"));
    for (size_t c = 0; c < json_array_size(columns); c++) fprintf(shown->out, " %s |", text_in(columns, c));
    end_head(shown->out, json_array_size(columns));
    for (size_t r = 0; r < json_array_size(rows); r++) {
        const json_t *row = json_array_get(rows, r);
        fprintf(shown->out, "| %s |", text_in(row, 0));
        for (size_t c = 1; c <= json_array_size(columns); c++)
            if (!show_cell(shown, text_in(row, c), text_of(table, "grid"))) return false;
        fprintf(shown->out, "\n");
    }
    return true;
}

/* ---- where it is from ---- */

/* What gives this run again. */
static char *command_of(const json_t *run) {
    const char *given = json_string_value(json_object_get(run, "command"));
    const char *backend = text_of(run, "backend"), *stage = text_of(run, "stage"),
               *settings = text_of(run, "settings");
    long long ranks = json_integer_value(json_object_get(run, "ranks"));
    const char *space = settings[0] ? " " : "";
    if (given) return xstrdup(given);
    if (!strcmp(backend, "dry")) return xformat("build/dry/%s/train%s%s", stage, space, settings);
    if (!strcmp(backend, "plan"))
        return xformat("./workshop plan %s --ranks %lld%s%s", stage, ranks, space, settings);
    if (ranks > 1) return xformat("./workshop run %s --ranks %lld%s%s", stage, ranks, space, settings);
    return xformat("./workshop run %s%s%s", stage, space, settings);
}

static void show_origin(const struct shown *shown, const char *title, const char *id) {
    const json_t *run = json_object_get(shown->runs, id), *results = json_object_get(run, "results");
    const char *source = json_string_value(json_object_get(run, "source"));
    if (!results) return;
    if (source) {
        fprintf(shown->out, "- %s: %s\n", title, source);
        return;
    }
    char *command = command_of(run);
    const char *commit = text_of(results, "commit");
    fprintf(shown->out, "- %s: `%s` (%s, %s%s%s)\n", title, command,
            text_of(json_object_get(results, "run"), "precision"), text_of(results, "date"),
            commit[0] ? ", " : "", commit);
    free(command);
}

static void show_origins(const struct shown *shown, const json_t *table) {
    const json_t *list =
        json_object_get(table, "rows") ? json_object_get(table, "rows") : json_object_get(table, "columns");
    if (json_is_false(json_object_get(table, "commands"))) return;
    fprintf(shown->out, "\n<details><summary>The runs</summary>\n\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        for (size_t c = 1; c < json_array_size(row); c++) {
            const char *column = text_in(json_object_get(table, "columns"), c - 1);
            char *title = json_object_get(table, "grid") ? xformat("%s, %s", text_in(row, 0), column)
                                                         : xstrdup(text_in(row, 0));
            show_origin(shown, title, text_in(row, c));
            free(title);
        }
    }
    fprintf(shown->out, "\n</details>\n");
}

/* ---- all of it ---- */

static bool show_table(struct shown *shown, const json_t *table) {
    bool grid = json_object_get(table, "grid"), rows = json_object_get(table, "rows");
    shown->table = text_of(table, "title");
    fprintf(shown->out, "\n## %s\n\n", shown->table);
    if (text_of(table, "sheet")[0])
        fprintf(shown->out, "For [this question of the sheet](../%s).", text_of(table, "sheet"));
    if (text_of(table, "text")[0])
        fprintf(shown->out, "%s%s", text_of(table, "sheet")[0] ? " " : "", text_of(table, "text"));
    if (text_of(table, "sheet")[0] || text_of(table, "text")[0]) fprintf(shown->out, "\n\n");
    if (!(grid ? show_grid : rows ? show_runs_as_rows : show_runs_as_columns)(shown, table)) return false;
    show_origins(shown, table);
    return true;
}

static void show_machine(FILE *out, const json_t *machine) {
    const char *name;
    json_t *value;
    if (!json_object_size(machine)) return;
    fprintf(out, "\n| | |\n|---|---|\n");
    json_object_foreach((json_t *)(size_t)machine, name, value) {
        if (json_is_string(value))
            fprintf(out, "| %s | %s |\n", name, json_string_value(value));
        else
            fprintf(out, "| %s | %.15g |\n", name, json_number_value(value));
    }
}

bool reference_show(FILE *out, const json_t *document, const char *path, struct error *error) {
    struct shown shown = {.out = out, .document = document, .path = path, .error = error};
    const json_t *tables = json_object_get(document, "tables");
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    shown.runs = json_object_get(document, "runs");
    if (!json_is_object(shown.runs) || !json_is_array(tables))
        return error_set(error, "%s: no file of reference results: it has no \"runs\" or no \"tables\"",
                         path);
    fprintf(out, "<!-- Made by ./workshop reference from %s: edit that. -->\n", name);
    fprintf(out, "# %s\n", text_of(document, "title"));
    if (text_of(document, "text")[0]) fprintf(out, "\n%s\n", text_of(document, "text"));
    show_machine(out, json_object_get(document, "machine"));
    for (size_t t = 0; t < json_array_size(tables); t++)
        if (!show_table(&shown, json_array_get(tables, t))) return false;
    return true;
}
