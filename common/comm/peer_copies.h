/*
 * Inside the CUDA backend's collectives: reduce-scatter, all-gather and all-reduce among the GPUs of one node
 * as copies between their memories.
 *
 * NCCL's kernels move data with the GPU's multiprocessors, and those that they occupy are missing in the
 * matrix products beside which they run. A GPU has copy engines, too, which need none. So each rank has a
 * block of device memory that all others can reach (CUDA IPC), of two kinds of places:
 *
 *     received   a place for a piece of each other rank: reduce-scatter pushes each piece to its owner,
 *                whose kernel then adds them in rank order, in fp32, and rounds once: the bits of the CPU's
 *     exported   a place for this rank's own slice: all-gather copies it there, and the others pull it; or
 *                they pull from where it lies, in a block that all reach (comm_share())
 *
 * An all-reduce is a reduce-scatter whose sums are exported at once, or pulled from where they lie. Of each
 * kind there are SLOTS, used in turn, so that one collective is on its way while the next begins.
 *
 * Nobody's host waits: a stream itself waits for a number in its own GPU's memory, which a peer's stream
 * writes there when a piece has arrived or a place is free again (cuStreamWaitValue32,
 * cuStreamWriteValue32). There are three of them, each in the order of the collectives:
 *
 *     sends      pushes pieces, and exports slices
 *     sums       the stream of all collectives: waits for pieces and adds them; pulls slices
 *     pulls      pulls sums, while the next all-reduce's pieces leave and are added
 *
 * No more, as each stream that waits slows the launches of the others.
 *
 * No deadlock: a stream waits only for what earlier collectives tell, or the same one on a stream that stands
 * before it in this list, and all ranks queue the same collectives in the same order; so what the first
 * unfinished one waits for will be told, even where streams share a queue of the driver. A peer that never does
 * is noticed by the watch of all collectives (nccl_watch.c).
 */
#ifndef COMMON_COMM_PEER_COPIES_H
#define COMMON_COMM_PEER_COPIES_H

#include <cuda_runtime_api.h>

#include "common/comm/comm_private.h"
#include "common/comm/peer_block.h"

struct peers;

/* Called by all ranks of `comm`, whose collectives are queued on `stream`. NULL on all of them where it
 * cannot be: they are on several nodes, more than PEERS_MOST, a GPU cannot reach another one's memory, or
 * NCCL_P2P_DISABLE says that it shall not. */
struct peers *peers_open(struct comm *comm, cudaStream_t stream);
/* Called by all ranks, when all is done. */
void peers_close(struct peers *peers);

/* As comm_share(); memory NULL: no longer. */
void peers_share(struct peers *peers, void *memory, size_t bytes);

/* Is this one theirs? The same answer on all ranks. */
bool peers_serve(const struct peers *peers, const struct operation *operation);
/* Queues it, behind `ready`, which the collectives' stream waits for already. It is done when the stream that
 * is returned has come so far, and at `beside`, which others of its streams reach. Where it needs larger places
 * than any before, waits for the ranks and makes them: booked under buffers, SLOTS · size slices of the largest
 * collective. */
cudaStream_t peers_queue(struct peers *peers, const struct operation *operation, cudaEvent_t ready,
                         cudaEvent_t beside);

/* out [count] (and `copy`, unless NULL) = parts[0] + parts[1] + … in this order, in fp32 (fp64 for FP64),
 * rounded once; unless `addend` is NULL, that is added to addend [count], and rounded again. parts [ranks]
 * are in device memory; out may be the addend or one of them. */
void peer_sum(cudaStream_t stream, enum dtype dtype, void *out, void *copy, const void *addend,
              const void *const *parts, int ranks, size_t count);

#endif
