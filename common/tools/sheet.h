/*
 * sheet: exercise sheets filled from runs, and what people filled in held against their runs. Its pieces:
 *
 *   sheet.c         arguments, reading sheet and runs
 *   sheet_runs.c    which run a cell is about, its numbers, the command that would make it
 *   sheet_fill.c    `sheet fill`: a copy of the sheet with its measured cells filled in
 *   sheet_check.c   `sheet check`: row by row, whether the entries agree
 *   sheet_hints.c   what may have happened where one does not
 *
 * Which cell is which number is in exercises/cells/ (common/report/sheet_cells.h).
 */
#ifndef COMMON_TOOLS_SHEET_H
#define COMMON_TOOLS_SHEET_H

#include <stdbool.h>
#include <time.h>

#include "common/report/sheet_cells.h"
#include "common/train/run_metrics.h"

struct sheet_run {
    char *folder; /* fit to be shown */
    struct run_metrics metrics;
    struct timespec written;
};

struct sheet {
    struct sheet_cells cells;
    char *path;     /* of the participant's sheet */
    bool is_new;    /* there is none yet: it is read from `original` */
    char *original; /* path of the kit's */
    struct markdown markdown;
    struct sheet_run *runs; /* [run_count], the newest first */
    size_t run_count;
    bool refill; /* replace what is filled in already */
};

/* `sheet fill` and `sheet check`. The second returns how many entries do not agree. */
void sheet_fill(struct sheet *sheet);
int sheet_check(const struct sheet *sheet);

/* ---- sheet_runs.c ---- */

/* What a run has for a part of a cell, NAN where no run has it. */
struct part_value {
    double value, predicted; /* in the number's unit; predicted NAN where no formula says it */
    const struct sheet_run *run;
    const struct wanted_run *missing[2]; /* [missing_count]: what no run is; none: the value is there */
    int missing_count;
};
struct part_value part_value(const struct sheet *sheet, const struct cell_part *part);
/* Likewise of another number of the same cell's run. */
double part_other_value(const struct cell_part *part, const struct sheet_run *run,
                        const struct run_number *number, double argument);

/* The command that makes a run; the caller frees it. */
char *run_command(const struct sheet *sheet, const struct wanted_run *wanted);
/* A run that is nearly the one, and what is different: "runs/x: max_steps -1, not 8"; "" where none comes
 * near. The caller frees it. */
char *nearest_run(const struct sheet *sheet, const struct wanted_run *wanted);

/* Commands that would fill more cells, each once. */
struct missing {
    char *command;
    char *near;      /* nearest_run() */
    char *questions; /* "1, 3" */
    size_t cells;
    int last_question;
    bool dry;
};
struct missing_list {
    struct missing *items; /* [count] */
    size_t count;
};
void missing_add_all(struct missing_list *list, const struct sheet *sheet, const struct part_value *value,
                     int question);
void missing_print(const struct missing_list *list);
void missing_free(struct missing_list *list);

/* ---- sheet_hints.c ---- */

/* An entry that does not agree. */
struct odd_entry {
    const struct sheet *sheet;
    const struct cells_table *table;
    size_t row, column; /* of the description */
    const struct cell_part *part;
    const struct sheet_run *run; /* that it was held against */
    double entry;                /* in the number's unit */
    const struct written_number *written;
    double value, predicted;
};
/* What may have happened, in a sentence or two; the caller frees it. */
char *hint_text(const struct odd_entry *odd);
/* Where a number is to be found: "metrics.jsonl, event memory: device.optimizer.peak_bytes"; the caller frees
 * it. */
char *where_text(const struct run_number *number);

#endif
