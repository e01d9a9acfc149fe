#include "common/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

#define NOWHERE UINT32_MAX

/* A token of the piece at work; merged ones form a list in text order. */
struct bpe_symbol {
    int32_t id;
    uint32_t previous, next; /* positions, or NOWHERE */
    uint32_t rank;           /* of the pair that starts here, or BPE_NO_RANK */
    int32_t merged;          /* the id which that pair becomes */
};

/* Bytes. Longer pieces are rarely met twice; a full cache takes some 20 MB. */
enum { LONGEST_CACHED = 256, MOST_CACHED = 1 << 18, MOST_CACHED_BYTES = 1 << 22 };

static void make_slots(struct bpe *bpe, uint32_t count) {
    bpe->slot_count = count;
    bpe->slots = xmalloc(count * sizeof *bpe->slots);
    for (uint32_t i = 0; i < count; i++) bpe->slots[i] = (struct bpe_merge){.rank = BPE_NO_RANK};
}

void bpe_open(struct bpe *bpe) {
    bpe->count = 0;
    make_slots(bpe, 64);
}

void bpe_close(struct bpe *bpe) {
    free(bpe->slots);
    bpe->slots = NULL;
}

/* The pair's slot, or the free one where it belongs. */
static struct bpe_merge *slot_of(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u;
    uint32_t mask = bpe->slot_count - 1, at = (uint32_t)(hash >> 32) & mask;
    while (bpe->slots[at].rank != BPE_NO_RANK && bpe->slots[at].pair != pair) at = (at + 1) & mask;
    return &bpe->slots[at];
}

static void grow(struct bpe *bpe) {
    struct bpe_merge *old = bpe->slots;
    uint32_t old_count = bpe->slot_count;
    make_slots(bpe, 2 * old_count);
    for (uint32_t i = 0; i < old_count; i++)
        if (old[i].rank != BPE_NO_RANK)
            *slot_of(bpe, (int32_t)(old[i].pair >> 32), (int32_t)(uint32_t)old[i].pair) = old[i];
    free(old);
}

void bpe_add(struct bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    if (2 * (bpe->count + 1) > bpe->slot_count) grow(bpe);
    struct bpe_merge *slot = slot_of(bpe, left, right);
    if (slot->rank == BPE_NO_RANK) bpe->count++;
    *slot =
        (struct bpe_merge){.pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, .rank = rank, .id = id};
}

void bpe_worker_free(struct bpe_worker *worker) {
    free(worker->symbols);
    free(worker->queue);
    free(worker->ends);
    ids_free(&worker->cached);
    string_table_free(&worker->pieces);
    *worker = (struct bpe_worker){0};
}

static void queue_push(struct bpe_worker *worker, uint64_t value) {
    if (worker->queued == worker->queue_room) {
        worker->queue_room = 2 * worker->queue_room + 64;
        worker->queue = xrealloc(worker->queue, worker->queue_room * sizeof *worker->queue);
    }
    size_t at = worker->queued++;
    for (; at > 0 && worker->queue[(at - 1) / 2] > value; at = (at - 1) / 2)
        worker->queue[at] = worker->queue[(at - 1) / 2];
    worker->queue[at] = value;
}

static uint64_t queue_pop(struct bpe_worker *worker) {
    uint64_t *queue = worker->queue, smallest = queue[0], moved = queue[--worker->queued];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < worker->queued) {
        if (child + 1 < worker->queued && queue[child + 1] < queue[child]) child++;
        if (queue[child] >= moved) break;
        queue[at] = queue[child];
        at = child;
    }
    queue[at] = moved;
    return smallest;
}

/* Looks up the pair that starts at `position` and queues its merge, if it has one. */
static void consider(const struct bpe *bpe, struct bpe_worker *worker, uint32_t position) {
    struct bpe_symbol *symbol = &worker->symbols[position];
    symbol->rank = BPE_NO_RANK;
    if (symbol->next == NOWHERE) return;
    const struct bpe_merge *merge = slot_of(bpe, symbol->id, worker->symbols[symbol->next].id);
    if (merge->rank == BPE_NO_RANK) return;
    symbol->rank = merge->rank;
    symbol->merged = merge->id;
    queue_push(worker, (uint64_t)merge->rank << 32 | position);
}

static void start_symbols(const struct bpe *bpe, struct bpe_worker *worker, const char *piece, size_t bytes) {
    if (bytes > worker->room) {
        worker->room = bytes + 64;
        free(worker->symbols);
        worker->symbols = xmalloc(worker->room * sizeof *worker->symbols);
    }
    for (uint32_t i = 0; i < bytes; i++)
        worker->symbols[i] = (struct bpe_symbol){.id = bpe->bytes[(unsigned char)piece[i]],
                                                 .previous = i ? i - 1 : NOWHERE,
                                                 .next = i + 1 < bytes ? i + 1 : NOWHERE};
    worker->queued = 0;
    for (uint32_t i = 0; i < bytes; i++) consider(bpe, worker, i);
}

static void merge_symbols(const struct bpe *bpe, struct bpe_worker *worker) {
    struct bpe_symbol *symbols = worker->symbols;
    while (worker->queued > 0) {
        uint64_t first = queue_pop(worker);
        uint32_t left = (uint32_t)first, rank = (uint32_t)(first >> 32);
        /* An entry is out of date where its left symbol was merged away or now has another right neighbour:
         * ranks differ then, because a rank belongs to one pair. */
        if (symbols[left].rank != rank) continue;
        uint32_t right = symbols[left].next;
        symbols[left].id = symbols[left].merged;
        symbols[left].next = symbols[right].next;
        symbols[right].rank = BPE_NO_RANK;
        if (symbols[left].next != NOWHERE) symbols[symbols[left].next].previous = left;
        consider(bpe, worker, left);
        if (symbols[left].previous != NOWHERE) consider(bpe, worker, symbols[left].previous);
    }
}

static void remember(struct bpe_worker *worker, const char *piece, size_t bytes, uint64_t hash,
                     const int32_t *ids, size_t count) {
    const struct string_table *pieces = &worker->pieces;
    if (pieces->count == MOST_CACHED ||
        (pieces->count && pieces->starts[pieces->count] > MOST_CACHED_BYTES)) {
        string_table_clear(&worker->pieces);
        worker->cached.count = 0;
    }
    uint32_t number = string_table_insert(&worker->pieces, piece, bytes, hash);
    if (number == worker->ends_room) {
        worker->ends_room = 2 * worker->ends_room + 64;
        worker->ends = xrealloc(worker->ends, worker->ends_room * sizeof *worker->ends);
    }
    ids_append(&worker->cached, ids, count);
    worker->ends[number] = (uint32_t)worker->cached.count;
}

void bpe_encode(const struct bpe *bpe, struct bpe_worker *worker, const char *piece, size_t bytes,
                struct ids *out) {
    uint64_t hash = 0;
    if (bytes <= LONGEST_CACHED) {
        hash = string_hash(piece, bytes);
        int64_t number = string_table_find(&worker->pieces, piece, bytes, hash);
        if (number >= 0) {
            uint32_t from = number ? worker->ends[number - 1] : 0;
            ids_append(out, worker->cached.data + from, worker->ends[number] - from);
            return;
        }
    }
    start_symbols(bpe, worker, piece, bytes);
    merge_symbols(bpe, worker);
    size_t start = out->count;
    for (uint32_t i = 0; i != NOWHERE; i = worker->symbols[i].next)
        ids_append(out, &worker->symbols[i].id, 1);
    if (bytes <= LONGEST_CACHED) remember(worker, piece, bytes, hash, out->data + start, out->count - start);
}
