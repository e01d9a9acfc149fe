/* Attention, backward: probabilities are computed again, tile by tile, from the forward's log-sum-exp (Dao et
 * al. 2022).
 *
 *   P = e^(S − lse)      dP = dO·Vᵀ      dS = P ∘ (dP − δ) / sqrt(head_dim)
 *   dV = Pᵀ·dO           dQ = dS·K       dK = dSᵀ·Q
 *
 * with δ = Σ dO ∘ O of each row, which equals its Σ P ∘ dP. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/attention.h"
#include "common/device/cpu/kernels/vector.h"

/* The arrays of one call. */
struct backward_arrays {
    void *d_qkv;
    const void *d_out, *qkv;
    const float *lse, *delta;
};

/* A thread's scratch. Tiles are [TILE][width], transposed ones [width][TILE]. */
struct backward_scratch {
    float *queries, *queries_transposed, *d_out, *d_out_transposed, *d_queries;
    float *keys, *values;
    float *weights, *d_scores; /* [TILE keys][TILE queries]: P and dS */
    float *d_keys, *d_values;  /* [key_rows][width] */
    float last[TILE];          /* per query: the last key it sees */
    float lse[TILE], delta[TILE];
};

static void scratch_open(struct backward_scratch *s, size_t width, size_t key_rows) {
    size_t tile = TILE * width;
    s->queries = attention_scratch(7 * tile + 2 * TILE * TILE + 2 * key_rows * width);
    s->queries_transposed = s->queries + tile;
    s->d_out = s->queries_transposed + tile;
    s->d_out_transposed = s->d_out + tile;
    s->d_queries = s->d_out_transposed + tile;
    s->keys = s->d_queries + tile;
    s->values = s->keys + tile;
    s->weights = s->values + tile;
    s->d_scores = s->weights + TILE * TILE;
    s->d_keys = s->d_scores + TILE * TILE;
    s->d_values = s->d_keys + key_rows * width;
}

INLINE void row_deltas(enum dtype dtype, float *delta, const void *d_out, const void *out, size_t first,
                       size_t end, size_t tokens, size_t heads, size_t dim) {
    for (size_t token = first; token < end; token++) {
        for (size_t head = 0; head < heads; head++) {
            size_t row = (token * heads + head) * dim;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (size_t i = 0; i < dim; i++) sum += load(dtype, d_out, row + i) * load(dtype, out, row + i);
            delta[head * tokens + token] = sum;
        }
    }
}

/* delta [heads, tokens] = Σ d_out ∘ out over head_dim, for the tokens from first to end. */
HOT static void attention_deltas(enum dtype dtype, float *delta, const void *d_out, const void *out,
                                 size_t first, size_t end, size_t tokens, size_t heads, size_t dim) {
    FOR_DTYPE(dtype, row_deltas, delta, d_out, out, first, end, tokens, heads, dim);
}

/* A strip [visible][LANES] of products q·k becomes P, one of dP becomes dS, scaled; both zero where the query
 * does not see the key. */
HOT static void attention_score_gradients(float *weights, float *d_scores, size_t visible, size_t first_key,
                                          const struct attention_head *head, const float *last,
                                          const float *lse, const float *delta) {
    const float scale = head->scale, slope = head->slope;
    for (size_t k = 0; k < visible; k++) {
        float *weight = weights + k * TILE, *d_score = d_scores + k * TILE, key = (float)(first_key + k);
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) {
            float score = weight[j] * scale + slope * (key - last[j]);
            float probability = vector_exp(score - lse[j]);
            float d = probability * (d_score[j] - delta[j]) * scale;
            weight[j] = key <= last[j] ? probability : 0;
            d_score[j] = key <= last[j] ? d : 0;
        }
    }
}

static void load_queries(const struct attention_head *head, struct backward_scratch *s,
                         const struct backward_arrays *arrays, size_t first_query) {
    size_t width = head->width, rows = tile_rows(head->rows, first_query), strips = whole_lanes(rows);
    tile_load(s->queries, head, arrays->qkv, head->qkv + first_query * head->qkv_stride, head->qkv_stride,
              rows);
    tile_load(s->d_out, head, arrays->d_out, head->out + first_query * head->out_stride, head->out_stride,
              rows);
    tile_transpose(s->queries_transposed, TILE, s->queries, width, strips, width);
    tile_transpose(s->d_out_transposed, TILE, s->d_out, width, strips, width);
    attention_last_keys(head, first_query, s->last);
    for (size_t i = 0; i < TILE; i++) {
        size_t row = head->statistic + first_query + i;
        s->lse[i] = i < rows ? arrays->lse[row] : INFINITY; /* P is 0 where there is no query */
        s->delta[i] = i < rows ? arrays->delta[row] : 0;
    }
}

