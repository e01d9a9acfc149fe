/*
 * Attention of new rows to cached keys and values: generation, a token at a time. A head of a row is a task
 * of its own: its scores are taken in one pass over the keys, its mean of the values in another.
 *
 * ALiBi's term is taken as slope · (key − the row's own position): for the softmax the same as slope · key.
 */
#include <math.h>
#include <stdlib.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/attention.h"
#include "common/device/cpu/kernels/vector.h"

/* One row's head. */
struct cached_head {
    const void *keys, *values; /* [seen, dim] */
    const void *query;         /* [dim] */
    void *out;                 /* [dim] */
    size_t seen, dim;
    float scale, slope;
};

INLINE void scores_of(enum dtype dtype, float *scores, float *query, const struct cached_head *head) {
    for (size_t d = 0; d < head->dim; d++) query[d] = load(dtype, head->query, d) * head->scale;
    for (size_t k = 0; k < head->seen; k++) {
        const void *key = const_element(dtype, head->keys, k * head->dim);
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (size_t d = 0; d < head->dim; d++) sum += query[d] * load(dtype, key, d);
        scores[k] = sum + head->slope * ((float)k - (float)(head->seen - 1));
    }
}

/* Scores become e^(score − largest); their sum. */
INLINE float softmax_of(float *scores, size_t count) {
    float largest = -INFINITY, sum = 0.0f;
    for (size_t k = 0; k < count; k++) largest = scores[k] > largest ? scores[k] : largest;
#pragma omp simd reduction(+ : sum)
    for (size_t k = 0; k < count; k++) {
        scores[k] = vector_exp(scores[k] - largest);
        sum += scores[k];
    }
    return sum;
}

INLINE void mean_of(enum dtype dtype, float *mean, const float *weights, float sum,
                    const struct cached_head *head) {
    for (size_t d = 0; d < head->dim; d++) mean[d] = 0.0f;
    for (size_t k = 0; k < head->seen; k++) {
        const void *value = const_element(dtype, head->values, k * head->dim);
#pragma omp simd
        for (size_t d = 0; d < head->dim; d++) mean[d] += weights[k] * load(dtype, value, d);
    }
    for (size_t d = 0; d < head->dim; d++) store(dtype, head->out, d, mean[d] / sum);
}

INLINE void attend(enum dtype dtype, float *scratch, const struct cached_head *head) {
    float *scores = scratch, *vector = scratch + head->seen;
    scores_of(dtype, scores, vector, head);
    float sum = softmax_of(scores, head->seen);
    mean_of(dtype, vector, scores, sum, head);
}

HOT static void attend_head(enum dtype dtype, float *scratch, const struct cached_head *head) {
    FOR_DTYPE(dtype, attend, scratch, head);
}

/* Where position 0 of a head is in the cache, in elements. */
static size_t place(const struct key_value_cache *cache, const struct cached_rows *rows, size_t row,
                    size_t heads, size_t head, size_t head_dim) {
    return ((size_t)rows->slots[row] * heads + head) * cache->capacity * head_dim;
}

static void store_rows(enum dtype dtype, const struct key_value_cache *cache, const void *qkv,
                       const struct cached_rows *rows, size_t heads, size_t head_dim) {
    size_t bytes = head_dim * dtype_size(dtype);
    for (size_t row = 0; row < (size_t)rows->count; row++)
        for (size_t head = 0; head < heads; head++) {
            size_t from = (row * heads + head) * 3 * head_dim;
            size_t to =
                place(cache, rows, row, heads, head, head_dim) + (size_t)rows->positions[row] * head_dim;
            memcpy(element(dtype, cache->keys, to), const_element(dtype, qkv, from + head_dim), bytes);
            memcpy(element(dtype, cache->values, to), const_element(dtype, qkv, from + 2 * head_dim), bytes);
        }
}

void attention_cached(struct stream *stream, enum dtype dtype, void *out, const struct key_value_cache *cache,
                      const void *qkv, const struct cached_rows *rows, size_t heads, size_t head_dim) {
    work_attention_cached(stream, dtype, rows, heads, head_dim);
    store_rows(dtype, cache, qkv, rows, heads, head_dim);
    size_t count = (size_t)rows->count * heads;
#pragma omp parallel if (rows->keys * (double)(heads * head_dim) > (double)PIECE)
    {
        float *scratch = attention_scratch(whole_lanes(cache->capacity + head_dim));
#pragma omp for schedule(static, 1)
        for (size_t i = 0; i < count; i++) {
            size_t row = i / heads, head = i % heads, first = place(cache, rows, row, heads, head, head_dim);
            attend_head(dtype, scratch,
                        &(struct cached_head){
                            .keys = const_element(dtype, cache->keys, first),
                            .values = const_element(dtype, cache->values, first),
                            .query = const_element(dtype, qkv, i * 3 * head_dim),
                            .out = element(dtype, out, i * head_dim),
                            .seen = (size_t)rows->positions[row] + 1,
                            .dim = head_dim,
                            .scale = 1.0f / sqrtf((float)head_dim),
                            .slope = alibi_slope(head, heads),
                        });
        }
        free(scratch);
    }
}
