/*
 * Running a stage program from a test, and reading what its run reported.
 */
#ifndef TESTS_SUPPORT_TRAINING_H
#define TESTS_SUPPORT_TRAINING_H

#include <jansson.h>
#include <stdbool.h>

struct training {
    char *output_dir;
    json_t *events; /* array: every line of metrics.jsonl */
};

/* Runs a stage of this build ("01-baseline") on `ranks` ranks with these settings, in a new temporary folder
 * that training_free removes. Fails the test where the program does. */
struct training training_run(const char *stage, int ranks, const char *settings, ...)
    __attribute__((format(printf, 3, 4)));
void training_free(struct training *training);
/* The same in the dry build beside this one, which must be there (training_has_dry): any one rank of any
 * number. */
struct training training_run_dry(const char *stage, int rank, int ranks, const char *settings);
bool training_has_dry(void);

/* metrics.jsonl of a folder as an array of events. */
json_t *training_events(const char *output_dir);

/* The event of a kind at a step (-1: the first of its kind); fails the test where there is none. Borrowed. */
const json_t *training_event(const struct training *training, const char *event, long long step);
int training_count(const struct training *training, const char *event);
/* A member of an event, by a path of keys: "device.total.peak_bytes". */
double training_number(const json_t *event, const char *path);

/* The settings of a trainer.json as "--name value …"; the caller frees. */
char *training_settings(const json_t *trainer);

/* Largest relative difference of the losses of two runs' first `steps` updates, which both must have. */
double training_difference(const struct training *a, const struct training *b, int steps);

/* True under the sanitizers, where a run takes ten times as long: a few of them have to do there. */
bool training_is_brief(void);

#endif
