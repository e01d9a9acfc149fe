/*
 * Inside the CUDA backend's kernels: C headers, element types, 16-byte accesses, and sums in a fixed order.
 *
 * Elements are stored as float, __half or __nv_bfloat16 and computed with as float:
 *
 *     template <typename T> __global__ void scale_kernel(T *x, size_t count) {
 *         wait_for_earlier_work();
 *         … store(&x[i], 2 * load(&x[i]));
 *
 *     for_dtype(dtype, [&](auto zero) {
 *         using T = decltype(zero);
 *         launch(stream, scale_kernel<T>, blocks, 256, 0, "scale", (T *)x, count);
 *     });
 */
#ifndef COMMON_DEVICE_CUDA_CUDA_CUH
#define COMMON_DEVICE_CUDA_CUDA_CUH

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define _Noreturn __attribute__((noreturn)) /* C11's word, which C++ does not have */
extern "C" {
#include "common/device/cuda/cuda.h"
#include "common/device/kernels.h"
}
#undef _Noreturn

/* Calls `function` with a zero of dtype's storage type. */
template <typename Function> void for_dtype(enum dtype dtype, Function function) {
    switch (dtype) {
    case FP32:
        function(float{});
        return;
    case BF16:
        function(__nv_bfloat16{});
        return;
    case FP16:
        function(__half{});
        return;
    default:
        fail("kernels do not compute in %s: a mistake in this program", dtype_name(dtype));
    }
}

/* Blocks for `count` elements at `each` a block: no more than `most`, for kernels that stride over the rest.
 */
static inline unsigned blocks_for(size_t count, size_t each, size_t most = 0x7fffffff) {
    size_t blocks = (count + each - 1) / each;
    return (unsigned)(blocks < most ? blocks : most);
}

/* ---- launches ----
 *
 * A kernel lasts some microseconds, and its launch takes one more. From compute capability 9.0 on a kernel
 * may be put on the multiprocessors while the one before it leaves them ("programmatic dependent launch"), if
 * it waits there for that one's end. */

/* The first thing in every kernel that launch() launches: what was queued before is done, and can be seen. */
__device__ inline void wait_for_earlier_work() {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/* Each `cluster` blocks that follow each other are on multiprocessors near each other at the same time, and
 * reach each other's shared memory: from compute capability 9.0 on, and for 8 blocks at most. */
template <typename... Parameters, typename... Arguments>
void launch_clusters(struct stream *stream, unsigned cluster, void (*kernel)(Parameters...), dim3 blocks,
                     unsigned threads, size_t shared_bytes, const char *what, Arguments... arguments) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t configuration = {};
    configuration.gridDim = blocks;
    configuration.blockDim = dim3(threads);
    configuration.dynamicSmemBytes = shared_bytes;
    configuration.stream = cuda_stream(stream);
    configuration.attrs = attributes;
    configuration.numAttrs = cuda_code(stream_device(stream)) < 90 ? 0 : cluster > 1 ? 2 : 1;
    CUDA_CHECK(cudaLaunchKernelEx(&configuration, kernel, Parameters(arguments)...), what);
}

template <typename... Parameters, typename... Arguments>
void launch(struct stream *stream, void (*kernel)(Parameters...), dim3 blocks, unsigned threads,
            size_t shared_bytes, const char *what, Arguments... arguments) {
    launch_clusters(stream, 1, kernel, blocks, threads, shared_bytes, what, arguments...);
}

/* ---- one element ---- */

__device__ inline float to_float(float value) {
    return value;
}
__device__ inline float to_float(__half value) {
    return __half2float(value);
}
/* By bits, as older toolkits have no conversions of bf16 for devices that do not compute with it. */
__device__ inline float to_float(__nv_bfloat16 value) {
    return __uint_as_float((unsigned)*reinterpret_cast<const unsigned short *>(&value) << 16);
}

template <typename T> __device__ inline T from_float(float value);
template <> __device__ inline float from_float<float>(float value) {
    return value;
}
template <> __device__ inline __half from_float<__half>(float value) {
    return __float2half_rn(value);
}
template <> __device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
#if __CUDA_ARCH__ >= 800
    return __float2bfloat16_rn(value);
#else
    const unsigned bits = __float_as_uint(value);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    const unsigned short half =
        (unsigned short)(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    return *reinterpret_cast<const __nv_bfloat16 *>(&half);
#endif
}

template <typename T> __device__ inline float load(const T *x) {
    return to_float(*x);
}
template <typename T> __device__ inline void store(T *x, float value) {
    *x = from_float<T>(value);
}

/* ---- several elements in one access ---- */

/* Elements in 16 bytes, the most that one access takes. */
template <typename T> constexpr int LANES = (int)(16 / sizeof(T));

template <typename T, int COUNT> struct alignas(COUNT * sizeof(T)) lanes { T values[COUNT]; };

/* x is aligned to COUNT elements; COUNT is 1 for memory of which nothing is known. */
template <typename T, int COUNT> __device__ inline void load_lanes(float (&out)[COUNT], const T *x) {
    const lanes<T, COUNT> vector = *reinterpret_cast<const lanes<T, COUNT> *>(x); /* one load, not COUNT */
#pragma unroll
    for (int i = 0; i < COUNT; i++) out[i] = to_float(vector.values[i]);
}
template <typename T, int COUNT> __device__ inline void store_lanes(T *x, const float (&values)[COUNT]) {
    lanes<T, COUNT> vector;
#pragma unroll
    for (int i = 0; i < COUNT; i++) vector.values[i] = from_float<T>(values[i]);
    *reinterpret_cast<lanes<T, COUNT> *>(x) = vector;
}

/* Can these be accessed 16 bytes at a time? (Host code; NULL counts as aligned.) */
static inline bool aligned16(const void *pointer) {
    return (uintptr_t)pointer % 16 == 0;
}
template <typename... Pointers> static inline bool aligned16(const void *pointer, Pointers... others) {
    return aligned16(pointer) && aligned16(others...);
}

/* ---- sums and maxima over a warp or block: the same bits on all threads, every time ---- */

__device__ inline float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}
__device__ inline double warp_sum(double value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffff, value, distance);
    return value;
}
__device__ inline float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, distance));
    return value;
}

/* Over a block of THREADS threads (a multiple of 32, at most 1024), all of which call it. */
template <int THREADS, typename Number> __device__ inline Number block_sum(Number value) {
    constexpr int WARPS = THREADS / 32;
    static_assert(THREADS % 32 == 0 && WARPS <= 32, "whole warps, at most 32");
    value = warp_sum(value);
    if (WARPS == 1) return value;
    __shared__ Number parts[WARPS];
    __syncthreads(); /* the last sum has been read */
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    const int lane = (int)(threadIdx.x % 32);
    return warp_sum(lane < WARPS ? parts[lane] : Number(0));
}

#endif