static void load_keys(const struct attention_head *head, struct backward_scratch *s,
                      const struct backward_arrays *arrays, size_t first_key) {
    size_t rows = tile_rows(head->keys, first_key);
    size_t k = head->qkv + first_key * head->qkv_stride + head->dim, v = k + head->dim;
    tile_load(s->keys, head, arrays->qkv, k, head->qkv_stride, rows);
    tile_load(s->values, head, arrays->qkv, v, head->qkv_stride, rows);
}

/* d_keys, d_values [TILE][width] gain what the loaded tile of queries, from its scores, adds. */
static void add_key_gradients(const struct attention_head *head, const struct backward_scratch *s,
                              float *d_keys, float *d_values, size_t first_query, size_t first_key) {
    size_t width = head->width, strips = whole_lanes(tile_rows(head->rows, first_query));
    size_t blocks = whole_lanes(tile_rows(head->keys, first_key));
    for (size_t block = 0; block < blocks; block += LANES) {
        size_t strip = 0; /* the first that sees the block */
        while (strip < strips && attention_visible(head, first_query + strip, first_key) <= block)
            strip += LANES;
        size_t depth = strips - strip, at = block * TILE + strip;
        tile_product(d_values + block * width, width, (struct strided){s->weights + at, TILE, 1},
                     s->d_out + strip * width, width, LANES, width, depth, true);
        tile_product(d_keys + block * width, width, (struct strided){s->d_scores + at, TILE, 1},
                     s->queries + strip * width, width, LANES, width, depth, true);
    }
}

/* One tile, its queries and keys loaded: adds to the gradients of its queries, of its keys and values; either
 * may be NULL. */
static void backward_tile(const struct attention_head *head, struct backward_scratch *s, float *d_queries,
                          float *d_keys, float *d_values, size_t first_query, size_t first_key) {
    size_t width = head->width, strips = whole_lanes(tile_rows(head->rows, first_query));
    for (size_t i = 0; i < strips; i += LANES) {
        size_t visible = attention_visible(head, first_query + i, first_key);
        if (visible == 0) continue;
        tile_product(s->weights + i, TILE, (struct strided){s->keys, width, 1}, s->queries_transposed + i,
                     TILE, visible, LANES, head->dim, false);
        tile_product(s->d_scores + i, TILE, (struct strided){s->values, width, 1}, s->d_out_transposed + i,
                     TILE, visible, LANES, head->dim, false);
        attention_score_gradients(s->weights + i, s->d_scores + i, visible, first_key, head, s->last + i,
                                  s->lse + i, s->delta + i);
        if (d_queries)
            tile_product(d_queries + i * width, width, (struct strided){s->d_scores + i, 1, TILE}, s->keys,
                         width, LANES, width, visible, true);
    }
    if (d_keys) add_key_gradients(head, s, d_keys, d_values, first_query, first_key);
}

static void clear(float *values, size_t count) {
    for (size_t i = 0; i < count; i++) values[i] = 0;
}

/* The gradient of a tile of queries; its share of those of keys and values is added to d_keys and d_values
 * [rows][width], unless they are NULL. */
static void backward_queries(const struct attention_head *head, struct backward_scratch *s,
                             const struct backward_arrays *arrays, size_t first_query, float *d_keys,
                             float *d_values) {
    size_t rows = tile_rows(head->rows, first_query), width = head->width;
    load_queries(head, s, arrays, first_query);
    clear(s->d_queries, TILE * width);
    for (size_t first_key = 0; first_key < smaller(first_query + rows, head->keys); first_key += TILE) {
        load_keys(head, s, arrays, first_key);
        size_t at = first_key * width;
        backward_tile(head, s, s->d_queries, d_keys ? d_keys + at : NULL, d_keys ? d_values + at : NULL,
                      first_query, first_key);
    }
    size_t q = head->qkv + first_query * head->qkv_stride;
    tile_store(arrays->d_qkv, head, q, head->qkv_stride, s->d_queries, rows);
}

static void store_key_gradients(const struct attention_head *head, const struct backward_arrays *arrays,
                                const float *d_keys, const float *d_values, size_t first_key, size_t rows) {
    size_t k = head->qkv + first_key * head->qkv_stride + head->dim, v = k + head->dim;
    tile_store(arrays->d_qkv, head, k, head->qkv_stride, d_keys, rows);
    tile_store(arrays->d_qkv, head, v, head->qkv_stride, d_values, rows);
}

