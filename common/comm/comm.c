#include "common/comm/comm_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/phases.h"

const char *collective_name(enum collective collective) {
    static const char *const names[COLLECTIVES] = {"all_reduce", "reduce_scatter", "all_gather", "all_to_all",
                                                   "broadcast"};
    return names[collective];
}

/* ---- communicators ---- */

/* Numbers the nodes in the order of their first ranks. */
static void number_nodes(int *nodes, int size) {
    int *seen = xmalloc((size_t)size * sizeof *seen);
    int count = 0;
    for (int r = 0; r < size; r++) {
        int n = 0;
        while (n < count && seen[n] != nodes[r]) n++;
        if (n == count) seen[count++] = nodes[r];
        nodes[r] = n;
    }
    free(seen);
}

/* Who is on this rank's node. */
static void find_neighbours(struct comm *comm) {
    number_nodes(comm->nodes, comm->size);
    comm->node_rank = comm->node_size = 0;
    for (int r = 0; r < comm->size; r++) {
        if (comm->nodes[r] != comm->nodes[comm->rank]) continue;
        comm->node_rank += r < comm->rank;
        comm->node_size++;
    }
}

struct comm *comm_new(const struct comm *parent, int rank, int size, int *nodes, int *world_ranks,
                      double timeout) {
    struct comm *comm = xmalloc(sizeof *comm);
    *comm = (struct comm){.family = parent ? parent->family : xcalloc(1, sizeof *comm->family),
                          .rank = rank,
                          .size = size,
                          .nodes = nodes,
                          .world_ranks = world_ranks,
                          .timeout = timeout};
    if (!parent) {
        comm->family->root = comm;
        comm->family->counting = true;
    }
    comm->family->members++;
    find_neighbours(comm);
    return comm;
}

void comm_set_nodes(struct comm *comm, const int *nodes) {
    memcpy(comm->nodes, nodes, (size_t)comm->size * sizeof *nodes);
    find_neighbours(comm);
}

void comm_declare_nodes(struct comm *comm, int ranks_per_node) {
    if (comm->size % ranks_per_node)
        fail("ranks_per_node %d: %d ranks cannot be cut into nodes of %d; start a multiple of that many",
             ranks_per_node, comm->size, ranks_per_node);
    for (int r = 0; r < comm->size; r++) comm->nodes[r] = r / ranks_per_node;
    find_neighbours(comm);
}

void comm_slow_links(struct comm *comm, double bytes_per_second) {
    if (bytes_per_second > 0 && comm->size > 1 && comm->family->carrier->queues)
        fail("a slow network can be imitated where MPI sends (the CPU backend, or ranks that share a GPU), "
             "not with NCCL");
    comm->family->link_rate = bytes_per_second / comm->node_size;
}

static void attach(struct comm *comm) {
    if (comm->size > 1 && comm->family->carrier->attach) comm->family->carrier->attach(comm);
}

struct comm *comm_split(struct comm *comm, const int *colours) {
    int *nodes = xmalloc((size_t)comm->size * sizeof *nodes);
    int *world_ranks = xmalloc((size_t)comm->size * sizeof *world_ranks);
    int size = 0, rank = 0, first = -1;
    for (int r = 0; r < comm->size; r++) {
        if (colours[r] != colours[comm->rank]) continue;
        if (first < 0) first = r;
        if (r == comm->rank) rank = size;
        nodes[size] = comm->nodes[r];
        world_ranks[size++] = comm->world_ranks[r];
    }
    struct comm *part = comm_new(comm, rank, size, nodes, world_ranks, comm->timeout);
    backend_split(part, comm, first);
    if (part->family->device) attach(part);
    return part;
}

void comm_set_timeout(struct comm *comm, double seconds) {
    comm->timeout = seconds;
}

int comm_rank(const struct comm *comm) {
    return comm->rank;
}

int comm_size(const struct comm *comm) {
    return comm->size;
}

int comm_node_rank(const struct comm *comm) {
    return comm->node_rank;
}

int comm_node_size(const struct comm *comm) {
    return comm->node_size;
}

