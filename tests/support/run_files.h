/*
 * What a run left in its output_dir, compared with another run's.
 */
#ifndef TESTS_SUPPORT_RUN_FILES_H
#define TESTS_SUPPORT_RUN_FILES_H

#include <jansson.h>
#include <stdbool.h>

/* The events of one kind in output_dir/metrics.jsonl, in order, without what a clock says: a new reference.
 * fail_msg() where a line is not JSON. */
json_t *run_events(const char *output_dir, const char *event);

/* Fails unless the two runs have the same step and eval events to the last digit, the same train_loss, and
 * the same bytes in the final model and in the last checkpoint's weights and optimizer files. */
void check_same_runs(const char *output_dir, const char *other);
/* Fails unless their losses and evaluation losses are within `tolerance` of each other, relatively. */
void check_similar_runs(const char *output_dir, const char *other, double tolerance);

/* The highest number of a checkpoint-<update>, −1 where there is none; and how many there are. Fails unless
 * all of them are whole. */
int check_checkpoints(const char *output_dir, int *count);
/* Whether there is an unfinished one. */
bool has_unfinished_checkpoint(const char *output_dir);

#endif
