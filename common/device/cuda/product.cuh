/*
 * Matrix products with what is done to their results on the way to memory. Private to common/device/cuda.
 *
 *   product_plans.cu    cuBLASLt's: what a layer of a model comes to
 *   product_general.cu  our own, for shapes that cuBLASLt's fast kernels do not take
 */
#ifndef COMMON_DEVICE_CUDA_PRODUCT_CUH
#define COMMON_DEVICE_CUDA_PRODUCT_CUH

#include "common/device/cuda/cuda.cuh"

/* A row-major matrix [rows, columns] with `ld` elements between rows; `transposed`: it is stored as [columns,
 * rows].
 */
struct operand {
    const void *elements;
    size_t ld;
    bool transposed;
};

/* out [m,n] = a [m,k] · b [k,n] + bias [n] + add [m,n]. a and b are of dtype, all others of out_dtype; NULL
 * stands for what there is not. add may be out, with the same leading dimension. */
struct product {
    enum dtype dtype, out_dtype;
    struct operand a, b;
    size_t m, n, k;
    void *out;
    size_t ldout;
    const void *bias;
    const void *add;
    size_t ldadd;
};

/* m and n are not 0. Counts no work. */
void multiply(struct stream *stream, const struct product *product);

/* As multiply(), by a plain kernel: any shape, any alignment. */
void multiply_general(struct stream *stream, const struct product *product);

#endif
