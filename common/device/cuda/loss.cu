/*
 * Cross entropy with its gradient in place of the logits, and sums.
 */
#include <cmath>

#include "common/device/cuda/cuda.cuh"

/* ---- cross entropy: a block takes a row, and reads it twice ---- */

enum { ROW_THREADS = 1024 };

#define LOG2_E 1.44269504f

/* 2^x by the special function unit: within 2 units of the last place, 0 below 2^−126. */
__device__ inline float power_of_2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

/* The largest logit seen, and Σ exp(logit − largest). */
struct running {
    float largest, sum;
};

/* What is subtracted: 0 as long as all are −∞. */
__device__ inline float shift_of(float largest) {
    return largest == -INFINITY ? 0.0f : largest;
}

template <int V> __device__ inline void take(running &so_far, const float (&values)[V]) {
    float largest = so_far.largest;
#pragma unroll
    for (int i = 0; i < V; i++) largest = values[i] > largest ? values[i] : largest; /* passes NaNs over */
    if (largest > so_far.largest) {
        so_far.sum *= power_of_2((so_far.largest - largest) * LOG2_E);
        so_far.largest = largest;
    }
    const float shift = shift_of(largest);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < V; i++) sum += power_of_2((values[i] - shift) * LOG2_E);
    so_far.sum += sum;
}

/* The whole row's largest logit and sum, from each thread's. */
__device__ inline void merge(const running &mine, float *largest, double *sum) {
    __shared__ float tops[ROW_THREADS / 32];
    const float top = warp_max(mine.largest);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    *largest = warp_max(tops[threadIdx.x % 32]);
    const float scale = power_of_2((shift_of(mine.largest) - shift_of(*largest)) * LOG2_E);
    *sum = block_sum<ROW_THREADS>((double)(mine.largest == -INFINITY ? mine.sum : mine.sum * scale));
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

/* x[i] = value(i, x[i]) for i in first … count − 1, by all threads of the block. */
template <typename T, int V, typename Value> __device__ inline void replace(T *x, size_t count, Value value) {
    const size_t whole = count - count % V;
    for (size_t first = threadIdx.x * V; first < whole; first += ROW_THREADS * V) {
        float values[V];
        load_lanes(values, x + first);
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = value(first + i, values[i]);
        store_lanes(x + first, values);
    }
    if (whole + threadIdx.x < count)
        store(&x[whole + threadIdx.x], value(whole + threadIdx.x, load(&x[whole + threadIdx.x])));
}

template <typename T, int V>
__global__ void __launch_bounds__(ROW_THREADS) cross_entropy_kernel(cross_entropy_arguments<T> in) {
    const size_t r = blockIdx.x;
    T *row = in.logits + r * in.ld;
    const float weight = in.weights[r];
    if (weight == 0.0f) {
        if (threadIdx.x == 0) in.losses[r] = 0.0f;
        if (in.gradient) replace<T, V>(row, in.ld, [](size_t, float) { return 0.0f; });
        return;
    }
    running mine = {-INFINITY, 0.0f};
    const size_t whole = in.vocabulary - in.vocabulary % V;
    for (size_t first = threadIdx.x * V; first < whole; first += ROW_THREADS * V) {
        float values[V];
        load_lanes(values, row + first);
        take(mine, values);
    }
    if (whole + threadIdx.x < in.vocabulary) {
        const float last[1] = {load(&row[whole + threadIdx.x])};
        take(mine, last);
    }
    const size_t label = (size_t)in.labels[r];
    const double label_logit =
        load(&row[label]); /* before it is overwritten: merge() waits for all threads */
    float largest;
    double sum;
    merge(mine, &largest, &sum);
    if (threadIdx.x == 0) in.losses[r] = weight * (float)(log(sum) + ((double)largest - label_logit));
    if (!in.gradient) return;
    const float scale = weight * *in.loss_scale * in.inverse_positions, factor = (float)(scale / sum);
    const float at_label = (float)(scale * (exp(label_logit - largest) / sum - 1.0));
    const size_t vocabulary = in.vocabulary;
    replace<T, V>(row, in.ld, [=](size_t column, float logit) {
        const float value = power_of_2((logit - largest) * LOG2_E) * factor;
        return column == label ? at_label : column < vocabulary ? value : 0.0f;
    });
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
        if (aligned16(logits) && ld % LANES<T> == 0)
            cross_entropy_kernel<T, LANES<T>><<<(unsigned)rows, ROW_THREADS, 0, on>>>(in);
        else
            cross_entropy_kernel<T, 1><<<(unsigned)rows, ROW_THREADS, 0, on>>>(in);
    });
    CUDA_LAUNCHED("cross entropy");
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
