#include "06-multinode/secondary_shard.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static bool wanted(const struct topology *topology, int ranks) {
    return topology->two_levels && ranks > 1;
}

double secondary_shard_bytes(const struct topology *topology, const struct layout *layout, enum dtype dtype,
                             int ranks) {
    if (!wanted(topology, ranks)) return 0;
    return (double)layout->parameters * (double)dtype_size(dtype) / topology->ranks_per_node;
}

void secondary_shard_open(struct secondary_shard *shard, struct device *device,
                          const struct topology *topology, const struct layout *layout, const void *slices,
                          enum dtype dtype, int ranks) {
    *shard = (struct secondary_shard){
        .device = device, .topology = topology, .layout = layout, .slices = slices, .dtype = dtype};
    if (topology->two_levels && ranks != 1 && ranks != topology->ranks_per_node)
        fail("zero_hpz_partition_size %d: nodes have %d ranks here; set it to that, or to 1 for no second "
             "cut of the parameters",
             ranks, topology->ranks_per_node);
    if (!wanted(topology, ranks)) return;
    size_t bytes = layout->sliced * (size_t)topology->nodes * dtype_size(dtype);
    shard->parts = device_alloc(device, PARAMETERS, bytes, "parameters, my node's second cut");
    shard->kept = xcalloc((size_t)layout->count, sizeof *shard->kept);
}

void secondary_shard_close(struct secondary_shard *shard) {
    device_free(shard->device, shard->parts);
    free(shard->kept);
}

bool secondary_shard_keeps(const struct secondary_shard *shard) {
    return shard && shard->parts;
}

/* In bytes: of this rank's part of a unit, and where it lies in `parts`. */
static size_t part_bytes(const struct secondary_shard *shard, int unit) {
    return shard->layout->units[unit].slice * (size_t)shard->topology->nodes * dtype_size(shard->dtype);
}

static char *part_of(const struct secondary_shard *shard, int unit) {
    size_t before = shard->layout->units[unit].slice_offset * (size_t)shard->topology->nodes;
    return shard->parts + before * dtype_size(shard->dtype);
}

void secondary_shard_keep(struct secondary_shard *shard, struct stream *stream, int unit, const void *whole) {
    if (!secondary_shard_keeps(shard) || shard->kept[unit]) return;
    size_t bytes = part_bytes(shard, unit), before = (size_t)shard->topology->local_rank * bytes;
    copy_on_device(stream, part_of(shard, unit), (const char *)whole + before, bytes);
    shard->kept[unit] = true;
}

void secondary_shard_forget(struct secondary_shard *shard) {
    if (secondary_shard_keeps(shard))
        memset(shard->kept, 0, (size_t)shard->layout->count * sizeof *shard->kept);
}

const void *secondary_shard_find(const struct secondary_shard *shard, const void *slice) {
    if (!secondary_shard_keeps(shard)) return NULL;
    for (int u = 0; u < shard->layout->count; u++) {
        const char *first = shard->slices + shard->layout->units[u].slice_offset * dtype_size(shard->dtype);
        if (first == slice) return shard->kept[u] ? part_of(shard, u) : NULL;
    }
    return NULL;
}
