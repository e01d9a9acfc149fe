/*
 * ZeRO-3's capability: parameters, cut among the ranks (Rajbhandari et al. 2020, P_os+g+p).
 *
 * Every rank keeps its slice of every unit; a unit is whole only around its use. The stage walks the units in
 * order, forwards (+1) or backwards (−1), so that what comes next is known, and gathered ahead: with a
 * prefetch of 1 there are two buffers of whole units,
 *
 *     compute        unit u, in A       │ unit u + 1, in B   │ unit u + 2, in A
 *     communication  gather u + 1 → B   │ gather u + 2 → A   │ gather u + 3 → B
 *
 * What a buffer still holds when it is asked for is not gathered again: where the walk turns round at the end
 * of the forward, the last units are still there.
 */
#ifndef ZERO3_PARAMETER_SHARD_H
#define ZERO3_PARAMETER_SHARD_H

#include "common/bloom/layout.h"
#include "common/comm/collectives.h"
#include "common/device/kernels.h"

/* A unit's parameters, whole or on their way. */
struct whole_parameters {
    char *memory; /* [layout->largest] */
    int unit;     /* −1: none's */
    struct comm_request gathering;
    struct event *fetched; /* my slice is in its place; NULL where no source brings it */
};

/* Where my slices come from, when they do not stay in device memory. */
struct slice_source {
    void *self;
    /* Queues on `stream` what brings my slice of a unit to `out` [slice], device memory. */
    void (*fetch)(void *self, struct stream *stream, int unit, void *out);
};

struct parameter_shard {
    struct device *device;
    struct stream *stream; /* where parameters are used */
    struct comm *comm;
    const struct layout *layout;
    const struct collectives *collectives;
    enum dtype dtype;
    const struct slice_source *source; /* NULL: slices stay here: */
    char *slices;                      /* [layout->sliced] */
    struct stream *fetching;           /* where a source's slices come in, and are gathered from */
    struct whole_parameters *rotation; /* [depth] */
    int depth;                         /* units ahead, and the one in use */
};

/* Device memory for my slices (heading parameters) and for `prefetch` + 1 whole units (heading buffers; fewer
 * where this stage would take more memory than the one before: rotation_depth()). `comm` is what the
 * collectives are of; all pointers must live as long. The caller closes it. */
void parameter_shard_open(struct parameter_shard *shard, struct device *device, struct stream *stream,
                          struct comm *comm, const struct layout *layout,
                          const struct collectives *collectives, enum dtype dtype, int prefetch);
/* The same, with no slices in device memory: `source`, which must live as long, brings one whenever its unit
 * is gathered, into its place in the whole. */
void parameter_shard_open_from(struct parameter_shard *shard, struct device *device, struct stream *stream,
                               struct comm *comm, const struct layout *layout,
                               const struct collectives *collectives, enum dtype dtype, int prefetch,
                               const struct slice_source *source);
void parameter_shard_close(struct parameter_shard *shard);

/* [slice] my slice of a unit, where no source brings it. */
void *parameter_shard_slice(const struct parameter_shard *shard, int unit);

/* A unit's parameters, whole, for work queued from now on, until the next use but `depth` − 1; the units that
 * follow in this direction begin to be gathered. */
void *parameter_shard_use(struct parameter_shard *shard, int unit, int direction);
/* A buffer [layout->largest] for other purposes, until the next use. */
void *parameter_shard_buffer(struct parameter_shard *shard);
/* What is whole is old: parameters have changed, or are going to. */
void parameter_shard_forget(struct parameter_shard *shard);

/* How many times the model is gathered for a pack: twice, but for the last units, which are still there when
 * the backward begins. */
double parameter_shard_gathered(const struct parameter_shard *shard);

#endif
