#include "common/comm/peer_copies.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/comm/peer_values.h"
#include "common/device/cuda/cuda.h"

/* Numbers at the head of each rank's block, written by its peers: for each of them, how many pieces … */
struct numbers {
    uint32_t arrived[PEERS_MOST]; /* it has pushed here */
    uint32_t taken[PEERS_MOST];   /* of this rank's it has added */
    uint32_t ready[PEERS_MOST];   /* it has exported */
    uint32_t pulled[PEERS_MOST];  /* of this rank's exports it has pulled */
};

struct peers {
    struct comm *comm;
    cudaStream_t sends, sums, pulls; /* `sums` is that of all collectives */
    cudaStream_t exporting, pulling; /* which of them has done so last; NULL: none */
    cudaEvent_t before;              /* what one of them has queued so far, for another one to wait for */
    char *places;                    /* this rank's block, … */
    char *blocks[PEERS_MOST];        /* … and each rank's, as this process reaches it */
    size_t piece;                    /* bytes of a place */
    uint32_t pushes, exports;        /* so far */
    struct {
        char *memory; /* this rank's block that comm_share() named; NULL: none */
        size_t bytes;
        char *blocks[PEERS_MOST]; /* the same on each rank */
    } shared;
};

static struct numbers *numbers_of(const struct peers *peers, int rank) {
    return (struct numbers *)peers->blocks[rank];
}

static void copy(cudaStream_t stream, void *to, const void *from, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copying between GPUs");
}

/* ---- places ---- */

/* Where `rank` has what `from` pushed to it; from == rank: what it exports itself. */
static char *place(const struct peers *peers, int rank, int from, uint32_t number) {
    size_t slot = number % SLOTS, column = (size_t)from;
    return peers->blocks[rank] + PEER_HEAD_BYTES + (slot * (size_t)peers->comm->size + column) * peers->piece;
}

/* blocks [size]: those of the others, which this rank no longer reaches for. */
static void unmap(const struct comm *comm, char **blocks) {
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank || !blocks[r]) continue;
        CUDA_CHECK(cudaIpcCloseMemHandle(blocks[r]), "closing a peer's memory");
        blocks[r] = NULL;
    }
}

/* What ranks tell each other of a block. */
struct invitation {
    cudaIpcMemHandle_t handle;
    bool good;
};

/* Each rank calls with its own `block`, from device_alloc(): fills blocks [size] with where this process
 * reaches each rank's. False on all ranks where one cannot; then nothing is mapped. */
static bool map(struct comm *comm, void *block, char **blocks) {
    struct invitation mine = {0}, all[PEERS_MOST];
    double bad = 0;
    mine.good = cudaIpcGetMemHandle(&mine.handle, block) == cudaSuccess;
    comm_host_gather(comm, all, &mine, sizeof mine);
    for (int r = 0; r < comm->size; r++) {
        void *pointer = block;
        if (r != comm->rank &&
            (!all[r].good || cudaIpcOpenMemHandle(&pointer, all[r].handle, cudaIpcMemLazyEnablePeerAccess))) {
            bad = 1;
            pointer = NULL;
        }
        blocks[r] = pointer;
    }
    (void)cudaGetLastError(); /* that a GPU cannot be reached is no error */
    comm_host_max(comm, &bad, 1);
    if (bad > 0) unmap(comm, blocks);
    return bad <= 0;
}

/* Makes this rank's block, with places of `piece` bytes, and reaches for the others'. */
static bool map_places(struct peers *peers, size_t piece) {
    struct comm *comm = peers->comm;
    peers->piece = piece;
    peers->pushes = peers->exports = 0;
    peers->places = device_alloc(comm->family->device, BUFFERS, peer_block_bytes(comm, piece),
                                 "pieces of collectives, from and for other GPUs");
    CUDA_CHECK(cudaMemsetAsync(peers->places, 0, PEER_HEAD_BYTES, peers->sums), "clearing a peer's memory");
    CUDA_CHECK(cudaStreamSynchronize(peers->sums), "clearing a peer's memory");
    return map(comm, peers->places, peers->blocks);
}

static void drop_places(struct peers *peers) {
    unmap(peers->comm, peers->blocks);
    comm_barrier(peers->comm); /* nobody reaches for this rank's any more */
    device_free(peers->comm->family->device, peers->places);
}

static void synchronize(struct peers *peers) {
    CUDA_CHECK(cudaStreamSynchronize(peers->sends), "waiting for peers");
    CUDA_CHECK(cudaStreamSynchronize(peers->sums), "waiting for peers");
    CUDA_CHECK(cudaStreamSynchronize(peers->pulls), "waiting for peers");
}

/* Places of so many bytes. All ranks come here with the same collective. */
static void make_room(struct peers *peers, size_t piece) {
    if (piece <= peers->piece) return;
    synchronize(peers);
    comm_barrier(peers->comm);
    drop_places(peers);
    if (!map_places(peers, piece))
        fail("the GPUs of this node no longer reach each other's memory: run with --peer_copies false");
}

/* ---- opening, closing ---- */

