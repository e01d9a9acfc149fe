/*
 * Offload's second part (offload_gradients): gradients add up in host memory.
 *
 * What gradient_shard reduces to my slice leaves the device at once: the update's first micro-batch is copied
 * to where it stays, each later one into one of two slices of staging, from which the CPU adds it, while the
 * device computes the next unit's backward. So the device holds no slices of gradients, however deep the
 * model, and the host 2Ψ/N bytes more (4Ψ/N in fp32).
 *
 *     device         backward of u       │ backward of u − 1       │ backward of u − 2
 *     to the host                          slice u → A             │ slice u − 1 → B
 *     CPU                                                            gradients of u += A
 *
 * Squares for the norm are summed on the way: on the CPU by the last micro-batch's additions; where there is
 * but one micro-batch, on the device.
 */
#ifndef OFFLOAD_HOST_GRADIENTS_H
#define OFFLOAD_HOST_GRADIENTS_H

#include "03-zero2/gradient_shard.h"
#include "common/device/host_kernels.h"

struct host_gradients {
    struct device *device;
    const struct layout *layout;
    enum dtype dtype;
    int threads;
    char *slices; /* [layout->sliced] host memory */
    struct gradient_sink sink;
    struct update_state *state; /* device memory */

    int packs;        /* of this update */
    long long taken;  /* slices, in this update: all units' of a micro-batch before any of the next one's */
    double squares;   /* found by the CPU */
    double *going_up; /* host memory: their sum, on its way to the device */

    struct {
        char *slice; /* host memory, a largest slice; NULL where updates have one micro-batch */
        struct event *copied;
        int unit;  /* whose; −1: nobody's */
        bool last; /* of the update's last micro-batch */
    } staging[2];
    int turn;
};

/* Host memory for my slices (heading gradients) and, where updates have up to `packs` > 1 micro-batches, two
 * more (heading buffers), page-locked where `pinned`. `sink` is for gradient_shard_open_to(). `state`: the
 * session's, in device memory. All pointers must live as long. The caller closes it, after the
 * gradient_shard. */
void host_gradients_open(struct host_gradients *gradients, struct device *device, const struct layout *layout,
                         enum dtype dtype, struct update_state *state, long long packs, bool pinned);
void host_gradients_close(struct host_gradients *gradients);

/* Bytes of my slices by formula: 2Ψ/N, in fp32 4Ψ/N. */
double host_gradients_bytes(const struct layout *layout, enum dtype dtype);

/* An update begins: every unit is going to be taken `packs` times. */
void host_gradients_begin(struct host_gradients *gradients, int packs);
/* The host has waited for all, and added; state->square_sum has the squares of my slices for what is queued
 * on `stream` from now on. */
void host_gradients_finish(struct host_gradients *gradients, struct stream *stream);

/* [slice] my slice of a unit, between finish() and begin(). */
const void *host_gradients_slice(const struct host_gradients *gradients, int unit);

#endif
