/* Attention, forward: online softmax over tiles of keys (Milakov and Gimelshein 2018, Dao et al. 2022).
 *
 * ALiBi's term is taken as slope · (key − last key that the query sees): the same for the softmax as slope ·
 * key, but small where it counts, so that fp32 loses nothing on long sequences. The log-sum-exp has this
 * shift in it. */
#include <math.h>
#include <stdlib.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/attention.h"
#include "common/device/cpu/kernels/vector.h"

/* A thread's scratch, for one tile of queries. Operands of products are [·][TILE] with queries along, or
 * [TILE][width]. */
struct forward_scratch {
    float *queries;       /* [width][TILE], transposed */
    float *context;       /* [width][TILE], transposed: sums of probability · v, not yet divided */
    float *rows;          /* [TILE][width], q as loaded, the context as stored */
    float *keys, *values; /* [TILE][width] */
    float *scores;        /* [TILE keys][TILE queries], then e^(score − maximum) */
    float last[TILE];     /* per query: the last key it sees, */
    float maximum[TILE];  /* the largest score so far, */
    float sum[TILE];      /* Σ e^(score − maximum) so far */
};

static void forward_scratch_open(struct forward_scratch *s, size_t width) {
    size_t tile = TILE * width;
    s->queries = attention_scratch(5 * tile + TILE * TILE);
    s->context = s->queries + tile;
    s->rows = s->context + tile;
    s->keys = s->rows + tile;
    s->values = s->keys + tile;
    s->scores = s->values + tile;
}

/* A strip of products q·k, [visible][LANES], becomes e^(score − maximum), zero where the query does not see
 * the key. maximum and sum go on from the tiles before; `shrink` is what the sums over those tiles are to be
 * multiplied by. */
HOT static void attention_softmax(float *scores, size_t visible, size_t first_key,
                                  const struct attention_head *head, const float *last, float *maximum,
                                  float *sum, float *shrink) {
    const float scale = head->scale, slope = head->slope;
    float top[LANES], total[LANES];
    for (size_t j = 0; j < LANES; j++) top[j] = maximum[j];
    for (size_t k = 0; k < visible; k++) {
        float *row = scores + k * TILE, key = (float)(first_key + k);
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) {
            float score = row[j] * scale + slope * (key - last[j]);
            row[j] = key <= last[j] ? score : -INFINITY;
            top[j] = row[j] > top[j] ? row[j] : top[j];
        }
    }
#pragma omp simd
    for (size_t j = 0; j < LANES; j++) {
        shrink[j] = vector_exp(maximum[j] - top[j]);
        maximum[j] = top[j];
        total[j] = sum[j] * shrink[j];
    }
    for (size_t k = 0; k < visible; k++) {
        float *row = scores + k * TILE;
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) {
            row[j] = vector_exp(row[j] - top[j]);
            total[j] += row[j];
        }
    }
    for (size_t j = 0; j < LANES; j++) sum[j] = total[j];
}

/* x [rows][LANES], TILE floats from row to row: times factor [LANES]. */
HOT static void attention_scale(float *x, size_t rows, const float *factor) {
    for (size_t r = 0; r < rows; r++) {
#pragma omp simd
        for (size_t j = 0; j < LANES; j++) x[r * TILE + j] *= factor[j];
    }
}

static void forward_queries(const struct attention_head *head, struct forward_scratch *s, void *out,
                            float *lse, const void *qkv, size_t first_query) {
    size_t width = head->width, rows = tile_rows(head->rows, first_query), strips = whole_lanes(rows);
    tile_load(s->rows, head, qkv, head->qkv + first_query * head->qkv_stride, head->qkv_stride, rows);
    tile_transpose(s->queries, TILE, s->rows, width, strips, width);
    attention_last_keys(head, first_query, s->last);
    for (size_t i = 0; i < TILE; i++) s->maximum[i] = -INFINITY, s->sum[i] = 0;
    for (size_t i = 0; i < TILE * width; i++) s->context[i] = 0;

    size_t end = smaller(first_query + rows, head->keys); /* of the keys that the last query sees */
    for (size_t first_key = 0; first_key < end; first_key += TILE) {
        size_t key_rows = tile_rows(head->keys, first_key);
        size_t k = head->qkv + first_key * head->qkv_stride + head->dim, v = k + head->dim;
        tile_load(s->keys, head, qkv, k, head->qkv_stride, key_rows);
        tile_load(s->values, head, qkv, v, head->qkv_stride, key_rows);
        for (size_t i = 0; i < strips; i += LANES) {
            size_t visible = attention_visible(head, first_query + i, first_key);
            if (visible == 0) continue;
            float shrink[LANES];
            tile_product(s->scores + i, TILE, (struct strided){s->keys, width, 1}, s->queries + i, TILE,
                         visible, LANES, head->dim, false);
            attention_softmax(s->scores + i, visible, first_key, head, s->last + i, s->maximum + i,
                              s->sum + i, shrink);
            attention_scale(s->context + i, width, shrink);
            tile_product(s->context + i, TILE, (struct strided){s->values, 1, width}, s->scores + i, TILE,
                         width, LANES, visible, true);
        }
    }
    for (size_t i = 0; i < strips; i += LANES) {
        float inverse[LANES];
        for (size_t j = 0; j < LANES; j++) inverse[j] = 1 / s->sum[i + j];
        attention_scale(s->context + i, width, inverse);
    }
    tile_transpose(s->rows, width, s->context, TILE, width, strips);
    tile_store(out, head, head->out + first_query * head->out_stride, head->out_stride, s->rows, rows);
    for (size_t i = 0; i < rows; i++)
        lse[head->statistic + first_query + i] = s->maximum[i] + logf(s->sum[i]);
}

void attention_forward(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                       const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_forward(stream, dtype, sequences, heads, head_dim);
    size_t count = (size_t)sequences->count, tiles = tiles_of((size_t)sequences->longest);
#pragma omp parallel
    {
        struct forward_scratch scratch;
        forward_scratch_open(&scratch, whole_lanes(head_dim));
        /* Every tile of queries is a task of its own; the long ones, which see the most keys, come first. */
#pragma omp for collapse(3) schedule(dynamic)
        for (size_t tile = 0; tile < tiles; tile++) {
            for (size_t sequence = 0; sequence < count; sequence++) {
                for (size_t h = 0; h < heads; h++) {
                    struct attention_head head =
                        attention_head(dtype, sequences, sequence, heads, h, head_dim);
                    size_t first_query = (tiles - 1 - tile) * TILE;
                    if (first_query < head.rows) forward_queries(&head, &scratch, out, lse, qkv, first_query);
                }
            }
        }
        free(scratch.queries);
    }
}
