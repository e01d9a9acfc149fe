/* Attention's tiles: copies in and out, and the products they are multiplied by. */
#include "common/device/cpu/kernels/attention.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/device/cpu/kernels/vector.h"

struct attention_head attention_head(enum dtype dtype, const struct sequences *sequences, size_t sequence,
                                     size_t heads, size_t head, size_t head_dim) {
    size_t first = (size_t)sequences->starts[sequence];
    size_t rows = (size_t)sequences->starts[sequence + 1] - first;
    size_t h = heads * head_dim;
    return (struct attention_head){
        .dtype = dtype,
        .rows = rows,
        .keys = smaller((size_t)sequences->keys[sequence], rows),
        .dim = head_dim,
        .width = whole_lanes(head_dim),
        .qkv = first * 3 * h + head * 3 * head_dim,
        .qkv_stride = 3 * h,
        .out = first * h + head * head_dim,
        .out_stride = h,
        .statistic = head * (size_t)sequences->tokens + first,
        .scale = (float)(1 / sqrt((double)head_dim)),
        .slope = alibi_slope(head, heads),
    };
}

void attention_last_keys(const struct attention_head *head, size_t first_query, float last[TILE]) {
    for (size_t i = 0; i < TILE; i++) last[i] = (float)smaller(first_query + i, head->keys - 1);
}

size_t attention_visible(const struct attention_head *head, size_t first_query, size_t first_key) {
    size_t seen = smaller(first_query + LANES, head->keys); /* by the strip's last query */
    return seen <= first_key ? 0 : whole_lanes(smaller(seen - first_key, TILE));
}

float *attention_scratch(size_t floats) {
    float *scratch = aligned_alloc(LANES * sizeof(float), floats * sizeof(float));
    if (!scratch) fail("attention: no memory for a thread's %zu bytes of scratch", floats * sizeof(float));
    return scratch;
}

/* ---- on tiles: each function of attention.h calls a HOT one of this file, as clang knows those only in the
 * file that has them ---- */

INLINE void load_rows(enum dtype dtype, float *tile, size_t width, const void *x, size_t stride, size_t rows,
                      size_t dim) {
    for (size_t r = 0; r < rows; r++) {
        const void *row = const_element(dtype, x, r * stride);
#pragma omp simd
        for (size_t i = 0; i < dim; i++) tile[r * width + i] = load(dtype, row, i);
        for (size_t i = dim; i < width; i++) tile[r * width + i] = 0;
    }
    for (size_t i = rows * width; i < whole_lanes(rows) * width; i++) tile[i] = 0;
}

HOT static void load_tile(float *tile, const struct attention_head *head, const void *x, size_t first,
                          size_t stride, size_t rows) {
    const void *from = const_element(head->dtype, x, first);
    FOR_DTYPE(head->dtype, load_rows, tile, head->width, from, stride, rows, head->dim);
}

void tile_load(float *tile, const struct attention_head *head, const void *x, size_t first, size_t stride,
               size_t rows) {
    load_tile(tile, head, x, first, stride, rows);
}

INLINE void store_rows(enum dtype dtype, void *x, size_t stride, const float *tile, size_t width, size_t rows,
                       size_t dim) {
    for (size_t r = 0; r < rows; r++) {
        void *row = element(dtype, x, r * stride);
#pragma omp simd
        for (size_t i = 0; i < dim; i++) store(dtype, row, i, tile[r * width + i]);
    }
}

HOT static void store_tile(void *x, const struct attention_head *head, size_t first, size_t stride,
                           const float *tile, size_t rows) {
    void *to = element(head->dtype, x, first);
    FOR_DTYPE(head->dtype, store_rows, to, stride, tile, head->width, rows, head->dim);
}

void tile_store(void *x, const struct attention_head *head, size_t first, size_t stride, const float *tile,
                size_t rows) {
    store_tile(x, head, first, stride, tile, rows);
}

HOT static void transpose(float *restrict out, size_t out_stride, const float *restrict tile, size_t stride,
                          size_t rows, size_t columns) {
    for (size_t r = 0; r < rows; r += LANES)
        for (size_t c = 0; c < columns; c++)
            for (size_t i = 0; i < LANES; i++) out[c * out_stride + r + i] = tile[(r + i) * stride + c];
}

void tile_transpose(float *out, size_t out_stride, const float *tile, size_t stride, size_t rows,
                    size_t columns) {
    transpose(out, out_stride, tile, stride, rows, columns);
}

/* The shape that keeps its sums in vector registers: STEP rows × LANES columns are 8 registers of AVX-512, 16
 * of AVX2; a compiler unrolls the two inner loops whole. */
HOT static void multiply(float *restrict c, size_t c_stride, struct strided a, const float *restrict b,
                         size_t b_stride, size_t rows, size_t columns, size_t depth, bool accumulate) {
    enum { STEP = 8 };
    for (size_t column = 0; column < columns; column += LANES) {
        for (size_t row = 0; row < rows; row += STEP) {
            const float *from = a.first + row * a.row;
            float sums[STEP][LANES] = {{0}};
            for (size_t k = 0; k < depth; k++) {
                for (size_t i = 0; i < STEP; i++) {
#pragma omp simd
                    for (size_t j = 0; j < LANES; j++)
                        sums[i][j] += from[i * a.row + k * a.column] * b[k * b_stride + column + j];
                }
            }
            for (size_t i = 0; i < STEP; i++) {
                float *to = c + (row + i) * c_stride + column;
#pragma omp simd
                for (size_t j = 0; j < LANES; j++) to[j] = sums[i][j] + (accumulate ? to[j] : 0);
            }
        }
    }
}

void tile_product(float *c, size_t c_stride, struct strided a, const float *b, size_t b_stride, size_t rows,
                  size_t columns, size_t depth, bool accumulate) {
    multiply(c, c_stride, a, b, b_stride, rows, columns, depth, accumulate);
}
