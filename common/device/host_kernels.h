/*
 * Kernels on host memory: what an update needs where the optimizer's state, or the gradients, do not live on
 * the device (stage 05, after ZeRO-Offload: Ren et al. 2021). The same on every backend; on the dry one they
 * touch nothing.
 *
 * They do their work before they return, on `threads` threads (device_cores() says how many this rank has),
 * and every pointer is host memory that nobody else uses meanwhile: what a copy has brought must have
 * arrived. Arrays may begin anywhere; equal offsets from multiples of 64 bytes are fastest, as slices of
 * host_alloc()'s blocks have.
 *
 * Speed. AdamW moves 28 bytes an element in half precision (gradient, master, m and v are read; master, m, v
 * and the parameter written) and computes little, so memory decides. Each path below keeps all of its streams
 * going, and writes the parameters past the cache, so that their lines are not read first.
 *
 * Bits. Element by element these are the operations of the CPU backend's kernels in their order, none of them
 * fused and none approximated. So for one input all instruction sets, all numbers of threads and all ways to
 * cut an array give the same bits, which are those of the CPU backend's adamw(). (Not promised: which NaN a
 * NaN is.) Sums have a fixed order too.
 */
#ifndef COMMON_DEVICE_HOST_KERNELS_H
#define COMMON_DEVICE_HOST_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/device/kernels.h"

/* AdamW as kernels.h's adamw(), with all operands, `state` too, in host memory. `parameters` [count] of dtype
 * receives the master rounded; in FP32 it is the master itself, or NULL, or else gets a copy. `gradient`
 * [count] is of gradient_dtype: dtype, or FP32 as host_accumulate() may have summed it. The first `decayed`
 * elements have weight decay. Where state->skip is set nothing is read or written, parameters included. */
void host_adamw(int threads, enum dtype dtype, void *parameters, float *master, float *m, float *v,
                enum dtype gradient_dtype, const void *gradient, size_t count, size_t decayed,
                const struct update_state *state, const struct update_rule *rule);

/* sum [count] of sum_dtype = gradient [count] of dtype, added to what it held with `add`: in fp32, and
 * rounded once to sum_dtype, which is dtype or FP32. Gives Σ sum² after it, in fp64 (read while it is still
 * in cache: next to no time); not finite where an element is not. */
double host_accumulate(int threads, enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient,
                       size_t count, bool add);

/* Σ x² of x [count], in fp64 and in the order in which host_accumulate() sums. */
double host_sum_of_squares(int threads, enum dtype dtype, const void *x, size_t count);

/* The instructions in use: "avx512", "avx2" or "plain", the best that this processor and this build have
 * unless host_kernels_use() said otherwise. That is for tests and comparisons: false where `name` is not to
 * be had; NULL asks for the best again. */
const char *host_kernels_instructions(void);
bool host_kernels_use(const char *name);

#endif
