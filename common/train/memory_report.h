/*
 * The memory ledger as people and machines read it: predicted by formula, measured now, peak, by heading.
 */
#ifndef COMMON_TRAIN_MEMORY_REPORT_H
#define COMMON_TRAIN_MEMORY_REPORT_H

#include <jansson.h>

#include "common/comm/comm.h"
#include "common/device/device.h"

/* Bytes a stage expects by formula; PREDICTION_NONE where it has none. */
#define PREDICTION_NONE (-1.0)
struct memory_prediction {
    double device[HEADINGS];
    double host[HEADINGS];
};

/* A prediction with no formula anywhere. */
struct memory_prediction memory_prediction_none(void);

/* The memory event of contracts.md, the largest over the ranks (bytes and peaks each); also has device
 * "outside_ledger". Collective; a new reference on every rank. */
json_t *memory_event(struct comm *comm, const struct device *device,
                     const struct memory_prediction *prediction);

/* That event as a table for people: one string with newlines, which the caller frees. Names headings,
 * predicted, now and peak MiB, and what the formula and the total say. */
char *memory_table(const json_t *event);

#endif
