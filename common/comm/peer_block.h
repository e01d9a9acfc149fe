/*
 * Inside comm: how much device memory the copies between GPUs of one node take (peer_copies.h says for what).
 * Apart from them, because the dry backend books the same.
 */
#ifndef COMMON_COMM_PEER_BLOCK_H
#define COMMON_COMM_PEER_BLOCK_H

#include "common/comm/comm_private.h"

enum { PEERS_MOST = 16, SLOTS = 2, PEER_HEAD_BYTES = 4096, PEER_ALIGNMENT = 256 };

/* Could the ranks of `comm` copy, if their GPUs reach each other? */
static inline bool peer_copies_wanted(const struct comm *comm) {
    return comm->node_size == comm->size && comm->size <= PEERS_MOST && !comm->family->no_peer_copies;
}

/* Is this collective done by copies, where there are any? */
static inline bool peer_copies_do(const struct operation *operation) {
    bool collective = operation->collective == ALL_REDUCE || operation->collective == REDUCE_SCATTER ||
                      operation->collective == ALL_GATHER;
    return collective && operation->count > 0 && operation->dtype != INT32;
}

/* Bytes of a place that this collective needs: for the largest of its slices. */
static inline size_t peer_place_bytes(const struct operation *operation) {
    size_t slice = operation->collective == ALL_REDUCE
                       ? slice_count(operation->count, operation->comm->size, 0)
                       : operation->count;
    size_t bytes = slice * dtype_size(operation->dtype);
    return (bytes + PEER_ALIGNMENT - 1) / PEER_ALIGNMENT * PEER_ALIGNMENT;
}

/* Bytes of a rank's block with such places. */
static inline size_t peer_block_bytes(const struct comm *comm, size_t place) {
    return PEER_HEAD_BYTES + SLOTS * (size_t)comm->size * place;
}

#endif
