/*
 * Scratch memory that kernels of a backend book under buffers, in bytes: here, because the dry backend books
 * what either of the two others would. Private to common/device.
 */
#ifndef COMMON_DEVICE_WORKSPACE_H
#define COMMON_DEVICE_WORKSPACE_H

#include <stddef.h>

/* Scratch of the CPU backend for products of half-precision matrices, which are taken in fp32: one block,
 * booked when a device opens for BF16 or FP16. */
#define CPU_WORKSPACE_BYTES ((size_t)32 << 20)

/* Scratch of the CUDA backend: one block for each stream, booked when a kernel on it first needs it. */
#define CUDA_WORKSPACE_BYTES ((size_t)32 << 20)

#endif
