/*
 * ZeRO-3 on several nodes: a second cut of the parameters, inside each node (ZeRO++'s hierarchical
 * partitioning, hpZ: Wang et al. 2023; MiCS, Zhang et al. 2022, goes further and keeps all of the training
 * state so).
 *
 * ZeRO-3 gathers each unit for the forward and again for the backward. The first time, the unit's slices come
 * from all nodes; then each rank keeps one of the unit's G parts, a different one each, so that the ranks of
 * a node have all of it among them. Until the parameters change, it is gathered from there, and nothing goes
 * across:
 *
 *     forward of the update's first pack     slices: N ranks → parts: G ranks → whole     across and inside
 *     each backward, each forward after it                     parts: G ranks → whole     inside
 *
 * Of a model of B bytes, with A packs an update, a rank sends across in an update's all-gathers
 * (M − 1)/N · B, instead of nearly 2A times that; inside its node (G − 1)/G · B each time, as before.
 * Evaluation's forward passes may keep parts, too, which the next update then finds.
 *
 * Memory: B/G, which in half precision is 2Ψ/G, and M times the slices of the first cut. The ledger has it
 * under parameters: it stays from update to update and grows with the model, where buffers only hold what is
 * under way and grow with the largest unit.
 */
#ifndef MULTINODE_SECONDARY_SHARD_H
#define MULTINODE_SECONDARY_SHARD_H

#include "06-multinode/topology.h"
#include "common/bloom/layout.h"

struct secondary_shard {
    struct device *device;
    const struct topology *topology;
    const struct layout *layout;
    const char *slices; /* [layout->sliced] the first cut: this rank's slices of all units */
    char *parts;        /* [M · layout->sliced] this rank's part of every unit; NULL: none are kept */
    bool *kept;         /* [units] is its part there, and valid? */
    enum dtype dtype;
};

/* `ranks` says over how many of them the second cut goes (setting zero_hpz_partition_size): 1 for none, or as
 * many as a node has; ends the job where it is another number. `slices` [layout->sliced] is where the first
 * cut is, device memory of one slice of every unit at its slice_offset. With one level, or 1, nothing is
 * allocated and nothing kept. All pointers must live as long; the caller closes it. */
void secondary_shard_open(struct secondary_shard *shard, struct device *device,
                          const struct topology *topology, const struct layout *layout, const void *slices,
                          enum dtype dtype, int ranks);
void secondary_shard_close(struct secondary_shard *shard);

/* Bytes of device memory, under the heading parameters. */
double secondary_shard_bytes(const struct topology *topology, const struct layout *layout, enum dtype dtype,
                             int ranks);

/* Is anything ever kept? `shard` may be NULL. */
bool secondary_shard_keeps(const struct secondary_shard *shard);

/* The unit has been gathered: `whole` [padded] holds it for work queued on `stream` now. Queues a copy of
 * this rank's part, unless it is there. */
void secondary_shard_keep(struct secondary_shard *shard, struct stream *stream, int unit, const void *whole);
/* The parameters change: nothing kept is valid any more. */
void secondary_shard_forget(struct secondary_shard *shard);

/* The part of the unit whose first slice is at `slice`, where it is kept, or NULL. For
 * hierarchical_collectives.c; `shard` may be NULL. */
const void *secondary_shard_find(const struct secondary_shard *shard, const void *slice);

#endif
