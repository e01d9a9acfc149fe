/* Charts as PNG, by gnuplot: one script draws all of them, light and dark. */
#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/tools/compare.h"

extern char **environ;

enum {
    STRIPE = 4, /* of curves that lie on each other: in line widths, about */
    LABEL_LETTERS = 25,
    WIDTH = 1920, /* of a picture, pixels */
    LETTER = 19   /* about as wide is one, pixels: gnuplot counts bytes, so it is told the margins */
};

/* The page's colours (compare_html.c). */
struct theme {
    const char *suffix; /* of the file's name */
    const char *paper, *ink, *grid;
    const char *lines[CHART_COLORS];
};

static const struct theme themes[] = {
    {"",
     "#ffffff",
     "#16181d",
     "#d9dce2",
     {"#0072b2", "#d55e00", "#008f68", "#b4578f", "#c08400", "#3b9ed6", "#3f444d"}},
    {"-dark",
     "#14161a",
     "#f2f3f5",
     "#3a3f48",
     {"#58b4f0", "#ff8a3d", "#2fcf9f", "#ec9dcb", "#f5c043", "#a9dcff", "#d5d8de"}}};

static const char *const parts[CHART_SEGMENTS] = {"#56b4e9", "#e69f00", "#2db88f", "#d98cb8",
                                                  "#a6a6a6", "#e3d53c", "#e8743b", "#8c9edb",
                                                  "#b5cf6b", "#d6a177", "#7fcdcd", "#c9c9c9"};

/* A string of gnuplot's that nothing in it can end, and that it does not interpret. */
static void write_string(FILE *out, const char *text) {
    fputc('\'', out);
    for (; *text; text++) {
        if (*text == '\'') fputc('\'', out);
        fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
    }
    fputc('\'', out);
}

static void write_start(FILE *out, const char *folder, const struct chart *chart, const struct theme *theme,
                        int height) {
    char *path = xformat("%s/%s%s.png", folder, chart->name, theme->suffix);
    fprintf(out, "reset\nset terminal pngcairo noenhanced size %d,%d background rgb '%s' font 'sans,26'\n",
            WIDTH, height, theme->paper);
    fputs("set output ", out);
    write_string(out, path);
    fprintf(out, "\nset border 3 lw 2 lc rgb '%s'\nset tics nomirror out textcolor rgb '%s'\n", theme->grid,
            theme->ink);
    fprintf(out, "set grid lc rgb '%s' lw 1.5 lt 1\nset title ", theme->grid);
    char *title = chart->bar_count ? xformat("%s (%s)", chart->title, chart->x_title) : xstrdup(chart->title);
    write_string(out, title);
    free(title);
    fprintf(out, " tc rgb '%s'\nset xlabel ", theme->ink);
    write_string(out, chart->bar_count ? "" : chart->x_title);
    fprintf(out, " tc rgb '%s'\nset key tc rgb '%s' noautotitle\n", theme->ink, theme->ink);
    free(path);
}

/* Pixels for the longest label, and what stands beside it. */
static double label_room(const struct chart *chart, size_t beside) {
    size_t most = 0;
    for (size_t c = 0; c < chart->curve_count + chart->bar_count; c++) {
        const char *label = chart->curve_count     ? chart->curves[c].label
                            : chart->bars[c].label ? chart->bars[c].label
                                                   : "";
        size_t count = letters(label);
        if (count > most) most = count;
    }
    return LETTER * (double)((most < LABEL_LETTERS ? most : LABEL_LETTERS) + beside);
}

/* ---- curves ---- */

/* The same as the page's. */
static void write_ranges(FILE *out, const struct chart *chart) {
    double x[2], y[2];
    chart_extent(chart, x, y);
    double step = axis_step(y[1] - y[0], 7);
    fprintf(out, "set xrange [%.10g:%.10g]\nset yrange [%.10g:%.10g]\n", fmin(0, x[0]), x[1],
            floor(y[0] / step) * step, ceil(y[1] / step) * step);
}

