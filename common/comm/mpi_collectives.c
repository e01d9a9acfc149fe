#include "common/comm/mpi_private.h"

#include <stdlib.h>

#include "common/base/error.h"

/* operation->state: what a collective is doing now. An all-reduce has two parts: each rank gets all pieces of
 * its slice and sums them, then sends the sum to all. */
struct course {
    struct exchange exchange;
    bool complete;
};

/* The peers of a rank in the order in which it sends to them: each rank begins with its right neighbour, so
 * that not all send to the same one at once. */
static int peer_after(const struct comm *comm, int distance) {
    return (comm->rank + distance) % comm->size;
}

static int peer_before(const struct comm *comm, int distance) {
    return (comm->rank - distance + comm->size) % comm->size;
}

/* Staging holds the other ranks' pieces of this rank's slice, in rank order. */
static char *piece_of(const struct operation *operation, int peer, size_t count) {
    int place = peer < operation->comm->rank ? peer : peer - 1;
    return operation->staging->memory + (size_t)place * count * dtype_size(operation->dtype);
}

static size_t my_count(const struct operation *operation) {
    return operation->collective == ALL_REDUCE
               ? slice_count(operation->count, operation->comm->size, operation->comm->rank)
               : operation->count;
}

/* Bytes before rank r's slice of the whole. */
static size_t slice_start(const struct operation *operation, int r) {
    size_t elements = operation->collective == ALL_REDUCE
                          ? slice_offset(operation->count, operation->comm->size, r)
                          : (size_t)r * operation->count;
    return elements * dtype_size(operation->dtype);
}

/* ---- posting messages; all receives first, so that what arrives finds its place ---- */

static void post_pieces(struct operation *operation, struct exchange *exchange) {
    const struct comm *comm = operation->comm;
    size_t mine = my_count(operation), element = dtype_size(operation->dtype);
    for (int d = 1; d < comm->size; d++) {
        int peer = peer_before(comm, d);
        exchange_receive(exchange, piece_of(operation, peer, mine), mine * element, peer);
    }
    for (int d = 1; d < comm->size; d++) {
        int peer = peer_after(comm, d);
        size_t bytes = slice_start(operation, peer + 1) - slice_start(operation, peer);
        exchange_send(exchange, operation->in + slice_start(operation, peer), bytes, peer);
    }
}

/* Every rank's slice to all; `mine` is this rank's. */
static void post_slices(struct operation *operation, struct exchange *exchange, const char *mine) {
    const struct comm *comm = operation->comm;
    for (int d = 1; d < comm->size; d++) {
        int peer = peer_before(comm, d);
        size_t start = slice_start(operation, peer);
        exchange_receive(exchange, operation->out + start, slice_start(operation, peer + 1) - start, peer);
    }
    size_t bytes = my_count(operation) * dtype_size(operation->dtype);
    for (int d = 1; d < comm->size; d++) exchange_send(exchange, mine, bytes, peer_after(comm, d));
}

static void post_rows(struct operation *operation, struct exchange *exchange) {
    const struct comm *comm = operation->comm;
    size_t element = dtype_size(operation->dtype);
    for (int d = 1; d < comm->size; d++) {
        int peer = peer_before(comm, d);
        const size_t *offset = operation->recv_offsets + peer;
        exchange_receive(exchange, operation->out + offset[0] * element, (offset[1] - offset[0]) * element,
                         peer);
    }
    for (int d = 1; d < comm->size; d++) {
        int peer = peer_after(comm, d);
        const size_t *offset = operation->send_offsets + peer;
        exchange_send(exchange, operation->in + offset[0] * element, (offset[1] - offset[0]) * element, peer);
    }
}

static void post_from_root(struct operation *operation, struct exchange *exchange) {
    const struct comm *comm = operation->comm;
    size_t bytes = operation->count * dtype_size(operation->dtype);
    if (comm->rank != operation->root) {
        exchange_receive(exchange, operation->out, bytes, operation->root);
        return;
    }
    for (int d = 1; d < comm->size; d++) exchange_send(exchange, operation->in, bytes, peer_after(comm, d));
}

/* ---- the course of a collective ---- */

static void sum_pieces(const struct operation *operation) {
    const struct comm *comm = operation->comm;
    size_t count = my_count(operation), start = slice_start(operation, comm->rank);
    const void **parts = xmalloc((size_t)comm->size * sizeof *parts);
    for (int r = 0; r < comm->size; r++)
        parts[r] = r == comm->rank ? operation->in + start : piece_of(operation, r, count);
    char *out = operation->out + (operation->collective == ALL_REDUCE ? start : 0);
    sum_in_order(operation->dtype, out, parts, comm->size, count);
    free(parts);
}

static void begin(struct operation *operation) {
    struct course *course = operation->state;
    struct exchange *exchange = &course->exchange;
    exchange_open(exchange, operation->comm, collective_name(operation->collective), operation->number,
                  FIRST_PART);
    switch (operation->collective) {
    case ALL_REDUCE:
    case REDUCE_SCATTER:
        post_pieces(operation, exchange);
        break;
    case ALL_GATHER:
        post_slices(operation, exchange, operation->in);
        break;
    case ALL_TO_ALL:
        post_rows(operation, exchange);
        break;
    default:
        post_from_root(operation, exchange);
    }
}

void mpi_start(struct operation *operation, struct stream *stream) {
    (void)stream; /* its work is done when the call that queues it returns */
    operation->state = xcalloc(1, sizeof(struct course));
    begin(operation);
}

/* All messages of the part are done. */
static void next_part(struct operation *operation, struct course *course) {
    struct exchange *exchange = &course->exchange;
    enum part part = exchange->part;
    if (part == FIRST_PART &&
        (operation->collective == ALL_REDUCE || operation->collective == REDUCE_SCATTER))
        sum_pieces(operation);
    if (operation->collective == ALL_REDUCE && part == FIRST_PART) {
        exchange_close(exchange);
        exchange_open(exchange, operation->comm, collective_name(operation->collective), operation->number,
                      SECOND_PART);
        post_slices(operation, exchange, operation->out + slice_start(operation, operation->comm->rank));
    } else if (operation_advance(operation)) { /* a chain's next step */
        exchange_close(exchange);
        begin(operation);
    } else {
        course->complete = true;
    }
}

static bool move(struct operation *operation) {
    struct course *course = operation->state;
    if (course->complete) return false;
    bool moved = exchange_test(&course->exchange);
    if (course->exchange.pending) return moved;
    next_part(operation, course);
    return true;
}

bool collectives_move(struct family *family) {
    bool moved = false;
    for (int i = 0; i < IN_FLIGHT; i++)
        if (family->operations[i].ticket && move(&family->operations[i])) moved = true;
    return moved;
}

void mpi_progress(struct family *family) {
    collectives_move(family);
}

void mpi_finish(struct operation *operation) {
    struct course *course = operation->state;
    struct patience patience;
    patience_begin(&patience);
    while (!course->complete) {
        if (collectives_move(operation->comm->family))
            patience_begin(&patience);
        else
            patience_pause(&patience, &course->exchange);
    }
    exchange_close(&course->exchange);
    free(course);
}

const struct carrier mpi_carrier = {
    .stages = true, .chains = true, .start = mpi_start, .finish = mpi_finish, .progress = mpi_progress};
