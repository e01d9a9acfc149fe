#include "common/device/cuda/cuda.cuh"

extern "C" {
#define _Noreturn __attribute__((noreturn))
#include "common/comm/peer_copies.h"
#undef _Noreturn
}

static constexpr int THREADS = 256;

struct parts {
    const void *of_rank[PEERS_MOST];
    int ranks;
    const void *addend; /* or NULL */
};

__device__ inline double wide(double value) {
    return value;
}
template <typename T> __device__ inline float wide(T value) {
    return to_float(value);
}
__device__ inline void narrow(double *out, double value) {
    *out = value;
}
template <typename T> __device__ inline void narrow(T *out, float value) {
    *out = from_float<T>(value);
}

/* A thread adds COUNT neighbouring elements of all ranks. */
template <typename T, int COUNT>
__global__ void peer_sum_kernel(T *out, T *copy, parts parts, size_t vectors) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= vectors) return;
    using vector = lanes<T, COUNT>;
    decltype(wide(T{})) sum[COUNT];
    const vector first = reinterpret_cast<const vector *>(parts.of_rank[0])[i];
#pragma unroll
    for (int k = 0; k < COUNT; k++) sum[k] = wide(first.values[k]);
    for (int r = 1; r < parts.ranks; r++) {
        const vector part = reinterpret_cast<const vector *>(parts.of_rank[r])[i];
#pragma unroll
        for (int k = 0; k < COUNT; k++) sum[k] += wide(part.values[k]);
    }
    vector rounded;
#pragma unroll
    for (int k = 0; k < COUNT; k++) narrow(&rounded.values[k], sum[k]);
    if (parts.addend) {
        const vector addend = reinterpret_cast<const vector *>(parts.addend)[i];
#pragma unroll
        for (int k = 0; k < COUNT; k++)
            narrow(&rounded.values[k], wide(addend.values[k]) + wide(rounded.values[k]));
    }
    reinterpret_cast<vector *>(out)[i] = rounded;
    if (copy) reinterpret_cast<vector *>(copy)[i] = rounded;
}

template <typename T, int COUNT>
static void add(cudaStream_t stream, T *out, T *copy, const parts &parts, size_t vectors) {
    if (vectors == 0) return;
    peer_sum_kernel<T, COUNT>
        <<<blocks_for(vectors, THREADS), THREADS, 0, stream>>>(out, copy, parts, vectors);
    CUDA_LAUNCHED("sum over ranks");
}

/* 16 bytes at a time where all addresses allow that, and the rest one by one. */
template <typename T> static void add_all(cudaStream_t stream, T *out, T *copy, parts parts, size_t count) {
    bool aligned = aligned16(out, copy, parts.addend);
    for (int r = 0; r < parts.ranks; r++) aligned = aligned && aligned16(parts.of_rank[r]);
    const size_t vectors = aligned ? count / LANES<T> : 0, done = vectors * LANES<T>;
    add<T, LANES<T>>(stream, out, copy, parts, vectors);
    for (int r = 0; r < parts.ranks; r++) parts.of_rank[r] = (const T *)parts.of_rank[r] + done;
    if (parts.addend) parts.addend = (const T *)parts.addend + done;
    add<T, 1>(stream, out + done, copy ? copy + done : nullptr, parts, count - done);
}

void peer_sum(cudaStream_t stream, enum dtype dtype, void *out, void *copy, const void *addend,
              const void *const *addresses, int ranks, size_t count) {
    parts parts = {};
    parts.ranks = ranks;
    parts.addend = addend;
    for (int r = 0; r < ranks; r++) parts.of_rank[r] = addresses[r];
    if (dtype == FP64) {
        add_all(stream, (double *)out, (double *)copy, parts, count);
        return;
    }
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        add_all(stream, (T *)out, (T *)copy, parts, count);
    });
}
