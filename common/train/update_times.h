/*
 * How long updates take: their median and quartiles, as a whole and by phase, once the run is warm.
 */
#ifndef COMMON_TRAIN_UPDATE_TIMES_H
#define COMMON_TRAIN_UPDATE_TIMES_H

#include <jansson.h>

#include "common/device/phases.h"

enum { UPDATE_TIMES_KEPT = 4096 }; /* of a longer run the last ones */

struct update_times {
    struct phase_times *kept; /* ring [UPDATE_TIMES_KEPT]; NULL until the first */
    long long added;
};

void update_times_add(struct update_times *times, const struct phase_times *update);
/* Forgets what was added: it was the warm-up. */
void update_times_restart(struct update_times *times);
void update_times_free(struct update_times *times);

/* {"median", "lower_quartile", "upper_quartile", "updates"}, in ms; null where nothing was added. A new
 * reference, as the next. */
json_t *update_times_json(const struct update_times *times);
/* Each phase's median, by its name. */
json_t *update_times_phases_json(const struct update_times *times);

/* Quantile q (0 to 1) of values [count], count ≥ 1, which it sorts: between two values along a straight line.
 */
double quantile(double *values, int count, double q);

#endif
