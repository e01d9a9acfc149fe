#include "common/device/backend.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/error.h"

#define uthash_fatal(message) fail("table of memory blocks: %s", message)
#include <uthash.h>

struct block {
    void *pointer;
    size_t bytes;
    enum heading heading;
    UT_hash_handle hh;
};

const char *byte_text(struct byte_text *buffer, size_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;
    double value = (double)bytes;
    for (; value >= 1024; value /= 1024) unit++;
    snprintf(buffer->text, sizeof buffer->text, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return buffer->text;
}

void blocks_open(struct blocks *blocks, const char *place, size_t limit) {
    *blocks = (struct blocks){.place = place, .ledger.limit = limit};
}

void blocks_close(struct blocks *blocks, void (*release)(void *pointer)) {
    struct block *block, *next;
    HASH_ITER(hh, blocks->table, block, next) {
        HASH_DEL(blocks->table, block);
        release(block->pointer);
        free(block);
    }
}

static const char *what_needs_less(const struct blocks *blocks, enum heading heading) {
    if (blocks->place[0] == 'h') return "keep less on the host, or start fewer ranks on this node";
    switch (heading) {
    case PARAMETERS:
        return "stage 04 needs less, the less the more ranks: each keeps a slice of the parameters; "
               "stage 05 can keep it on the host (offload_param)";
    case GRADIENTS:
        return "stages 03 and 04 need less, the less the more ranks: each keeps a slice of the gradients; "
               "stage 05 can keep it on the host (offload_gradients)";
    case OPTIMIZER:
        return "stages 02 to 04 need less, the less the more ranks: each keeps a slice of the optimizer's "
               "state; stage 05 can keep it on the host (offload_optimizer)";
    case BUFFERS:
        return "stages 02 to 04 need less with more ranks, stage 04 also with a lower stage3_prefetch";
    default:
        return "smaller batches or gradient_checkpointing need less, and so do stages 02 to 04 with 2 or "
               "more ranks";
    }
}

_Noreturn void blocks_full(const struct blocks *blocks, enum heading heading, size_t bytes,
                           const char *what) {
    char booked[512] = "nothing";
    int used = 0;
    struct byte_text asked, amount, limit;
    for (int other = 0; other < HEADINGS; other++) {
        if (!blocks->ledger.lines[other].bytes) continue;
        used += snprintf(booked + used, sizeof booked - (size_t)used, "%s%s %s", used ? ", " : "",
                         heading_name(other), byte_text(&amount, blocks->ledger.lines[other].bytes));
    }
    char bound[64] = "";
    if (blocks->ledger.limit)
        snprintf(bound, sizeof bound, " of %s", byte_text(&limit, blocks->ledger.limit));
    fail("out of %s memory: %s asked for %s (%zu bytes: %s) where %s%s are booked (%s); %s", blocks->place,
         heading_name(heading), byte_text(&asked, bytes), bytes, what,
         byte_text(&amount, blocks->ledger.total.bytes), bound, booked, what_needs_less(blocks, heading));
}

void blocks_check(const struct blocks *blocks, enum heading heading, size_t bytes, const char *what) {
    const struct ledger *ledger = &blocks->ledger;
    if (ledger->limit && (ledger->total.bytes > ledger->limit || bytes > ledger->limit - ledger->total.bytes))
        blocks_full(blocks, heading, bytes, what);
}

static void publish(struct blocks *blocks) {
    atomic_store_explicit(&blocks->in_use, blocks->ledger.total.bytes, memory_order_relaxed);
}

void blocks_add(struct blocks *blocks, void *pointer, enum heading heading, size_t bytes) {
    struct block *block = xmalloc(sizeof *block);
    *block = (struct block){.pointer = pointer, .bytes = bytes, .heading = heading};
    HASH_ADD_PTR(blocks->table, pointer, block);
    ledger_add(&blocks->ledger, heading, bytes);
    publish(blocks);
}

void blocks_remove(struct blocks *blocks, void *pointer) {
    struct block *block;
    HASH_FIND_PTR(blocks->table, &pointer, block);
    if (!block) fail("%s memory at %p is not allocated: a mistake in this program", blocks->place, pointer);
    ledger_remove(&blocks->ledger, block->heading, block->bytes);
    publish(blocks);
    HASH_DEL(blocks->table, block);
    free(block);
}
