/*
 * Cross entropy with its gradient in place of the logits, and sums.
 */
#include <cmath>

#include "common/device/cuda/cuda.cuh"

/* ---- cross entropy ----
 *
 * A block takes a row, half a megabyte of logits, and reads it twice: for its largest value and its sum, and
 * to replace it by its gradient. Each thread has BATCH vectors on their way at a time. */

enum { ROW_THREADS = 512, BATCH = 4 };

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

__device__ inline float exp_of(float x) {
    return power_of_2(x * LOG2_E);
}

template <int COUNT, int V> __device__ inline void take(running &so_far, const float (&values)[COUNT][V]) {
    float largest = so_far.largest;
#pragma unroll
    for (int b = 0; b < COUNT; b++)
#pragma unroll
        for (int i = 0; i < V; i++) largest = fmaxf(largest, values[b][i]); /* passes NaNs over */
    const float shift = shift_of(largest);
    float sum = 0;
#pragma unroll
    for (int b = 0; b < COUNT; b++)
#pragma unroll
        for (int i = 0; i < V; i++) sum += exp_of(values[b][i] - shift);
    if (so_far.largest != -INFINITY) sum += so_far.sum * exp_of(so_far.largest - shift);
    so_far = {largest, sum};
}

/* The row's, from each thread's. */
__device__ inline void merge(const running &mine, float *largest, double *sum) {
    __shared__ float tops[ROW_THREADS / 32];
    const float top = warp_max(mine.largest);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    *largest = warp_max(tops[threadIdx.x % (ROW_THREADS / 32)]);
    const float scale = mine.largest == -INFINITY ? 1.0f : exp_of(mine.largest - shift_of(*largest));
    *sum = block_sum<ROW_THREADS>((double)(mine.sum * scale));
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

/* Calls function(column, values) for a thread's vectors of a row of `count` elements, BATCH at a time, then
 * one by one: values[n][V] of columns column, column + ROW_THREADS · V, … A last, incomplete vector comes as
 * values[1][1]. */
template <typename T, int V, typename Function>
__device__ inline void each_batch(const T *x, size_t count, Function function) {
    constexpr size_t STEP = (size_t)ROW_THREADS * V;
    const size_t whole = count - count % V;
    size_t column = threadIdx.x * V;
    for (; column + (BATCH - 1) * STEP < whole; column += BATCH * STEP) {
        float values[BATCH][V];
#pragma unroll
        for (int b = 0; b < BATCH; b++) load_lanes(values[b], x + column + b * STEP);
        function(column, values);
    }
    for (; column < whole; column += STEP) {
        float values[1][V];
        load_lanes(values[0], x + column);
        function(column, values);
    }
    if (whole + threadIdx.x < count) {
        const float value[1][1] = {{load(&x[whole + threadIdx.x])}};
        function(whole + threadIdx.x, value);
    }
}

/* The gradient in place of a row's logits; zeros from `vocabulary` on. */
template <typename T, int V>
__device__ inline void replace(T *row, size_t vocabulary, size_t ld, float largest, float factor) {
    constexpr size_t STEP = (size_t)ROW_THREADS * V;
    each_batch<T, V>(row, ld, [=](size_t column, const auto &logits) {
        constexpr int COUNT = sizeof logits / sizeof logits[0],
                      WIDTH = sizeof logits[0] / sizeof logits[0][0];
#pragma unroll
        for (int b = 0; b < COUNT; b++) {
            const size_t first = column + b * STEP;
            float values[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; i++)
                values[i] = first + i < vocabulary ? exp_of(logits[b][i] - largest) * factor : 0.0f;
            store_lanes(row + first, values);
        }
    });
}

template <typename T, int V>
__global__ void __launch_bounds__(ROW_THREADS) cross_entropy_kernel(cross_entropy_arguments<T> in) {
    wait_for_earlier_work();
    const size_t r = blockIdx.x;
    T *row = in.logits + r * in.ld;
    const float weight = in.weights[r];
    if (weight == 0.0f) {
        if (threadIdx.x == 0) in.losses[r] = 0.0f;
        if (in.gradient) replace<T, V>(row, 0, in.ld, 0, 0);
        return;
    }
    running mine = {-INFINITY, 0.0f};
    each_batch<T, V>(row, in.vocabulary, [&](size_t, const auto &logits) { take(mine, logits); });
    const size_t label = (size_t)in.labels[r];
    const double label_logit = load(&row[label]); /* nothing is replaced before all threads have merged */
    float largest;
    double sum;
    merge(mine, &largest, &sum);
    if (threadIdx.x == 0) in.losses[r] = weight * (float)(log(sum) + ((double)largest - label_logit));
    if (!in.gradient) return;
    const float scale = weight * *in.loss_scale * in.inverse_positions;
    replace<T, V>(row, in.vocabulary, in.ld, largest, scale / (float)sum);
    /* The label's, by the thread that has just written there: near 1 a probability less 1 needs fp64. */
    if (label / V % ROW_THREADS == threadIdx.x)
        store(&row[label], (float)(scale * (exp(label_logit - largest) / sum - 1.0)));
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
        if (aligned16(logits) && ld % LANES<T> == 0)
            launch(stream, cross_entropy_kernel<T, LANES<T>>, (unsigned)rows, ROW_THREADS, 0, "cross entropy",
                   in);
        else
            launch(stream, cross_entropy_kernel<T, 1>, (unsigned)rows, ROW_THREADS, 0, "cross entropy", in);
    });
}

