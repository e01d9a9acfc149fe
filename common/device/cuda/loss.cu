/*
 * Cross entropy with its gradient in place of the logits, and sums.
 */
#include <cmath>
#include <cooperative_groups.h>

#include "common/device/cuda/cuda.cuh"

/* ---- cross entropy ----
 *
 * A row of logits (half a megabyte) is read twice: for its largest value and its sum, and to be replaced by
 * its gradient. Where blocks can form clusters (compute capability 9.0), CLUSTER of them share a row, so that
 * there are few rows at a time, and the second reading finds them in the second-level cache. */

enum { ROW_THREADS = 512, CLUSTER = 8 };

#define LOG2_E 1.44269504f

/* 2^x by the special function unit: within 2 units of the last place, 0 below 2^−126. */
__device__ inline float power_of_2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

/* The largest logit seen, and Σ 2^(logit · log2 e − shift). The shift is rounded, but one and the same number
 * in all of a row's terms and in its loss: it costs no digits. */
struct running {
    float largest, sum;
};

/* 0 as long as all logits are −∞. */
__device__ inline float shift_of(float largest) {
    return largest == -INFINITY ? 0.0f : largest * LOG2_E;
}

template <int V> __device__ inline void take(running &so_far, const float (&values)[V]) {
    float largest = so_far.largest;
#pragma unroll
    for (int i = 0; i < V; i++) largest = fmaxf(largest, values[i]); /* passes NaNs over */
    const float shift = shift_of(largest);
    if (largest > so_far.largest) {
        if (so_far.largest != -INFINITY) so_far.sum *= power_of_2(shift_of(so_far.largest) - shift);
        so_far.largest = largest;
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < V; i++) sum += power_of_2(fmaf(values[i], LOG2_E, -shift));
    so_far.sum += sum;
}

/* A part's sum on the whole's shift. */
__device__ inline float moved_sum(const running &part, float largest) {
    return part.largest == -INFINITY ? part.sum
                                     : part.sum * power_of_2(shift_of(part.largest) - shift_of(largest));
}

/* The block's largest logit and sum, from each thread's. */
__device__ inline running merge_threads(const running &mine) {
    __shared__ float tops[ROW_THREADS / 32];
    const float top = warp_max(mine.largest);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    const float largest = warp_max(tops[threadIdx.x % (ROW_THREADS / 32)]);
    return {largest, block_sum<ROW_THREADS>(moved_sum(mine, largest))};
}

/* The row's, from its BLOCKS blocks', in their order. */
template <int BLOCKS> __device__ inline void merge_blocks(const running &mine, float *largest, double *sum) {
    *largest = mine.largest;
    *sum = mine.sum;
#if __CUDA_ARCH__ >= 900
    if constexpr (BLOCKS > 1) {
        __shared__ running shared;
        const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
        if (threadIdx.x == 0) shared = mine;
        cluster.sync();
        for (unsigned b = 0; b < BLOCKS; b++)
            *largest = fmaxf(*largest, cluster.map_shared_rank(&shared, b)->largest);
        *sum = 0;
        for (unsigned b = 0; b < BLOCKS; b++)
            *sum += moved_sum(*cluster.map_shared_rank(&shared, b), *largest);
        cluster.sync(); /* no block ends while others read its memory */
    }
#endif
}

template <typename T> struct cross_entropy_arguments {
    T *logits;
    float *losses;
    const int32_t *labels;
    const float *weights;
    size_t vocabulary, ld;
    bool gradient;
    const float *loss_scale;
    float inverse_positions;
};

/* A thread among the BLOCKS · ROW_THREADS of a row. */
template <int BLOCKS> __device__ inline size_t thread_of_row() {
    return (size_t)(blockIdx.x % BLOCKS) * ROW_THREADS + threadIdx.x;
}

/* x[i] = value(i, x[i]) for i in 0 … count − 1, by all threads of the row. */
template <typename T, int V, int BLOCKS, typename Value>
__device__ inline void replace(T *x, size_t count, Value value) {
    const size_t whole = count - count % V, thread = thread_of_row<BLOCKS>();
    for (size_t first = thread * V; first < whole; first += BLOCKS * ROW_THREADS * V) {
        float values[V];
        load_lanes(values, x + first);
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = value(first + i, values[i]);
        store_lanes(x + first, values);
    }
    if (whole + thread < count) store(&x[whole + thread], value(whole + thread, load(&x[whole + thread])));
}

