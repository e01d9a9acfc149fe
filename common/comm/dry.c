/* Any one rank of any world size in one process: comm.c counts and books, nothing is sent. */
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/comm/comm_private.h"
#include "common/comm/peer_block.h"

static void start_nothing(struct operation *operation, struct stream *stream) {
    (void)operation, (void)stream;
}

static void finish_nothing(struct operation *operation) {
    (void)operation;
}

static void progress_nothing(struct family *family) {
    (void)family;
}

/* Books what the CPU's carrier does. */
static const struct carrier dry_carrier = {.stages = true,
                                           .chains = true,
                                           .start = start_nothing,
                                           .finish = finish_nothing,
                                           .progress = progress_nothing};

/* ---- as if each rank had a GPU ---- */

/* comm->carried: the block that GPUs of one node copy through. */
struct block {
    void *memory;
    size_t place; /* bytes of a place in it */
};

static void book_block(struct comm *comm, struct block *block, size_t place) {
    device_free(comm->family->device, block->memory);
    block->memory = device_alloc(comm->family->device, BUFFERS, peer_block_bytes(comm, place),
                                 "pieces of collectives, from and for other GPUs");
    block->place = place;
}

static void start_on_gpu(struct operation *operation, struct stream *stream) {
    (void)stream;
    struct comm *comm = operation->comm;
    if (!peer_copies_wanted(comm)) return;
    struct block *block = comm->carried;
    if (!block) {
        block = comm->carried = xcalloc(1, sizeof *block);
        book_block(comm, block, 0);
    }
    if (peer_copies_do(operation) && peer_place_bytes(operation) > block->place)
        book_block(comm, block, peer_place_bytes(operation));
}

static void close_on_gpu(struct comm *comm) {
    struct block *block = comm->carried;
    if (block) device_free(comm->family->device, block->memory);
    free(block);
}

static void wait_for_nothing(struct family *family, struct stream *stream, long long ticket) {
    (void)family, (void)stream, (void)ticket;
}

/* Books what the CUDA backend's does where the GPUs of a node reach each other. */
static const struct carrier dry_gpu_carrier = {.queues = true,
                                               .start = start_on_gpu,
                                               .wait = wait_for_nothing,
                                               .finish = finish_nothing,
                                               .progress = progress_nothing,
                                               .close = close_on_gpu};

struct comm *comm_open_world(const struct comm_options *options) {
    int size = options->dry_size ? options->dry_size : 1;
    int node_size = options->dry_node_size ? options->dry_node_size : size;
    if (size < 1 || node_size < 1 || options->dry_rank < 0 || options->dry_rank >= size)
        fail("a world of %d ranks, %d to a node, has no rank %d: give a rank from 0 to the world's size − 1, "
             "and "
             "positive sizes",
             size, node_size, options->dry_rank);
    int *nodes = xmalloc((size_t)size * sizeof *nodes);
    int *world_ranks = xmalloc((size_t)size * sizeof *world_ranks);
    for (int r = 0; r < size; r++) {
        nodes[r] = r / node_size;
        world_ranks[r] = r;
    }
    struct comm *comm = comm_new(NULL, options->dry_rank, size, nodes, world_ranks, options->timeout);
    comm->family->no_peer_copies = options->no_peer_copies;
    comm->family->carrier = options->dry_gpu ? &dry_gpu_carrier : &dry_carrier;
    return comm;
}

void backend_split(struct comm *comm, struct comm *parent, int colour) {
    (void)comm, (void)parent, (void)colour;
}

void backend_close(struct comm *comm) {
    (void)comm;
}

void comm_barrier(struct comm *comm) {
    (void)comm;
}

void comm_host_sum(struct comm *comm, double *values, size_t count) {
    (void)comm, (void)values, (void)count;
}

void comm_host_max(struct comm *comm, double *values, size_t count) {
    (void)comm, (void)values, (void)count;
}

void comm_host_broadcast(struct comm *comm, void *data, size_t bytes, int root) {
    (void)comm, (void)data, (void)bytes, (void)root;
}

void comm_host_gather(struct comm *comm, void *all, const void *mine, size_t bytes) {
    for (int r = 0; r < comm->size; r++) memcpy((char *)all + (size_t)r * bytes, mine, bytes);
}
