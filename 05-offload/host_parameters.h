/*
 * Offload's third part (offload_param, with zero_stage 3): my slices of the parameters in host memory.
 *
 * parameter_shard gathers a unit around its use; here it first copies my slice up into its place in the whole
 * (it asks this module as its source), then gathers from there, both ahead of the unit's use:
 *
 *     compute         unit u, in A          │ unit u + 1, in B         │ unit u + 2, in A
 *     from the host   slice of u + 1 → B    │ slice of u + 2 → A       │
 *     between ranks     … gathered in B     │   … gathered in A        │
 *
 * So the device holds two whole units and not one slice; the price is that every pass over the model reads
 * all of it over the link. AdamW on the CPU writes new parameters straight into these slices.
 */
#ifndef OFFLOAD_HOST_PARAMETERS_H
#define OFFLOAD_HOST_PARAMETERS_H

#include "04-zero3/parameter_shard.h"

struct host_parameters {
    struct device *device;
    const struct layout *layout;
    enum dtype dtype;
    char *slices; /* [layout->sliced] host memory */
    struct slice_source source;
};

/* Host memory for my slices, under the heading parameters, page-locked where `pinned`; `source` is for
 * parameter_shard_open_from(). The layout must live as long. The caller closes it, after the parameter_shard.
 */
void host_parameters_open(struct host_parameters *parameters, struct device *device,
                          const struct layout *layout, enum dtype dtype, bool pinned);
void host_parameters_close(struct host_parameters *parameters);

/* Bytes of them by formula: 2Ψ/N, in fp32 4Ψ/N. */
double host_parameters_bytes(const struct layout *layout, enum dtype dtype);

/* [slice] my slice of a unit. To be written when no copy reads it: when the host has waited for a backward.
 */
void *host_parameters_slice(const struct host_parameters *parameters, int unit);

#endif
