/*
 * GELU in its tanh form and its derivative, as on the CPU (cpu/kernels/gelu.h): with
 * u = 0.79788456·x·(1 + 0.044715·x²), 0.5·(1 + tanh u) is the logistic function of 2u, which keeps its digits
 * where u is far below 0.
 *
 * T is the type in which results are stored. 16-bit results are computed with the special function unit's
 * exponential and quotient, wrong by some 2^-22: the kernels around them would else wait for arithmetic, not
 * for memory.
 */
#ifndef COMMON_DEVICE_CUDA_GELU_CUH
#define COMMON_DEVICE_CUDA_GELU_CUH

#include "common/device/cuda/cuda.cuh"

#define GELU_SLOPE (2.0f * 0.79788456f)
#define GELU_CUBE 0.044715f

template <typename T> __device__ inline float sigmoid(float x) {
    if constexpr (std::is_same_v<T, float>)
        return 1.0f / (1.0f + expf(-x));
    else
        return __fdividef(1.0f, 1.0f + __expf(-x));
}

/* The logistic function of 2u. */
template <typename T> __device__ inline float gelu_gate(float x) {
    return sigmoid<T>(GELU_SLOPE * x * fmaf(GELU_CUBE * x, x, 1.0f));
}

template <typename T> __device__ inline float gelu(float x) {
    return x * gelu_gate<T>(x);
}

/* gelu(x), the same bits, and its derivative. */
struct gelu_pair {
    float value, derivative;
};
template <typename T> __device__ inline gelu_pair gelu_and_derivative(float x) {
    const float gate = gelu_gate<T>(x), value = x * gate;
    const float slope = fmaf(3.0f * GELU_SLOPE * GELU_CUBE * x, x, GELU_SLOPE); /* of 2u */
    return {value, fmaf(value * (1.0f - gate), slope, gate)};
}

/* out [count] = gelu(x). Counts no work. */
void gelu_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count);

/* slope [rows,columns] becomes slope ∘ gelu'(pre), dbias [columns] (+)= its column sums, active = gelu(pre).
 * Counts no work. */
void gelu_backward(struct stream *stream, enum dtype dtype, void *slope, void *dbias, void *active,
                   const void *pre, size_t rows, size_t columns, bool accumulate);

#endif
