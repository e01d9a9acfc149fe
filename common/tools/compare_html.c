/* The page: one file, without scripts and without anything from elsewhere. */
#include <stdlib.h>

#include "common/report/page.h"
#include "common/tools/compare.h"

/* Classes of curves: the page's colours by number. The caller frees them. */
static char *colors(void) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    for (int c = 0; c < CHART_COLORS; c++)
        fprintf(out, ".curve.line-%d,.leader.line-%d{stroke:var(--l%d)}.mark.line-%d{fill:var(--l%d)}\n", c,
                c, c, c, c);
    if (fclose(out) != 0) fail("out of memory");
    return text;
}

/* Model and device of each run, where the runs are not all of one kind: else once. */
static void write_runs(FILE *out, const struct compared *runs, size_t count) {
    fputs("<p>", out);
    for (size_t r = 0; r < count; r++) {
        const json_t *run = runs[r].metrics.run;
        const json_t *before = r ? runs[r - 1].metrics.run : NULL;
        if (before && json_equal(json_object_get(run, "model"), json_object_get(before, "model")) &&
            json_equal(json_object_get(run, "device"), json_object_get(before, "device")))
            continue;
        if (r) fputs("<br>from ", out);
        if (r) html_escape(out, runs[r].label);
        fputs(r ? " on: " : "", out);
        html_escape(out, run_metrics_text(run, "model"));
        fputs(" on ", out);
        html_escape(out, run_metrics_text(run, "device"));
    }
    fputs("</p>\n", out);
}

void html_write(FILE *out, const struct compared *runs, size_t run_count, const struct chart *charts,
                size_t chart_count) {
    struct table results = table_results(runs, run_count), settings = table_settings(runs, run_count);
    char *title = xformat("%zu run%s compared", run_count, run_count == 1 ? "" : "s"), *style = colors();
    page_begin(out, title, style);
    free(title);
    free(style);
    write_runs(out, runs, run_count);
    page_table(out, &results);
    fputs(
        "<p>Losses: the mean of all updates, and of the last evaluation. Off: largest relative difference of "
        "an update's loss from the first run's, where both make the same updates. Samples a second of the "
        "updates alone; memory is the ledger's peak on the largest rank; sent: by a rank in an update.</p>\n",
        out);
    for (size_t c = 0; c < chart_count; c++) {
        page_section(out, charts[c].title, charts[c].reader);
        svg_write(out, &charts[c]);
    }
    if (settings.columns > 1) {
        page_section(out, "Settings that differ", "All others are the same in all runs.");
        page_table(out, &settings);
    }
    page_end(out);
    table_free(&results);
    table_free(&settings);
}
