/*
 * How sums over the rows of a matrix are cut. Private to common/device/cpu/kernels.
 *
 * A piece is COLUMN_PIECE columns of all rows, so that every sum has one thread and one order. Within it, the
 * sums of ROW_BLOCK rows at a time are added to the total: with n rows the rounding errors of ROW_BLOCK + n /
 * ROW_BLOCK additions instead of n.
 */
#ifndef COMMON_DEVICE_CPU_KERNELS_COLUMNS_H
#define COMMON_DEVICE_CPU_KERNELS_COLUMNS_H

#include "common/device/cpu/kernels/vector.h"

#define COLUMN_PIECE ((size_t)128)
#define ROW_BLOCK ((size_t)64)

/* total [columns] += part [columns], and part = 0. */
INLINE void fold_columns(float *total, float *part, size_t columns) {
#pragma omp simd
    for (size_t c = 0; c < columns; c++) {
        total[c] += part[c];
        part[c] = 0.0f;
    }
}

/* out [columns] (+)= total [columns]. */
INLINE void store_columns(enum dtype dtype, void *out, const float *total, size_t columns, bool accumulate) {
    if (accumulate) {
#pragma omp simd
        for (size_t c = 0; c < columns; c++) store(dtype, out, c, load(dtype, out, c) + total[c]);
    } else {
#pragma omp simd
        for (size_t c = 0; c < columns; c++) store(dtype, out, c, total[c]);
    }
}

/* out [columns] (+)= the sums of x's columns, x [rows, columns] with leading dimension ld. */
void column_sums(enum dtype dtype, void *out, const void *x, size_t ld, size_t rows, size_t columns,
                 bool accumulate);

#endif
