/*
 * A growable list of token ids.
 */
#ifndef COMMON_TEXT_IDS_H
#define COMMON_TEXT_IDS_H

#include <stddef.h>
#include <stdint.h>

/* Starts as {0}; the owner calls ids_free. */
struct ids {
    int32_t *data;
    size_t count, capacity;
};

void ids_append(struct ids *ids, const int32_t *data, size_t count);
void ids_free(struct ids *ids); /* and back to {0} */

#endif
