/* A chart as SVG. Colours are the page's classes: line-0 … for curves, part-0 … for segments. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/page.h"
#include "common/tools/compare.h"

/* Pixels of a picture that is as wide as the page. */
enum {
    WIDTH = 1200,
    TOP = 14,
    BOTTOM = 78,
    CURVES_LEFT = 100,
    CURVES_RIGHT = 735, /* labels stand on the right of it */
    CURVES_HEIGHT = 440,
    STRIPE = 18,
    LABEL_LINE = 28,
    BARS_LEFT = 475, /* labels stand on the left of it */
    BARS_RIGHT = 1000,
    BAR = 34,
    BAR_STEP = 40,
    RUN_GAP = 16,
    LEGEND_LINE = 38,
    LABEL_LETTERS = 25,
    MOST_POINTS = 1500 /* of a curve: more than there are pixels */
};

static void write_label(FILE *out, const char *label) {
    char *text = label_end(label, LABEL_LETTERS);
    html_escape(out, text);
    free(text);
}

static void open_svg(FILE *out, const struct chart *chart, double height) {
    fprintf(out, "<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", WIDTH, height);
    html_escape(out, chart->title);
    fputs("\">\n", out);
}

static void write_text(FILE *out, double x, double y, const char *class, const char *anchor,
                       const char *text) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, class, anchor);
    html_escape(out, text);
    fputs("</text>\n", out);
}

static void write_line(FILE *out, const char *class, double x0, double y0, double x1, double y1) {
    fprintf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class, x0, y0, x1,
            y1);
}

/* ---- axes ---- */

/* Numbers of an axis onto pixels. */
struct scale {
    double low, high; /* numbers */
    double from, to;  /* pixels */
};

static double place(const struct scale *scale, double value) {
    return scale->from + (value - scale->low) / (scale->high - scale->low) * (scale->to - scale->from);
}

static void tick_text(char text[32], double value, double step) {
    int digits = step < 1 ? (int)ceil(-log10(step) - 1e-9) : 0;
    if (fabs(value) < step * 1e-6) value = 0;
    if (fabs(value) < 1e9)
        snprintf(text, 32, "%.*f", digits < 12 ? digits : 12, value);
    else
        snprintf(text, 32, "%.6g", value);
}

static void write_x_axis(FILE *out, const struct scale *x, double top, double bottom, const char *title) {
    double step = axis_step(x->high - x->low, 8);
    for (double tick = ceil(x->low / step - 1e-9) * step; tick <= x->high + 1e-9 * step; tick += step) {
        char text[32];
        tick_text(text, tick, step);
        write_line(out, "grid", place(x, tick), top, place(x, tick), bottom);
        write_text(out, place(x, tick), bottom + 28, "number", "middle", text);
    }
    write_line(out, "axis", x->from, bottom, x->to, bottom);
    write_text(out, (x->from + x->to) / 2, bottom + 62, "word", "middle", title);
}

static void write_y_axis(FILE *out, const struct scale *y, double left, double right, const char *title) {
    double step = axis_step(y->high - y->low, 7), middle = (y->from + y->to) / 2;
    for (double tick = ceil(y->low / step - 1e-9) * step; tick <= y->high + 1e-9 * step; tick += step) {
        char text[32];
        tick_text(text, tick, step);
        write_line(out, "grid", left, place(y, tick), right, place(y, tick));
        write_text(out, left - 12, place(y, tick) + 7, "number", "end", text);
    }
    fprintf(out, "<text class=\"word\" text-anchor=\"middle\" transform=\"translate(24 %.1f) rotate(-90)\">",
            middle);
    html_escape(out, title);
    fputs("</text>\n", out);
}

/* ---- curves ---- */

/* The line through the points from `first` to before `end`, with every so many of them. */
static void write_line_through(FILE *out, const struct curve *curve, size_t first, size_t end,
                               const struct scale *x, const struct scale *y) {
    size_t every = curve->count / MOST_POINTS + 1;
    fputs(" points=\"", out);
    for (size_t i = first; i < end; i++)
        if (i % every == 0 || i == first || i + 1 == end)
            fprintf(out, "%.1f,%.1f ", place(x, curve->x[i]), place(y, curve->y[i]));
    fputs("\"/>\n", out);
}

