/*
 * What the backends share behind device.h: which blocks of memory are out, their ledger, and the error of a
 * device that is full. Private to common/device.
 */
#ifndef COMMON_DEVICE_BACKEND_H
#define COMMON_DEVICE_BACKEND_H

#include <stdatomic.h>

#include "common/device/device.h"

#define DEVICE_ALIGNMENT ((size_t)256)

/* Blocks handed out by one allocator. Only the thread that runs the model allocates and frees; `in_use` is
 * what other threads (the sampler) may read at any time. */
struct block;
struct blocks {
    const char *place; /* "device" or "host": for messages */
    struct block *table;
    struct ledger ledger;
    atomic_size_t in_use; /* ledger.total.bytes */
};

void blocks_open(struct blocks *blocks, const char *place, size_t limit);
/* Forgets all blocks, giving each one that is still out to `release`. */
void blocks_close(struct blocks *blocks, void (*release)(void *pointer));

/* fail()s where `bytes` more would go over the ledger's limit: says which heading asked for how much, what is
 * booked, and what would need less. */
void blocks_check(const struct blocks *blocks, enum heading heading, size_t bytes, const char *what);
/* The same error, for an allocator that got nothing although the limit was kept. */
_Noreturn void blocks_full(const struct blocks *blocks, enum heading heading, size_t bytes, const char *what);

/* Books a block that the allocator has got. */
void blocks_add(struct blocks *blocks, void *pointer, enum heading heading, size_t bytes);
/* Takes it off again. fail()s on a pointer that is not out: freed twice, or never allocated here. */
void blocks_remove(struct blocks *blocks, void *pointer);

/* A range in a profiler's view: what profile_push() and profile_pop() do in this backend. */
void backend_range_push(const char *name);
void backend_range_pop(void);

/* Bytes for people, "1.5 GiB", in a buffer that the caller gives and which is returned. */
struct byte_text {
    char text[32];
};
const char *byte_text(struct byte_text *buffer, size_t bytes);

#endif
