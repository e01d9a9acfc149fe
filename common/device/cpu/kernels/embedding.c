/*
 * Rows of matrices: looked up, gathered, scattered, and the look-up's backward.
 */
#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/vector.h"

/* Rows that are copied at once: as few as are worth waking a thread for. */
#define ROWS ((size_t)16)

static void copy_rows(char *out, const char *x, const int32_t *rows, size_t count, size_t row_bytes) {
#pragma omp parallel for schedule(static, ROWS) if (count > ROWS)
    for (size_t i = 0; i < count; i++)
        memcpy(out + i * row_bytes, x + (size_t)rows[i] * row_bytes, row_bytes);
}

void embedding_lookup(struct stream *stream, enum dtype dtype, void *out, const void *table,
                      const int32_t *ids, size_t n, size_t h) {
    work_embedding_lookup(stream, dtype, n, h);
    copy_rows(out, table, ids, n, h * dtype_size(dtype));
}

void gather_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                 size_t count, size_t h) {
    work_gather_rows(stream, dtype, count, h);
    copy_rows(out, x, rows, count, h * dtype_size(dtype));
}

void scatter_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                  size_t count, size_t n, size_t h) {
    work_scatter_rows(stream, dtype, count, n, h);
    size_t row_bytes = h * dtype_size(dtype);
#pragma omp parallel for schedule(static, ROWS) if (n > ROWS)
    for (size_t i = 0; i < n; i++) memset((char *)out + i * row_bytes, 0, row_bytes);
#pragma omp parallel for schedule(static, ROWS) if (count > ROWS)
    for (size_t i = 0; i < count; i++)
        memcpy((char *)out + (size_t)rows[i] * row_bytes, (const char *)x + i * row_bytes, row_bytes);
}

/* ---- the look-up's backward ---- */

#define COLUMNS ((size_t)1024) /* whose sums are taken at once */

INLINE void add_row_sum(enum dtype dtype, void *row, const void *dx, const int32_t *by_id, size_t count,
                        size_t h) {
    float sum[COLUMNS];
    for (size_t first = 0; first < h; first += COLUMNS) {
        size_t columns = smaller(COLUMNS, h - first);
        memset(sum, 0, columns * sizeof *sum);
        for (size_t i = 0; i < count; i++) {
            const void *from = const_element(dtype, dx, (size_t)by_id[i] * h + first);
#pragma omp simd
            for (size_t c = 0; c < columns; c++) sum[c] += load(dtype, from, c);
        }
        void *to = element(dtype, row, first);
#pragma omp simd
        for (size_t c = 0; c < columns; c++) store(dtype, to, c, load(dtype, to, c) + sum[c]);
    }
}

/* row [h] += the sum of `count` rows of dx, by_id[0] … by_id[count−1]. */
HOT static void embedding_row(enum dtype dtype, void *row, const void *dx, const int32_t *by_id, size_t count,
                              size_t h) {
    FOR_DTYPE(dtype, add_row_sum, row, dx, by_id, count, h);
}

/* The first position in by_id whose id is `id` or more. */
static size_t position_of(size_t id, const int32_t *ids, const int32_t *by_id, size_t n) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((size_t)ids[by_id[middle]] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void embedding_backward(struct stream *stream, enum dtype dtype, void *dtable, size_t first_row, size_t rows,
                        const void *dx, const int32_t *ids, const int32_t *by_id, size_t n, size_t h) {
    work_embedding_backward(stream, dtype, rows, n, h);
    size_t begin = position_of(first_row, ids, by_id, n);
    size_t end = position_of(first_row + rows, ids, by_id, n);
    /* A table row belongs to the position where its id comes first; which thread takes it changes nothing. */
#pragma omp parallel for schedule(dynamic, ROWS) if (end - begin > ROWS)
    for (size_t i = begin; i < end; i++) {
        int32_t id = ids[by_id[i]];
        if (i > begin && ids[by_id[i - 1]] == id) continue;
        size_t count = 1;
        while (i + count < end && ids[by_id[i + count]] == id) count++;
        void *row = (char *)dtable + ((size_t)id - first_row) * h * dtype_size(dtype);
        embedding_row(dtype, row, dx, by_id + i, count, h);
    }
}
