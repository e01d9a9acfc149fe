#include "common/text/string_table.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void string_table_free(struct string_table *table) {
    free(table->slots);
    free(table->starts);
    free(table->bytes);
    *table = (struct string_table){0};
}

void string_table_clear(struct string_table *table) {
    if (table->slot_count) memset(table->slots, 0, table->slot_count * sizeof *table->slots);
    table->count = 0;
}

/* Eight bytes at a time, each multiplied into the state by an odd constant (the golden ratio's bits); the
 * upper bits, which depend on all bytes, are folded down because slots are chosen by the lower ones. */
uint64_t string_hash(const char *data, size_t bytes) {
    const uint64_t odd = 0x9e3779b97f4a7c15u;
    uint64_t hash = bytes * odd, word;
    for (; bytes >= sizeof word; data += sizeof word, bytes -= sizeof word) {
        memcpy(&word, data, sizeof word);
        hash = (hash ^ word) * odd;
        hash ^= hash >> 32;
    }
    word = 0;
    for (size_t i = 0; i < bytes; i++) word = word << 8 | (unsigned char)data[i];
    hash = (hash ^ word) * odd;
    hash = (hash ^ hash >> 32) * odd;
    return hash ^ hash >> 29;
}

int64_t string_table_find(const struct string_table *table, const char *data, size_t bytes, uint64_t hash) {
    if (table->slot_count == 0) return -1;
    uint32_t mask = table->slot_count - 1, upper = (uint32_t)(hash >> 32);
    for (uint32_t at = (uint32_t)hash & mask; table->slots[at].number; at = (at + 1) & mask) {
        if (table->slots[at].hash != upper) continue;
        uint32_t number = table->slots[at].number - 1;
        if (string_table_bytes(table, number) == bytes &&
            !memcmp(string_table_data(table, number), data, bytes))
            return number;
    }
    return -1;
}

static void place(struct string_table *table, uint32_t number, uint64_t hash) {
    uint32_t mask = table->slot_count - 1, at = (uint32_t)hash & mask;
    while (table->slots[at].number) at = (at + 1) & mask;
    table->slots[at] = (struct string_slot){.hash = (uint32_t)(hash >> 32), .number = number + 1};
}

static void grow_slots(struct string_table *table) {
    free(table->slots);
    table->slot_count = table->slot_count ? 2 * table->slot_count : 64;
    table->slots = xcalloc(table->slot_count, sizeof *table->slots);
    for (uint32_t i = 0; i < table->count; i++)
        place(table, i, string_hash(string_table_data(table, i), string_table_bytes(table, i)));
}

uint32_t string_table_insert(struct string_table *table, const char *data, size_t bytes, uint64_t hash) {
    if (table->count >= 1u << 30) fail("a table of strings is full: 2^30 of them");
    if (2 * (table->count + 1) > table->slot_count) grow_slots(table);
    if (table->count == table->room) {
        table->room = 2 * table->room + 32;
        table->starts = xrealloc(table->starts, (table->room + 1ul) * sizeof *table->starts);
        table->starts[0] = 0;
    }
    size_t start = table->starts[table->count];
    if (bytes >= table->bytes_room - start) {
        table->bytes_room = 2 * table->bytes_room + bytes + 64;
        table->bytes = xrealloc(table->bytes, table->bytes_room);
    }
    if (bytes) memcpy(table->bytes + start, data, bytes);
    table->starts[table->count + 1] = start + bytes;
    place(table, table->count, hash);
    return table->count++;
}
