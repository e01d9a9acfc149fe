/*
 * Collectives for ranks that share a device, which NCCL refuses: what a rank sends is copied to the host,
 * goes the way of the CPU backend's collectives, with the same sums, and what comes out is copied back.
 *
 * The host waits for both copies. That is slow, and meant for learning and tests on one GPU.
 */
#include "common/comm/mpi_private.h"

#include <stdlib.h>

#include "common/base/error.h"

/* What belongs to one of the family's places. */
struct place {
    const char *in; /* the operation's device memory */
    char *out;
    struct staging image;  /* pinned host memory that stands for them, … */
    struct staging pieces; /* … and where pieces to be summed arrive */
};

/* family->state */
struct staged {
    struct place places[IN_FLIGHT];
    struct stream *stream; /* of the copies back */
};

static struct staged *staged_of(struct family *family) {
    if (!family->state) {
        struct staged *staged = xcalloc(1, sizeof *staged);
        staged->stream = stream_open(family->device, "staging of collectives");
        family->state = staged;
    }
    return family->state;
}

static struct place *place_of(struct operation *operation) {
    struct family *family = operation->comm->family;
    return &staged_of(family)->places[operation - family->operations];
}

static void grow(struct device *device, struct staging *staging, size_t bytes) {
    if (staging->memory && bytes <= staging->bytes) return;
    host_free(device, staging->memory); /* first, so that both are never booked at once */
    staging->memory = host_alloc(device, BUFFERS, bytes, true, "staging of collectives");
    staging->bytes = bytes;
}

/* How the image of an operation's memory is laid out, in bytes. Where `in` may be a slice of `out`, or the
 * other way round, its image is. */
struct image {
    size_t in, in_bytes;
    size_t out, out_bytes;
    size_t bytes;
};

static struct image image_of(const struct operation *operation) {
    const struct comm *comm = operation->comm;
    size_t element = dtype_size(operation->dtype), bytes = operation->count * element;
    size_t size = (size_t)comm->size, rank = (size_t)comm->rank;
    switch (operation->collective) {
    case REDUCE_SCATTER:
        return (struct image){0, size * bytes, rank * bytes, bytes, size * bytes};
    case ALL_GATHER:
        return (struct image){rank * bytes, bytes, 0, size * bytes, size * bytes};
    case ALL_TO_ALL: {
        size_t sent = operation->send_offsets[size] * element;
        size_t received = operation->recv_offsets[size] * element;
        return (struct image){0, sent, sent, received, sent + received};
    }
    default:
        return (struct image){0, bytes, 0, bytes, bytes};
    }
}

static void staged_start(struct operation *operation, struct stream *stream) {
    struct comm *comm = operation->comm;
    struct place *place = place_of(operation);
    struct image image = image_of(operation);
    grow(comm->family->device, &place->image, image.bytes);
    grow(comm->family->device, &place->pieces,
         piece_bytes(comm, operation->collective, operation->count, operation->dtype));
    place->in = operation->in;
    place->out = operation->out;
    operation->in = place->image.memory + image.in;
    operation->out = place->image.memory + image.out;
    operation->staging = &place->pieces;
    if (operation->collective != BROADCAST || comm->rank == operation->root)
        copy_to_host(stream, place->image.memory + image.in, place->in, image.in_bytes);
    /* Also where nothing was copied: what comes must not overwrite what is still being read. */
    stream_synchronize(stream);
    mpi_start(operation, stream);
}

/* Bytes from … to of the result go to the device. */
static void copy_back(struct operation *operation, size_t from, size_t to) {
    struct place *place = place_of(operation);
    if (to > from)
        copy_to_device(staged_of(operation->comm->family)->stream, place->out + from, operation->out + from,
                       to - from);
}

/* All but what this rank has from itself: comm.c has copied that on the device. */
static void copy_result(struct operation *operation) {
    const struct comm *comm = operation->comm;
    size_t element = dtype_size(operation->dtype), rank = (size_t)comm->rank;
    size_t bytes = operation->count * element, all = image_of(operation).out_bytes;
    switch (operation->collective) {
    case ALL_GATHER:
        copy_back(operation, 0, rank * bytes);
        copy_back(operation, (rank + 1) * bytes, all);
        return;
    case ALL_TO_ALL:
        copy_back(operation, 0, operation->recv_offsets[rank] * element);
        copy_back(operation, operation->recv_offsets[rank + 1] * element, all);
        return;
    case BROADCAST:
        if (comm->rank != operation->root) copy_back(operation, 0, all);
        return;
    default:
        copy_back(operation, 0, all);
    }
}

static void staged_finish(struct operation *operation) {
    mpi_finish(operation);
    copy_result(operation);
    stream_synchronize(staged_of(operation->comm->family)->stream);
}

static void staged_close(struct comm *comm) {
    struct family *family = comm->family;
    struct staged *staged = family->state;
    if (!staged || family->members > 1) return;
    for (int i = 0; i < IN_FLIGHT; i++) {
        host_free(family->device, staged->places[i].image.memory);
        host_free(family->device, staged->places[i].pieces.memory);
    }
    stream_close(staged->stream);
    free(staged);
    family->state = NULL;
}

const struct carrier mpi_staged_carrier = {
    .start = staged_start, .finish = staged_finish, .progress = mpi_progress, .close = staged_close};
