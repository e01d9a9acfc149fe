/*
 * Attention on CPU cores: what its forward and backward share. Private to them.
 *
 * A head's [rows, rows] matrix of scores is never stored. It is cut into tiles of TILE queries × TILE keys,
 * each computed when it is needed, in its thread's own scratch, and transposed: a tile is [key][query], so
 * that one vector holds one key's values for neighbouring queries. Maxima and sums over keys then run down
 * the tile, lane by lane, and none crosses a vector.
 *
 *                query 0 ─ 15   16 ─ 31   32 ─ 47   48 ─ 63     (strips of LANES queries)
 *      key  0 ─ 15     ██████    ██████    ██████    ██████
 *          16 ─ 31               ██████    ██████    ██████     a tile on the diagonal: of each strip,
 *          32 ─ 47                         ██████    ██████     only keys that it sees, in whole blocks of
 *          48 ─ 63                                   ██████     LANES, are computed, and later read
 *
 * Operands are first copied to fp32 tiles [TILE][width], zeros from head_dim to `width`, a multiple of LANES,
 * and after their last row: so no head dimension and no length of a sequence needs code of its own.
 */
#ifndef COMMON_DEVICE_CPU_KERNELS_ATTENTION_H
#define COMMON_DEVICE_CPU_KERNELS_ATTENTION_H

#include "common/device/kernels.h"

enum { LANES = 16, TILE = 64 };

/* One head of one sequence. */
struct attention_head {
    enum dtype dtype;
    size_t rows, keys;      /* of the sequence; keys ≤ rows */
    size_t dim, width;      /* head_dim, and that in whole LANES */
    size_t qkv, qkv_stride; /* where the q of row 0 is in qkv, k and v after it; elements between rows */
    size_t out, out_stride; /* the same for the context and its gradient */
    size_t statistic;       /* where row 0 is in arrays [heads, tokens] */
    float scale;            /* 1 / sqrt(head_dim) */
    float slope;            /* ALiBi's */
};

struct attention_head attention_head(enum dtype dtype, const struct sequences *sequences, size_t sequence,
                                     size_t heads, size_t head, size_t head_dim);

/* Tiles along a sequence of `rows` rows. */
static inline size_t tiles_of(size_t rows) {
    return (rows + TILE - 1) / TILE;
}

/* Rows of a tile that begins at `first`, and those in whole LANES. */
static inline size_t tile_rows(size_t rows, size_t first) {
    return rows - first < TILE ? rows - first : TILE;
}
static inline size_t whole_lanes(size_t count) {
    return (count + LANES - 1) / LANES * LANES;
}

/* last[i]: the last key that query first + i sees. */
void attention_last_keys(const struct attention_head *head, size_t first_query, float last[TILE]);

/* How many of a tile's keys, from first_key on, the strip of LANES queries at first_query sees: 0 … TILE, in
 * whole LANES. */
size_t attention_visible(const struct attention_head *head, size_t first_query, size_t first_key);

/* Floats of a thread's scratch, a multiple of LANES of them, aligned for vectors; the caller frees them. */
float *attention_scratch(size_t floats);

/* ---- on tiles ---- */

/* tile [whole lanes of rows, width] = x [rows, dim] of dtype (from element `first` on, `stride` apart), zeros
 * around. */
void tile_load(float *tile, const struct attention_head *head, const void *x, size_t first, size_t stride,
               size_t rows);
/* The reverse, rounded to dtype. */
void tile_store(void *x, const struct attention_head *head, size_t first, size_t stride, const float *tile,
                size_t rows);
/* out [columns, rows] = tile [rows, columns] transposed, with their strides. */
void tile_transpose(float *out, size_t out_stride, const float *tile, size_t stride, size_t rows,
                    size_t columns);

/* A matrix as tile_product reads its first operand: element (r, k) is at r·row + k·column. */
struct strided {
    const float *first;
    size_t row, column;
};

/* c [rows, columns] = a [rows, depth] · b [depth, columns], or added to it. rows and columns are multiples of
 * LANES. Each element's sum is taken in the order of k. */
void tile_product(float *c, size_t c_stride, struct strided a, const float *b, size_t b_stride, size_t rows,
                  size_t columns, size_t depth, bool accumulate);

#endif
