/*
 * compare: several runs beside each other, as pictures and a table. Its pieces:
 *
 *   compare.c           arguments, reading the runs, what is written where
 *   compare_charts.c    which pictures there are: numbers out of the runs' events
 *   compare_table.c     the table and the settings that differ, as text
 *   compare_svg.c       a picture as SVG
 *   compare_html.c      the page: everything in one file, which needs nothing else to be read
 *   compare_gnuplot.c   the same pictures as PNG, light and dark, by gnuplot
 *
 * A picture is described once, as a struct chart, and drawn twice.
 */
#ifndef COMMON_TOOLS_COMPARE_H
#define COMMON_TOOLS_COMPARE_H

#include <stddef.h>
#include <stdio.h>

#include "common/report/table.h"
#include "common/train/run_metrics.h"

enum { CHART_SEGMENTS = 12, CHART_COLORS = 7 };

/* One of the runs. */
struct compared {
    struct run_metrics metrics;
    char *label; /* the folder's name, with as many of its parents as tell it from the others */
};

/* Points that a line joins: one run's. */
struct curve {
    const char *label; /* the run's */
    double *x, *y;     /* [count] */
    size_t count;
    /* Curves that lie on each other are drawn as one, striped in their colours: which of how many it is,
     * and how many of its points lie on another's. */
    size_t member, members, shared;
};

/* A bar that lies, of segments one after the other. */
struct bar {
    const char *label; /* the run's; NULL where the bar above has it */
    const char *kind;  /* "predicted", "measured", "" */
    bool pale;         /* drawn lighter: a prediction */
    double values[CHART_SEGMENTS];
    char text[48]; /* what stands at its end */
};

/* A picture: curves or bars. */
struct chart {
    const char *name;   /* of its file: "memory" */
    const char *title;  /* one line */
    const char *reader; /* how to read it: a sentence or two */
    const char *x_title;
    const char *y_title; /* curves only */
    bool marks;          /* curves: a mark at every point */
    struct curve *curves;
    size_t curve_count;
    const char *segments[CHART_SEGMENTS]; /* names; one without a name needs no legend */
    int segment_count;
    struct bar *bars;
    size_t bar_count;
};

/* The pictures that the runs have numbers for; the caller frees each and the array. Labels and names stay the
 * runs'. */
struct chart *charts_make(const struct compared *runs, size_t count, size_t *charts);
void charts_free(struct chart *charts, size_t count);
/* The longest bar, without its text. */
double chart_longest_bar(const struct chart *chart);
/* The smallest and largest coordinates of all curves. */
void chart_extent(const struct chart *chart, double x[2], double y[2]);

/* What came out of the runs, a line a run; and the settings in which they differ, a line a setting and a
 * column a run. */
struct table table_results(const struct compared *runs, size_t count);
struct table table_settings(const struct compared *runs, size_t count);

/* The largest relative difference of its losses from another run's, at the updates that both have; NAN where
 * the two do not make the same updates. */
double losses_off(const struct run_metrics *metrics, const struct run_metrics *other);

/* The chart as an <svg> element whose colours are the page's classes (compare_html.c). */
void svg_write(FILE *out, const struct chart *chart);
/* The page. */
void html_write(FILE *out, const struct compared *runs, size_t run_count, const struct chart *charts,
                size_t chart_count);

/* Draws FOLDER/NAME.png and FOLDER/NAME-dark.png of all charts; the script stays as FOLDER/charts.gnuplot.
 * false, with what to do in `error`, where gnuplot is not here or fails. */
bool gnuplot_draw(const char *folder, const struct chart *charts, size_t count, struct error *error);

/* A step for an axis of this length, 1, 2 or 5 times a power of ten, with about `most` steps at most. */
double axis_step(double length, int most);

#endif