static void write_curve(FILE *out, const struct curve *curve, size_t index, bool marks, const struct scale *x,
                        const struct scale *y) {
    size_t behind = curve->members - curve->member, color = index % CHART_COLORS, alone = 0;
    if (curve->member) { /* leaves a stripe of those beneath */
        fprintf(out, "<polyline class=\"curve line-%zu\" stroke-dasharray=\"%zu %zu\"", color,
                STRIPE * behind, STRIPE * curve->member);
        write_line_through(out, curve, 0, curve->shared, x, y);
        alone = curve->shared - 1;
    }
    if (alone + 1 < curve->count || !curve->member) {
        fprintf(out, "<polyline class=\"curve line-%zu\"", color);
        write_line_through(out, curve, alone, curve->count, x, y);
    }
    for (size_t i = 0; i < curve->count && marks && !curve->member; i++)
        fprintf(out, "<circle class=\"mark line-%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"8\"/>\n",
                index % CHART_COLORS, place(x, curve->x[i]), place(y, curve->y[i]));
}

/* A label beside the end of its curve. */
struct end_label {
    size_t curve;
    double end, at; /* pixels: where the curve ends, where the label stands */
};

static int by_end(const void *a, const void *b) {
    const struct end_label *left = a, *right = b;
    if (left->end != right->end) return left->end < right->end ? -1 : 1;
    return left->curve < right->curve ? -1 : left->curve > right->curve;
}

/* Moves labels apart, down and then, where they leave the picture, up again. */
static void spread(struct end_label *labels, size_t count, double top, double bottom) {
    double line = fmin(LABEL_LINE, (bottom - top) / (double)(count > 1 ? count - 1 : 1));
    for (size_t i = 0; i < count; i++) labels[i].at = fmax(labels[i].end, i ? labels[i - 1].at + line : top);
    for (size_t i = count; i-- > 0;)
        labels[i].at = fmin(labels[i].at, i + 1 < count ? labels[i + 1].at - line : bottom);
}

static void write_end_labels(FILE *out, const struct chart *chart, const struct scale *x,
                             const struct scale *y) {
    struct end_label *labels = xcalloc(chart->curve_count, sizeof *labels);
    size_t count = 0;
    for (size_t c = 0; c < chart->curve_count; c++) {
        const struct curve *curve = &chart->curves[c];
        if (!curve->count) continue;
        double end = place(y, curve->y[curve->count - 1]);
        labels[count++] = (struct end_label){.curve = c, .end = end};
    }
    qsort(labels, count, sizeof *labels, by_end);
    spread(labels, count, TOP + 10, TOP + CURVES_HEIGHT - 4);
    for (size_t i = 0; i < count; i++) {
        const struct curve *curve = &chart->curves[labels[i].curve];
        size_t color = labels[i].curve % CHART_COLORS;
        double from = place(x, curve->x[curve->count - 1]);
        char value[32];
        snprintf(value, sizeof value, "%.3f", curve->y[curve->count - 1]);
        fprintf(out, "<polyline class=\"leader line-%zu\" points=\"%.1f,%.1f %d,%.1f %d,%.1f\"/>\n", color,
                from, labels[i].end, CURVES_RIGHT + 22, labels[i].at, CURVES_RIGHT + 40, labels[i].at);
        fprintf(out, "<text class=\"label\" x=\"%d\" y=\"%.1f\"><tspan class=\"strong\">%s</tspan> ",
                CURVES_RIGHT + 48, labels[i].at + 7, value);
        write_label(out, curve->label);
        fputs("</text>\n", out);
    }
    free(labels);
}

