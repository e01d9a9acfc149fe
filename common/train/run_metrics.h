/*
 * Reads what a run reported: its metrics.jsonl (settings.md lists the events), of any stage and backend,
 * finished or not, resumed or not.
 *
 * A run that was killed may end in the middle of a line: that line counts as not written. A resumed run has
 * several `run` events; the last one, and what came after it, says how the run was made and how it ended.
 */
#ifndef COMMON_TRAIN_RUN_METRICS_H
#define COMMON_TRAIN_RUN_METRICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

/* A point of a curve. NAN stands for what the event has no number for. */
struct run_point {
    double step; /* updates done */
    double epoch;
    double loss;        /* of the update, or of the evaluation */
    double exact_match; /* of an evaluation that generates: percent */
    double grad_norm;   /* of the update */
    bool skipped;       /* an update that overflowed */
};

struct run_metrics {
    char *folder;  /* that the file lies in */
    json_t *run;   /* the last event of its kind; never NULL */
    int processes; /* `run` events: one, and one more each time that the run was resumed */
    /* Since the last `run` event; NULL where the run did not come that far. */
    json_t *memory, *memory_samples, *communication, *summary;
    struct run_point *steps; /* [step_count], by increasing step */
    size_t step_count;
    struct run_point *evaluations; /* [evaluation_count], likewise */
    size_t evaluation_count;
};

/* Reads PATH, a metrics.jsonl or the folder that holds one. The caller frees with run_metrics_free; nothing
 * is to be freed after an error, "PATH:LINE: reason". */
bool run_metrics_read(struct run_metrics *metrics, const char *path, struct error *error);
void run_metrics_free(struct run_metrics *metrics);

/* The number at a path of keys ("device.total.peak_bytes") of an event, which may be NULL. NAN where there is
 * none. */
double run_metrics_number(const json_t *event, const char *path);
/* Likewise a string; "" where there is none. */
const char *run_metrics_text(const json_t *event, const char *path);

/* A run of the dry backend has no losses and no speeds. */
bool run_metrics_is_dry(const struct run_metrics *metrics);
/* Updates done; those planned; examples of all ranks in one update. NAN where the run does not say. */
double run_metrics_updates_done(const struct run_metrics *metrics);
double run_metrics_updates_planned(const struct run_metrics *metrics);
double run_metrics_examples_per_update(const struct run_metrics *metrics);
/* Bytes that rank 0 sent in an update, by all collectives together. NAN where the run does not say. */
double run_metrics_sent_bytes(const struct run_metrics *metrics);
/* The last loss of an array of points that is a number; NAN where there is none. */
double run_metrics_last_loss(const struct run_point *points, size_t count);
/* "finished", "dry run", "no number: loss of update 7", "stopped after 40 of 96" (it said good-bye, as
 * save_on_signal makes it), "unfinished: 40 of 96" (it did not): how the run stands. */
void run_metrics_state(const struct run_metrics *metrics, char text[96]);
/* Neither finished nor a dry run's end. */
bool run_metrics_is_odd(const struct run_metrics *metrics);

#endif
