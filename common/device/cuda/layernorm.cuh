/*
 * Layer norm: out = (x − mean) · rstd · weight + bias over rows of h elements, rstd = 1 / sqrt(variance +
 * eps). What its forward and its backward share. Private to common/device/cuda.
 *
 * A block takes a row. Where rows are whole vectors of 16 bytes and not too long, each thread keeps its part
 * of the row in registers, so that memory is read once; other rows go through the same code an element at a
 * time, reading again.
 */
#ifndef COMMON_DEVICE_CUDA_LAYERNORM_CUH
#define COMMON_DEVICE_CUDA_LAYERNORM_CUH

#include "common/device/cuda/cuda.cuh"

enum { LAYERNORM_THREADS = 128 };

/* Calls function(number of the vector among this thread's, its first element) for each of a thread's vectors.
 */
template <int V, int CHUNKS, typename Function>
__device__ inline void each_vector(unsigned h, Function function) {
    if constexpr (CHUNKS == 0) {
        for (unsigned first = threadIdx.x * V; first < h; first += LAYERNORM_THREADS * V) function(0, first);
    } else {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const unsigned first = (threadIdx.x + (unsigned)chunk * LAYERNORM_THREADS) * V;
            if (first < h) function(chunk, first);
        }
    }
}

/* A thread's part of a row of h elements: vectors of V elements, number threadIdx.x, + LAYERNORM_THREADS, …
 * With CHUNKS > 0 there are no more than that of them, kept in registers; with 0 any number, loaded whenever
 * they are asked for. */
template <typename T, int V, int CHUNKS> struct row_part {
    const T *row;
    float kept[CHUNKS ? CHUNKS : 1][V];

    __device__ row_part(const T *row, unsigned h) : row(row) {
        if constexpr (CHUNKS > 0)
            each_vector<V, CHUNKS>(h,
                                   [&](int chunk, unsigned first) { load_lanes(kept[chunk], row + first); });
    }
    __device__ void get(float (&values)[V], int chunk, unsigned first) const {
        if constexpr (CHUNKS == 0) load_lanes(values, row + first);
#pragma unroll
        for (int i = 0; CHUNKS > 0 && i < V; i++) values[i] = kept[chunk][i];
    }
};

/* Calls function with V and CHUNKS as constants. */
template <typename T, typename Function>
static void for_row_length(bool vectors, size_t h, Function function) {
    using std::integral_constant;
    constexpr int V = LANES<T>;
    const size_t chunks = (h / V + LAYERNORM_THREADS - 1) / LAYERNORM_THREADS;
    if (!vectors || h % V != 0)
        function(integral_constant<int, 1>{}, integral_constant<int, 0>{});
    else if (chunks <= 1)
        function(integral_constant<int, V>{}, integral_constant<int, 1>{});
    else if (chunks <= 2)
        function(integral_constant<int, V>{}, integral_constant<int, 2>{});
    else if (chunks <= 4)
        function(integral_constant<int, V>{}, integral_constant<int, 4>{});
    else
        function(integral_constant<int, V>{}, integral_constant<int, 0>{});
}

/* As layernorm_recompute() of kernels.h; counts no work. */
void layernorm_elements(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                        const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                        size_t h);

#endif
