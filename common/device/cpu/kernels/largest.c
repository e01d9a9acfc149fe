/*
 * The largest logit of a row: what greedy generation chooses.
 */
#include <math.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/vector.h"

INLINE void row_largest(enum dtype dtype, int32_t *out, const void *row, size_t count) {
    float largest = -INFINITY;
    int32_t column = -1;
    for (size_t c = 0; c < count; c++) {
        float value = load(dtype, row, c);
        if (value > largest || (column < 0 && value == largest)) {
            largest = value;
            column = (int32_t)c;
        }
    }
    *out = column < 0 ? 0 : column;
}

HOT static void largest_of_row(enum dtype dtype, int32_t *out, const void *row, size_t count) {
    FOR_DTYPE(dtype, row_largest, out, row, count);
}

void largest_column(struct stream *stream, enum dtype dtype, int32_t *out, const void *logits, size_t rows,
                    size_t vocabulary, size_t ld) {
    work_largest_column(stream, dtype, rows, vocabulary);
#pragma omp parallel for schedule(static) if (rows * vocabulary > PIECE)
    for (size_t r = 0; r < rows; r++)
        largest_of_row(dtype, out + r, const_element(dtype, logits, r * ld), vocabulary);
}
