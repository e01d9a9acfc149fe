/*
 * Adding, filling and converting: elements of which each is a function of its index, or of the inputs there,
 * alone.
 *
 * Compiled without fused multiply-adds, as the CPU's: normal values then have the same bits on both.
 */
#include "common/device/cuda/cuda.cuh"

enum { THREADS = 256 };

template <typename Out, typename T, int V>
__global__ void __launch_bounds__(THREADS) convert_kernel(Out *out, const T *x, size_t count) {
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (first + V <= count) {
        float values[V];
        load_lanes(values, x + first);
        store_lanes(out + first, values);
    } else {
        for (size_t i = first; i < count; i++) store(&out[i], load(&x[i]));
    }
}

void convert(struct stream *stream, enum dtype out_dtype, void *out, enum dtype dtype, const void *x,
             size_t count) {
    work_convert(stream, out_dtype, dtype, count);
    if (count == 0) return;
    cudaStream_t on = cuda_stream(stream);
    if (dtype == out_dtype) {
        CUDA_CHECK(cudaMemcpyAsync(out, x, count * dtype_size(dtype), cudaMemcpyDeviceToDevice, on),
                   "convert");
        return;
    }
    for_dtype(dtype, [&](auto zero) {
        for_dtype(out_dtype, [&](auto out_zero) {
            using T = decltype(zero);
            using Out = decltype(out_zero);
            if (aligned16(out, x))
                convert_kernel<Out, T, 4>
                    <<<blocks_for(count, THREADS * 4), THREADS, 0, on>>>((Out *)out, (const T *)x, count);
            else
                convert_kernel<Out, T, 1>
                    <<<blocks_for(count, THREADS), THREADS, 0, on>>>((Out *)out, (const T *)x, count);
        });
    });
    CUDA_LAUNCHED("convert");
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) add_kernel(T *out, const T *x, size_t count) {
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (first + V <= count) {
        float sums[V], values[V];
        load_lanes(sums, out + first);
        load_lanes(values, x + first);
        for (int i = 0; i < V; i++) sums[i] += values[i];
        store_lanes(out + first, sums);
    } else {
        for (size_t i = first; i < count; i++) store(&out[i], load(&out[i]) + load(&x[i]));
    }
}

void add_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_add_elements(stream, dtype, count);
    if (count == 0) return;
    cudaStream_t on = cuda_stream(stream);
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int lanes = 16 / (int)sizeof(T);
        if (aligned16(out, x))
            add_kernel<T, lanes>
                <<<blocks_for(count, THREADS * lanes), THREADS, 0, on>>>((T *)out, (const T *)x, count);
        else
            add_kernel<T, 1><<<blocks_for(count, THREADS), THREADS, 0, on>>>((T *)out, (const T *)x, count);
    });
    CUDA_LAUNCHED("add_elements");
}

__global__ void __launch_bounds__(THREADS) value_kernel(float *out, float value, size_t count) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = value;
}

cudaError_t cuda_probe_kernels(int *code) {
    struct cudaFuncAttributes attributes = {};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, (const void *)value_kernel);
    *code = attributes.ptxVersion;
    return error;
}

void fill_value(struct stream *stream, float *out, float value, size_t count) {
    work_fill(stream, count);
    if (count == 0) return;
    value_kernel<<<blocks_for(count, THREADS), THREADS, 0, cuda_stream(stream)>>>(out, value, count);
    CUDA_LAUNCHED("fill_value");
}

/* ---- normal values: step by step what cpu/kernels/fill.c does, where the formulas are explained ---- */

#define GOLDEN_GAMMA UINT64_C(0x9e3779b97f4a7c15)

__host__ __device__ static inline uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* −ln x of a normal x > 0. */
__device__ static inline float minus_log(float x) {
    const uint32_t root_half = 0x3f3504f3u, bits = __float_as_uint(x);
    const uint32_t above = bits - root_half + (127u << 23);
    const float k = (float)((int32_t)(above >> 23) - 127);
    const float f = __uint_as_float(bits - ((above >> 23) << 23) + (127u << 23));
    const float s = (f - 1.0f) / (f + 1.0f), square = s * s;
    const float series =
        square * (1.0f / 3 + square * (1.0f / 5 + square * (1.0f / 7 + square * (1.0f / 9))));
    return -(k * 0.693147181f + 2.0f * (s + s * series));
}

/* cos(2π·turn) for |turn| ≤ ½. */
__device__ static inline float cos_of_turn(float turn) {
    const float x = 6.28318531f * (0.25f - fabsf(turn)), square = x * x;
    float series = -1.0f / 39916800 + square * (1.0f / 6227020800.0f);
    series = 1.0f / 362880 + square * series;
    series = -1.0f / 5040 + square * series;
    series = 1.0f / 120 + square * series;
    series = -1.0f / 6 + square * series;
    return x + x * square * series;
}

/* Box and Muller 1958. */
__global__ void __launch_bounds__(THREADS)
    normal_kernel(float *out, uint64_t state, size_t count, float deviation) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= count) return;
    const uint64_t draw = mix(state + (i + 1) * GOLDEN_GAMMA);
    const float uniform = ((float)(uint32_t)(draw >> 32) + 0.5f) * 0x1p-32f;
    const float turn = (float)(int32_t)(uint32_t)draw * 0x1p-32f;
    out[i] = deviation * (sqrtf(2.0f * fabsf(minus_log(uniform))) * cos_of_turn(turn));
}

void fill_normal(struct stream *stream, float *out, uint64_t seed, uint64_t tensor, size_t first,
                 size_t count, float deviation) {
    work_fill(stream, count);
    if (count == 0) return;
    const uint64_t key = mix(mix(seed + GOLDEN_GAMMA) + tensor * GOLDEN_GAMMA) + first * GOLDEN_GAMMA;
    normal_kernel<<<blocks_for(count, THREADS), THREADS, 0, cuda_stream(stream)>>>(out, key, count,
                                                                                   deviation);
    CUDA_LAUNCHED("fill_normal");
}
