#include "common/comm/peer_copies.h"

#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/device/cuda/cuda.h"

/* Numbers at the head of each rank's block, written by its peers: for each of them, how many pieces … */
struct numbers {
    uint32_t arrived[PEERS_MOST]; /* it has pushed here */
    uint32_t taken[PEERS_MOST];   /* of this rank's it has added */
    uint32_t ready[PEERS_MOST];   /* it has exported */
    uint32_t pulled[PEERS_MOST];  /* of this rank's exports it has pulled */
};

enum { HEAD_BYTES = 4096, ALIGNMENT = 256 };

typedef CUresult (*stream_value)(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags);

struct peers {
    struct comm *comm;
    cudaStream_t receives;    /* of all collectives */
    cudaStream_t sends;       /* of these only */
    cudaEvent_t sent;         /* what `sends` has queued so far; … */
    cudaEvent_t before;       /* … and what `receives` has */
    char *blocks[PEERS_MOST]; /* of each rank, this one's own among them */
    size_t piece;             /* bytes of a place */
    uint32_t pushes, exports; /* so far */
    stream_value wait, write;
};

/* ---- numbers that streams wait for ---- */

static void driver_check(CUresult code, const char *what) {
    if (code != CUDA_SUCCESS)
        fail("%s: the CUDA driver says error %d; run with --peer_copies false, and NCCL does this instead",
             what, (int)code);
}

/* The driver's functions, which the runtime has loaded: a login node has no driver to link with. NULL where
 * it lacks them. */
static stream_value driver_function(const char *name) {
    static void *driver;
    stream_value function = NULL;
    if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void *symbol = driver ? dlsym(driver, name) : NULL;
    memcpy(&function, &symbol, sizeof function); /* C has no cast for that */
    return function;
}

static struct numbers *numbers_of(const struct peers *peers, int rank) {
    return (struct numbers *)peers->blocks[rank];
}

static CUdeviceptr address(const uint32_t *number) {
    return (CUdeviceptr)(uintptr_t)number;
}

/* What is queued on `stream` later waits until the number is `value` or more. */
static void await(const struct peers *peers, cudaStream_t stream, const uint32_t *number, uint32_t value) {
    driver_check(peers->wait(stream, address(number), value, CU_STREAM_WAIT_VALUE_GEQ), "waiting for a peer");
}

/* When all that was queued on `stream` before is done and can be seen by all GPUs. */
static void tell(const struct peers *peers, cudaStream_t stream, const uint32_t *number, uint32_t value) {
    driver_check(peers->write(stream, address(number), value, CU_STREAM_WRITE_VALUE_DEFAULT),
                 "telling a peer");
}

static void copy(cudaStream_t stream, void *to, const void *from, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copying between GPUs");
}

/* ---- places ---- */

static size_t block_bytes(const struct peers *peers, size_t piece) {
    return HEAD_BYTES + SLOTS * (size_t)peers->comm->size * piece;
}

/* Where `rank` has what `from` pushed to it; from == rank: what it exports itself. */
static char *place(const struct peers *peers, int rank, int from, uint32_t number) {
    size_t slot = number % SLOTS, column = (size_t)from;
    return peers->blocks[rank] + HEAD_BYTES + (slot * (size_t)peers->comm->size + column) * peers->piece;
}

static void unmap_blocks(struct peers *peers) {
    for (int r = 0; r < peers->comm->size; r++) {
        if (r == peers->comm->rank || !peers->blocks[r]) continue;
        CUDA_CHECK(cudaIpcCloseMemHandle(peers->blocks[r]), "closing a peer's memory");
        peers->blocks[r] = NULL;
    }
}

/* What ranks tell each other of their blocks. */
struct invitation {
    cudaIpcMemHandle_t handle;
    bool good;
};

/* Makes this rank's block, with places of `piece` bytes, and reaches for the others'. False on all ranks
 * where one cannot. */
static bool map_blocks(struct peers *peers, size_t piece) {
    struct comm *comm = peers->comm;
    struct invitation mine = {0}, all[PEERS_MOST];
    char *block = device_alloc(comm->family->device, BUFFERS, block_bytes(peers, piece),
                               "pieces of collectives, from and for other GPUs");
    peers->blocks[comm->rank] = block;
    peers->piece = piece;
    peers->pushes = peers->exports = 0;
    CUDA_CHECK(cudaMemsetAsync(block, 0, HEAD_BYTES, peers->receives), "clearing a peer's memory");
    CUDA_CHECK(cudaStreamSynchronize(peers->receives), "clearing a peer's memory");
    mine.good = cudaIpcGetMemHandle(&mine.handle, block) == cudaSuccess;
    comm_host_gather(comm, all, &mine, sizeof mine);
    double bad = 0;
    for (int r = 0; r < comm->size; r++) {
        void *pointer = NULL;
        if (r == comm->rank) continue;
        if (!all[r].good || cudaIpcOpenMemHandle(&pointer, all[r].handle, cudaIpcMemLazyEnablePeerAccess))
            bad = 1;
        peers->blocks[r] = pointer;
    }
    (void)cudaGetLastError(); /* that a GPU cannot be reached is no error */
    comm_host_max(comm, &bad, 1);
    return bad <= 0;
}

