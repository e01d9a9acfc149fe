/*
 * Layer norm, backward. With n = (x − mean) · rstd and g = dy · weight:
 *
 *     dweight = Σ over rows of dy · n        dbias = Σ over rows of dy
 *     dx = rstd · (g − mean of g − n · mean of g·n), the means over the row
 *
 * Rows of whole vectors, and no more of them than a block has threads, are read once for all of it: a group
 * of threads takes a row, a vector each, and keeps the sums of its columns over the rows that it takes. Other
 * rows are read for each.
 */
#include "common/device/cuda/columns.cuh"
#include "common/device/cuda/layernorm.cuh"

template <typename T> struct backward_arguments {
    T *dx, *out;  /* out may be NULL */
    float *parts; /* [blocks][3: dweight, dbias, column sums of dx][h] */
    const T *dy, *x, *weight, *bias, *add;
    const float *mean, *rstd;
    size_t rows, h;
};

/* ---- all at once ---- */

enum { THREADS = 512, DWEIGHT = 0, DBIAS, DX_SUMS, SUMS };

/* A thread's part of a row, on its way. */
template <typename T> struct backward_vector {
    lanes<T, LANES<T>> dy, x, add;
    float mean, rstd;

    __device__ void get(const backward_arguments<T> &in, size_t row, size_t column) {
        if (row >= in.rows || column >= in.h) return;
        const size_t at = row * in.h + column;
        dy = *reinterpret_cast<const lanes<T, LANES<T>> *>(in.dy + at);
        x = *reinterpret_cast<const lanes<T, LANES<T>> *>(in.x + at);
        if (in.add) add = *reinterpret_cast<const lanes<T, LANES<T>> *>(in.add + at);
        mean = in.mean[row];
        rstd = in.rstd[row];
    }
};

/* Sums of two values over each group of ROW_THREADS threads; `turn` alternates, so that one barrier will do.
 */
template <int ROW_THREADS> __device__ inline float2 row_sums(float a, float b, int turn) {
    constexpr int WARPS = ROW_THREADS / 32;
    __shared__ float2 parts[2][THREADS / 32];
    const int warp = (int)threadIdx.x / 32;
    a = warp_sum(a);
    b = warp_sum(b);
    if (threadIdx.x % 32 == 0) parts[turn][warp] = make_float2(a, b);
    __syncthreads();
    float2 sums = {0, 0};
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float2 part = parts[turn][warp / WARPS * WARPS + w];
        sums.x += part.x;
        sums.y += part.y;
    }
    return sums;
}

/* The block's sums of columns, from each thread's, to parts [h]. */
template <int ROW_THREADS, int V>
__device__ inline void store_part(float *parts, const float (&sums)[V], size_t h) {
    constexpr int WIDTH = ROW_THREADS * V; /* of a group */
    __shared__ float groups[THREADS * V];
    __syncthreads(); /* the last call's have been read */
#pragma unroll
    for (int i = 0; i < V; i++) groups[threadIdx.x * V + i] = sums[i];
    __syncthreads();
    for (size_t column = threadIdx.x; column < h; column += THREADS) {
        float sum = 0;
#pragma unroll
        for (int g = 0; g < THREADS / ROW_THREADS; g++) sum += groups[g * WIDTH + column];
        parts[column] = sum;
    }
}

/* Group g of block b takes rows b · groups + g, + blocks · groups, … dx may be dy or add: each thread writes
 * only what it alone has read. */
