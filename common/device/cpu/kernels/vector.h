/*
 * What the hot loops of the CPU kernels are made of: elements of any storage type as fp32, and an exp that
 * the compiler can vectorise. Private to common/device/cpu/kernels.
 *
 * How a kernel is built, from the outside in:
 *
 *   1. the function of kernels.h counts its work and cuts it into pieces of a fixed size in an OpenMP loop:
 *      no piece, hence no sum, depends on the number of threads;
 *   2. a HOT function does one piece. It is compiled for several instruction sets, of which the program picks
 *      the best that the processor has when it starts. (This is why step 1 is not HOT itself: a compiler does
 * not carry that into the body of an OpenMP loop.) It picks the type of its elements with FOR_DTYPE;
 *   3. an INLINE function, in which the type is a constant by then, is a plain loop under `#pragma omp simd`,
 *      which allows the compiler to split a sum among the lanes of a vector. It reads with load() and writes
 *      with store().
 *
 * Nothing here is fused multiply-add (the build says -ffp-contract=off), so what is computed element by
 * element is the same on every machine; the order inside a sum depends on how wide the machine's vectors are.
 */
#ifndef COMMON_DEVICE_CPU_KERNELS_VECTOR_H
#define COMMON_DEVICE_CPU_KERNELS_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/dtype.h"

/* The sanitizers cannot live with functions that are picked before they start, nor can a C library without
 * indirect functions. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute) && !defined(WORKSHOP_SANITIZE)
#if __has_attribute(target_clones)
#if defined(__clang__)
#define HOT __attribute__((target_clones("avx512bw", "avx2", "default")))
#elif __GNUC__ >= 12
#define HOT __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HOT __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#endif
#endif
#ifndef HOT
#define HOT
#endif

#define INLINE static inline __attribute__((always_inline))

/* Elements that one HOT call works on, where elements are independent: 64 KiB of fp32. */
#define PIECE ((size_t)16384)

/* Calls function(DTYPE, …) with the storage type as a constant. */
#define FOR_DTYPE(dtype, function, ...)                                                                      \
    do {                                                                                                     \
        switch (dtype) {                                                                                     \
        case FP32:                                                                                           \
            function(FP32, __VA_ARGS__);                                                                     \
            break;                                                                                           \
        case BF16:                                                                                           \
            function(BF16, __VA_ARGS__);                                                                     \
            break;                                                                                           \
        case FP16:                                                                                           \
            function(FP16, __VA_ARGS__);                                                                     \
            break;                                                                                           \
        default:                                                                                             \
            fail("%s: not for elements of type %s", __func__, dtype_name(dtype));                            \
        }                                                                                                    \
    } while (0)

INLINE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- half precision, without branches; the same bits as dtype.h's functions ---- */

INLINE float float_of_bf16(uint16_t bits) {
    return float_of_bits((uint32_t)bits << 16);
}

INLINE uint16_t bf16_of_float(float value) {
    uint32_t bits = bits_of_float(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t nan = (bits >> 16) | 0x40u; /* rounding could carry a NaN into infinity */
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

INLINE float float_of_fp16(uint16_t half) {
    uint32_t magnitude = half & 0x7fffu, sign = (uint32_t)(half & 0x8000u) << 16;
    /* Exponents differ by 112 in their bias; a product, so that subnormal numbers come out right. */
    uint32_t finite = bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f);
    uint32_t special = (magnitude << 13) | 0x7f800000u; /* infinity, NaN */
    return float_of_bits(sign | (magnitude >= 0x7c00u ? special : finite));
}

INLINE uint16_t fp16_of_float(float value) {
    uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    /* Below 2^-14, fp16 counts in steps of 2^-24, which is what fp32 has between 0.5 and 1: the sum rounds.
     */
    uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : 0x7c00u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return (uint16_t)(sign | (magnitude >= 0x47800000u ? special : finite)); /* 65536 and more: infinite */
}

/* Element i of an array of dtype (FP32, BF16, FP16), which is to be a constant. */
INLINE float load(enum dtype dtype, const void *array, size_t i) {
    switch (dtype) {
    case BF16:
        return float_of_bf16(((const uint16_t *)array)[i]);
    case FP16:
        return float_of_fp16(((const uint16_t *)array)[i]);
    default:
        return ((const float *)array)[i];
    }
}

INLINE void store(enum dtype dtype, void *array, size_t i, float value) {
    switch (dtype) {
    case BF16:
        ((uint16_t *)array)[i] = bf16_of_float(value);
        break;
    case FP16:
        ((uint16_t *)array)[i] = fp16_of_float(value);
        break;
    default:
        ((float *)array)[i] = value;
    }
}

/* Address of element i. */
INLINE void *element(enum dtype dtype, void *array, size_t i) {
    return (char *)array + i * (dtype == FP32 ? 4 : 2);
}

INLINE const void *const_element(enum dtype dtype, const void *array, size_t i) {
    return (const char *)array + i * (dtype == FP32 ? 4 : 2);
}

INLINE size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* ---- functions ---- */

/* e^x within 1 ulp (2 where the result is subnormal); 0 and infinity outside fp32's range; a NaN stays one.
 * x = k·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a minimax polynomial, made for this range by weighted least
 * squares (Lawson's iteration). */
INLINE float vector_exp(float x) {
    const float round = 0x1.8p23f; /* adding it leaves no bits below 1 */
    float clamped = x < -104.0f ? -104.0f : x;
    clamped = clamped > 89.0f ? 89.0f : clamped;
    float shifted = clamped * 0x1.715476p+0f + round;
    float k = shifted - round;
    float r =
        (clamped - k * 0x1.62ep-1f) - k * 0x1.0bfbe8p-15f; /* ln 2 in two parts: k · the first is exact */
    float p = 0x1.6a2318p-10f;
    p = p * r + 0x1.123a8ep-7f;
    p = p * r + 0x1.5558f6p-5f;
    p = p * r + 0x1.555490p-3f;
    p = p * r + 0x1.fffffcp-2f;
    float y = 1.0f + (r + r * r * p);
    /* 2^k as a product of two, each of which fp32 has; k + 256 is positive, so that its half is a shift. */
    uint32_t biased = bits_of_float(shifted) - bits_of_float(round) + 256u;
    uint32_t half = biased >> 1;
    return y * float_of_bits((half - 1u) << 23) * float_of_bits((biased - half - 1u) << 23);
}

/* 1 / (1 + e^-x), within 3 ulp. */
INLINE float vector_sigmoid(float x) {
    return 1.0f / (1.0f + vector_exp(-x));
}

#endif
