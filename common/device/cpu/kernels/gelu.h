/*
 * GELU in its tanh form, for the kernels that need it or its derivative. Private to
 * common/device/cpu/kernels.
 *
 * With u = 0.79788456·x·(1 + 0.044715·x²), 0.5·(1 + tanh u) is the logistic function of 2u, which is how it
 * is computed here: without the difference that costs 1 + tanh(u) its digits where u is far below 0.
 */
#ifndef COMMON_DEVICE_CPU_KERNELS_GELU_H
#define COMMON_DEVICE_CPU_KERNELS_GELU_H

#include "common/device/cpu/kernels/vector.h"

#define GELU_SLOPE (2.0f * 0.79788456f)
#define GELU_CUBE 0.044715f

INLINE float gelu(float x) {
    return x * vector_sigmoid(GELU_SLOPE * x * (1.0f + GELU_CUBE * x * x));
}

INLINE float gelu_derivative(float x) {
    float square = GELU_CUBE * x * x;
    float s = vector_sigmoid(GELU_SLOPE * x * (1.0f + square));
    return s + x * s * (1.0f - s) * (GELU_SLOPE * (1.0f + 3.0f * square));
}

/* out [count] = gelu(x), all of dtype; on all threads. Counts no work. */
void gelu_elements(enum dtype dtype, void *out, const void *x, size_t count);

#endif
