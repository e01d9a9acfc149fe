/*
 * collect: one table of a whole class's runs. Its pieces:
 *
 *   collect.c          arguments, finding and reading the runs, what is written where
 *   collect_groups.c   which runs did the same, their medians, and who is far from them
 *   collect_output.c   the two tables, CSV and the page
 */
#ifndef COMMON_TOOLS_COLLECT_H
#define COMMON_TOOLS_COLLECT_H

#include <stdbool.h>
#include <stdio.h>

#include "common/report/find_runs.h"
#include "common/report/table.h"
#include "common/train/run_metrics.h"

/* What is compared within a group. */
enum measure { RATE, DEVICE, HOST, SENT, TRAIN_LOSS, EVAL_LOSS, MEASURES };

struct collected {
    const struct found_run *found;
    struct run_metrics metrics;
    int nodes;
    size_t group;            /* number of its group, from 0 */
    double values[MEASURES]; /* examples/s, MiB, MiB, MiB per update, losses; NAN: not measured */
    bool far[MEASURES];      /* from its group's median */
    bool counts;             /* in medians: finished, and computed */
};

/* Runs with the same stage, ranks, nodes, model, precision and settings that matter. */
struct group {
    size_t first;   /* one of its runs */
    size_t runs;    /* how many */
    size_t counted; /* of them, in the medians */
    double low[MEASURES], median[MEASURES], high[MEASURES];
};

/* A file that is no run's. */
struct broken {
    char *text; /* "PATH:LINE: reason" */
};

struct collection {
    struct collected *runs; /* [count], grouped, then by owner and name */
    size_t count;
    struct group *groups; /* [group_count] */
    size_t group_count;
    struct broken *broken; /* [broken_count] */
    size_t broken_count;
};

/* Fills in values, and what is worked out of all runs: order, groups, medians, who is far. */
void collection_group(struct collection *collection);
/* "optimizer+parameters", or "" where nothing is offloaded. */
void offload_text(char text[48], const struct run_metrics *metrics);

/* Tables; the caller frees. The first has a line a run, the second a line a group. */
struct table table_runs(const struct collection *collection);
struct table table_groups(const struct collection *collection);
/* Runs that did not get to their end, or computed nothing, and files that could not be read: a line each. */
void write_remarks(FILE *out, const struct collection *collection, void (*line)(FILE *out, const char *text));
/* All runs with all digits, as RFC 4180 has it. A text that a spreadsheet would take for a formula gets a '
 * before it. */
void write_csv(FILE *out, const struct collection *collection);
void write_page(FILE *out, const struct collection *collection);

#endif
