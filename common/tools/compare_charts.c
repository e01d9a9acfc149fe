#include "common/tools/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/device/ledger.h"
#include "common/device/phases.h"

/* ---- numbers ---- */

double axis_step(double length, int most) {
    if (!(length > 1e-30) || !isfinite(length)) return 1;
    double power = pow(10, floor(log10(length / most)));
    static const double steps[] = {1, 2, 5};
    for (int i = 0; i < 3; i++)
        if (length / (steps[i] * power) <= most) return steps[i] * power;
    return 10 * power;
}

/* Larger numbers come from no run; axes stay clear of what doubles cannot do. */
static const double largest = 1e18;

static double or_zero(double value) {
    return value > 0 && value < largest ? value : 0;
}

double chart_longest_bar(const struct chart *chart) {
    double longest = 0;
    for (size_t b = 0; b < chart->bar_count; b++) {
        double sum = 0;
        for (int s = 0; s < chart->segment_count; s++) sum += chart->bars[b].values[s];
        longest = fmax(longest, sum);
    }
    return longest;
}

static void widen(double range[2], double value) {
    range[0] = fmin(range[0], value);
    range[1] = fmax(range[1], value);
}

void chart_extent(const struct chart *chart, double x[2], double y[2]) {
    x[0] = y[0] = INFINITY;
    x[1] = y[1] = -INFINITY;
    for (size_t c = 0; c < chart->curve_count; c++)
        for (size_t i = 0; i < chart->curves[c].count; i++) {
            widen(x, chart->curves[c].x[i]);
            widen(y, chart->curves[c].y[i]);
        }
    for (int i = 0; i < 2; i++) { /* a single point still needs a range */
        double *range = i ? y : x, room = fmax(1e-3 * fabs(range[0]), 1e-6);
        if (range[1] - range[0] < room) {
            range[0] -= room;
            range[1] += room;
        }
    }
}

/* ---- adding bars ---- */

static struct bar *add_bar(struct chart *chart, const char *label, const char *kind) {
    chart->bars = xrealloc(chart->bars, (chart->bar_count + 1) * sizeof *chart->bars);
    struct bar *bar = &chart->bars[chart->bar_count++];
    memset(bar, 0, sizeof *bar);
    bar->label = label;
    bar->kind = kind;
    bar->pale = !strcmp(kind, "predicted");
    return bar;
}

static void bar_says(struct bar *bar, double value, const char *unit) {
    char text[32];
    number_text(text, value);
    snprintf(bar->text, sizeof bar->text, "%.24s%s%.20s", text, unit[0] ? " " : "", unit);
}

/* What stands instead of a bar that a run has no number for. */
static void bar_missing(struct bar *bar, const struct compared *run, const char *otherwise) {
    char state[96];
    run_metrics_state(&run->metrics, state);
    bar->kind = "";
    snprintf(bar->text, sizeof bar->text, "%.46s", run->metrics.summary ? otherwise : state);
}

/* ---- losses ---- */

/* Updates are an axis for runs whose updates have the same number of examples; epochs are one for all. */
static bool same_updates(const struct compared *runs, size_t count) {
    for (size_t r = 1; r < count; r++)
        if (run_metrics_examples_per_update(&runs[r].metrics) !=
            run_metrics_examples_per_update(&runs[0].metrics))
            return false;
    return true;
}

static void add_curve(struct chart *chart, const struct compared *run, const struct run_point *points,
                      size_t count, bool updates) {
    chart->curves = xrealloc(chart->curves, (chart->curve_count + 1) * sizeof *chart->curves);
    struct curve *curve = &chart->curves[chart->curve_count];
    *curve = (struct curve){.label = run->label,
                            .x = xcalloc(count + 1, sizeof(double)),
                            .y = xcalloc(count + 1, sizeof(double))};
    for (size_t i = 0; i < count; i++) {
        double x = updates ? points[i].step : points[i].epoch;
        if (!(fabs(x) < largest) || !(fabs(points[i].loss) < largest)) continue;
        curve->x[curve->count] = x;
        curve->y[curve->count++] = points[i].loss;
    }
    chart->curve_count++; /* an empty one, too: a run keeps its colour in all pictures */
}

static bool has_points(const struct chart *chart) {
    for (size_t c = 0; c < chart->curve_count; c++)
        if (chart->curves[c].count) return true;
    return false;
}

/* Do they lie on each other as far as the shorter one goes? To the eye: 0.4% of the picture's height. */
static bool coincide(const struct curve *a, const struct curve *b, double height) {
    size_t count = a->count < b->count ? a->count : b->count;
    for (size_t i = 0; i < count; i++)
        if (a->x[i] != b->x[i] || !(fabs(a->y[i] - b->y[i]) < 0.004 * height)) return false;
    return count > 0;
}