int comm_node(const struct comm *comm, int rank) {
    return comm->nodes[rank];
}

bool comm_same_node(const struct comm *comm, int rank) {
    return comm->nodes[rank] == comm->nodes[comm->rank];
}

void comm_attach(struct comm *comm, struct device *device) {
    comm->family->device = device;
    attach(comm);
}

void comm_share(struct comm *comm, void *memory, size_t bytes) {
    if (comm->size > 1 && comm->family->carrier->share) comm->family->carrier->share(comm, memory, bytes);
}

void comm_unshare(struct comm *comm) {
    comm_share(comm, NULL, 0);
}

/* ---- sizes, from a call's arguments ---- */

size_t slice_offset(size_t count, int size, int r) {
    size_t whole = count / (size_t)size, larger = count % (size_t)size, before = (size_t)r;
    return whole * before + (before < larger ? before : larger);
}

size_t slice_count(size_t count, int size, int r) {
    return slice_offset(count, size, r + 1) - slice_offset(count, size, r);
}

size_t piece_bytes(const struct comm *comm, enum collective collective, size_t count, enum dtype dtype) {
    size_t others = (size_t)comm->size - 1;
    switch (collective) {
    case ALL_REDUCE:
        return others * slice_count(count, comm->size, comm->rank) * dtype_size(dtype);
    case REDUCE_SCATTER:
        return others * count * dtype_size(dtype);
    default:
        return 0;
    }
}

size_t comm_staging_bytes(const struct comm *comm, enum collective collective, size_t count,
                          enum dtype dtype) {
    return comm->family->carrier->stages ? piece_bytes(comm, collective, count, dtype) : 0;
}

/* Elements that this rank sends to `peer`. */
static size_t sent_to(const struct operation *operation, int peer) {
    const struct comm *comm = operation->comm;
    switch (operation->collective) {
    case ALL_REDUCE:
        return slice_count(operation->count, comm->size, peer) +
               slice_count(operation->count, comm->size, comm->rank);
    case ALL_TO_ALL:
        return operation->send_offsets[peer + 1] - operation->send_offsets[peer];
    case BROADCAST:
        return comm->rank == operation->root ? operation->count : 0;
    default:
        return operation->count;
    }
}

static void add_bytes(struct comm_bytes *sum, const struct comm_bytes *bytes) {
    sum->calls += bytes->calls;
    sum->bytes += bytes->bytes;
    sum->inside_bytes += bytes->inside_bytes;
    sum->across_bytes += bytes->across_bytes;
}

static void count_bytes(const struct operation *operation) {
    struct comm *comm = operation->comm;
    if (!comm->family->counting) return;
    struct comm_bytes sent = {.calls = 1};
    for (int peer = 0; peer < comm->size; peer++) {
        if (peer == comm->rank) continue;
        double bytes = (double)sent_to(operation, peer) * (double)dtype_size(operation->dtype);
        sent.bytes += bytes;
        *(comm_same_node(comm, peer) ? &sent.inside_bytes : &sent.across_bytes) += bytes;
    }
    add_bytes(&comm->bytes[operation->counted_as], &sent);
    add_bytes(&comm->family->bytes[operation->counted_as], &sent);
}

void comm_bytes_sent(const struct comm *comm, struct comm_bytes *bytes) {
    memcpy(bytes, comm->bytes, sizeof comm->bytes);
}

void comm_bytes_sent_family(const struct comm *comm, struct comm_bytes *bytes) {
    memcpy(bytes, comm->family->bytes, sizeof comm->family->bytes);
}

void comm_count_bytes(struct comm *comm, bool count) {
    comm->family->counting = count;
}

/* ---- collectives in flight ---- */

/* Time that computation does not hide: a GPU's stream waits, or the host does what a carrier leaves to it. */
static void exposed_begin(void) {
    profile_push(phase_name(PHASE_COMMUNICATION));
}

static void exposed_end(void) {
    profile_pop();
}

