#include "tests/support/comm_script.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

struct step {
    enum collective collective;
    enum dtype dtype;
    size_t count;
    bool uncounted;
};

/* Two at a time: a step and the next are in flight together. */
static const struct step steps[] = {
    {ALL_REDUCE, FP32, 100003, false},    {ALL_REDUCE, BF16, 3, false},
    {REDUCE_SCATTER, FP16, 4097, false},  {ALL_GATHER, FP64, 1, false},
    {ALL_TO_ALL, INT32, 17, false},       {BROADCAST, FP32, 77, false},
    {ALL_REDUCE, FP64, 0, false},         {REDUCE_SCATTER, FP32, 30001, false},
    {ALL_REDUCE, FP32, 50000, true},      {ALL_TO_ALL, BF16, 999, true},
    {REDUCE_SCATTER, FP32, 30001, false}, {ALL_REDUCE, FP16, 250000, false},
    {ALL_GATHER, FP32, 60000, false},     {ALL_TO_ALL, FP64, 5, false},
};
enum { STEPS = sizeof steps / sizeof *steps };

/* All-to-all: uneven, at times nothing. */
static size_t row_count(const struct step *step, int from, int to) {
    return step->count * (size_t)((3 * from + 5 * to) % 4);
}

static struct comm_request start(struct comm *comm, struct stream *stream, const struct step *step, char *in,
                                 char *out) {
    int size = comm_size(comm), rank = comm_rank(comm);
    switch (step->collective) {
    case ALL_REDUCE:
        return comm_all_reduce_start(comm, stream, out, step->count, step->dtype);
    case REDUCE_SCATTER:
        return comm_reduce_scatter_start(comm, stream, out, in, step->count, step->dtype);
    case ALL_GATHER:
        return comm_all_gather_start(comm, stream, out, in, step->count, step->dtype);
    case BROADCAST:
        return comm_broadcast_start(comm, stream, out, step->count, step->dtype, size - 1);
    default:
        break;
    }
    size_t *send = xmalloc((size_t)size * sizeof *send), *receive = xmalloc((size_t)size * sizeof *receive);
    for (int r = 0; r < size; r++) {
        send[r] = row_count(step, rank, r);
        receive[r] = row_count(step, r, rank);
    }
    struct comm_request request = comm_all_to_all_start(comm, stream, out, receive, in, send, step->dtype);
    free(send);
    free(receive);
    return request;
}

void comm_script_run(struct comm *comm, struct device *device) {
    struct stream *stream = stream_open(device, "script");
    for (int s = 0; s < STEPS; s += 2) {
        struct comm_request requests[2];
        char *in[2], *out[2];
        for (int i = 0; i < 2; i++) {
            const struct step *step = &steps[s + i];
            size_t bytes = 3 * (size_t)comm_size(comm) * step->count * dtype_size(step->dtype);
            in[i] = device_alloc(device, ACTIVATIONS, bytes, "script");
            out[i] = device_alloc(device, ACTIVATIONS, bytes, "script");
            fill_zero(stream, in[i], bytes);
            fill_zero(stream, out[i], bytes);
            comm_count_bytes(comm, !step->uncounted);
            requests[i] = start(comm, stream, step, in[i], out[i]);
            comm_progress(comm);
        }
        for (int i = 0; i < 2; i++) {
            comm_wait(comm, stream, requests[i]);
            device_free(device, in[i]);
            device_free(device, out[i]);
        }
    }
    stream_close(stream);
}

/* ---- what must come out ---- */

static size_t slice(size_t count, int size, int r) {
    return count / (size_t)size + ((size_t)r < count % (size_t)size);
}

static size_t elements_to(const struct step *step, int rank, int peer, int size) {
    switch (step->collective) {
    case ALL_REDUCE: /* a piece of the peer's slice, then the sum of mine */
        return slice(step->count, size, peer) + slice(step->count, size, rank);
    case ALL_TO_ALL:
        return row_count(step, rank, peer);
    case BROADCAST:
        return rank == size - 1 ? step->count : 0;
    default:
        return step->count;
    }
}

void comm_script_bytes(int rank, int size, const int *node_of, struct comm_bytes *bytes) {
    memset(bytes, 0, COLLECTIVES * sizeof *bytes);
    for (int s = 0; s < STEPS; s++) {
        struct comm_bytes *line = &bytes[steps[s].collective];
        if (steps[s].uncounted) continue;
        line->calls++;
        for (int peer = 0; peer < size; peer++) {
            if (peer == rank) continue;
            double sent = (double)(elements_to(&steps[s], rank, peer, size) * dtype_size(steps[s].dtype));
            line->bytes += sent;
            if (node_of[peer] == node_of[rank])
                line->inside_bytes += sent;
            else
                line->across_bytes += sent;
        }
    }
}

/* The other ranks' pieces of what this rank sums, for the largest sum of each of the two in flight. */
size_t comm_script_staging(int rank, int size) {
    size_t largest[2] = {0, 0};
    for (int s = 0; s < STEPS; s++) {
        size_t mine = steps[s].collective == ALL_REDUCE       ? slice(steps[s].count, size, rank)
                      : steps[s].collective == REDUCE_SCATTER ? steps[s].count
                                                              : 0;
        size_t bytes = (size_t)(size - 1) * mine * dtype_size(steps[s].dtype);
        if (bytes > largest[s % 2]) largest[s % 2] = bytes;
    }
    return largest[0] + largest[1];
}

/* Head and two places for a piece of each rank, the largest piece of all (common/comm/peer_copies.h). */
size_t comm_script_places(int size) {
    size_t largest = 0;
    for (int s = 0; s < STEPS; s++) {
        const struct step *step = &steps[s];
        size_t piece = step->collective == ALL_REDUCE ? slice(step->count, size, 0)
                       : step->collective == REDUCE_SCATTER || step->collective == ALL_GATHER ? step->count
                                                                                              : 0;
        if (piece * dtype_size(step->dtype) > largest) largest = piece * dtype_size(step->dtype);
    }
    return 4096 + 2 * (size_t)size * ((largest + 255) / 256 * 256);
}

void comm_script_check(struct comm *comm, const struct device *device, size_t staging) {
    int size = comm_size(comm), rank = comm_rank(comm);
    struct comm_bytes expected[COLLECTIVES], counted[COLLECTIVES];
    int *node_of = xmalloc((size_t)size * sizeof *node_of);
    for (int r = 0; r < size; r++) node_of[r] = comm_node(comm, r);
    comm_script_bytes(rank, size, node_of, expected);
    free(node_of);
    comm_bytes_sent(comm, counted);
    for (int c = 0; c < COLLECTIVES; c++)
        if (counted[c].calls != expected[c].calls || counted[c].bytes != expected[c].bytes ||
            counted[c].inside_bytes != expected[c].inside_bytes ||
            counted[c].across_bytes != expected[c].across_bytes)
            fail("rank %d of %d, %s: %lld calls, %.0f bytes (%.0f inside, %.0f across) counted; %lld, %.0f "
                 "(%.0f, "
                 "%.0f) expected",
                 rank, size, collective_name((enum collective)c), counted[c].calls, counted[c].bytes,
                 counted[c].inside_bytes, counted[c].across_bytes, expected[c].calls, expected[c].bytes,
                 expected[c].inside_bytes, expected[c].across_bytes);
    const struct ledger_line *line = &device_ledger(device)->lines[BUFFERS];
    if (line->bytes != staging || line->peak_bytes != staging)
        fail("rank %d of %d: staging of %zu bytes booked (peak %zu), %zu expected", rank, size, line->bytes,
             line->peak_bytes, staging);
}