template <typename T, int V, int BLOCKS>
__global__ void __launch_bounds__(ROW_THREADS) cross_entropy_kernel(cross_entropy_arguments<T> in) {
    const size_t r = blockIdx.x / BLOCKS, thread = thread_of_row<BLOCKS>();
    T *row = in.logits + r * in.ld;
    const float weight = in.weights[r];
    if (weight == 0.0f) {
        if (thread == 0) in.losses[r] = 0.0f;
        if (in.gradient) replace<T, V, BLOCKS>(row, in.ld, [](size_t, float) { return 0.0f; });
        return;
    }
    running mine = {-INFINITY, 0.0f};
    const size_t whole = in.vocabulary - in.vocabulary % V;
#pragma unroll 4
    for (size_t first = thread * V; first < whole; first += BLOCKS * ROW_THREADS * V) {
        float values[V];
        load_lanes(values, row + first);
        take(mine, values);
    }
    if (whole + thread < in.vocabulary) {
        const float last[1] = {load(&row[whole + thread])};
        take(mine, last);
    }
    const size_t label = (size_t)in.labels[r];
    const double label_logit = load(&row[label]); /* nothing is replaced before all threads have merged */
    float largest;
    double sum;
    merge_blocks<BLOCKS>(merge_threads(mine), &largest, &sum);
    const float shift = shift_of(largest);
    if (thread == 0) in.losses[r] = weight * (float)(log(sum) + (shift / (double)LOG2_E - label_logit));
    if (!in.gradient) return;
    const float scale = weight * *in.loss_scale * in.inverse_positions, factor = scale / (float)sum;
    const size_t vocabulary = in.vocabulary;
    replace<T, V, BLOCKS>(row, in.ld, [=](size_t column, float logit) {
        if (column == label) return (float)(scale * (exp(label_logit - shift / (double)LOG2_E) / sum - 1.0));
        return column < vocabulary ? power_of_2(fmaf(logit, LOG2_E, -shift)) * factor : 0.0f;
    });
}

/* A row a cluster, where BLOCKS is more than 1. */
template <typename T, int V, int BLOCKS>
static void launch_rows(cudaStream_t on, const cross_entropy_arguments<T> &in, size_t rows) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = BLOCKS;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3((unsigned)rows * BLOCKS);
    launch.blockDim = dim3(ROW_THREADS);
    launch.stream = on;
    launch.attrs = &attribute;
    launch.numAttrs = BLOCKS > 1 ? 1 : 0;
    CUDA_CHECK(cudaLaunchKernelEx(&launch, cross_entropy_kernel<T, V, BLOCKS>, in), "cross entropy");
}

void cross_entropy(struct stream *stream, enum dtype dtype, void *logits, float *losses,
                   const int32_t *labels, const float *weights, size_t rows, size_t vocabulary, size_t ld,
                   bool gradient, const float *loss_scale, float inverse_positions) {
    work_cross_entropy(stream, dtype, rows, vocabulary, ld, gradient);
    if (rows == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const cross_entropy_arguments<T> in = {
            (T *)logits, losses, labels, weights, vocabulary, ld, gradient, loss_scale, inverse_positions};
        cudaStream_t on = cuda_stream(stream);
        if (!aligned16(logits) || ld % LANES<T> != 0)
            launch_rows<T, 1, 1>(on, in, rows);
        else if (cuda_capability(stream_device(stream)) >= 90)
            launch_rows<T, LANES<T>, CLUSTER>(on, in, rows);
        else
            launch_rows<T, LANES<T>, 1>(on, in, rows);
    });
}

/* ---- sums ----
 *
 * An array is cut into at most PARTS parts, as a function of its length alone. A block sums a part in fp64
 * (in which no square overflows), and one block then the parts. */

enum { PARTS = 1024, PART_THREADS = 256, PART_LEAST = 16384 };

/* sums[block] = Σ x, or of squares, over the block's part of `length` elements, a multiple of LANES. */
template <typename T, int V, bool SQUARES>
__global__ void __launch_bounds__(PART_THREADS)
    part_kernel(double *sums, const T *x, size_t count, size_t length) {
    const size_t begin = blockIdx.x * length, end = begin + length < count ? begin + length : count;
    double sum = 0;
    size_t first = begin + threadIdx.x * V;
#pragma unroll 4
    for (; first + V <= end; first += PART_THREADS * V) {
        float values[V];
        load_lanes(values, x + first);
#pragma unroll
        for (int i = 0; i < V; i++) sum += SQUARES ? (double)values[i] * values[i] : (double)values[i];
    }
    for (; first < end; first++) { /* the thread that has the last, incomplete vector */
        const double value = load(&x[first]);
        sum += SQUARES ? value * value : value;
    }
    sum = block_sum<PART_THREADS>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(PARTS) parts_kernel(double *total, const double *sums, size_t parts) {
    const double sum = block_sum<PARTS>(threadIdx.x < parts ? sums[threadIdx.x] : 0.0);
    if (threadIdx.x == 0) *total += sum;
}

template <typename T, bool SQUARES>
static void sum_elements(struct stream *stream, double *total, const T *x, size_t count) {
    if (count == 0) return;
    size_t length = (count + PARTS - 1) / PARTS;
    if (length < PART_LEAST) length = PART_LEAST;
    length = (length + LANES<T> - 1) / LANES<T> * LANES<T>;
    const unsigned parts = blocks_for(count, length);
    double *sums = (double *)cuda_workspace(stream);
    cudaStream_t on = cuda_stream(stream);
    if (aligned16(x))
        part_kernel<T, LANES<T>, SQUARES><<<parts, PART_THREADS, 0, on>>>(sums, x, count, length);
    else
        part_kernel<T, 1, SQUARES><<<parts, PART_THREADS, 0, on>>>(sums, x, count, length);
    CUDA_LAUNCHED("sum");
    parts_kernel<<<1, PARTS, 0, on>>>(total, sums, parts);
    CUDA_LAUNCHED("sum");
}

void sum_values(struct stream *stream, double *total, const float *values, size_t count) {
    work_sum_values(stream, count);
    sum_elements<float, false>(stream, total, values, count);
}

void sum_of_squares(struct stream *stream, enum dtype dtype, double *total, const void *x, size_t count) {
    work_sum_of_squares(stream, dtype, count);
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        sum_elements<T, true>(stream, total, (const T *)x, count);
    });
}
