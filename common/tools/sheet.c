/*
 * sheet fill STAGE [--run RUN[,RUN…]]… [--output FILE] [--refill]
 * sheet check STAGE [SHEET] [--run RUN[,RUN…]]…
 *
 * Exercise sheets and runs: see sheet.h. Started by ./workshop sheet and ./workshop check, whose help
 * explains them. `sheet check` ends with exit code 1 where an entry does not agree.
 */
#include "common/tools/sheet.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/report/find_runs.h"
#include "common/report/table.h"
#include "common/train/settings.h"

struct options {
    const char *command, *stage;
    const char *sheet; /* NULL: the default place */
    char **runs;       /* [run_count]; none: those below runs/ */
    size_t run_count;
    bool refill;
};

/* ---- arguments ---- */

static void add_runs(struct options *options, const char *list) {
    while (list) {
        const char *comma = strchr(list, ',');
        char *run = comma ? xformat("%.*s", (int)(comma - list), list) : xstrdup(list);
        options->runs = xrealloc(options->runs, (options->run_count + 1) * sizeof *options->runs);
        if (run[0])
            options->runs[options->run_count++] = run;
        else
            free(run);
        list = comma ? comma + 1 : NULL;
    }
}

/* The value of --NAME VALUE or --NAME=VALUE at argument *i, which moves on; NULL where it is another one. */
static const char *option_value(const struct options *options, const char *name, int *i, int count,
                                char **arguments) {
    size_t length = strlen(name);
    const char *argument = arguments[*i], *value;
    if (strncmp(argument, name, length) != 0) return NULL;
    if (argument[length] == '=')
        value = argument + length + 1;
    else if (!argument[length])
        value = *i + 1 < count ? arguments[++*i] : "";
    else
        return NULL;
    if (!value[0]) fail("%s needs a value: ./workshop %s --help", name, options->command);
    return value;
}

static void read_arguments(struct options *options, int count, char **arguments) {
    if (count < 3 || (strcmp(arguments[1], "fill") != 0 && strcmp(arguments[1], "check") != 0))
        fail("sheet fill STAGE …, or sheet check STAGE …: ./workshop sheet --help");
    bool check = !strcmp(arguments[1], "check");
    options->command = check ? "check" : "sheet";
    options->stage = arguments[2];
    for (int i = 3; i < count; i++) {
        const char *value;
        if ((value = option_value(options, "--run", &i, count, arguments)))
            add_runs(options, value);
        else if (!check && (value = option_value(options, "--output", &i, count, arguments)))
            options->sheet = value;
        else if (!check && !strcmp(arguments[i], "--refill"))
            options->refill = true;
        else if (check && arguments[i][0] != '-' && !options->sheet)
            options->sheet = arguments[i];
        else
            fail("%s does not take '%s': ./workshop %s --help", options->command, arguments[i],
                 options->command);
    }
}

/* ---- reading ---- */

static char *exercise(const char *format, const char *stage) {
    char *inside = xformat("exercises/%s%s%s", strcmp(format, "json") ? "" : "cells/", stage,
                           strcmp(format, "json") ? ".md" : ".json");
    char *path = settings_data_path(inside);
    if (!path) fail("%s: not here: is '%s' a stage with exercises?", inside, stage);
    free(inside);
    return path;
}

static int newest_first(const void *a, const void *b) {
    const struct sheet_run *first = a, *second = b;
    const struct timespec *x = &first->written, *y = &second->written;
    if (x->tv_sec != y->tv_sec) return x->tv_sec < y->tv_sec ? 1 : -1;
    if (x->tv_nsec != y->tv_nsec) return x->tv_nsec < y->tv_nsec ? 1 : -1;
    return strverscmp(second->folder, first->folder);
}

/* All runs below the folders; those that cannot be read are warned of. */
static void read_runs(struct sheet *sheet, const struct options *options) {
    static char *everywhere[] = {"runs"};
    struct found_runs found;
    struct error error;
    bool given = options->run_count > 0;
    if (!given && !file_exists("runs")) return;
    if (!find_runs(&found, (const char *const *)(given ? options->runs : everywhere),
                   given ? options->run_count : 1, &error))
        fail("%s", error.text);
    sheet->runs = xcalloc(found.count + 1, sizeof *sheet->runs);
    for (size_t i = 0; i < found.count; i++) {
        struct sheet_run *run = &sheet->runs[sheet->run_count];
        if (!run_metrics_read(&run->metrics, found.runs[i].path, &error)) {
            warn("%s", error.text);
            continue;
        }
        run->written = found.runs[i].written;
        run->folder = shown_text(run->metrics.folder);
        sheet->run_count++;
    }
    if (given && !sheet->run_count) fail("%s: no run's metrics.jsonl below it", options->runs[0]);
    if (sheet->run_count) qsort(sheet->runs, sheet->run_count, sizeof *sheet->runs, newest_first);
    found_runs_free(&found);
}

static void read_sheet(struct sheet *sheet, const struct options *options) {
    struct error error;
    char *cells = exercise("json", options->stage);
    if (!sheet_cells_read(&sheet->cells, cells, &error)) fail("%s", error.text);
    free(cells);
    sheet->original = exercise("md", options->stage);
    sheet->path = options->sheet ? xstrdup(options->sheet) : xformat("runs/sheets/%s.md", options->stage);
    sheet->refill = options->refill;
    sheet->is_new = !file_exists(sheet->path);
    if (sheet->is_new && !strcmp(options->command, "check"))
        fail("%s: no sheet there: ./workshop sheet %s makes one, or name yours", sheet->path, options->stage);
    if (!markdown_read(&sheet->markdown, sheet->is_new ? sheet->original : sheet->path, &error))
        fail("%s", error.text);
}

static void free_sheet(struct sheet *sheet) {
    for (size_t r = 0; r < sheet->run_count; r++) {
        run_metrics_free(&sheet->runs[r].metrics);
        free(sheet->runs[r].folder);
    }
    free(sheet->runs);
    free(sheet->path);
    free(sheet->original);
    markdown_free(&sheet->markdown);
    sheet_cells_free(&sheet->cells);
}

int main(int argc, char **argv) {
    struct options options = {.run_count = 0};
    struct sheet sheet = {.run_count = 0};
    int wrong = 0;
    read_arguments(&options, argc, argv);
    read_sheet(&sheet, &options);
    read_runs(&sheet, &options);
    if (!strcmp(options.command, "check"))
        wrong = sheet_check(&sheet);
    else
        sheet_fill(&sheet);
    free_sheet(&sheet);
    for (size_t i = 0; i < options.run_count; i++) free(options.runs[i]);
    free(options.runs);
    return wrong ? 1 : 0;
}