template <typename T, int ROW_THREADS>
__global__ void __launch_bounds__(THREADS) backward_kernel(backward_arguments<T> in) {
    wait_for_earlier_work();
    constexpr int V = LANES<T>, GROUPS = THREADS / ROW_THREADS;
    const size_t column = threadIdx.x % ROW_THREADS * V, step = (size_t)gridDim.x * GROUPS;
    const bool inside = column < in.h;
    const float inverse = 1.0f / (float)in.h;
    float weight[V] = {}, bias[V] = {}, sums[SUMS][V] = {};
    if (inside) load_lanes(weight, in.weight + column);
    if (inside && in.out) load_lanes(bias, in.bias + column);
    size_t row = blockIdx.x * GROUPS + threadIdx.x / ROW_THREADS;
    backward_vector<T> next = {};
    next.get(in, row, column);
    int turn = 0;
    for (size_t first = blockIdx.x * GROUPS; first < in.rows; first += step, row += step, turn ^= 1) {
        const backward_vector<T> now = next;
        const bool mine = inside && row < in.rows;
        next.get(in, row + step, column);
        float slope[V], normal[V], sum = 0, product = 0;
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float dy = mine ? to_float(now.dy.values[i]) : 0.0f;
            normal[i] = mine ? (to_float(now.x.values[i]) - now.mean) * now.rstd : 0.0f;
            slope[i] = __fmul_rn(dy, weight[i]); /* rounded: the same in sums and differences */
            sum += slope[i];
            product += slope[i] * normal[i];
            sums[DWEIGHT][i] += dy * normal[i];
            sums[DBIAS][i] += dy;
        }
        const float2 means = row_sums<ROW_THREADS>(sum, product, turn);
        if (!mine) continue;
        float dx[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            dx[i] = now.rstd * (slope[i] - means.x * inverse - normal[i] * (means.y * inverse));
            if (in.add) dx[i] += to_float(now.add.values[i]);
            sums[DX_SUMS][i] += dx[i];
            normal[i] = normal[i] * weight[i] + bias[i];
        }
        store_lanes(in.dx + row * in.h + column, dx);
        if (in.out) store_lanes(in.out + row * in.h + column, normal);
    }
#pragma unroll
    for (int s = 0; s < SUMS; s++)
        store_part<ROW_THREADS>(in.parts + (blockIdx.x * SUMS + s) * in.h, sums[s], in.h);
}

template <typename T>
static void backward_at_once(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                             const backward_arguments<T> &in, bool accumulate) {
    const size_t vectors = in.h / LANES<T>;
    unsigned blocks = 0;
    const auto sum = [&](auto kernel, size_t groups) {
        blocks = blocks_for(in.rows, groups, MOST_PARTS);
        if (blocks) launch(stream, kernel, blocks, THREADS, 0, "layer norm, backward", in);
    };
    if (vectors <= 128)
        sum(backward_kernel<T, 128>, THREADS / 128);
    else if (vectors <= 256)
        sum(backward_kernel<T, 256>, THREADS / 256);
    else
        sum(backward_kernel<T, 512>, THREADS / 512);
    const struct part_sums sums = {{to->dweight, to->dbias, to->dx_sums}};
    add_parts(stream, dtype, &sums, SUMS, in.parts, blocks, in.h, accumulate);
}

/* ---- one by one ---- */

/* A block takes a row. dx may be dy or add: each thread writes only what it alone has read. */
template <typename T, int V, int CHUNKS>
__global__ void __launch_bounds__(LAYERNORM_THREADS) backward_input_kernel(backward_arguments<T> in) {
    const size_t row = blockIdx.x, start = row * in.h;
    const unsigned h = (unsigned)in.h;
    const row_part<T, V, CHUNKS> dy(in.dy + start, h), x(in.x + start, h);
    const float mean = in.mean[row], rstd = in.rstd[row];
    float sum = 0, product = 0, slope[V], normal[V];
    /* g, rounded, so that it is the same in sums and differences, and n of a vector. */
    const auto get = [&](int chunk, unsigned first) {
        float weight[V];
        dy.get(slope, chunk, first);
        x.get(normal, chunk, first);
        load_lanes(weight, in.weight + first);
#pragma unroll
        for (int i = 0; i < V; i++) {
            slope[i] = __fmul_rn(slope[i], weight[i]);
            normal[i] = (normal[i] - mean) * rstd;
        }
    };
    each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
        get(chunk, first);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum += slope[i];
            product += slope[i] * normal[i];
        }
    });
    sum = block_sum<LAYERNORM_THREADS>(sum) / (float)h;
    product = block_sum<LAYERNORM_THREADS>(product) / (float)h;
    each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
        float result[V] = {};
        get(chunk, first);
        if (in.add) load_lanes(result, in.add + start + first);
