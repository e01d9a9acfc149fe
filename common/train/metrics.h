/*
 * What a run reports: metrics.jsonl for machines (one event a line, every digit), lines or a progress bar for
 * people. Only the leader (comm_is_leader) writes; on other ranks every call does nothing.
 */
#ifndef COMMON_TRAIN_METRICS_H
#define COMMON_TRAIN_METRICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct metrics;

/* Opens output_dir/metrics.jsonl. `keep` is how many bytes of an existing file stay (a resumed run's; 0:
 * none). */
struct metrics *metrics_open(const char *output_dir, bool leader, long long keep, bool progress_bar);
void metrics_close(struct metrics *metrics);

/* Appends {"event": event, …members of `object`}, flushed to the system; takes the reference to `object`. */
void metrics_write(struct metrics *metrics, const char *event, json_t *object);
/* Bytes written so far: what a checkpoint remembers. */
long long metrics_size(const struct metrics *metrics);
/* Waits until the file's bytes are on the disk. */
void metrics_sync(struct metrics *metrics);

/* A line for people on standard output (above the progress bar, where there is one). */
void metrics_line(struct metrics *metrics, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The progress bar: update `done` of `total`, of which this process did `done_here` (a resumed run's earlier
 * ones are not its own), the last loss, the training examples that this process has seen and the seconds they
 * took, for samples/s and the time left. A terminal gets one line that changes; otherwise nothing is shown.
 */
void metrics_progress(struct metrics *metrics, long long done, long long total, long long done_here,
                      double loss, double examples, double seconds);

#endif
