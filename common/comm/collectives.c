#include "common/comm/collectives.h"

static int flat_slice_of(const void *self, int rank) {
    (void)self;
    return rank;
}

static struct comm_request flat_all_reduce(void *self, struct stream *stream, void *buffer, size_t count,
                                           enum dtype dtype) {
    return comm_all_reduce_start(self, stream, buffer, count * (size_t)comm_size(self), dtype);
}

static struct comm_request flat_reduce_scatter(void *self, struct stream *stream, void *out, void *in,
                                               size_t count, enum dtype dtype) {
    return comm_reduce_scatter_start(self, stream, out, in, count, dtype);
}

static struct comm_request flat_reduce_scatter_add(void *self, struct stream *stream, void *out, void *in,
                                                   size_t count, enum dtype dtype) {
    return comm_reduce_scatter_add_start(self, stream, out, in, count, dtype);
}

static struct comm_request flat_all_gather(void *self, struct stream *stream, void *out, const void *in,
                                           size_t count, enum dtype dtype) {
    return comm_all_gather_start(self, stream, out, in, count, dtype);
}

struct collectives collectives_flat(struct comm *comm) {
    return (struct collectives){.self = comm,
                                .slices = comm_size(comm),
                                .slice = comm_rank(comm),
                                .slice_of = flat_slice_of,
                                .all_reduce_start = flat_all_reduce,
                                .reduce_scatter_start = flat_reduce_scatter,
                                .reduce_scatter_add_start = comm_adds(comm) ? flat_reduce_scatter_add : NULL,
                                .all_gather_start = flat_all_gather};
}