/* The first of the curves that this one lies on; itself where it lies on none. */
static size_t first_of(const struct chart *chart, size_t curve, double height) {
    for (size_t c = 0; c < curve; c++)
        if (coincide(&chart->curves[c], &chart->curves[curve], height)) return c;
    return curve;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static void group_curves(struct chart *chart) {
    double x[2], y[2];
    chart_extent(chart, x, y);
    for (size_t c = 0; c < chart->curve_count; c++) {
        size_t first = first_of(chart, c, y[1] - y[0]);
        chart->curves[c].member = chart->curves[first].members++ * (first != c);
    }
    for (size_t c = 0; c < chart->curve_count; c++) {
        struct curve *curve = &chart->curves[c];
        size_t first = first_of(chart, c, y[1] - y[0]);
        curve->members = chart->curves[first].members;
        for (size_t other = first; other < c; other++)
            if (coincide(curve, &chart->curves[other], y[1] - y[0]))
                curve->shared = larger(curve->shared, smaller(curve->count, chart->curves[other].count));
    }
}

static struct chart loss_chart(const struct compared *runs, size_t count, bool evaluations) {
    bool updates = same_updates(runs, count);
    struct chart chart = {
        .name = evaluations ? "evaluation" : "loss",
        .title = evaluations ? "Evaluation loss" : "Training loss",
        .reader = evaluations ? "Loss on the validation text, before, during and after training."
                              : "Loss of every update. Runs that make the same updates should lie on each "
                                "other; they then show as one line, striped in their colours.",
        .x_title = updates ? "updates" : "epochs (the runs' updates have different sizes)",
        .y_title = "loss",
        .marks = evaluations,
    };
    for (size_t r = 0; r < count; r++) {
        const struct run_metrics *m = &runs[r].metrics;
        add_curve(&chart, &runs[r], evaluations ? m->evaluations : m->steps,
                  evaluations ? m->evaluation_count : m->step_count, updates);
    }
    group_curves(&chart);
    return chart;
}

/* ---- memory ---- */

/* Bytes of a unit that leaves numbers short. */
static double memory_unit(const struct compared *runs, size_t count, const char *place, const char **name) {
    double most = 0;
    char path[64];
    snprintf(path, sizeof path, "%s.total.peak_bytes", place);
    for (size_t r = 0; r < count; r++)
        most = fmax(most, or_zero(run_metrics_number(runs[r].metrics.memory, path)));
    bool large = most > 20 * 1024.0 * (1 << 20);
    *name = large ? "GiB" : "MiB";
    return large ? 1 << 30 : 1 << 20;
}

/* A bar of one key of all headings; their sum. */
static double fill_headings(struct bar *bar, const json_t *memory, const char *place, const char *key,
                            double unit) {
    double sum = 0;
    for (int h = 0; h < HEADINGS; h++) {
        char path[96];
        snprintf(path, sizeof path, "%s.%s.%s", place, heading_name((enum heading)h), key);
        bar->values[h] = or_zero(run_metrics_number(memory, path)) / unit;
        sum += bar->values[h];
    }
    return sum;
}

static void add_memory(struct chart *chart, const struct compared *run, const char *place, double unit,
                       const char *unit_name) {
    const json_t *memory = run->metrics.memory;
    if (!memory) {
        bar_missing(add_bar(chart, run->label, ""), run, "-");
        return;
    }
    struct bar *predicted = add_bar(chart, run->label, "predicted");
    double sum = fill_headings(predicted, memory, place, "predicted_bytes", unit);
    if (sum > 0)
        bar_says(predicted, sum, unit_name);
    else
        chart->bar_count--; /* no formula for this place */
    struct bar *measured = add_bar(chart, sum > 0 ? NULL : run->label, "measured");
    char path[64];
    snprintf(path, sizeof path, "%s.total.peak_bytes", place);
    fill_headings(measured, memory, place, "peak_bytes", unit);
    bar_says(measured, run_metrics_number(memory, path) / unit, unit_name);
}

static struct chart memory_chart(const struct compared *runs, size_t count, bool host) {
    const char *unit_name, *place = host ? "host" : "device";
    double unit = memory_unit(runs, count, place, &unit_name);
    struct chart chart = {
        .name = host ? "host-memory" : "memory",
        .title = host ? "Host memory of a rank, by heading" : "Device memory of a rank, by heading",
        .reader = host ? "What the ledger books in host memory, at its peak: on the largest rank."
                       : "Pale: by the stage's formula, where it has one (buffers have none). Full: each "
                         "heading's peak, on the largest rank. The number is the peak of the sum, which may "
                         "be less than the sum of the peaks.",
        .x_title = unit_name,
        .segment_count = HEADINGS,
    };
    for (int h = 0; h < HEADINGS; h++) chart.segments[h] = heading_name((enum heading)h);
    for (size_t r = 0; r < count; r++) add_memory(&chart, &runs[r], place, unit, unit_name);
    return chart;
}

/* ---- speed ---- */

static struct chart speed_chart(const struct compared *runs, size_t count) {
    struct chart chart = {
        .name = "speed",
        .title = "Training samples a second",
        .reader = "All ranks together, the updates alone: without evaluation, saving and the first three "
                  "updates. Only runs of the same machine, with nothing else on it, can be compared.",
        .x_title = "samples/s",
        .segments = {""},
        .segment_count = 1,
    };
    for (size_t r = 0; r < count; r++) {
        double rate = run_metrics_number(runs[r].metrics.summary, "update_samples_per_second");
        struct bar *bar = add_bar(&chart, runs[r].label, "");
        bar->values[0] = or_zero(rate);
        if (rate > 0)
            bar_says(bar, rate, "");
        else
            bar_missing(bar, &runs[r], run_metrics_is_dry(&runs[r].metrics) ? "dry: computes nothing" : "-");
    }
    return chart;
}

/* ---- time ---- */

static const char *phase_title(enum phase phase) {
    return phase == PHASE_COMMUNICATION ? "communication exposed" : phase_name(phase);
}

static struct chart time_chart(const struct compared *runs, size_t count) {
    struct chart chart = {
        .name = "time",
        .title = "Time of an update, by phase",
        .reader = "Medians on rank 0. Communication is only what computation does not hide. A run without "
                  "time_phases has one bar for the whole update.",
        .x_title = "ms",
        .segment_count = PHASES + 1,
    };
    for (int p = 0; p < PHASES; p++) chart.segments[p] = phase_title((enum phase)p);
    chart.segments[PHASES] = "not divided";
    for (size_t r = 0; r < count; r++) {
        const json_t *summary = runs[r].metrics.summary;
        struct bar *bar = add_bar(&chart, runs[r].label, "");
        double sum = 0, update = run_metrics_number(summary, "update_ms.median");
        for (int p = 0; p < PHASES; p++) {
            char path[64];
            snprintf(path, sizeof path, "phase_ms.%s", phase_name((enum phase)p));
            sum += bar->values[p] = or_zero(run_metrics_number(summary, path));
        }
        if (!(sum > 0)) bar->values[PHASES] = or_zero(update);
        if (update > 0)
            bar_says(bar, update, "ms");
        else
            bar_missing(bar, &runs[r], run_metrics_is_dry(&runs[r].metrics) ? "dry: computes nothing" : "-");
    }
    return chart;
}

/* ---- bytes sent ---- */

/* Names of all collectives that any run used, in the order in which they are met. */
static void find_collectives(struct chart *chart, const struct compared *runs, size_t count) {
    for (size_t r = 0; r < count; r++) {
        const char *name;
        json_t *line;
        json_object_foreach(runs[r].metrics.communication, name, line) {
            int known = 0;
            if (!(run_metrics_number(line, "bytes") > 0 || run_metrics_number(line, "predicted_bytes") > 0))
                continue;
            while (known < chart->segment_count && strcmp(chart->segments[known], name) != 0) known++;
            if (known == chart->segment_count && known < CHART_SEGMENTS)
                chart->segments[chart->segment_count++] = name;
        }
    }
}

static double fill_collectives(const struct chart *chart, struct bar *bar, const json_t *communication,
                               const char *key) {
    double sum = 0, updates = run_metrics_number(communication, "updates");
    for (int s = 0; s < chart->segment_count && updates >= 1; s++) {
        const json_t *line = json_object_get(communication, chart->segments[s]);
        bar->values[s] = or_zero(run_metrics_number(line, key)) / updates / (1 << 20);
        sum += bar->values[s];
    }
    return sum;
}

static struct chart communication_chart(const struct compared *runs, size_t count) {
    struct chart chart = {
        .name = "communication",
        .title = "Bytes that a rank sends in an update",
        .reader = "Pale: by the stage's formula. Full: counted from the calls. Training alone.",
        .x_title = "MiB",
    };
    find_collectives(&chart, runs, count);
    for (size_t r = 0; r < count && chart.segment_count; r++) {
        const json_t *communication = runs[r].metrics.communication;
        struct bar *bar = add_bar(&chart, runs[r].label, communication ? "predicted" : "");
        if (!communication) {
            bar_missing(bar, &runs[r], "-");
            continue;
        }
        bar_says(bar, fill_collectives(&chart, bar, communication, "predicted_bytes"), "MiB");
        bar = add_bar(&chart, NULL, "measured");
        bar_says(bar, fill_collectives(&chart, bar, communication, "bytes"), "MiB");
    }
    return chart;
}

/* ---- all of them ---- */

static void free_chart(struct chart *chart) {
    for (size_t c = 0; c < chart->curve_count; c++) {
        free(chart->curves[c].x);
        free(chart->curves[c].y);
    }
    free(chart->curves);
    free(chart->bars);
}

struct chart *charts_make(const struct compared *runs, size_t count, size_t *charts) {
    struct chart all[] = {loss_chart(runs, count, false),   loss_chart(runs, count, true),
                          memory_chart(runs, count, false), memory_chart(runs, count, true),
                          speed_chart(runs, count),         time_chart(runs, count),
                          communication_chart(runs, count)};
    enum { ALL = sizeof all / sizeof *all };
    struct chart *made = xcalloc(ALL, sizeof *made);
    *charts = 0;
    for (int c = 0; c < ALL; c++) {
        if (has_points(&all[c]) || chart_longest_bar(&all[c]) > 0)
            made[(*charts)++] = all[c];
        else
            free_chart(&all[c]);
    }
    return made;
}

void charts_free(struct chart *charts, size_t count) {
    for (size_t c = 0; c < count; c++) free_chart(&charts[c]);
    free(charts);
}
