/*
 * ZeRO-2's capability: gradients, cut among the ranks (Rajbhandari et al. 2020, P_os+g).
 *
 * A unit's gradient is whole only from its backward until it is reduce-scattered; what stays is the sum of my
 * slice. Whole gradients take turns in a few buffers, the rotation:
 *
 *     compute        backward of u + 1 → A │ backward of u → B      │ backward of u − 1 → A
 *     communication                        │ reduce-scatter of A    │ reduce-scatter of B
 *     my slices                                                  u + 1 += A's                 u += B's
 *
 * With two buffers, a unit's reduction hides behind the next unit's backward; it must be complete only when
 * its buffer's turn comes again. Where the reduction cannot add on its way, as it can on GPUs, sums are added
 * on a stream of their own, so that this hides, too. Unlike stages 01 and 02, gradients are reduced in every
 * micro-batch: a whole one could not be kept until the last.
 */
#ifndef ZERO2_GRADIENT_SHARD_H
#define ZERO2_GRADIENT_SHARD_H

#include "common/bloom/layout.h"
#include "common/comm/collectives.h"
#include "common/device/kernels.h"

enum { GRADIENT_ROTATION = 2 };

/* A unit's gradient, whole, and on its way to its owners. */
struct whole_gradient {
    char *memory; /* [layout->largest] */
    int unit;     /* whose it is, until it is settled; −1: nobody's */
    bool adds;    /* its sum is to be added to my slice; else it replaces it */
    struct comm_request reducing;
    bool added;            /* the addition is queued, behind the reduction, */
    struct event *settled; /* and this is its end */
};

/* What takes the sums of my slices away, where they do not stay in device memory. */
struct gradient_sink {
    void *self;
    /* Queues on `stream` what takes `sum` [slice], device memory: the sum over the ranks of my slice of a
     * unit's gradient, of one micro-batch, to be added to those before it (`adds`) or the update's first. Its
     * memory is used again once that is done. */
    void (*take)(void *self, struct stream *stream, int unit, const void *sum, bool adds);
};

struct gradient_shard {
    struct device *device;
    struct stream *stream; /* where gradients are computed, */
    struct stream *adding; /* and where they are added */
    struct comm *comm;
    const struct layout *layout;
    const struct collectives *collectives;
    enum dtype dtype;
    const struct gradient_sink *sink; /* NULL: they stay here: */
    char *slices; /* [layout->sliced] the sums of my slices, over the ranks and the update's micro-batches */
    bool accumulate; /* this micro-batch adds to them */
    struct whole_gradient rotation[GRADIENT_ROTATION];
    int depth, turn;
};

/* As many buffers of whole units as are wanted, if with them a stage still takes less memory than one that
 * keeps all units whole: Ψ/N and the buffers must be less than Ψ. Else as many as that allows, at least one.
 */
int rotation_depth(const struct layout *layout, int wanted);

/* Device memory for my slices (heading gradients) and for the rotation (heading buffers). `comm` is what the
 * collectives are of; all pointers must live as long. Warns where no depth leaves less memory in use. The
 * caller closes it. */
void gradient_shard_open(struct gradient_shard *shard, struct device *device, struct stream *stream,
                         struct comm *comm, const struct layout *layout,
                         const struct collectives *collectives, enum dtype dtype);
/* The same, with no slices in device memory: `sink`, which must live as long, takes them. */
void gradient_shard_open_to(struct gradient_shard *shard, struct device *device, struct stream *stream,
                            struct comm *comm, const struct layout *layout,
                            const struct collectives *collectives, enum dtype dtype,
                            const struct gradient_sink *sink);
void gradient_shard_close(struct gradient_shard *shard);

/* A micro-batch's backward begins: the update's first one overwrites my slices, later ones add to them. */
void gradient_shard_begin(struct gradient_shard *shard, bool first);
/* The next buffer of the rotation, for the whole gradient of `unit`: its backward overwrites it. */
void *gradient_shard_whole(struct gradient_shard *shard, int unit);
/* That gradient is there: its sum over the ranks starts, of which each rank gets its slice. */
void gradient_shard_reduce(struct gradient_shard *shard, int unit);
/* Every reduction started is complete, and added (or taken). */
void gradient_shard_finish(struct gradient_shard *shard);

/* [slice] my slice of a unit's gradient, where no sink takes it. */
void *gradient_shard_slice(const struct gradient_shard *shard, int unit);

#endif