static void write_curves(FILE *out, const struct chart *chart, const struct theme *theme) {
    const char *before = "plot ";
    fputs("set ylabel ", out);
    write_string(out, chart->y_title);
    double right = 1 - label_room(chart, 8) / WIDTH;
    fprintf(out, " tc rgb '%s'\nset rmargin at screen %.3f\n", theme->ink, right);
    fprintf(out, "set key at screen %.3f,0.5 left center vertical reverse Left samplen 1.5\n", right + 0.01);
    write_ranges(out, chart);
    for (size_t c = 0; c < chart->curve_count; c++) {
        const struct curve *curve = &chart->curves[c];
        if (!curve->count) continue;
        fprintf(out, "$curve%zu << EOD\n", c);
        for (size_t i = 0; i < curve->count; i++) fprintf(out, "%.10g %.10g\n", curve->x[i], curve->y[i]);
        fputs("EOD\n", out);
    }
    for (size_t c = 0; c < chart->curve_count; c++) {
        const struct curve *curve = &chart->curves[c];
        if (!curve->count) continue;
        char shared[48] = "";
        if (curve->member) snprintf(shared, sizeof shared, " every ::::%zu", curve->shared - 1);
        fprintf(out, "%s$curve%zu%s using 1:2 with %s lw 7 lc rgb '%s'", before, c, shared,
                chart->marks && !curve->member ? "linespoints pt 7 ps 2" : "lines",
                theme->lines[c % CHART_COLORS]);
        if (curve->member) /* a stripe of those beneath stays in sight */
            fprintf(out, " dt (%zu,%zu)", STRIPE * (curve->members - curve->member), STRIPE * curve->member);
        fputs(" title ", out);
        char *label = label_end(curve->label, LABEL_LETTERS);
        write_string(out, label);
        free(label);
        before = ", \\\n  ";
        if (curve->member && curve->shared < curve->count) /* alone from here on */
            fprintf(out, "%s$curve%zu every ::%zu using 1:2 with lines lw 7 lc rgb '%s'", before, c,
                    curve->shared - 1, theme->lines[c % CHART_COLORS]);
    }
    fputs("\n", out);
}

/* ---- bars ---- */

/* Rows from the top down; a gap before each run. */
static double row_of(const struct chart *chart, size_t bar) {
    double row = 0;
    for (size_t b = 1; b <= bar; b++) row += chart->bars[b].label ? 1.4 : 1;
    return row;
}

static void write_bar_labels(FILE *out, const struct chart *chart) {
    fputs("set ytics scale 0 (", out);
    for (size_t b = 0; b < chart->bar_count; b++) {
        const struct bar *bar = &chart->bars[b];
        char *label = label_end(bar->label ? bar->label : "", LABEL_LETTERS);
        char *text = xformat("%s%s%s", label, label[0] && bar->kind[0] ? "  " : "", bar->kind);
        fputs(b ? ", " : "", out);
        write_string(out, text);
        fprintf(out, " %g", row_of(chart, b));
        free(text);
        free(label);
    }
    fputs(")\n", out);
}

/* One data block a segment and shade: rows of start, end, row. */
static void write_segments(FILE *out, const struct chart *chart) {
    for (int s = 0; s < chart->segment_count; s++)
        for (int pale = 0; pale < 2; pale++) {
            fprintf(out, "$part%d_%d << EOD\n", s, pale);
            for (size_t b = 0; b < chart->bar_count; b++) {
                const struct bar *bar = &chart->bars[b];
                double start = 0, row = row_of(chart, b);
                for (int before = 0; before < s; before++) start += bar->values[before];
                if (bar->pale == pale && bar->values[s] > 0)
                    fprintf(out, "%.10g %.10g %g\n", start, start + bar->values[s], row);
            }
            fputs("EOD\n", out);
        }
}

static bool has_part(const struct chart *chart, int segment, int pale) {
    for (size_t b = 0; b < chart->bar_count; b++)
        if (chart->bars[b].pale == pale && chart->bars[b].values[segment] > 0) return true;
    return false;
}

