/*
 * Cross entropy with its gradient in place of the logits, and sums.
 */
#include <cmath>
#include <cooperative_groups.h>

#include "common/device/cuda/cuda.cuh"

/* ---- cross entropy ----
 *
 * A row is half a megabyte of logits, and is read twice: for its largest value and its sum, and to be
 * replaced by its gradient. All rows at once are more than the L2 cache holds. So the second time it is read
 * from its end, as what was read last is still there.
 *
 * Where the device has clusters (from compute capability 9.0 on), SHARING blocks share a long row, and each
 * tells the others its sum, from shared memory to shared memory. Then so few rows are on their way at a time
 * (49 on an H100, or 25 MB) that L2 holds them all, and memory is read once. */

enum { ROW_THREADS = 512, BATCH = 4, SHARING = 8 };

/* The number of blocks of a multiprocessor, where they share rows. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
enum { RESIDENT = 3 };
#else
enum { RESIDENT = 1 };
#endif

#define LOG2_E 1.44269504f

/* 2^x by the special function unit: within 2 units of the last place, 0 below 2^−126. */
__device__ inline float power_of_2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

__device__ inline float exp_of(float x) {
    return power_of_2(x * LOG2_E);
}

/* ---- the largest logit seen, and Σ exp(logit − largest): of a thread, a block, a row ---- */

template <typename Sum> struct running {
    float largest;
    Sum sum;
};

/* What is subtracted: 0 as long as all are −∞. */
__device__ inline float shift_of(float largest) {
    return largest == -INFINITY ? 0.0f : largest;
}

/* The factor that turns a sum for the largest of a part into one for the largest of the whole. */
__device__ inline float rescaled(float part, float whole) {
    return part == -INFINITY ? 1.0f : exp_of(part - shift_of(whole));
}

template <int V> __device__ inline void take(running<float> &so_far, const float (&values)[V]) {
    float largest = so_far.largest, sum = 0;
#pragma unroll
    for (int i = 0; i < V; i++) largest = fmaxf(largest, values[i]); /* passes NaNs over */
    if (largest > so_far.largest) {                                  /* seldom, but at first */
        so_far.sum *= rescaled(so_far.largest, largest);
        so_far.largest = largest;
    }
    const float shift = shift_of(largest);
#pragma unroll
    for (int i = 0; i < V; i++) sum += exp_of(values[i] - shift);
    so_far.sum += sum;
}

/* The block's, from each thread's. */
__device__ inline running<double> merge_threads(const running<float> &mine) {
    __shared__ float tops[ROW_THREADS / 32];
    const float top = warp_max(mine.largest);
    if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
    __syncthreads();
    const float largest = warp_max(tops[threadIdx.x % (ROW_THREADS / 32)]);
    return {largest, block_sum<ROW_THREADS>((double)(mine.sum * rescaled(mine.largest, largest)))};
}

/* The row's, from its blocks', in their order. Before a block ends, it calls leave_cluster(). */
template <int BLOCKS> __device__ inline running<double> merge_blocks(const running<double> &mine) {
#if __CUDA_ARCH__ >= 900
    __shared__ running<double> of_block;
    const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
    if (threadIdx.x == 0) of_block = mine;
    cluster.sync();
    const unsigned lane = threadIdx.x % 32;
    running<double> part = {-INFINITY, 0};
    if (lane < BLOCKS) part = *cluster.map_shared_rank(&of_block, lane);
    cluster.barrier_arrive();
    const float largest = warp_max(part.largest);
    return {largest, warp_sum(part.sum * rescaled(part.largest, largest))};
#else
    return mine; /* never launched */
#endif
}

/* A block's shared memory lives until the others of its cluster have read it. */
__device__ inline void leave_cluster() {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().barrier_wait();
#endif
}

/* ---- vectors of a row, whose columns 32 bits can count, as labels are of no more ---- */

/* A vector as it lies in memory, which takes fewer registers than its values. */
template <typename T, int V> using vector_bits = std::conditional_t<V == 1, T, int4>;

/* For the last time: the cache may give its place to others first. */
template <typename Bits> __device__ inline Bits load_last(const Bits *x) {
    if constexpr (std::is_same_v<Bits, int4>)
        return __ldcs(x);
    else
        return *x;
}
template <typename T, int V> __device__ inline void store_last(T *x, const float (&values)[V]) {
    vector_bits<T, V> bits;
    store_lanes(reinterpret_cast<T *>(&bits), values);
    if constexpr (V > 1)
        __stcs(reinterpret_cast<int4 *>(x), bits);
    else
        *x = bits;
}

/* Calls function(column, values) for a thread's vectors of columns begin … end − 1, where begin and end are
 * multiples of V; BATCH of them are on their way at a time. LAST means for the last time, and batch by batch
 * from the end. */
template <bool LAST, typename T, int V, typename Function>
__device__ inline void each_vector(const T *row, unsigned begin, unsigned end, Function function) {
    constexpr unsigned STEP = ROW_THREADS * V, BATCH_STEP = BATCH * STEP;
    const unsigned batches = (end - begin + BATCH_STEP - 1) / BATCH_STEP;
    for (unsigned i = 0; i < batches; i++) {
        const unsigned first = begin + (LAST ? batches - 1 - i : i) * BATCH_STEP + threadIdx.x * V;
        vector_bits<T, V> bits[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const auto *x = reinterpret_cast<const vector_bits<T, V> *>(row + first + b * STEP);
            if (first + b * STEP < end) bits[b] = LAST ? load_last(x) : *x;
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            if (first + b * STEP >= end) break;
            float values[V];
            load_lanes(values, reinterpret_cast<const T *>(&bits[b]));
            function(first + b * STEP, values);
        }
    }
}