/* ---- sums ----
 *
 * An array is cut into at most PARTS parts, as a function of its length alone. A block sums a part in fp64
 * (in which no square overflows), and the block that is done last adds the parts, in their order: which one
 * it is does not change a bit. */

enum { PARTS = 1024, PART_THREADS = 256, PART_LEAST = 4096, PART_BATCH = 4 };

/* This thread's share of Σ x, or of squares, over elements begin … end − 1, where begin is a multiple of V.
 * PART_BATCH vectors are on their way at a time, as they lie in memory, which takes few registers. */
template <typename T, int V, bool SQUARES>
__device__ inline double sum_of_part(const T *x, size_t begin, size_t end) {
    constexpr size_t STEP = (size_t)PART_THREADS * V;
    const size_t whole = end - end % V;
    double sum = 0;
    for (size_t first = begin + threadIdx.x * V; first < whole; first += PART_BATCH * STEP) {
        lanes<T, V> vectors[PART_BATCH];
#pragma unroll
        for (int b = 0; b < PART_BATCH; b++)
            if (first + b * STEP < whole)
                vectors[b] = *reinterpret_cast<const lanes<T, V> *>(x + first + b * STEP);
#pragma unroll
        for (int b = 0; b < PART_BATCH; b++) {
            if (first + b * STEP >= whole) break;
            float values[V];
            to_floats(values, vectors[b]);
#pragma unroll
            for (int i = 0; i < V; i++) sum += SQUARES ? (double)values[i] * values[i] : (double)values[i];
        }
    }
    if (whole + threadIdx.x < end) { /* of the last, incomplete vector */
        const double value = load(&x[whole + threadIdx.x]);
        sum += SQUARES ? value * value : value;
    }
    return sum;
}

/* For all threads of a block: is it the last one of its grid that comes here? Then it sees what thread 0 of
 * the others wrote before. *arrived is 0 before the grid, and again after it, as atomicInc() wraps round. */
__device__ inline bool is_last_block(unsigned *arrived) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
        if (last) __threadfence();
    }
    __syncthreads();
    return last;
}

/* *total += Σ x, or of squares; a block's part has `length` elements, a multiple of LANES. sums [blocks] is
 * scratch. */
template <typename T, int V, bool SQUARES>
__global__ void __launch_bounds__(PART_THREADS)
    sum_kernel(double *total, double *sums, unsigned *arrived, const T *x, size_t count, size_t length) {
    wait_for_earlier_work(); /* the sum before this one has added to *total */
    const size_t begin = blockIdx.x * length, end = begin + length < count ? begin + length : count;
    const double part = block_sum<PART_THREADS>(sum_of_part<T, V, SQUARES>(x, begin, end));
    if (threadIdx.x == 0) sums[blockIdx.x] = part;
    if (!is_last_block(arrived)) return;
    double sum = 0;
    for (unsigned p = threadIdx.x; p < gridDim.x; p += PART_THREADS) sum += __ldcg(&sums[p]);
    sum = block_sum<PART_THREADS>(sum);
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
    unsigned *arrived = cuda_arrived(stream);
    if (aligned16(x))
        launch(stream, sum_kernel<T, LANES<T>, SQUARES>, parts, PART_THREADS, 0, "sum", total, sums, arrived,
               x, count, length);
    else
        launch(stream, sum_kernel<T, 1, SQUARES>, parts, PART_THREADS, 0, "sum", total, sums, arrived, x,
               count, length);
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