static struct operation *oldest(struct family *family) {
    struct operation *found = NULL;
    for (int i = 0; i < IN_FLIGHT; i++) {
        struct operation *operation = &family->operations[i];
        if (operation->ticket && (!found || operation->ticket < found->ticket)) found = operation;
    }
    return found;
}

static void free_offsets(struct operation *operation) {
    free(operation->send_offsets);
    free(operation->recv_offsets);
}

bool operation_advance(struct operation *operation) {
    struct operation *next = operation->next;
    if (!next) return false;
    next->ticket = operation->ticket;
    next->staging = operation->staging;
    next->state = operation->state;
    *operation = *next;
    free(next);
    return true;
}

static void finish(struct operation *operation) {
    operation->comm->family->carrier->finish(operation);
    for (bool left = true; left;) left = operation_advance(operation); /* by a carrier that sends nothing */
    free_offsets(operation);
    *operation = (struct operation){0};
}

/* A place for one more; its staging is free then. Which place it is depends on the program alone, not on how
 * fast messages come: so that every run, and the dry backend, books the same. */
static int free_place(struct family *family) {
    for (;;) {
        for (int i = 0; i < IN_FLIGHT; i++)
            if (!family->operations[i].ticket) return i;
        finish(oldest(family));
    }
}

static void grow_staging(struct family *family, struct staging *staging, size_t bytes) {
    if (bytes <= staging->bytes) return;
    device_free(family->device, staging->memory); /* first, so that both are never booked at once */
    staging->memory = device_alloc(family->device, BUFFERS, bytes, "staging of collectives");
    staging->bytes = bytes;
}

/* What this rank has itself goes from in to out without a message. */
static void copy_own(struct stream *stream, const struct operation *operation) {
    size_t element = dtype_size(operation->dtype), rank = (size_t)operation->comm->rank;
    const char *in = operation->in;
    char *out = operation->out;
    size_t count = operation->count;
    switch (operation->collective) {
    case REDUCE_SCATTER: /* among several, the sum writes there */
        if (operation->comm->size > 1) return;
        break;
    case ALL_GATHER:
        out += rank * count * element;
        break;
    case ALL_TO_ALL:
        in += operation->send_offsets[rank] * element;
        out += operation->recv_offsets[rank] * element;
        count = operation->send_offsets[rank + 1] - operation->send_offsets[rank];
        break;
    default:
        return;
    }
    if (in != out && count) copy_on_device(stream, out, in, count * element);
}

/* Puts it in a place, where it stays until it is finished. The steps of a chain share a staging. */
static void start_in_place(struct stream *stream, struct operation operation) {
    struct family *family = operation.comm->family;
    int place = free_place(family);
    for (const struct operation *step = &operation; step; step = step->next)
        grow_staging(family, &family->staging[place],
                     comm_staging_bytes(step->comm, step->collective, step->count, step->dtype));
    copy_own(stream, &operation);
    operation.staging = &family->staging[place];
    family->operations[place] = operation;
    family->carrier->start(&family->operations[place], stream);
}

/* Its number, and its bytes: those of later steps of a chain, too, are due when the first one starts, so that
 * they are the same on all ranks. */
static void announce(struct operation *operation) {
    operation->number = ++operation->comm->number;
    count_bytes(operation);
    if (operation->next) announce(operation->next);
}

static struct comm_request start(struct stream *stream, struct operation operation) {
    struct comm *comm = operation.comm;
    struct family *family = comm->family;
    announce(&operation);
    if (comm->size == 1) {
        copy_own(stream, &operation);
        free_offsets(&operation);
        return (struct comm_request){0};
    }
    if (!family->device)
        fail("%s before comm_attach(): a mistake in this program", collective_name(operation.collective));
    operation.ticket = ++family->tickets;
    if (!family->carrier->queues) {
        exposed_begin();
        start_in_place(stream, operation);
        exposed_end();
    } else {
        if (operation.collective != ALL_GATHER) copy_own(stream, &operation);
        family->carrier->start(&operation, stream);
        free_offsets(&operation);
    }
    return (struct comm_request){operation.ticket};
}

