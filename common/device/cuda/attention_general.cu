/*
 * Attention without tensor cores, for any precision and head dimension: a warp takes a row.
 *
 * Forward: keys are taken 32 at a time, one a lane; the softmax is kept as it is so far (Dao et al. 2022):
 * its largest score, its sum, and the mean of the values, rescaled whenever the largest grows. Backward: one
 * kernel walks along the keys of a query for dq, another along the queries of a key for dk and dv, so that
 * each sum has one warp and one order.
 * A warp's arrays lie side by side in shared memory. Where it turns from reading one of them to adding to the
 * next it waits for all of its lanes: a compiler may read further ahead than a row goes.
 * ALiBi's term is slope · (key − last key that the row sees): for the softmax the same as slope · key, and
 * small where scores matter.
 */
#include <cmath>

#include "common/device/cuda/attention.cuh"

enum { WARPS = 4, MOST_HEAD_DIM = 1024 };

template <typename T> struct general_arguments {
    const T *qkv;
    struct attention_pack pack;
    int sequences, dim;
    float scale; /* 1 / sqrt(dim) */
};

/* One row of one head, and where its sequence lies. */
struct place {
    int head, token; /* token: row of the pack */
    int first, last; /* the sequence's first token, and the one after its last */
    int keys;        /* how many of the sequence's rows are keys */
    __device__ int row() const {
        return token - first;
    }
    /* Keys that row `i` of the sequence sees. */
    __device__ int visible(int i) const {
        return i + 1 < keys ? i + 1 : keys;
    }
};

/* The warp's; false where there are no more. */
template <typename T> __device__ inline bool find_place(place *p, const general_arguments<T> &in) {
    const int64_t number = (int64_t)blockIdx.x * WARPS + threadIdx.y;
    if (number >= (int64_t)in.pack.tokens * in.pack.heads) return false;
    p->head = (int)(number % in.pack.heads);
    p->token = (int)(number / in.pack.heads);
    int low = 0, high = in.sequences - 1; /* the last sequence that starts at or before the token */
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (in.pack.starts[middle] <= p->token)
            low = middle;
        else
            high = middle - 1;
    }
    p->first = in.pack.starts[low];
    p->last = in.pack.starts[low + 1];
    p->keys = in.pack.keys[low];
    return true;
}

enum part { Q, K, V };

/* Where a token's q, k or v begins, in arrays like qkv. */
template <typename T>
__device__ inline size_t offset_of(const general_arguments<T> &in, const place &p, int token,
                                   enum part part) {
    return (((size_t)token * in.pack.heads + p.head) * 3 + part) * in.dim;
}

/* Where a token's row of the head begins, in arrays like out, and in those of a number a row. */
template <typename T>
__device__ inline size_t row_of(const general_arguments<T> &in, const place &p, int token) {
    return ((size_t)token * in.pack.heads + p.head) * in.dim;
}
template <typename T>
__device__ inline size_t number_of(const general_arguments<T> &in, const place &p, int token) {
    return (size_t)p.head * in.pack.tokens + token;
}

/* a · b of in.dim elements, by one thread: a in shared memory. */
template <typename T> __device__ inline float dot(const float *a, const T *b, int dim) {
    float sum = 0;
    for (int d = 0; d < dim; d++) sum += a[d] * load(b + d);
    return sum;
}

/* to [dim] = x · scale, by a warp. */
template <typename T> __device__ inline void fetch(float *to, const T *x, int dim, float scale) {
    for (int d = (int)threadIdx.x; d < dim; d += 32) to[d] = load(x + d) * scale;
    __syncwarp();
}

/* The head's slope, as alibi_slope() has it. */
template <typename T> __device__ inline float slope_of(const general_arguments<T> &in, const place &p) {
    const int m = 1 << (31 - __clz(in.pack.heads));
    return p.head < m ? exp2f(-8.0f * (float)(p.head + 1) / (float)m)
                      : exp2f(-8.0f * (float)(2 * (p.head - m) + 1) / (float)(2 * m));
}