static void write_bars(FILE *out, const struct chart *chart, const struct theme *theme) {
    const char *before = "plot ";
    double longest = chart_longest_bar(chart);
    fprintf(out, "set xrange [0:%.10g]\nset yrange [%g:-0.8]\nunset grid\n", longest * 1.2,
            row_of(chart, chart->bar_count - 1) + 0.8);
    fprintf(out,
            "set grid x lc rgb '%s' lw 1.5 lt 1\nset key bmargin center horizontal reverse Left samplen 0.8 "
            "width -1\n",
            theme->grid);
    fprintf(out, "set lmargin at screen %.3f\nset rmargin at screen 0.97\n",
            label_room(chart, chart->bars[0].kind[0] ? 13 : 3) / WIDTH);
    write_bar_labels(out, chart);
    write_segments(out, chart);
    for (size_t b = 0; b < chart->bar_count; b++) {
        const struct bar *bar = &chart->bars[b];
        double end = 0;
        for (int s = 0; s < chart->segment_count; s++) end += bar->values[s];
        fputs("set label ", out);
        write_string(out, bar->text);
        fprintf(out, " at %.10g,%g left offset 1,0 front tc rgb '%s'\n", end, row_of(chart, b), theme->ink);
    }
    for (int s = 0; s < chart->segment_count; s++) {
        for (int pale = 0; pale < 2; pale++) {
            if (!has_part(chart, s, pale)) continue;
            fprintf(out, "%s$part%d_%d using 1:3:1:2:($3-0.42):($3+0.42) with boxxyerror fs %s noborder ",
                    before, s, pale, pale ? "transparent solid 0.32" : "solid 1");
            fprintf(out, "lc rgb '%s' title ", parts[s]);
            write_string(out, pale && has_part(chart, s, 0) ? "" : chart->segments[s]);
            before = ", \\\n  ";
        }
    }
    fputs("\n", out);
}

static char *script_of(const char *folder, const struct chart *charts, size_t count) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out) fail("out of memory");
    fputs("# The pictures of compare; gnuplot draws them again from this file.\n", out);
    for (size_t c = 0; c < count; c++)
        for (size_t t = 0; t < sizeof themes / sizeof *themes; t++) {
            const struct chart *chart = &charts[c];
            double rows = chart->bar_count ? row_of(chart, chart->bar_count - 1) : 0;
            double height = chart->curve_count ? 1080 : fmin(320 + 62 * rows, 8000);
            write_start(out, folder, chart, &themes[t], (int)height);
            if (chart->curve_count)
                write_curves(out, chart, &themes[t]);
            else
                write_bars(out, chart, &themes[t]);
        }
    fputs("set output\n", out);
    if (fclose(out) != 0) fail("out of memory");
    return text;
}

/* Its exit code; -1 with `error` where it cannot be started. */
static int run_gnuplot(const char *script, struct error *error) {
    char *arguments[] = {(char[]){"gnuplot"}, xformat("%s%s", script[0] == '-' ? "./" : "", script), NULL};
    pid_t child;
    int status = 0, reason = posix_spawnp(&child, "gnuplot", NULL, NULL, arguments, environ);
    free(arguments[1]);
    if (reason == ENOENT) {
        error_set(error,
                  "no PNGs: gnuplot is not here (Debian, Ubuntu: apt-get install gnuplot-nox); the page "
                  "has all pictures");
        return -1;
    }
    if (reason) {
        error_set(error, "no PNGs: gnuplot does not start: %s", strerror(reason));
        return -1;
    }
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) {
            error_set(error, "no PNGs: gnuplot cannot be waited for: %s", strerror(errno));
            return -1;
        }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

bool gnuplot_draw(const char *folder, const struct chart *charts, size_t count, struct error *error) {
    char *path = xformat("%s/charts.gnuplot", folder), *script = script_of(folder, charts, count);
    bool drawn = file_write(path, script, strlen(script), error);
    if (drawn) {
        int code = run_gnuplot(path, error);
        drawn = code == 0;
        if (code > 0)
            error_set(error,
                      "no PNGs: gnuplot failed on %s (exit code %d): it must have the terminal pngcairo",
                      path, code);
    }
    free(script);
    free(path);
    return drawn;
}
