/*
 * A pack on the device: what the kernels read of it.
 */
#ifndef COMMON_BLOOM_INPUT_H
#define COMMON_BLOOM_INPUT_H

#include <stdint.h>

#include "common/device/device.h"
#include "common/device/kernels.h"
#include "common/text/pack.h"

struct input {
    int tokens;                 /* rows */
    int labelled;               /* labelled rows */
    struct sequences sequences; /* for attention */
    int32_t *ids;               /* [tokens] */
    int32_t *by_id;             /* [tokens] rows sorted by id */
    int32_t *rows;              /* [labelled] */
    int32_t *labels;            /* [labelled] */
    float *weights;             /* [labelled] */

    struct device *device;
    struct pack_size capacity;
    void *memory;            /* device memory behind the arrays above */
    void *staging[2];        /* pinned host memory: one is filled while the other is still being copied */
    struct event *copied[2]; /* when staging[i] may be filled again */
    int turn;
    size_t bytes; /* of memory, and of each staging */
};

/* Bytes of device memory that packs of this size take. */
size_t input_bytes(struct pack_size capacity);

/* Room for packs up to `capacity`, under the heading activations. The caller closes it. */
void input_open(struct input *input, struct device *device, struct pack_size capacity);
void input_close(struct input *input);

/* Queues the copy of a pack (host memory, free again when the call returns). */
void input_upload(struct input *input, struct stream *stream, const struct pack *pack);

#endif
