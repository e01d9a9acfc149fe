/*
 * Finds runs: every metrics.jsonl below some folders, however deep.
 */
#ifndef COMMON_REPORT_FIND_RUNS_H
#define COMMON_REPORT_FIND_RUNS_H

#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "common/base/error.h"

struct found_run {
    char *path;  /* of the metrics.jsonl */
    char *owner; /* whose it is: the first folder below the one that was given; "" where none is between */
    char *name;  /* the run's folder below that, without a "runs/" before it; fit to be shown, as `owner` */
    struct timespec written; /* last */
    dev_t device;            /* these two are one for a file that was found twice */
    ino_t node;
};

struct found_runs {
    struct found_run *runs; /* [count], by path, numbers in it as numbers: run-2 before run-10 */
    size_t count;
    char **unreadable; /* [unreadable_count]: "PATH: reason", what could not be looked into */
    size_t unreadable_count;
};

/* Looks below `count` folders, each of which may also be a metrics.jsonl itself. Links are followed, but no
 * file is found twice; folders whose names begin with a dot are left out. With one folder the owner is the
 * first folder below it; with several, each is an owner's: owner is its own name. False, with nothing to
 * free, where one of the folders is not there. The caller frees. */
bool find_runs(struct found_runs *found, const char *const *folders, size_t count, struct error *error);
void found_runs_free(struct found_runs *found);

#endif
