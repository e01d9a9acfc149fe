/*
 * GELU in its tanh form and its derivative, as on the CPU (cpu/kernels/gelu.h): with
 * u = 0.79788456·x·(1 + 0.044715·x²), 0.5·(1 + tanh u) is the logistic function of 2u, which keeps its digits
 * where u is far below 0.
 */
#ifndef COMMON_DEVICE_CUDA_GELU_CUH
#define COMMON_DEVICE_CUDA_GELU_CUH

#include "common/device/cuda/cuda.cuh"

#define GELU_SLOPE (2.0f * 0.79788456f)
#define GELU_CUBE 0.044715f

__device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__device__ inline float gelu(float x) {
    return x * sigmoid(GELU_SLOPE * x * (1.0f + GELU_CUBE * x * x));
}

__device__ inline float gelu_derivative(float x) {
    const float square = GELU_CUBE * x * x;
    const float s = sigmoid(GELU_SLOPE * x * (1.0f + square));
    return s + x * s * (1.0f - s) * (GELU_SLOPE * (1.0f + 3.0f * square));
}

/* x [count] of dtype becomes x ∘ gelu'(pre), where no product has it as its epilogue. Counts no work. */
void gelu_multiply_derivative(struct stream *stream, enum dtype dtype, void *x, const void *pre,
                              size_t count);
/* out [count] = gelu(x). Counts no work. */
void gelu_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count);

#endif