/* ---- forward ---- */

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    general_forward_kernel(T *out, float *lse, general_arguments<T> in) {
    extern __shared__ float shared[];
    float *q = shared + threadIdx.y * 2 * in.dim, *mean = q + in.dim; /* mean: not yet divided by the sum */
    place p;
    if (!find_place(&p, in)) return;
    const int lane = (int)threadIdx.x, visible = p.visible(p.row());
    const float slope = slope_of(in, p);
    fetch(q, in.qkv + offset_of(in, p, p.token, Q), in.dim, in.scale);
    for (int d = lane; d < in.dim; d += 32) mean[d] = 0;
    __syncwarp();
    float largest = -INFINITY, sum = 0;
    for (int first = 0; first < visible; first += 32) {
        const int key = first + lane;
        float score = -INFINITY;
        if (key < visible)
            score = dot(q, in.qkv + offset_of(in, p, p.first + key, K), in.dim) +
                    slope * (float)(key + 1 - visible);
        const float top = fmaxf(largest, warp_max(score)), shrink = expf(largest - top);
        const float weight = expf(score - top);
        sum = sum * shrink + warp_sum(weight);
        largest = top;
        const int count = visible - first < 32 ? visible - first : 32;
        __syncwarp();
        for (int d = lane; d < in.dim; d += 32) mean[d] *= shrink;
        for (int i = 0; i < count; i++) {
            const float w = __shfl_sync(0xffffffff, weight, i);
            const T *v = in.qkv + offset_of(in, p, p.first + first + i, V);
            for (int d = lane; d < in.dim; d += 32) mean[d] += w * load(v + d);
        }
        __syncwarp();
    }
    for (int d = lane; d < in.dim; d += 32) store(out + row_of(in, p, p.token) + d, mean[d] / sum);
    if (lane == 0) lse[number_of(in, p, p.token)] = largest + logf(sum);
}

/* ---- backward ----
 *
 * With p = softmax(s), dp = dout · vᵀ and delta = dout · out: ds = p ∘ (dp − delta). */

/* dq, and delta for the other kernel. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    general_queries_kernel(T *dqkv, float *deltas, const T *dout, const T *out, const float *lse,
                           general_arguments<T> in) {
    extern __shared__ float shared[];
    float *q = shared + threadIdx.y * 3 * in.dim, *d_out = q + in.dim, *dq = d_out + in.dim;
    place p;
    if (!find_place(&p, in)) return;
    const int lane = (int)threadIdx.x, visible = p.visible(p.row());
    const float slope = slope_of(in, p), normal = lse[number_of(in, p, p.token)];
    fetch(q, in.qkv + offset_of(in, p, p.token, Q), in.dim, in.scale);
    fetch(d_out, dout + row_of(in, p, p.token), in.dim, 1);
    float delta = 0;
    for (int d = lane; d < in.dim; d += 32) {
        delta += d_out[d] * load(out + row_of(in, p, p.token) + d);
        dq[d] = 0;
    }
    __syncwarp();
    delta = warp_sum(delta);
    if (lane == 0) deltas[number_of(in, p, p.token)] = delta;
    for (int first = 0; first < visible; first += 32) {
        const int key = first + lane;
        float ds = 0;
        if (key < visible) {
            const T *k = in.qkv + offset_of(in, p, p.first + key, K);
            const T *v = in.qkv + offset_of(in, p, p.first + key, V);
            const float score = dot(q, k, in.dim) + slope * (float)(key + 1 - visible);
            ds = expf(score - normal) * (dot(d_out, v, in.dim) - delta);
        }
        const int count = visible - first < 32 ? visible - first : 32;
        __syncwarp();
        for (int i = 0; i < count; i++) {
            const float w = __shfl_sync(0xffffffff, ds, i);
            const T *k = in.qkv + offset_of(in, p, p.first + first + i, K);
            for (int d = lane; d < in.dim; d += 32) dq[d] += w * load(k + d);
        }
        __syncwarp();
    }
    for (int d = lane; d < in.dim; d += 32) store(dqkv + offset_of(in, p, p.token, Q) + d, dq[d] * in.scale);
}

/* dk and dv: a warp's row is a key. Rows that are no keys have gradients of 0. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS) general_keys_kernel(T *dqkv, const float *deltas, const T *dout,
                                                                  const float *lse, general_arguments<T> in) {
    extern __shared__ float shared[];
    float *k = shared + threadIdx.y * 4 * in.dim, *v = k + in.dim, *dk = v + in.dim, *dv = dk + in.dim;
    place p;
    if (!find_place(&p, in)) return;
    const int lane = (int)threadIdx.x;
    const float slope = slope_of(in, p);
    fetch(k, in.qkv + offset_of(in, p, p.token, K), in.dim, in.scale);
    fetch(v, in.qkv + offset_of(in, p, p.token, V), in.dim, 1);
    for (int d = lane; d < in.dim; d += 32) dk[d] = dv[d] = 0;
    __syncwarp();
    const int last = p.row() < p.keys ? p.last : p.token;
    for (int first = p.token; first < last; first += 32) {
        const int query = first + lane;
        float weight = 0, ds = 0;
        if (query < last) {
            const int visible = p.visible(query - p.first);
            const float score =
                dot(k, in.qkv + offset_of(in, p, query, Q), in.dim) + slope * (float)(p.row() + 1 - visible);
            weight = expf(score - lse[number_of(in, p, query)]);
            ds = weight * (dot(v, dout + row_of(in, p, query), in.dim) - deltas[number_of(in, p, query)]);
        }
        const int count = last - first < 32 ? last - first : 32;
        __syncwarp();
        for (int i = 0; i < count; i++) {
            const float w = __shfl_sync(0xffffffff, weight, i), s = __shfl_sync(0xffffffff, ds, i);
            const T *q = in.qkv + offset_of(in, p, first + i, Q), *d_out = dout + row_of(in, p, first + i);
            for (int d = lane; d < in.dim; d += 32) {
                dk[d] += s * load(q + d);
                dv[d] += w * load(d_out + d);
            }
        }
        __syncwarp();
    }
    for (int d = lane; d < in.dim; d += 32) {
        store(dqkv + offset_of(in, p, p.token, K) + d, dk[d] * in.scale);
        store(dqkv + offset_of(in, p, p.token, V) + d, dv[d]);
    }
}

/* ---- launches ---- */