/* Replaces values of columns beyond the vocabulary. */
template <int V>
__device__ inline void set_beyond(float (&values)[V], unsigned column, unsigned vocabulary, float value) {
    if (column + V <= vocabulary) return;
#pragma unroll
    for (int i = 0; i < V; i++)
        if (column + i >= vocabulary) values[i] = value;
}

/* ---- the kernel ---- */

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

/* The gradient in place of a row's logits, in columns begin … end − 1: zeros from `vocabulary` on. */
template <typename T, int V>
__device__ inline void replace(T *row, unsigned begin, unsigned end, unsigned vocabulary, float largest,
                               float factor) {
    each_vector<true, T, V>(row, begin, end, [=](unsigned column, float(&values)[V]) {
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = exp_of(values[i] - largest) * factor;
        set_beyond(values, column, vocabulary, 0.0f);
        store_last(row + column, values);
    });
}

/* A gradient of zeros, of a row that does not count. */
template <typename T, int V> __device__ inline void clear(T *row, unsigned begin, unsigned end) {
    const float zeros[V] = {};
    for (unsigned column = begin + threadIdx.x * V; column < end; column += ROW_THREADS * V)
        store_last(row + column, zeros);
}

/* Blocks r · BLOCKS … of the grid take row r. */
template <typename T, int V, int BLOCKS>
__global__ void __launch_bounds__(ROW_THREADS, BLOCKS > 1 ? RESIDENT : 1)
    cross_entropy_kernel(cross_entropy_arguments<T> in) {
    wait_for_earlier_work();
    const size_t r = blockIdx.x / BLOCKS;
    const unsigned part = blockIdx.x % BLOCKS, vectors = (unsigned)(in.ld / V);
    const unsigned begin = vectors / BLOCKS * part * V, vocabulary = (unsigned)in.vocabulary;
    const unsigned end = part == BLOCKS - 1 ? (unsigned)in.ld : begin + vectors / BLOCKS * V;
    T *row = in.logits + r * in.ld;
    const float weight = in.weights[r];
    if (weight == 0.0f) {
        if (begin == 0 && threadIdx.x == 0) in.losses[r] = 0.0f;
        if (in.gradient) clear<T, V>(row, begin, end);
        return;
    }
    running<float> mine = {-INFINITY, 0.0f};
    each_vector<false, T, V>(row, begin, end, [&](unsigned column, float(&values)[V]) {
        set_beyond(values, column, vocabulary, -INFINITY);
        take(mine, values);
    });
    const unsigned label = (unsigned)in.labels[r];
    const double label_logit = load(&row[label]); /* nothing is replaced before all threads have merged */
    running<double> whole = merge_threads(mine);
    if constexpr (BLOCKS > 1) whole = merge_blocks<BLOCKS>(whole);
    if (begin == 0 && threadIdx.x == 0)
        in.losses[r] = weight * (float)(log(whole.sum) + ((double)whole.largest - label_logit));
    if (in.gradient) {
        const float scale = weight * *in.loss_scale * in.inverse_positions;
        replace<T, V>(row, begin, end, vocabulary, whole.largest, scale / (float)whole.sum);
        /* The label's, by the thread that has just written there: near 1 a probability less 1 needs fp64. */
        if (label >= begin && label < end && (label - begin) / V % ROW_THREADS == threadIdx.x)
            store(&row[label], (float)(scale * (exp(label_logit - whole.largest) / whole.sum - 1.0)));
    }
    if constexpr (BLOCKS > 1) leave_cluster();
}

template <typename T>
static void launch_cross_entropy(struct stream *stream, const cross_entropy_arguments<T> &in, size_t rows) {
    constexpr int V = LANES<T>;
    constexpr size_t LONG = (size_t)SHARING * ROW_THREADS * BATCH * V; /* a batch for each thread */
    const bool clusters = cuda_code(stream_device(stream)) >= 90;
    if (!aligned16(in.logits) || in.ld % V != 0)
        launch(stream, cross_entropy_kernel<T, 1, 1>, (unsigned)rows, ROW_THREADS, 0, "cross entropy", in);
    else if (!clusters || in.ld < LONG)
        launch(stream, cross_entropy_kernel<T, V, 1>, (unsigned)rows, ROW_THREADS, 0, "cross entropy", in);
    else
        launch_clusters(stream, SHARING, cross_entropy_kernel<T, V, SHARING>, (unsigned)rows * SHARING,
                        ROW_THREADS, 0, "cross entropy", in);
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
        launch_cross_entropy(stream, in, rows);
    });
}

/* ---- sums ----
 *
 * An array is cut into at most PARTS parts, as a function of its length alone. A block sums a part in fp64
 * (in which no square overflows), and one block then the parts. */

enum { PARTS = 1024, PART_THREADS = 256, PART_LEAST = 8192 };

/* sums[block] = Σ x, or of squares, over the block's part of `length` elements, a multiple of LANES. */
template <typename T, int V, bool SQUARES>
__global__ void __launch_bounds__(PART_THREADS)
    part_kernel(double *sums, const T *x, size_t count, size_t length) {
    wait_for_earlier_work();
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
    wait_for_earlier_work();
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
    if (aligned16(x))
        launch(stream, part_kernel<T, LANES<T>, SQUARES>, parts, PART_THREADS, 0, "sum", sums, x, count,
               length);
    else
        launch(stream, part_kernel<T, 1, SQUARES>, parts, PART_THREADS, 0, "sum", sums, x, count, length);
    launch(stream, parts_kernel, 1, PARTS, 0, "sum", total, sums, parts);
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
