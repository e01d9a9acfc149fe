/*
 * A set of byte strings, numbered 0, 1, 2 … in the order of their insertion: the vocabulary's index, and the
 * cache of pieces. One allocation for all slots and one for all bytes, because both are filled with hundreds
 * of thousands of short strings in moments (uthash keeps a 56-byte handle and an allocation of its own for
 * each).
 */
#ifndef COMMON_TEXT_STRING_TABLE_H
#define COMMON_TEXT_STRING_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct string_table {
    uint32_t count;      /* strings */
    uint32_t slot_count; /* a power of two, at least twice count; 0 before the first insertion */
    struct string_slot {
        uint32_t hash;   /* upper half of the string's hash */
        uint32_t number; /* 0: free, else the string's number + 1 */
    } * slots;
    size_t *starts; /* [room + 1] string n is bytes[starts[n]] … bytes[starts[n + 1] − 1] */
    uint32_t room;
    char *bytes;
    size_t bytes_room;
};

/* A table starts as {0}. */
void string_table_free(struct string_table *table);
void string_table_clear(struct string_table *table); /* empty, but keeps its memory */

uint64_t string_hash(const char *data, size_t bytes);

/* The string's number, −1 where it is not there. `hash` is its string_hash. */
int64_t string_table_find(const struct string_table *table, const char *data, size_t bytes, uint64_t hash);
/* Inserts a string that is not there and returns its number. At most 2^30 strings. */
uint32_t string_table_insert(struct string_table *table, const char *data, size_t bytes, uint64_t hash);

static inline const char *string_table_data(const struct string_table *table, uint32_t number) {
    return table->bytes + table->starts[number];
}
static inline size_t string_table_bytes(const struct string_table *table, uint32_t number) {
    return table->starts[number + 1] - table->starts[number];
}

#endif