static bool allowed(const struct comm *comm) {
    const char *disabled = getenv("NCCL_P2P_DISABLE");
    return peer_copies_wanted(comm) && !(disabled && strcmp(disabled, "0") != 0);
}

/* The same on all ranks. */
static bool all_agree(struct comm *comm, bool agree) {
    double against = agree ? 0 : 1;
    comm_host_max(comm, &against, 1);
    return against <= 0;
}

struct peers *peers_open(struct comm *comm, cudaStream_t stream) {
    int least = 0, greatest = 0;
    if (!all_agree(comm, allowed(comm) && stream_values_work())) return NULL;
    struct peers *peers = xcalloc(1, sizeof *peers);
    *peers = (struct peers){.comm = comm, .sums = stream};
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest), "opening the peers' streams");
    CUDA_CHECK(cudaStreamCreateWithPriority(&peers->sends, cudaStreamNonBlocking, greatest),
               "opening the peers' streams");
    CUDA_CHECK(cudaStreamCreateWithPriority(&peers->pulls, cudaStreamNonBlocking, greatest),
               "opening the peers' streams");
    CUDA_CHECK(cudaEventCreateWithFlags(&peers->before, cudaEventDisableTiming),
               "opening the peers' streams");
    if (map_places(peers, 0)) return peers;
    peers_close(peers);
    return NULL;
}

void peers_close(struct peers *peers) {
    if (!peers) return;
    synchronize(peers);
    comm_barrier(peers->comm); /* nobody copies from or to this rank any more */
    drop_places(peers);
    CUDA_CHECK(cudaEventDestroy(peers->before), "closing the peers' streams");
    CUDA_CHECK(cudaStreamDestroy(peers->sends), "closing the peers' streams");
    CUDA_CHECK(cudaStreamDestroy(peers->pulls), "closing the peers' streams");
    free(peers);
}

void peers_share(struct peers *peers, void *memory, size_t bytes) {
    if (peers->shared.memory) {
        synchronize(peers);
        comm_barrier(peers->comm); /* nobody copies from it any more */
        unmap(peers->comm, peers->shared.blocks);
        comm_barrier(peers->comm); /* it may be freed */
    }
    peers->shared.memory = memory && map(peers->comm, memory, peers->shared.blocks) ? memory : NULL;
    peers->shared.bytes = bytes;
}

/* ---- collectives ---- */

/* The k-th of the other ranks, beginning behind this one, so that not all turn to the same one first. */
static int other(const struct comm *comm, int k) {
    return (comm->rank + k) % comm->size;
}

/* Pushes to `peer` its piece. */
static void push(struct peers *peers, int peer, const char *piece, size_t bytes) {
    const struct comm *comm = peers->comm;
    if (peers->pushes >= SLOTS)
        stream_await_value(peers->sends, &numbers_of(peers, comm->rank)->taken[peer],
                           peers->pushes + 1 - SLOTS);
    if (bytes) copy(peers->sends, place(peers, peer, comm->rank, peers->pushes), piece, bytes);
    stream_write_value(peers->sends, &numbers_of(peers, peer)->arrived[comm->rank], peers->pushes + 1);
}

/* Adds up what has arrived and this rank's own piece; and then the addend, unless that is NULL. */
static void add_pieces(struct peers *peers, enum dtype dtype, void *out, void *exported, const void *addend,
                       const void *own, size_t count) {
    const struct comm *comm = peers->comm;
    struct numbers *mine = numbers_of(peers, comm->rank);
    const void *parts[PEERS_MOST];
    for (int r = 0; r < comm->size; r++) {
        parts[r] = r == comm->rank ? own : place(peers, comm->rank, r, peers->pushes);
        if (r != comm->rank) stream_await_value(peers->sums, &mine->arrived[r], peers->pushes + 1);
    }
    peer_sum(peers->sums, dtype, out, exported, addend, parts, comm->size, count);
    for (int k = 1; k < comm->size; k++)
        stream_write_value(peers->sums, &numbers_of(peers, other(comm, k))->taken[comm->rank],
                           peers->pushes + 1);
}

/* Lets `stream` wait until the place of the next export is free, and gives it. */
static char *begin_export(struct peers *peers, cudaStream_t stream) {
    const struct comm *comm = peers->comm;
    for (int k = 1; k < comm->size && peers->exports >= SLOTS; k++)
        stream_await_value(stream, &numbers_of(peers, comm->rank)->pulled[other(comm, k)],
                           peers->exports + 1 - SLOTS);
    return place(peers, comm->rank, comm->rank, peers->exports);
}

/* Lets a stream wait for all that `earlier` has queued so far. */
static void follow(const struct peers *peers, cudaStream_t stream, cudaStream_t earlier) {
    CUDA_CHECK(cudaEventRecord(peers->before, earlier), "ordering copies");
    CUDA_CHECK(cudaStreamWaitEvent(stream, peers->before, 0), "ordering copies");
}

