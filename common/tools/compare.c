/*
 * compare RUN… [--output DIR]
 *
 * Several runs beside each other: see compare.h. Started by ./workshop compare, whose help explains it.
 */
#include "common/tools/compare.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

struct options {
    const char **paths; /* [count] of runs */
    size_t count;
    char *output; /* folder; NULL: a new one */
};

static void read_arguments(struct options *options, int count, char **arguments) {
    options->paths = xcalloc((size_t)count, sizeof *options->paths);
    for (int i = 1; i < count; i++) {
        bool equals = !strncmp(arguments[i], "--output=", 9);
        if (equals || !strcmp(arguments[i], "--output")) {
            const char *value = equals ? arguments[i] + 9 : i + 1 < count ? arguments[++i] : "";
            if (!value[0]) fail("--output needs a folder: ./workshop compare --help");
            free(options->output);
            options->output = xstrdup(value);
        } else if (!strncmp(arguments[i], "--", 2)) {
            fail("compare has no option '%s': ./workshop compare --help", arguments[i]);
        } else {
            options->paths[options->count++] = arguments[i];
        }
    }
    if (!options->count) fail("compare needs runs, for example: ./workshop compare runs/01-* runs/02-*");
}

/* Folders below runs/ that are no runs (runs/sheets, runs/compare-1) are left out, so that all that is there
 * may be given; but if there is nothing else, it is an error. */
static void leave_out_others(struct options *options) {
    size_t kept = 0;
    for (size_t p = 0; p < options->count; p++) {
        char *file = xformat("%s/metrics.jsonl", options->paths[p]);
        bool other =
            directory_exists(options->paths[p]) && !file_exists(file) && (kept || p + 1 < options->count);
        free(file);
        if (other)
            warn("%s holds no run: left out", options->paths[p]);
        else
            options->paths[kept++] = options->paths[p];
    }
    options->count = kept;
}

/* ---- labels ---- */

/* The last `parts` names of a path. */
static char *path_end(const char *path, int parts) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0) {
        if (path[start - 1] == '/' && (--parts == 0 || start == 1)) break;
        start--;
    }
    return xformat("%.*s", (int)(end - start), path + start);
}

static bool labels_differ(const struct compared *runs, size_t count) {
    for (size_t a = 0; a < count; a++)
        for (size_t b = a + 1; b < count; b++)
            if (!strcmp(runs[a].label, runs[b].label)) return false;
    return true;
}

/* As few names of each path as tell all apart, but never more than four: the same run may be given twice. */
static void label_runs(struct compared *runs, size_t count) {
    for (int parts = 1; parts <= 4; parts++) {
        for (size_t r = 0; r < count; r++) {
            free(runs[r].label);
            runs[r].label = path_end(runs[r].metrics.folder, parts);
        }
        if (labels_differ(runs, count)) return;
    }
}

/* ---- all of it ---- */

static char *new_folder(void) {
    for (int number = 1;; number++) {
        char *folder = xformat("runs/compare-%d", number);
        if (!file_exists(folder)) return folder;
        free(folder);
    }
}

static void write_page(const char *folder, const struct compared *runs, size_t count,
                       const struct chart *charts, size_t chart_count) {
    struct error error;
    char *text = NULL, *path = xformat("%s/compare.html", folder);
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    html_write(out, runs, count, charts, chart_count);
    if (fclose(out) != 0) fail("out of memory");
    if (!file_write(path, text, size, &error)) fail("%s", error.text);
    printf("\nwritten to %s\n", path);
    free(text);
    free(path);
}

static void print_tables(const struct compared *runs, size_t count) {
    struct table results = table_results(runs, count), settings = table_settings(runs, count);
    table_print(&results);
    if (settings.columns > 1) {
        printf("\nsettings that differ\n");
        table_print(&settings);
    }
    table_free(&results);
    table_free(&settings);
}

int main(int argc, char **argv) {
    struct options options = {.count = 0};
    struct error error;
    size_t chart_count;
    read_arguments(&options, argc, argv);
    leave_out_others(&options);
    struct compared *runs = xcalloc(options.count, sizeof *runs);
    for (size_t r = 0; r < options.count; r++)
        if (!run_metrics_read(&runs[r].metrics, options.paths[r], &error)) fail("%s", error.text);
    label_runs(runs, options.count);
    if (!options.output) options.output = new_folder();
    if (!directory_create(options.output, &error)) fail("%s", error.text);
    struct chart *charts = charts_make(runs, options.count, &chart_count);
    print_tables(runs, options.count);
    write_page(options.output, runs, options.count, charts, chart_count);
    if (chart_count && !gnuplot_draw(options.output, charts, chart_count, &error)) warn("%s", error.text);
    charts_free(charts, chart_count);
    for (size_t r = 0; r < options.count; r++) {
        run_metrics_free(&runs[r].metrics);
        free(runs[r].label);
    }
    free(runs);
    free(options.paths);
    free(options.output);
    return 0;
}