/* The gradients of a tile of keys and values alone. */
static void backward_keys(const struct attention_head *head, struct backward_scratch *s,
                          const struct backward_arrays *arrays, size_t first_key) {
    clear(s->d_keys, TILE * head->width);
    clear(s->d_values, TILE * head->width);
    if (first_key < head->keys) {
        load_keys(head, s, arrays, first_key);
        for (size_t first_query = first_key; first_query < head->rows; first_query += TILE) {
            load_queries(head, s, arrays, first_query);
            backward_tile(head, s, NULL, s->d_keys, s->d_values, first_query, first_key);
        }
    }
    store_key_gradients(head, arrays, s->d_keys, s->d_values, first_key, tile_rows(head->rows, first_key));
}

/* All gradients of a head: each tile's scores are computed once. */
static void backward_head(const struct attention_head *head, struct backward_scratch *s,
                          const struct backward_arrays *arrays) {
    size_t values = whole_lanes(head->rows) * head->width;
    clear(s->d_keys, values);
    clear(s->d_values, values);
    for (size_t first_query = 0; first_query < head->rows; first_query += TILE)
        backward_queries(head, s, arrays, first_query, s->d_keys, s->d_values);
    store_key_gradients(head, arrays, s->d_keys, s->d_values, 0, head->rows);
}

/* Where there are enough heads to keep all threads busy, a task is a head of a sequence: 5 products a tile,
 * and d_keys and d_values of its whole sequence in the thread's scratch (2 · longest · head_dim floats). */
static void backward_by_heads(const struct backward_arrays *arrays, enum dtype dtype,
                              const struct sequences *sequences, size_t heads, size_t head_dim) {
    size_t count = (size_t)sequences->count;
#pragma omp parallel
    {
        struct backward_scratch scratch;
        scratch_open(&scratch, whole_lanes(head_dim), whole_lanes((size_t)sequences->longest));
#pragma omp for collapse(2) schedule(dynamic)
        for (size_t sequence = 0; sequence < count; sequence++) {
            for (size_t h = 0; h < heads; h++) {
                struct attention_head head = attention_head(dtype, sequences, sequence, heads, h, head_dim);
                backward_head(&head, &scratch, arrays);
            }
        }
        free(scratch.queries);
    }
}

/* Where there are few, a task is a tile of queries or of keys: 7 products a tile, as its scores are computed
 * for both. The same products in the same order, hence the same bits. */
static void backward_by_tiles(const struct backward_arrays *arrays, enum dtype dtype,
                              const struct sequences *sequences, size_t heads, size_t head_dim) {
    size_t count = (size_t)sequences->count, tiles = tiles_of((size_t)sequences->longest);
#pragma omp parallel
    {
        struct backward_scratch scratch;
        scratch_open(&scratch, whole_lanes(head_dim), TILE);
#pragma omp for collapse(3) schedule(dynamic)
        for (size_t task = 0; task < 2 * tiles; task++) {
            for (size_t sequence = 0; sequence < count; sequence++) {
                for (size_t h = 0; h < heads; h++) {
                    struct attention_head head =
                        attention_head(dtype, sequences, sequence, heads, h, head_dim);
                    size_t first = task / 2 * TILE;
                    if (first >= head.rows) continue;
                    if (task % 2 == 0)
                        backward_keys(&head, &scratch, arrays, first);
                    else
                        backward_queries(&head, &scratch, arrays, first, NULL, NULL);
                }
            }
        }
        free(scratch.queries);
    }
}

void attention_backward(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                        const void *qkv, const void *out, const float *lse, float *scratch,
                        const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_backward(stream, dtype, sequences, heads, head_dim);
    size_t tokens = (size_t)sequences->tokens;
#pragma omp parallel for schedule(static)
    for (size_t first = 0; first < tokens; first += TILE)
        attention_deltas(dtype, scratch, dout, out, first, smaller(first + TILE, tokens), tokens, heads,
                         head_dim);

    struct backward_arrays arrays = {dqkv, dout, qkv, lse, scratch};
    if ((size_t)sequences->count * heads >= 4 * (size_t)omp_get_max_threads())
        backward_by_heads(&arrays, dtype, sequences, heads, head_dim);
    else
        backward_by_tiles(&arrays, dtype, sequences, heads, head_dim);
}