static void drop_blocks(struct peers *peers) {
    struct comm *comm = peers->comm;
    unmap_blocks(peers);
    comm_barrier(comm); /* nobody reaches for this rank's any more */
    device_free(comm->family->device, peers->blocks[comm->rank]);
    peers->blocks[comm->rank] = NULL;
}

static void synchronize(struct peers *peers) {
    CUDA_CHECK(cudaStreamSynchronize(peers->receives), "waiting for peers");
    CUDA_CHECK(cudaStreamSynchronize(peers->sends), "waiting for peers");
}

/* Places for pieces of so many bytes. All ranks come here with the same collective. */
static void make_room(struct peers *peers, size_t bytes) {
    size_t piece = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (piece <= peers->piece) return;
    synchronize(peers);
    comm_barrier(peers->comm);
    drop_blocks(peers);
    if (!map_blocks(peers, piece))
        fail("the GPUs of this node no longer reach each other's memory; run with --peer_copies false, and "
             "NCCL "
             "does this instead");
}

/* ---- opening, closing ---- */

static bool allowed(const struct comm *comm) {
    const char *disabled = getenv("NCCL_P2P_DISABLE");
    return comm->node_size == comm->size && comm->size <= PEERS_MOST && !comm->family->no_peer_copies &&
           !(disabled && strcmp(disabled, "0") != 0);
}

/* The same on all ranks. */
static bool all_agree(struct comm *comm, bool agree) {
    double against = agree ? 0 : 1;
    comm_host_max(comm, &against, 1);
    return against <= 0;
}

struct peers *peers_open(struct comm *comm, cudaStream_t stream) {
    int least = 0, greatest = 0;
    stream_value wait = driver_function("cuStreamWaitValue32_v2");
    stream_value write = driver_function("cuStreamWriteValue32_v2");
    if (!all_agree(comm, allowed(comm) && wait && write)) return NULL;
    struct peers *peers = xcalloc(1, sizeof *peers);
    *peers = (struct peers){.comm = comm, .receives = stream, .wait = wait, .write = write};
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest), "opening the peers' stream");
    CUDA_CHECK(cudaStreamCreateWithPriority(&peers->sends, cudaStreamNonBlocking, greatest),
               "opening the peers' stream");
    CUDA_CHECK(cudaEventCreateWithFlags(&peers->sent, cudaEventDisableTiming), "opening the peers' stream");
    CUDA_CHECK(cudaEventCreateWithFlags(&peers->before, cudaEventDisableTiming), "opening the peers' stream");
    if (map_blocks(peers, 0)) return peers;
    peers_close(peers);
    return NULL;
}

void peers_close(struct peers *peers) {
    if (!peers) return;
    synchronize(peers);
    comm_barrier(peers->comm); /* nobody copies from or to this rank any more */
    drop_blocks(peers);
    CUDA_CHECK(cudaEventDestroy(peers->sent), "closing the peers' stream");
    CUDA_CHECK(cudaEventDestroy(peers->before), "closing the peers' stream");
    CUDA_CHECK(cudaStreamDestroy(peers->sends), "closing the peers' stream");
    free(peers);
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
        await(peers, peers->sends, &numbers_of(peers, comm->rank)->taken[peer], peers->pushes + 1 - SLOTS);
    if (bytes) copy(peers->sends, place(peers, peer, comm->rank, peers->pushes), piece, bytes);
    tell(peers, peers->sends, &numbers_of(peers, peer)->arrived[comm->rank], peers->pushes + 1);
}

/* Adds up what has arrived, and this rank's own piece. */
static void add_pieces(struct peers *peers, enum dtype dtype, void *out, void *exported, const void *own,
                       size_t count) {
    const struct comm *comm = peers->comm;
    const struct numbers *mine = numbers_of(peers, comm->rank);
    const void *parts[PEERS_MOST];
    for (int r = 0; r < comm->size; r++) {
        parts[r] = r == comm->rank ? own : place(peers, comm->rank, r, peers->pushes);
        if (r != comm->rank) await(peers, peers->receives, &mine->arrived[r], peers->pushes + 1);
    }
    peer_sum(peers->receives, dtype, out, exported, parts, comm->size, count);
    for (int k = 1; k < comm->size; k++)
        tell(peers, peers->receives, &numbers_of(peers, other(comm, k))->taken[comm->rank],
             peers->pushes + 1);
}

