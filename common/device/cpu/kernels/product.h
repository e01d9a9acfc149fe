/*
 * Matrix products of the CPU kernels, on any storage type. Private to common/device/cpu/kernels.
 *
 * The products themselves are fp32 (sgemm of oneDNN, or of a CBLAS). In FP32 one call works on the operands
 * where they are. In half precision the operands are converted, block by block, into the device's workspace,
 * and so is the result back from there: sums are fp32 from the first term to the last, and rounded once.
 */
#ifndef COMMON_DEVICE_CPU_KERNELS_PRODUCT_H
#define COMMON_DEVICE_CPU_KERNELS_PRODUCT_H

#include "common/device/cpu/cpu.h"

/* A matrix as an operand: as it is stored, row-major with `ld` elements from row to row, or transposed. */
struct operand {
    const void *data;
    size_t ld;
    bool transposed;
};

/* out [m,n] = (a [m,k] · b [k,n] + bias [n] + add [m,n]) ∘ gelu'(pre [m,n]) */
struct product {
    enum dtype dtype; /* of a, b, bias, pre: FP32, BF16, FP16 */
    struct operand a, b;
    size_t m, n, k;
    enum dtype out_dtype; /* of out and add: dtype or FP32 */
    void *out;
    size_t ldout;
    const void *bias; /* NULL: none */
    const void *add;  /* its leading dimension is n; NULL: none; out itself (then ldout is n, too) */
    const void *pre;  /* likewise, but not out; NULL: no such factor */
};

/* On all threads. Does nothing where out is empty; counts no work. */
void multiply(struct stream *stream, const struct product *product);

#endif