template <typename T>
static general_arguments<T> arguments_of(const void *qkv, const struct sequences *sequences, size_t heads,
                                         size_t head_dim) {
    if (head_dim > MOST_HEAD_DIM)
        fail("heads of %zu elements are not offered on GPUs: at most %d", head_dim, (int)MOST_HEAD_DIM);
    general_arguments<T> in;
    in.qkv = (const T *)qkv;
    in.pack.starts = sequences->starts;
    in.pack.keys = sequences->keys;
    in.pack.tokens = sequences->tokens;
    in.pack.heads = (int)heads;
    in.sequences = sequences->count;
    in.dim = (int)head_dim;
    in.scale = (float)(1 / sqrt((double)head_dim));
    return in;
}

/* A block's shared memory where each warp has `arrays` of head_dim floats; asks for it where it is much. */
template <typename Kernel> static size_t shared_bytes(Kernel kernel, int arrays, size_t head_dim) {
    const size_t bytes = (size_t)WARPS * arrays * head_dim * sizeof(float);
    if (bytes > 48 << 10)
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
                   "attention's shared memory");
    return bytes;
}

template <typename T> static unsigned rows_blocks(const general_arguments<T> &in) {
    return blocks_for((size_t)in.pack.tokens * in.pack.heads, WARPS);
}

void attention_forward_general(struct stream *stream, enum dtype dtype, void *out, float *lse,
                               const void *qkv, const struct sequences *sequences, size_t heads,
                               size_t head_dim) {
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const general_arguments<T> in = arguments_of<T>(qkv, sequences, heads, head_dim);
        const size_t bytes = shared_bytes(general_forward_kernel<T>, 2, head_dim);
        general_forward_kernel<T>
            <<<rows_blocks(in), dim3(32, WARPS), bytes, cuda_stream(stream)>>>((T *)out, lse, in);
    });
    CUDA_LAUNCHED("attention, forward");
}

void attention_backward_general(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                                const void *qkv, const void *out, const float *lse, float *scratch,
                                const struct sequences *sequences, size_t heads, size_t head_dim) {
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const general_arguments<T> in = arguments_of<T>(qkv, sequences, heads, head_dim);
        cudaStream_t on = cuda_stream(stream);
        const size_t query_bytes = shared_bytes(general_queries_kernel<T>, 3, head_dim);
        general_queries_kernel<T><<<rows_blocks(in), dim3(32, WARPS), query_bytes, on>>>(
            (T *)dqkv, scratch, (const T *)dout, (const T *)out, lse, in);
        const size_t key_bytes = shared_bytes(general_keys_kernel<T>, 4, head_dim);
        general_keys_kernel<T><<<rows_blocks(in), dim3(32, WARPS), key_bytes, on>>>((T *)dqkv, scratch,
                                                                                    (const T *)dout, lse, in);
    });
    CUDA_LAUNCHED("attention, backward");
}
