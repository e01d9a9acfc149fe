/*
 * The look-up of a word embedding that no rank has whole: rows, not chunks, are exchanged.
 *
 * A pack needs a few rows of the embedding, one a token, and each lies in one rank's slice of a chunk. So
 * every owner takes the rows that the others ask for out of its slices (gather_rows), sends them
 * (all-to-all), and the receiver puts them in the order of its tokens:
 *
 *     ids of rank 0:  7 3 7     row 3: rank 0     rank 1 sends 7 7, keeps 9     rank 0 gets 3 │ 7 7 → 7 3 7
 *     ids of rank 1:  3 9       7 and 9: rank 1   rank 0 sends 3, keeps 3       rank 1 gets 3 │ 9   → 3 9
 *
 * Who needs what is known from the ids, which the ranks' hosts tell each other when a pack comes: the device
 * waits for nobody. A rank thus receives tokens × hidden elements less those that it owns, (N − 1)/N of them
 * on average, instead of the whole embedding. Rows to be sent wait in a buffer of limited size; where too
 * many are asked of one owner the exchange is done in rounds.
 */
#ifndef ZERO3_ROW_EXCHANGE_H
#define ZERO3_ROW_EXCHANGE_H

#include <stdint.h>

#include "common/bloom/input.h"
#include "common/bloom/layout.h"
#include "common/comm/collectives.h"

/* One all-to-all: it brings the rows of tokens begin … end − 1 of every rank's pack. */
struct exchange_round {
    int begin, end;
    size_t sent;                       /* rows that I send, in all, and keep */
    size_t *send_counts, *recv_counts; /* [ranks] elements */
};

struct row_exchange {
    struct device *device;
    struct comm *comm;
    const struct layout *layout;
    int ranks, rank, capacity; /* tokens of a pack at most */
    int *owners;               /* [ranks] the rank that owns a slice number */
    size_t buffer_rows;        /* rows that the buffer for sending holds */
    int32_t *ids; /* [ranks · (1 + capacity)] host memory: every rank's number of tokens, its ids */
    struct exchange_round *rounds;
    int round_count, rounds_there;
    int32_t *indices;    /* device memory: rows to send, at most ranks · capacity; then, for each token, its
                            place among the received */
    int32_t *staging[2]; /* host memory, pinned: one is filled while the other is still being copied */
    struct event *copied[2]; /* when staging[i] may be filled again */
    int turn;
    char *host_rows; /* host memory, at most buffer_rows: rows to send, on their way up; NULL: slices are on
                        the device */
    struct event *host_rows_copied;
};

/* Bytes of device memory, under the heading activations. */
size_t row_exchange_bytes(const struct layout *layout, struct pack_size capacity);

/* `buffer_elements`: of the buffer that row_exchange_run() will get. All pointers must live as long; the
 * caller closes it. */
void row_exchange_open(struct row_exchange *exchange, struct device *device, struct comm *comm,
                       const struct collectives *collectives, const struct layout *layout,
                       struct pack_size capacity, size_t buffer_elements);
/* From now on the slices that run() gets are host memory of elements of `dtype`: the host picks the rows. */
void row_exchange_from_host(struct row_exchange *exchange, enum dtype dtype, bool pinned);
void row_exchange_close(struct row_exchange *exchange);

/* Who needs which rows for the packs that come next on all ranks. Collective, between hosts. */
void row_exchange_plan(struct row_exchange *exchange, struct stream *stream, const struct pack *pack);

/* out [tokens, hidden]: the rows of this rank's pack. embedding_slices: this rank's slices of all chunks, one
 * behind the other, in device memory (or, after from_host(), in host memory, read before the call returns).
 * `buffer` [buffer_elements] and `received` [tokens, hidden] are overwritten. Collective.
 */
void row_exchange_run(struct row_exchange *exchange, struct stream *stream, enum dtype dtype, void *out,
                      const void *embedding_slices, void *buffer, void *received);

#endif