static void write_curves(FILE *out, const struct chart *chart) {
    double x_range[2], y_range[2];
    chart_extent(chart, x_range, y_range);
    double step = axis_step(y_range[1] - y_range[0], 7), bottom = TOP + CURVES_HEIGHT;
    struct scale x = {fmin(0, x_range[0]), x_range[1], CURVES_LEFT, CURVES_RIGHT};
    struct scale y = {floor(y_range[0] / step) * step, ceil(y_range[1] / step) * step, bottom, TOP};
    open_svg(out, chart, bottom + BOTTOM);
    write_x_axis(out, &x, TOP, bottom, chart->x_title);
    write_y_axis(out, &y, CURVES_LEFT, CURVES_RIGHT, chart->y_title);
    for (size_t c = 0; c < chart->curve_count; c++)
        write_curve(out, &chart->curves[c], c, chart->marks, &x, &y);
    write_end_labels(out, chart, &x, &y);
    fputs("</svg>\n", out);
}

/* ---- bars ---- */

/* Of segments that some bar has. Where the legend ends, in pixels. */
static double write_legend(FILE *out, const struct chart *chart) {
    double x = 0, y = TOP;
    bool any = false;
    for (int s = 0; s < chart->segment_count; s++) {
        bool used = false;
        for (size_t b = 0; b < chart->bar_count; b++) used |= chart->bars[b].values[s] > 0;
        if (!used || !chart->segments[s][0]) continue;
        double width = 48 + 13.5 * (double)strlen(chart->segments[s]);
        if (any && x + width > WIDTH) {
            x = 0;
            y += LEGEND_LINE;
        }
        if (out) {
            fprintf(out, "<rect class=\"part-%d\" x=\"%.1f\" y=\"%.1f\" width=\"24\" height=\"24\"/>\n", s, x,
                    y);
            write_text(out, x + 32, y + 19, "label", "start", chart->segments[s]);
        }
        x += width + 14;
        any = true;
    }
    return any ? y + LEGEND_LINE + 8 : TOP;
}

static void write_bar(FILE *out, const struct chart *chart, const struct bar *bar, const struct scale *x,
                      double y) {
    double sum = 0;
    if (bar->label) {
        fprintf(out, "<text class=\"label strong\" x=\"0\" y=\"%.1f\">", y + 24);
        write_label(out, bar->label);
        fputs("</text>\n", out);
    }
    write_text(out, BARS_LEFT - 12, y + 24, "kind", "end", bar->kind);
    for (int s = 0; s < chart->segment_count; s++) {
        double value = bar->values[s], from = place(x, sum), to = place(x, sum + value);
        char text[32];
        if (!(value > 0)) continue;
        number_text(text, value);
        fprintf(out, "<rect class=\"part-%d%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"><title>",
                s, bar->pale ? " pale" : "", from, y, to - from, BAR);
        html_escape(out, chart->segments[s]);
        fprintf(out, " %s</title></rect>\n", text);
        if (chart->segment_count > 1 && to - from > 16 + 10.5 * (double)strlen(text))
            write_text(out, (from + to) / 2, y + 24, bar->pale ? "inside on-pale" : "inside", "middle", text);
        sum += value;
    }
    write_text(out, place(x, sum) + 10, y + 24, "label strong", "start", bar->text);
}

static void write_bars(FILE *out, const struct chart *chart) {
    double longest = chart_longest_bar(chart), top = write_legend(NULL, chart), height = 0;
    for (size_t b = 0; b < chart->bar_count; b++)
        height += BAR_STEP + (b && chart->bars[b].label ? RUN_GAP : 0);
    struct scale x = {0, longest, BARS_LEFT, BARS_RIGHT};
    double bottom = top + height + 6;
    open_svg(out, chart, bottom + BOTTOM);
    write_legend(out, chart);
    write_x_axis(out, &x, top - 4, bottom, chart->x_title);
    double y = top;
    for (size_t b = 0; b < chart->bar_count; b++) {
        y += b && chart->bars[b].label ? RUN_GAP : 0;
        write_bar(out, chart, &chart->bars[b], &x, y);
        y += BAR_STEP;
    }
    fputs("</svg>\n", out);
}

void svg_write(FILE *out, const struct chart *chart) {
    if (chart->curve_count)
        write_curves(out, chart);
    else
        write_bars(out, chart);
}
