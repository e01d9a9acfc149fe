/*
 * The numbers of a run that exercise sheets ask for, by names that a sheet's cells (exercises/cells/) use:
 *
 *   "train_loss"   "eval_loss@2"   "device.optimizer"   "sent.all_gather"   "phase.backward"   "update_ms"
 *
 * A name may need an argument behind "@": a step or an epoch. run_numbers.c has the list.
 */
#ifndef COMMON_REPORT_RUN_NUMBERS_H
#define COMMON_REPORT_RUN_NUMBERS_H

#include "common/report/written_number.h"
#include "common/train/run_metrics.h"

enum number_kind { NUMBER_COUNT, NUMBER_LOSS, NUMBER_MEMORY, NUMBER_BYTES, NUMBER_SPEED, NUMBER_RATIO };

struct run_number {
    const char *name; /* with "@" at its end where it needs an argument */
    enum number_kind kind;
    int digits;       /* after the point, where a sheet is filled */
    const char *unit; /* as unit_find() knows it; "" for counts, losses, examples/s */
    const char *what; /* in words: "peak of the optimizer in device memory" */
    /* Where it is: the event ("summary"), the path in it, or how it is worked out. */
    const char *event, *path;
    double (*get)(const struct run_metrics *metrics, double argument);
};

extern const struct run_number run_numbers[]; /* ends with a NULL name */

/* The number of a name with its argument ("eval_loss@2"), which goes to *argument; NULL where there is none.
 */
const struct run_number *run_number_find(const char *name, double *argument);

/* Its value in its own unit; NAN where the run does not have it. */
double run_number_value(const struct run_number *number, const struct run_metrics *metrics, double argument);
/* What the run's formulas say it should be; NAN where they say nothing. */
double run_number_predicted(const struct run_number *number, const struct run_metrics *metrics);

/* How far an entry may be off, as a part of the number: 0 for counts, 1% for memory and bytes, 15% for
 * speeds, and for losses no more than the digits written say. */
double run_number_tolerance(const struct run_number *number);

/* As a sheet has it: "14.05", "1,024", "6.3700"; "" for NAN. The caller frees it. */
char *run_number_text(const struct run_number *number, double value);

#endif
