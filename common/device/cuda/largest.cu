/*
 * The largest logit of a row: what greedy generation chooses. A block takes a row.
 */
#include <cmath>

#include "common/device/cuda/cuda.cuh"

enum { THREADS = 512 };

struct found {
    float value;
    int column; /* −1: none yet */
};

/* The larger one; of equals the one that comes first. NaNs are larger than nothing. */
__device__ inline found better(found a, found b) {
    if (b.column < 0) return a;
    if (a.column < 0) return b;
    return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
}

__device__ inline found warp_best(found mine) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        mine = better(mine, {__shfl_xor_sync(0xffffffff, mine.value, distance),
                             __shfl_xor_sync(0xffffffff, mine.column, distance)});
    return mine;
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    largest_kernel(int32_t *out, const T *logits, size_t vocabulary, size_t ld) {
    __shared__ found best[THREADS / 32];
    wait_for_earlier_work();
    const T *row = logits + (size_t)blockIdx.x * ld;
    found mine = {-INFINITY, -1};
    for (size_t c = threadIdx.x; c < vocabulary; c += THREADS) {
        const float value = load(row + c);
        if (value == value) mine = better(mine, {value, (int)c});
    }
    mine = warp_best(mine);
    if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    mine = warp_best(threadIdx.x < THREADS / 32 ? best[threadIdx.x] : found{-INFINITY, -1});
    if (threadIdx.x == 0) out[blockIdx.x] = mine.column < 0 ? 0 : mine.column;
}

void largest_column(struct stream *stream, enum dtype dtype, int32_t *out, const void *logits, size_t rows,
                    size_t vocabulary, size_t ld) {
    work_largest_column(stream, dtype, rows, vocabulary);
    if (rows == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        launch(stream, largest_kernel<T>, (unsigned)rows, THREADS, 0, "largest_column", out,
               (const T *)logits, vocabulary, ld);
    });
}
