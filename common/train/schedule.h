/*
 * Learning-rate schedules, as Transformers defines them (get_linear_schedule_with_warmup and its siblings).
 */
#ifndef COMMON_TRAIN_SCHEDULE_H
#define COMMON_TRAIN_SCHEDULE_H

#include "common/train/settings.h"

/* Learning rate of the update that follows `done` applied updates, of `total` planned: rises linearly over
 * the first `warmup` updates; then falls linearly to 0 at `total`, or by half a cosine, or stays. */
double schedule_learning_rate(enum scheduler scheduler, double learning_rate, long long done,
                              long long warmup, long long total);

#endif
