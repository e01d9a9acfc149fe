#include "common/device/cpu/kernels/columns.h"

#include "common/device/cpu/cpu.h"

INLINE void sum_columns(enum dtype dtype, void *out, const void *x, size_t ld, size_t rows, size_t columns,
                        bool accumulate) {
    float total[COLUMN_PIECE] = {0}, part[COLUMN_PIECE] = {0};
    for (size_t r = 0; r < rows; r++) {
        const void *row = const_element(dtype, x, r * ld);
#pragma omp simd
        for (size_t c = 0; c < columns; c++) part[c] += load(dtype, row, c);
        if ((r + 1) % ROW_BLOCK == 0 || r + 1 == rows) fold_columns(total, part, columns);
    }
    store_columns(dtype, out, total, columns, accumulate);
}

HOT static void sum_columns_piece(enum dtype dtype, void *out, const void *x, size_t ld, size_t rows,
                                  size_t columns, bool accumulate) {
    FOR_DTYPE(dtype, sum_columns, out, x, ld, rows, columns, accumulate);
}

void column_sums(enum dtype dtype, void *out, const void *x, size_t ld, size_t rows, size_t columns,
                 bool accumulate) {
#pragma omp parallel for schedule(static) if (rows * columns > PIECE)
    for (size_t c = 0; c < columns; c += COLUMN_PIECE)
        sum_columns_piece(dtype, element(dtype, out, c), const_element(dtype, x, c), ld, rows,
                          smaller(COLUMN_PIECE, columns - c), accumulate);
}
