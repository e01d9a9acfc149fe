/*
 * Byte-pair encoding of one piece: its bytes, each a token, are merged pair by pair until no pair of
 * neighbours has a merge. Always the pair with the lowest rank (learned first) is next, the leftmost of
 * several. Sennrich et al., arXiv 1508.07909; greedy by rank as Hugging Face's tokenizers does it.
 */
#ifndef COMMON_TEXT_BPE_H
#define COMMON_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/ids.h"
#include "common/text/string_table.h"

/* The merges: a hash table from a pair of ids to its rank and to the id it becomes. Read-only once filled. */
struct bpe {
    int32_t bytes[256];  /* the id of each single byte; the caller's to fill */
    uint32_t count;      /* merges */
    uint32_t slot_count; /* a power of two, at least twice count; 0 before bpe_open */
    struct bpe_merge {
        uint64_t pair; /* left id << 32 | right id */
        uint32_t rank; /* BPE_NO_RANK: a free slot */
        int32_t id;
    } * slots;
};

#define BPE_NO_RANK UINT32_MAX

void bpe_open(struct bpe *bpe); /* no merges yet */
void bpe_close(struct bpe *bpe);
/* A pair that is there already gets the new rank and id. Ranks are below 2^30. */
void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);

/*
 * What one thread needs to encode: the symbols and the queue of the piece at work, and a cache of the pieces
 * it has met (a text has few distinct words: nineteen pieces in twenty are found there). Starts as {0}. The
 * cache belongs to one `struct bpe` and is emptied when full.
 */
struct bpe_worker {
    struct bpe_symbol *symbols; /* [room] */
    size_t room;
    uint64_t *queue; /* a binary heap, smallest first: rank << 32 | position of the pair's left symbol */
    size_t queued, queue_room;
    struct string_table pieces; /* the cache's keys; piece n has ids cached.data[ends[n − 1]] … */
    struct ids cached;
    uint32_t *ends;
    uint32_t ends_room;
};

void bpe_worker_free(struct bpe_worker *worker);

/* Appends the ids of one piece of 1 to 2^32 − 2 bytes to `out`. */
void bpe_encode(const struct bpe *bpe, struct bpe_worker *worker, const char *piece, size_t bytes,
                struct ids *out);

#endif
