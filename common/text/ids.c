#include "common/text/ids.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void ids_append(struct ids *ids, const int32_t *data, size_t count) {
    if (count == 0) return;
    if (count > ids->capacity - ids->count) {
        ids->capacity = 2 * ids->capacity + count;
        ids->data = xrealloc(ids->data, ids->capacity * sizeof *ids->data);
    }
    memcpy(ids->data + ids->count, data, count * sizeof *data);
    ids->count += count;
}

void ids_free(struct ids *ids) {
    free(ids->data);
    *ids = (struct ids){0};
}
