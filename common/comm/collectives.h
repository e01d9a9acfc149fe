/*
 * The collectives of ZeRO's modules, as an object: which slice of every unit this rank owns, and how units
 * are reduced and gathered. Here the flat ones: rank r owns slice r, and each collective is one of comm.h. A
 * stage that knows of nodes brings an object that works in levels, and no module notices, as none makes use
 * of what a reduce-scatter leaves of its input.
 *
 * The rules are comm.h's: all ranks call in the same order, a start queues the collective behind the work
 * queued so far on `stream`, and comm_wait() completes it.
 */
#ifndef COMMON_COMM_COLLECTIVES_H
#define COMMON_COMM_COLLECTIVES_H

#include "common/comm/comm.h"

struct collectives {
    void *self;
    int slices; /* as many as ranks */
    int slice;  /* the number of this rank's */
    int (*slice_of)(const void *self, int rank);
    struct comm_request (*all_reduce_start)(void *self, struct stream *stream, void *buffer, size_t count,
                                            enum dtype dtype);
    struct comm_request (*reduce_scatter_start)(void *self, struct stream *stream, void *out, void *in,
                                                size_t count, enum dtype dtype);
    /* NULL where sums cannot be added on their way. */
    struct comm_request (*reduce_scatter_add_start)(void *self, struct stream *stream, void *out, void *in,
                                                    size_t count, enum dtype dtype);
    struct comm_request (*all_gather_start)(void *self, struct stream *stream, void *out, const void *in,
                                            size_t count, enum dtype dtype);
};

/* One level: the ranks of `comm`, which must live as long. */
struct collectives collectives_flat(struct comm *comm);

/* Which slice a rank owns. */
static inline int slice_of(const struct collectives *collectives, int rank) {
    return collectives->slice_of(collectives->self, rank);
}

/* buffer [slices · count]: the sum over ranks. In place. */
static inline struct comm_request all_reduce_start(const struct collectives *collectives,
                                                   struct stream *stream, void *buffer, size_t count,
                                                   enum dtype dtype) {
    return collectives->all_reduce_start(collectives->self, stream, buffer, count, dtype);
}

/* out [count] = the sum over ranks of slice number collectives->slice of their in [slices · count]. out may
 * be that slice of in; the rest of `in` is scratch memory, which holds nothing of use afterwards. */
static inline struct comm_request reduce_scatter_start(const struct collectives *collectives,
                                                       struct stream *stream, void *out, void *in,
                                                       size_t count, enum dtype dtype) {
    return collectives->reduce_scatter_start(collectives->self, stream, out, in, count, dtype);
}

/* The same, added to what is in out, where reduce_scatter_can_add(). */
static inline struct comm_request reduce_scatter_add_start(const struct collectives *collectives,
                                                           struct stream *stream, void *out, void *in,
                                                           size_t count, enum dtype dtype) {
    return collectives->reduce_scatter_add_start(collectives->self, stream, out, in, count, dtype);
}
static inline bool reduce_scatter_can_add(const struct collectives *collectives) {
    return collectives->reduce_scatter_add_start;
}

/* out [slices · count]: every rank's in [count] at its slice. in may be this rank's slice of out. */
static inline struct comm_request all_gather_start(const struct collectives *collectives,
                                                   struct stream *stream, void *out, const void *in,
                                                   size_t count, enum dtype dtype) {
    return collectives->all_gather_start(collectives->self, stream, out, in, count, dtype);
}

#endif