void comm_wait(struct comm *comm, struct stream *stream, struct comm_request request) {
    struct family *family = comm->family;
    if (!request.ticket) return;
    exposed_begin();
    if (family->carrier->queues) family->carrier->wait(family, stream, request.ticket);
    /* Others are done when they are finished: work queued later, on any stream, sees the result. */
    for (struct operation *operation; (operation = oldest(family)) && operation->ticket <= request.ticket;)
        finish(operation);
    exposed_end();
}

bool comm_wait_is_queued(const struct comm *comm) {
    return comm->family->carrier->queues;
}

void comm_progress(struct comm *comm) {
    struct family *family = comm->family;
    if (!oldest(family)) return;
    exposed_begin();
    family->carrier->progress(family);
    exposed_end();
}

void comm_close(struct comm *comm) {
    if (!comm) return;
    struct family *family = comm->family;
    for (struct operation *operation; (operation = oldest(family));) finish(operation);
    if (family->carrier->close) family->carrier->close(comm);
    backend_close(comm);
    if (family->root == comm) family->root = NULL;
    if (--family->members == 0) {
        for (int i = 0; i < IN_FLIGHT; i++) device_free(family->device, family->staging[i].memory);
        free(family);
    }
    free(comm->nodes);
    free(comm->world_ranks);
    free(comm);
}

/* ---- the collectives ---- */

struct comm_request comm_all_reduce_start(struct comm *comm, struct stream *stream, void *buffer,
                                          size_t count, enum dtype dtype) {
    return start(stream, (struct operation){.comm = comm,
                                            .collective = ALL_REDUCE,
                                            .counted_as = ALL_REDUCE,
                                            .dtype = dtype,
                                            .in = buffer,
                                            .out = buffer,
                                            .count = count});
}

struct comm_request comm_reduce_scatter_start(struct comm *comm, struct stream *stream, void *out,
                                              const void *in, size_t count, enum dtype dtype) {
    return start(stream, (struct operation){.comm = comm,
                                            .collective = REDUCE_SCATTER,
                                            .counted_as = REDUCE_SCATTER,
                                            .dtype = dtype,
                                            .in = in,
                                            .out = out,
                                            .count = count});
}

bool comm_adds(const struct comm *comm) {
    return comm->family->carrier->queues && comm->size > 1;
}

struct comm_request comm_reduce_scatter_add_start(struct comm *comm, struct stream *stream, void *out,
                                                  void *in, size_t count, enum dtype dtype) {
    if (!comm_adds(comm)) fail("a reduce-scatter that adds where none does: a mistake in this program");
    return start(stream, (struct operation){.comm = comm,
                                            .collective = REDUCE_SCATTER,
                                            .counted_as = REDUCE_SCATTER,
                                            .dtype = dtype,
                                            .in = in,
                                            .out = out,
                                            .count = count,
                                            .adds = true});
}

struct comm_request comm_all_gather_start(struct comm *comm, struct stream *stream, void *out, const void *in,
                                          size_t count, enum dtype dtype) {
    return start(stream, (struct operation){.comm = comm,
                                            .collective = ALL_GATHER,
                                            .counted_as = ALL_GATHER,
                                            .dtype = dtype,
                                            .in = in,
                                            .out = out,
                                            .count = count});
}

/* Elements before each rank's, and all of them at the end. */
static size_t *offsets(const size_t *counts, int size) {
    size_t *sums = xmalloc(((size_t)size + 1) * sizeof *sums);
    sums[0] = 0;
    for (int r = 0; r < size; r++) sums[r + 1] = sums[r] + counts[r];
    return sums;
}

struct comm_request comm_all_to_all_start(struct comm *comm, struct stream *stream, void *out,
                                          const size_t *recv_counts, const void *in,
                                          const size_t *send_counts, enum dtype dtype) {
    if (send_counts[comm->rank] != recv_counts[comm->rank])
        fail("all_to_all: rank %d sends %zu elements to itself but expects %zu: a mistake in this program",
             comm->rank, send_counts[comm->rank], recv_counts[comm->rank]);
    return start(stream, (struct operation){.comm = comm,
                                            .collective = ALL_TO_ALL,
                                            .counted_as = ALL_TO_ALL,
                                            .dtype = dtype,
                                            .in = in,
                                            .out = out,
                                            .send_offsets = offsets(send_counts, comm->size),
                                            .recv_offsets = offsets(recv_counts, comm->size)});
}

