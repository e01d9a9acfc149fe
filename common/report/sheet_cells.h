/*
 * Which cell of an exercise sheet is which number of which run: read from exercises/cells/STAGE.json, so that
 * the sheets themselves stay what people read.
 *
 *   {"stage": "02-zero1",
 *    "tables": [
 *      {"question": 1, "runs": {"ranks": 2, "max_steps": 8},
 *       "columns": [["predicted", "own"], ["fp32", {}], ["`--bf16`", {"precision": "bf16"}]],
 *       "rows": [["training loss", "train_loss"],
 *                ["optimizer, MiB", {"number": "device.optimizer"}],
 *                ["time, 02 ÷ 01", {"number": "update_ms", "over": {"stage": "01-baseline"}}]]},
 *      {"question": 6, "own": "a run cannot say which line was changed"}]}
 *
 * Tables come in the sheet's order. Of each, "runs", the row's, the column's and the cell's own object
 * ("cells": [[row, column, {…}]]) are laid over each other, later ones winning; null takes a member away.
 * What results has
 *
 *   "number"     one name of run_numbers.h, or several with " / ", ", " or "; " between; a text instead of an
 *                object is short for it. "own": the participant's own cell; "given": the sheet's.
 *   "parts"      instead: a list of objects, each laid over the rest, with " / " between their numbers
 *   "predicted"  true: a prediction of that number, which people fill in
 *   "stage", "ranks", "precision" (default fp32; "*": any), "backend" ("dry"; default: one that computes)
 *   "over", "dividing", "less_than"
 *                an object, laid over the rest: the number of that other run, by which this one's is divided,
 *                which is divided by it, from which it is taken
 *   "times"      a factor, or "ranks_per_node"
 *
 * and any setting ("max_steps"): the run has that value, "*" any, and the stage's default where nothing is
 * said.
 */
#ifndef COMMON_REPORT_SHEET_CELLS_H
#define COMMON_REPORT_SHEET_CELLS_H

#include <jansson.h>

#include "common/base/error.h"
#include "common/report/markdown.h"
#include "common/report/run_numbers.h"

/* What a run must be. */
struct wanted_run {
    char *stage; /* "" for none */
    long ranks;
    bool dry;
    char *precision;  /* "*": any */
    json_t *changes;  /* settings that are said */
    json_t *settings; /* all of them */
};

enum combination { ALONE, OVER, DIVIDING, LESS_THAN };

/* One number of a cell. */
struct cell_part {
    const struct run_number *number;
    double argument;
    const struct run_number *alternative; /* "or"; NULL: none */
    double times;
    struct wanted_run run;
    enum combination combination;
    struct wanted_run other; /* stage "" where the part stands alone */
};

enum cell_kind { CELL_GIVEN, CELL_OWN, CELL_MEASURED, CELL_PREDICTED };
enum { CELL_PARTS = 4 };

struct cell {
    enum cell_kind kind;
    struct cell_part parts[CELL_PARTS]; /* [count] of what is measured or predicted */
    size_t count;
    char separator[4]; /* between them */
};

struct cells_table {
    int question;
    char *own;      /* why all its cells are people's own; NULL: they are not */
    char **columns; /* [column_count] titles, without the first column's */
    size_t column_count;
    char **rows; /* [row_count] labels */
    size_t row_count;
    struct cell *cells; /* [row_count][column_count] */
};

struct sheet_cells {
    char *stage;
    struct cells_table *tables; /* [count] */
    size_t count;
};

/* Reads the file; false with `error` set, naming the table and the cell, where something in it is not as
 * above. The caller frees. */
bool sheet_cells_read(struct sheet_cells *sheet, const char *path, struct error *error);
void sheet_cells_free(struct sheet_cells *sheet);

/* The table of a sheet that a description is of: in its question, with its titles. NULL where there is none.
 */
const struct markdown_table *cells_find_table(const struct cells_table *table,
                                              const struct markdown *markdown);
/* The sheet's row of the description's row r: with the same label, the second where the label is a second
 * one. 0 (the titles) where there is none. */
size_t cells_find_row(const struct cells_table *table, size_t r, const struct markdown *markdown,
                      const struct markdown_table *found);

#endif