#pragma unroll
        for (int i = 0; i < V; i++) result[i] += rstd * (slope[i] - sum - normal[i] * product);
        store_lanes(in.dx + start + first, result);
    });
}

enum { COLUMN_THREADS = 512 };

template <typename T, int V>
__global__ void __launch_bounds__(COLUMN_THREADS)
    backward_weight_kernel(T *dweight, T *dbias, backward_arguments<T> in, bool accumulate) {
    const column_place<V, 1, COLUMN_THREADS> place(blockIdx.x);
    float weight_part[V] = {}, bias_part[V] = {};
    if (place.column < in.h) {
#pragma unroll 4
        for (size_t r = place.first_row; r < in.rows; r += place.rows) {
            float dy[V], x[V];
            load_lanes(dy, in.dy + r * in.h + place.column);
            load_lanes(x, in.x + r * in.h + place.column);
            const float mean = in.mean[r], rstd = in.rstd[r];
#pragma unroll
            for (int i = 0; i < V; i++) {
                weight_part[i] += dy[i] * ((x[i] - mean) * rstd);
                bias_part[i] += dy[i];
            }
        }
    }
    finish_columns<1, COLUMN_THREADS>(blockIdx.x, weight_part, in.h, [&](size_t column, float sum) {
        store(&dweight[column], accumulate ? load(&dweight[column]) + sum : sum);
    });
    finish_columns<1, COLUMN_THREADS>(blockIdx.x, bias_part, in.h, [&](size_t column, float sum) {
        store(&dbias[column], accumulate ? load(&dbias[column]) + sum : sum);
    });
}

template <typename T>
static void backward_one_by_one(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                                const backward_arguments<T> &in, bool accumulate) {
    constexpr int V = LANES<T>;
    const bool vectors = aligned16(in.dx, in.dy, in.x, in.weight, in.add);
    cudaStream_t on = cuda_stream(stream);
    /* The columns first: dx may overwrite dy. */
    if (vectors && in.h % V == 0)
        backward_weight_kernel<T, V><<<column_blocks<V, 1>(in.h), COLUMN_THREADS, 0, on>>>(
            (T *)to->dweight, (T *)to->dbias, in, accumulate);
    else
        backward_weight_kernel<T, 1><<<column_blocks<1, 1>(in.h), COLUMN_THREADS, 0, on>>>(
            (T *)to->dweight, (T *)to->dbias, in, accumulate);
    CUDA_LAUNCHED("layer norm, gradients of its parameters");
    if (in.out)
        layernorm_elements(stream, dtype, in.out, in.mean, in.rstd, in.x, in.weight, in.bias, in.rows, in.h);
    if (in.rows)
        for_row_length<T>(vectors, in.h, [&](auto v, auto chunks) {
            backward_input_kernel<T, decltype(v)::value, decltype(chunks)::value>
                <<<(unsigned)in.rows, LAYERNORM_THREADS, 0, on>>>(in);
        });
    CUDA_LAUNCHED("layer norm, backward");
    if (to->dx_sums) column_sums(stream, dtype, to->dx_sums, in.dx, in.h, in.rows, in.h, accumulate);
}

void layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                        const void *dy, const void *x, const void *weight, const void *bias,
                        const float *mean, const float *rstd, const void *add, size_t rows, size_t h,
                        bool accumulate) {
    work_layernorm_backward(stream, dtype, to, add != NULL, rows, h, accumulate);
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const backward_arguments<T> in = {(T *)to->dx,
                                          (T *)to->out,
                                          (float *)cuda_workspace(stream),
                                          (const T *)dy,
                                          (const T *)x,
                                          (const T *)weight,
                                          (const T *)bias,
                                          (const T *)add,
                                          mean,
                                          rstd,
                                          rows,
                                          h};
        if (aligned16(in.dx, in.out, in.dy, in.x, in.weight, in.bias, in.add) && h % LANES<T> == 0 &&
            h / LANES<T> <= THREADS)
            backward_at_once(stream, dtype, to, in, accumulate);
        else
            backward_one_by_one(stream, dtype, to, in, accumulate);
    });
}