struct comm_request comm_broadcast_start(struct comm *comm, struct stream *stream, void *buffer, size_t count,
                                         enum dtype dtype, int root) {
    return start(stream, (struct operation){.comm = comm,
                                            .collective = BROADCAST,
                                            .counted_as = BROADCAST,
                                            .dtype = dtype,
                                            .in = buffer,
                                            .out = buffer,
                                            .count = count,
                                            .root = root});
}

/* ---- chains ---- */

static struct operation step_operation(const struct comm_step *step, enum collective as, enum dtype dtype) {
    return (struct operation){.comm = step->comm,
                              .collective = step->collective,
                              .counted_as = as,
                              .dtype = dtype,
                              .in = step->in,
                              .out = step->out,
                              .count = step->count};
}

static void check_step(const struct comm_step *step, bool first, enum dtype dtype) {
    size_t before = (size_t)step->comm->rank * step->count * dtype_size(dtype);
    bool known = step->collective == ALL_REDUCE
                     ? step->in == step->out
                     : step->collective == REDUCE_SCATTER || step->collective == ALL_GATHER;
    bool copies =
        !first && step->collective == ALL_GATHER && (const char *)step->in != (char *)step->out + before;
    if (!known || copies || step->comm->size < 2)
        fail("a chain cannot have this %s: a mistake in this program", collective_name(step->collective));
}

struct comm_request comm_chain_start(struct stream *stream, enum collective as, const struct comm_step *steps,
                                     int count, enum dtype dtype) {
    const struct carrier *carrier = steps[0].comm->family->carrier;
    struct operation *next = NULL;
    struct comm_request request = {0};
    for (int i = count; i-- > 0;) check_step(&steps[i], i == 0, dtype);
    if (carrier->chains) {
        for (int i = count; i-- > 1;) {
            struct operation *step = xmalloc(sizeof *step);
            *step = step_operation(&steps[i], as, dtype);
            step->next = next;
            next = step;
        }
        struct operation first = step_operation(&steps[0], as, dtype);
        first.next = next;
        return start(stream, first);
    }
    for (int i = 0; i < count; i++) {
        if (!carrier->queues) comm_wait(steps[i].comm, stream, request);
        struct operation operation = step_operation(&steps[i], as, dtype);
        operation.follows = i > 0;
        request = start(stream, operation);
    }
    return request;
}

/* ---- started and waited for ---- */

void comm_all_reduce(struct comm *comm, struct stream *stream, void *buffer, size_t count, enum dtype dtype) {
    comm_wait(comm, stream, comm_all_reduce_start(comm, stream, buffer, count, dtype));
}

void comm_reduce_scatter(struct comm *comm, struct stream *stream, void *out, const void *in, size_t count,
                         enum dtype dtype) {
    comm_wait(comm, stream, comm_reduce_scatter_start(comm, stream, out, in, count, dtype));
}

void comm_all_gather(struct comm *comm, struct stream *stream, void *out, const void *in, size_t count,
                     enum dtype dtype) {
    comm_wait(comm, stream, comm_all_gather_start(comm, stream, out, in, count, dtype));
}

void comm_all_to_all(struct comm *comm, struct stream *stream, void *out, const size_t *recv_counts,
                     const void *in, const size_t *send_counts, enum dtype dtype) {
    comm_wait(comm, stream, comm_all_to_all_start(comm, stream, out, recv_counts, in, send_counts, dtype));
}

void comm_broadcast(struct comm *comm, struct stream *stream, void *buffer, size_t count, enum dtype dtype,
                    int root) {
    comm_wait(comm, stream, comm_broadcast_start(comm, stream, buffer, count, dtype, root));
}