/* Lets `stream` wait until the place of the next export is free, and gives it. */
static char *begin_export(struct peers *peers, cudaStream_t stream) {
    const struct comm *comm = peers->comm;
    for (int k = 1; k < comm->size && peers->exports >= SLOTS; k++)
        await(peers, stream, &numbers_of(peers, comm->rank)->pulled[other(comm, k)],
              peers->exports + 1 - SLOTS);
    return place(peers, comm->rank, comm->rank, peers->exports);
}

static void end_export(struct peers *peers, cudaStream_t stream) {
    const struct comm *comm = peers->comm;
    for (int k = 1; k < comm->size; k++)
        tell(peers, stream, &numbers_of(peers, other(comm, k))->ready[comm->rank], peers->exports + 1);
}

/* Copies what `peer` exports. */
static void pull(struct peers *peers, int peer, char *out, size_t bytes) {
    const struct comm *comm = peers->comm;
    await(peers, peers->receives, &numbers_of(peers, comm->rank)->ready[peer], peers->exports + 1);
    if (bytes) copy(peers->receives, out, place(peers, peer, peer, peers->exports), bytes);
    tell(peers, peers->receives, &numbers_of(peers, peer)->pulled[comm->rank], peers->exports + 1);
}

/* What is queued on `receives` from now on follows all that `sends` has: pieces have left, so that the caller
 * may use their memory. */
static void follow_sends(struct peers *peers) {
    CUDA_CHECK(cudaEventRecord(peers->sent, peers->sends), "ordering copies");
    CUDA_CHECK(cudaStreamWaitEvent(peers->receives, peers->sent, 0), "ordering copies");
}

static void reduce_scatter(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t bytes = operation->count * dtype_size(operation->dtype);
    for (int k = 1; k < comm->size; k++)
        push(peers, other(comm, k), operation->in + (size_t)other(comm, k) * bytes, bytes);
    follow_sends(peers);
    add_pieces(peers, operation->dtype, operation->out, NULL, operation->in + (size_t)comm->rank * bytes,
               operation->count);
    peers->pushes++;
}

/* comm.c has put this rank's slice into its place. */
static void all_gather(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t bytes = operation->count * dtype_size(operation->dtype);
    char *exported = begin_export(peers, peers->sends);
    if (bytes) copy(peers->sends, exported, operation->out + (size_t)comm->rank * bytes, bytes);
    end_export(peers, peers->sends);
    follow_sends(peers);
    for (int k = 1; k < comm->size; k++)
        pull(peers, other(comm, k), operation->out + (size_t)other(comm, k) * bytes, bytes);
    peers->exports++;
}

static void all_reduce(struct peers *peers, const struct operation *operation) {
    const struct comm *comm = peers->comm;
    size_t element = dtype_size(operation->dtype), count = operation->count;
    char *buffer = operation->out, *own = buffer + slice_offset(count, comm->size, comm->rank) * element;
    for (int k = 1; k < comm->size; k++) {
        int peer = other(comm, k);
        push(peers, peer, buffer + slice_offset(count, comm->size, peer) * element,
             slice_count(count, comm->size, peer) * element);
    }
    follow_sends(peers);
    char *exported = begin_export(peers, peers->receives);
    add_pieces(peers, operation->dtype, own, exported, own, slice_count(count, comm->size, comm->rank));
    end_export(peers, peers->receives);
    for (int k = 1; k < comm->size; k++) {
        int peer = other(comm, k);
        pull(peers, peer, buffer + slice_offset(count, comm->size, peer) * element,
             slice_count(count, comm->size, peer) * element);
    }
    peers->pushes++;
    peers->exports++;
}

bool peers_serve(const struct peers *peers, const struct operation *operation) {
    bool collective = operation->collective == ALL_REDUCE || operation->collective == REDUCE_SCATTER ||
                      operation->collective == ALL_GATHER;
    return peers && collective && operation->count > 0 && operation->dtype != INT32;
}

void peers_queue(struct peers *peers, const struct operation *operation, cudaEvent_t ready) {
    size_t slice = operation->collective == ALL_REDUCE
                       ? slice_count(operation->count, peers->comm->size, 0) /* the largest */
                       : operation->count;
    make_room(peers, slice * dtype_size(operation->dtype));
    CUDA_CHECK(cudaStreamWaitEvent(peers->sends, ready, 0), "ordering copies");
    if (operation->follows) { /* makes use of what a collective before it leaves */
        CUDA_CHECK(cudaEventRecord(peers->before, peers->receives), "ordering copies");
        CUDA_CHECK(cudaStreamWaitEvent(peers->sends, peers->before, 0), "ordering copies");
    }
    if (operation->collective == REDUCE_SCATTER) reduce_scatter(peers, operation);
    if (operation->collective == ALL_GATHER) all_gather(peers, operation);
    if (operation->collective == ALL_REDUCE) all_reduce(peers, operation);
}