/* Tells the others, behind what told them of the export before this one: numbers grow. */
static void end_export(struct peers *peers, cudaStream_t stream) {
    const struct comm *comm = peers->comm;
    if (peers->exporting && peers->exporting != stream) follow(peers, stream, peers->exporting);
    peers->exporting = stream;
    for (int k = 1; k < comm->size; k++)
        stream_write_value(stream, &numbers_of(peers, other(comm, k))->ready[comm->rank], peers->exports + 1);
}

/* Copies what `peer` exports, and tells it, behind what told it of the one before. */
static void pull(struct peers *peers, cudaStream_t stream, int peer, char *out, const char *from,
                 size_t bytes) {
    const struct comm *comm = peers->comm;
    if (peers->pulling && peers->pulling != stream) follow(peers, stream, peers->pulling);
    peers->pulling = stream;
    stream_await_value(stream, &numbers_of(peers, comm->rank)->ready[peer], peers->exports + 1);
    if (bytes) copy(stream, out, from, bytes);
    stream_write_value(stream, &numbers_of(peers, peer)->pulled[comm->rank], peers->exports + 1);
}

static void reduce_scatter(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t bytes = operation->count * dtype_size(operation->dtype);
    for (int k = 1; k < comm->size; k++)
        push(peers, other(comm, k), operation->in + (size_t)other(comm, k) * bytes, bytes);
    add_pieces(peers, operation->dtype, operation->out, NULL, operation->adds ? operation->out : NULL,
               operation->in + (size_t)comm->rank * bytes, operation->count);
    peers->pushes++;
}

/* Do the ranks share the block in which `at` lies? Then *offset is where. The same on all ranks, as each calls
 * with the same place of its block. */
static bool find_shared(const struct peers *peers, const char *at, size_t *offset) {
    const char *memory = peers->shared.memory;
    if (!memory || at < memory || at >= memory + peers->shared.bytes) return false;
    *offset = (size_t)(at - memory);
    return true;
}

static void all_gather(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t bytes = operation->count * dtype_size(operation->dtype), offset;
    char *own = operation->out + (size_t)comm->rank * bytes;
    /* Slices lie alike in all blocks, or, in place, each in its own place of the whole. */
    bool in_place = operation->in == own;
    bool shared = find_shared(peers, in_place ? operation->out : operation->in, &offset);
    if (!shared) copy(peers->sends, begin_export(peers, peers->sends), operation->in, bytes);
    end_export(peers, peers->sends);
    if (!in_place) copy(peers->sends, own, operation->in, bytes);
    for (int k = 1; k < comm->size; k++) {
        int peer = other(comm, k);
        size_t begin = (size_t)peer * bytes;
        const char *from = shared ? peers->shared.blocks[peer] + offset + (in_place ? begin : 0)
                                  : place(peers, peer, peer, peers->exports);
        pull(peers, peers->sums, peer, operation->out + begin, from, bytes);
    }
    peers->exports++;
}

static void all_reduce(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t element = dtype_size(operation->dtype), count = operation->count, offset;
    char *buffer = operation->out, *own = buffer + slice_offset(count, comm->size, comm->rank) * element;
    for (int k = 1; k < comm->size; k++) {
        int peer = other(comm, k);
        push(peers, peer, buffer + slice_offset(count, comm->size, peer) * element,
             slice_count(count, comm->size, peer) * element);
    }
    bool shared = find_shared(peers, buffer, &offset);
    char *exported = shared ? NULL : begin_export(peers, peers->sums);
    add_pieces(peers, operation->dtype, own, exported, NULL, own, slice_count(count, comm->size, comm->rank));
    end_export(peers, peers->sums);
    for (int k = 1; k < comm->size; k++) {
        int peer = other(comm, k);
        size_t begin = slice_offset(count, comm->size, peer) * element;
        const char *from =
            shared ? peers->shared.blocks[peer] + offset + begin : place(peers, peer, peer, peers->exports);
        pull(peers, peers->pulls, peer, buffer + begin, from, slice_count(count, comm->size, peer) * element);
    }
    peers->pushes++;
    peers->exports++;
}

bool peers_serve(const struct peers *peers, const struct operation *operation) {
    return peers && peer_copies_do(operation);
}

cudaStream_t peers_queue(struct peers *peers, const struct operation *operation, cudaEvent_t ready,
                         cudaEvent_t beside) {
    make_room(peers, peer_place_bytes(operation));
    CUDA_CHECK(cudaStreamWaitEvent(peers->sends, ready, 0), "ordering copies");
    CUDA_CHECK(cudaStreamWaitEvent(peers->pulls, ready, 0), "ordering copies");
    if (operation->follows) {
        follow(peers, peers->sends, peers->sums);
        follow(peers, peers->pulls, peers->sums);
    }
    if (operation->collective == REDUCE_SCATTER) reduce_scatter(peers, operation);
    if (operation->collective == ALL_GATHER) all_gather(peers, operation);
    if (operation->collective == ALL_REDUCE) all_reduce(peers, operation);
    /* What was pulled of a sum had been pushed before. */
    CUDA_CHECK(cudaEventRecord(beside, operation->collective == ALL_REDUCE ? peers->sums : peers->sends),
               "ordering copies");
    return operation->collective == ALL_REDUCE ? peers->pulls : peers->sums;
}
