/*
 * Attention of new rows to cached keys and values: generation, a token at a time.
 *
 * A block takes a head of a row, and its warps share the keys: a warp takes 32 at a time, one a lane, and
 * keeps the softmax as it is so far (Dao et al. 2022): its largest score, its sum, and the mean of the
 * values. The warps' parts are then put together in their order. What limits this is reading the cache.
 * ALiBi's term is slope · (key − the row's own position): for the softmax the same as slope · key.
 */
#include <cmath>

#include "common/device/cuda/cuda.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, MOST_HEAD_DIM = 1024 };

template <typename T> struct cached_arguments {
    T *out, *keys, *values;
    const T *qkv;
    const int32_t *slots, *positions;
    size_t capacity;
    int heads, dim;
    float scale; /* 1 / sqrt(dim) */
};

/* The block's row and head, and where position 0 of the head lies in the cache. */
struct cached_place {
    size_t row, first;
    int head, position;
};

template <typename T> __device__ inline cached_place place_of(const cached_arguments<T> &in) {
    cached_place p;
    p.row = blockIdx.x / (unsigned)in.heads;
    p.head = (int)(blockIdx.x % (unsigned)in.heads);
    p.position = in.positions[p.row];
    p.first = ((size_t)in.slots[p.row] * in.heads + p.head) * in.capacity * in.dim;
    return p;
}

/* As alibi_slope() has it. */
__device__ inline float slope_of(int head, int heads) {
    const int m = 1 << (31 - __clz(heads));
    return head < m ? exp2f(-8.0f * (float)(head + 1) / (float)m)
                    : exp2f(-8.0f * (float)(2 * (head - m) + 1) / (float)(2 * m));
}

/* All rows' keys and values come to their places. */
template <typename T> __global__ void __launch_bounds__(THREADS) store_kernel(cached_arguments<T> in) {
    wait_for_earlier_work();
    const cached_place p = place_of(in);
    const T *from = in.qkv + (size_t)blockIdx.x * 3 * in.dim;
    const size_t to = p.first + (size_t)p.position * in.dim;
    for (int d = (int)threadIdx.x; d < in.dim; d += THREADS) {
        in.keys[to + d] = from[in.dim + d];
        in.values[to + d] = from[2 * in.dim + d];
    }
}

/* A warp's keys: its mean of their values [dim] in shared memory, not divided by the sum of the weights. */
template <typename T>
__device__ inline void attend_warp(const cached_arguments<T> &in, const cached_place &p, const float *query,
                                   float *mean, float *largest_out, float *sum_out) {
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, seen = p.position + 1;
    const float slope = slope_of(p.head, in.heads);
    float largest = -INFINITY, sum = 0;
    for (int first = 32 * warp; first < seen; first += THREADS) {
        const int key = first + lane;
        float score = -INFINITY;
        if (key < seen) {
            const T *k = in.keys + p.first + (size_t)key * in.dim;
            score = slope * (float)(key - p.position);
            for (int d = 0; d < in.dim; d++) score += query[d] * load(k + d);
        }
        const float top = fmaxf(largest, warp_max(score)), shrink = expf(largest - top);
        const float weight = expf(score - top);
        sum = sum * shrink + warp_sum(weight);
        largest = top;
        const int count = seen - first < 32 ? seen - first : 32;
        for (int d = lane; d < in.dim; d += 32) mean[d] *= shrink; /* a lane's own elements, here and below */
        for (int i = 0; i < count; i++) {
            const float w = __shfl_sync(0xffffffff, weight, i);
            const T *v = in.values + p.first + (size_t)(first + i) * in.dim;
            for (int d = lane; d < in.dim; d += 32) mean[d] += w * load(v + d);
        }
    }
    *largest_out = largest;
    *sum_out = sum;
}

/* Elements that the query gets in shared memory: compiled code reads it by fours, past an odd end, too, where
 * others would be writing meanwhile. */
__host__ __device__ inline size_t query_room(size_t dim) {
    return (dim + 3) / 4 * 4;
}

template <typename T> __global__ void __launch_bounds__(THREADS) attend_kernel(cached_arguments<T> in) {
    extern __shared__ float shared[];
    __shared__ float tops[WARPS], sums[WARPS];
    wait_for_earlier_work();
    float *query = shared, *means = shared + query_room(in.dim); /* means [WARPS, dim] */
    const cached_place p = place_of(in);
    const int warp = (int)threadIdx.x / 32, thread = (int)threadIdx.x;
    const T *from = in.qkv + (size_t)blockIdx.x * 3 * in.dim;
    for (int d = thread; d < in.dim; d += THREADS) query[d] = load(from + d) * in.scale;
    for (int i = thread; i < WARPS * in.dim; i += THREADS) means[i] = 0;
    __syncthreads();
    float largest, sum;
    attend_warp(in, p, query, means + warp * in.dim, &largest, &sum);
    if (thread % 32 == 0) {
        tops[warp] = largest;
        sums[warp] = sum;
    }
    __syncthreads();
    float top = tops[0], total = 0, factors[WARPS]; /* warp 0 has a key, so that top is a number */
    for (int w = 1; w < WARPS; w++) top = fmaxf(top, tops[w]);
    for (int w = 0; w < WARPS; w++) {
        factors[w] = expf(tops[w] - top);
        total += factors[w] * sums[w];
    }
    for (int d = thread; d < in.dim; d += THREADS) {
        float mean = 0;
        for (int w = 0; w < WARPS; w++) mean += factors[w] * means[w * in.dim + d];
        store(in.out + (size_t)blockIdx.x * in.dim + d, mean / total);
    }
}

void attention_cached(struct stream *stream, enum dtype dtype, void *out, const struct key_value_cache *cache,
                      const void *qkv, const struct cached_rows *rows, size_t heads, size_t head_dim) {
    work_attention_cached(stream, dtype, rows, heads, head_dim);
    if (head_dim > MOST_HEAD_DIM)
        fail("heads of %zu elements are not offered on GPUs: at most %d", head_dim, (int)MOST_HEAD_DIM);
    if (rows->count == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        cached_arguments<T> in;
        in.out = (T *)out;
        in.keys = (T *)cache->keys;
        in.values = (T *)cache->values;
        in.qkv = (const T *)qkv;
        in.slots = rows->slots;
        in.positions = rows->positions;
        in.capacity = cache->capacity;
        in.heads = (int)heads;
        in.dim = (int)head_dim;
        in.scale = 1.0f / sqrtf((float)head_dim);
        const unsigned blocks = (unsigned)((size_t)rows->count * heads);
        const size_t shared = (query_room(head_dim) + WARPS * head_dim) * sizeof(float);
        launch(stream, store_kernel<T>, blocks, THREADS, 0, "attention_cached", in);
        launch(stream, attend_kernel<T>, blocks, THREADS, shared, "attention_cached", in);
    });
}
