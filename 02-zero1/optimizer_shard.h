/*
 * ZeRO-1's capability: the optimizer's state, cut among the ranks (Rajbhandari et al. 2020, P_os).
 *
 * Every rank owns one slice of every unit (layout.h), and only of its slices it has the optimizer's state:
 * fp32 master parameters and AdamW's moments m and v, 12 bytes a parameter in half precision. As AdamW treats
 * each element by itself, N ranks together do exactly what one did:
 *
 *     unit u   |  slice 0   |  slice 1   |  slice 2   |  slice 3   |
 *     rank 1                |  m, v      |                            updates its slice of the parameters
 *                           |  master    |                            from its slice of the summed gradients
 *
 * My slices of all units lie one behind the other (unit.slice_offset). In fp32 there are no separate masters:
 * the parameters themselves are what AdamW works on.
 */
#ifndef ZERO1_OPTIMIZER_SHARD_H
#define ZERO1_OPTIMIZER_SHARD_H

#include "common/bloom/layout.h"
#include "common/comm/collectives.h"
#include "common/device/kernels.h"

struct optimizer_shard {
    struct device *device;
    const struct layout *layout;
    int slice; /* the number of mine */
    enum dtype dtype;
    float *master; /* [layout->sliced]; NULL in an fp32 run */
    float *m, *v;  /* [layout->sliced] */
};

/* Device memory for the state of my slices, under the heading optimizer; m and v are zero. The layout must
 * live as long. The caller closes it. */
void optimizer_shard_open(struct optimizer_shard *shard, struct device *device, struct stream *stream,
                          const struct layout *layout, const struct collectives *collectives,
                          enum dtype dtype);
void optimizer_shard_close(struct optimizer_shard *shard);

/* Bytes of it by formula, for Ψ parameters: 12Ψ/N in half precision, 8Ψ/N in fp32. */
double optimizer_shard_bytes(const struct layout *layout, enum dtype dtype);

/* My slice of a unit. */
struct slice optimizer_shard_slice(const struct optimizer_shard *shard, int unit);

/* Element `element` of a unit, one of my slice's, in a buffer [layout->sliced] such as m. */
float *optimizer_shard_at(const struct optimizer_shard *shard, float *slices, int unit, size_t element);

/* AdamW on my slice of a unit: `parameters` and `gradients` [slice] in the run's precision are that slice. */
void optimizer_shard_adamw(const struct optimizer_shard *shard, struct stream *stream, int unit,
                           void *parameters, const void *gradients, const struct update_state *state,
                           const struct update_rule *rule);

#endif
