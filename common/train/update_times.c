#include "common/train/update_times.h"

#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/json.h"

void update_times_add(struct update_times *times, const struct phase_times *update) {
    if (!times->kept) times->kept = xcalloc(UPDATE_TIMES_KEPT, sizeof *times->kept);
    times->kept[times->added++ % UPDATE_TIMES_KEPT] = *update;
}

void update_times_restart(struct update_times *times) {
    times->added = 0;
}

void update_times_free(struct update_times *times) {
    free(times->kept);
    *times = (struct update_times){0};
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile(double *values, int count, double q) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    double place = q * (count - 1);
    int below = (int)place;
    if (below >= count - 1) return values[count - 1];
    return values[below] + (place - below) * (values[below + 1] - values[below]);
}

static int count_of(const struct update_times *times) {
    return times->added < UPDATE_TIMES_KEPT ? (int)times->added : UPDATE_TIMES_KEPT;
}

/* One of an update's times; PHASES: the whole. */
static double time_of(const struct phase_times *update, int phase) {
    return phase < PHASES ? update->phase[phase] : update->total;
}

static double quantile_of(const struct update_times *times, int phase, double q) {
    int count = count_of(times);
    double *values = xmalloc((size_t)count * sizeof *values);
    for (int i = 0; i < count; i++) values[i] = time_of(&times->kept[i], phase);
    double value = quantile(values, count, q);
    free(values);
    return value;
}

json_t *update_times_json(const struct update_times *times) {
    if (!times->added) return json_null();
    json_t *object = json_object();
    json_object_set_new(object, "median", json_number(quantile_of(times, PHASES, 0.5)));
    json_object_set_new(object, "lower_quartile", json_number(quantile_of(times, PHASES, 0.25)));
    json_object_set_new(object, "upper_quartile", json_number(quantile_of(times, PHASES, 0.75)));
    json_object_set_new(object, "updates", json_integer(count_of(times)));
    return object;
}

json_t *update_times_phases_json(const struct update_times *times) {
    if (!times->added) return json_null();
    json_t *object = json_object();
    for (int p = 0; p < PHASES; p++)
        json_object_set_new(object, phase_name((enum phase)p), json_number(quantile_of(times, p, 0.5)));
    return object;
}
