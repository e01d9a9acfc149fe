#include "common/comm/mpi_private.h"

#include "common/device/cpu/kernels/vector.h"

/* Elements summed at a time: their fp32 sums stay in the first-level cache. */
#define BLOCK ((size_t)2048)

INLINE void sum_block(enum dtype dtype, void *out, const void *const *parts, int ranks, size_t from,
                      size_t count) {
    float sum[BLOCK];
    const void *part = const_element(dtype, parts[0], from);
#pragma omp simd
    for (size_t i = 0; i < count; i++) sum[i] = load(dtype, part, i);
    for (int r = 1; r < ranks; r++) {
        part = const_element(dtype, parts[r], from);
#pragma omp simd
        for (size_t i = 0; i < count; i++) sum[i] += load(dtype, part, i);
    }
    out = element(dtype, out, from);
#pragma omp simd
    for (size_t i = 0; i < count; i++) store(dtype, out, i, sum[i]);
}

HOT static void sum_halves_or_floats(enum dtype dtype, void *out, const void *const *parts, int ranks,
                                     size_t from, size_t count) {
    FOR_DTYPE(dtype, sum_block, out, parts, ranks, from, count);
}

HOT static void sum_doubles(double *out, const void *const *parts, int ranks, size_t from, size_t count) {
    double sum[BLOCK];
    for (size_t i = 0; i < count; i++) sum[i] = ((const double *)parts[0])[from + i];
    for (int r = 1; r < ranks; r++)
        for (size_t i = 0; i < count; i++) sum[i] += ((const double *)parts[r])[from + i];
    memcpy(out + from, sum, count * sizeof *sum);
}

/* Unsigned, so that an overflow has a meaning. */
HOT static void sum_integers(uint32_t *out, const void *const *parts, int ranks, size_t from, size_t count) {
    uint32_t sum[BLOCK];
    for (size_t i = 0; i < count; i++) sum[i] = ((const uint32_t *)parts[0])[from + i];
    for (int r = 1; r < ranks; r++)
        for (size_t i = 0; i < count; i++) sum[i] += ((const uint32_t *)parts[r])[from + i];
    memcpy(out + from, sum, count * sizeof *sum);
}

void sum_in_order(enum dtype dtype, void *out, const void *const *parts, int ranks, size_t count) {
    size_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) if (blocks > 16)
    for (size_t b = 0; b < blocks; b++) {
        size_t from = b * BLOCK, n = smaller(BLOCK, count - from);
        if (dtype == FP64)
            sum_doubles(out, parts, ranks, from, n);
        else if (dtype == INT32)
            sum_integers(out, parts, ranks, from, n);
        else
            sum_halves_or_floats(dtype, out, parts, ranks, from, n);
    }
}
