/*
 * Offload's first part: the optimizer's state in host memory, AdamW on the CPU (after ZeRO-Offload: Ren et
 * al. 2021, section 4.2).
 *
 * Of 16 bytes a parameter 12 are the optimizer's, and it needs them but once an update. Here they live in
 * host memory: masters and moments of my slices, in fp32, too, where the parameters are no masters any more.
 * When the update's norm is known, the host goes from unit to unit:
 *
 *     from the device   slice 2      │ slice 3      │ slice 4      │           gradients come down,
 *     CPU               AdamW on 1   │ AdamW on 2   │ AdamW on 3   │
 *     to the device                  │ slice 1      │ slice 2      │ slice 3   new parameters go up,
 *     between ranks                                 │ slice 1      │ slice 2   and (stages 1, 2) are gathered
 *
 * Two slices of gradients and two of parameters are on their way at most; each direction has a stream of its
 * own. Where gradients, or parameters, live on the host themselves, that direction falls away. The host waits
 * here, once for the norm, then for slices: it is what computes.
 *
 * AdamW on the CPU moves 28 bytes a parameter through the host's memory in half precision, and takes most of
 * an update's time: the link has 2 of these each way. host_kernels.h says how it is done; its bits are the
 * CPU backend's.
 */
#ifndef OFFLOAD_HOST_OPTIMIZER_H
#define OFFLOAD_HOST_OPTIMIZER_H

#include "common/bloom/layout.h"
#include "common/comm/collectives.h"
#include "common/device/host_kernels.h"
#include "common/device/kernels.h"

/* One direction between device and host: two slices take turns. */
struct host_lane {
    struct stream *stream;
    char *slices[2]; /* host memory, a largest slice each; NULL: nothing goes this way */
    struct event *moved[2];
    unsigned started, taken; /* copies in all, and those that the host has made use of (on the way down) */
};

struct host_optimizer {
    struct device *device;
    struct stream *stream; /* where the device computes */
    const struct layout *layout;
    int slice; /* the number of mine */
    enum dtype dtype;
    int threads;
    float *master, *m, *v;      /* [layout->sliced] host memory */
    struct update_state *state; /* host memory: the update's, with its norm */
    struct event *known;        /* it is there */
    struct host_lane down, up;
};

/* Host memory for the state of my slices, under the heading optimizer: m and v zero. `brings`: gradients come
 * from the device; `sends`: parameters go there: then two slices each of staging, under the heading buffers,
 * page-locked where `pinned`. (The state itself is never copied, and never page-locked.) The layout must live
 * as long. The caller closes it. */
void host_optimizer_open(struct host_optimizer *optimizer, struct device *device, struct stream *stream,
                         const struct layout *layout, const struct collectives *collectives, enum dtype dtype,
                         bool brings, bool sends, bool pinned);
void host_optimizer_close(struct host_optimizer *optimizer);

/* Bytes of the state by formula: 12Ψ/N, in every precision. */
double host_optimizer_bytes(const struct layout *layout);

/* Queues, behind what has been queued to compute so far, the way down of my slice of a unit's gradient. At
 * most two before their adamw(), which comes in the same order. */
void host_optimizer_bring(struct host_optimizer *optimizer, int unit, const void *gradient);

/* The host waits for `state` (device memory), prepared for this update. False where the update is skipped:
 * there is no adamw() then, and what was brought is forgotten. */
bool host_optimizer_begin(struct host_optimizer *optimizer, const struct update_state *state);

/* AdamW on my slice of a unit; all pointers are to that slice. gradient: host memory, or NULL for what was
 * brought. `parameters` is host memory, and written; or else NULL, and the new ones start for `device`. */
void host_optimizer_adamw(struct host_optimizer *optimizer, int unit, const void *gradient, void *parameters,
                          void *device, const struct update_rule *rule);
/* What is queued from now on `stream` finds the parameters that have started so far. */
void host_optimizer_wait(struct host_optimizer *optimizer, struct stream *stream);

/* Rounds masters to parameters: elements begin … begin + count − 1 of my slice of a unit, into host memory.
 */
void host_optimizer_round(const struct host_optimizer *optimizer, int unit, size_t begin, size_t count,
                          void *parameters);

#endif
