/*
 * Adding, filling and converting: elements of which each is a function of its index, or of the inputs there,
 * alone.
 */
#include <math.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/vector.h"

INLINE void narrow_loop(enum dtype dtype, void *out, const float *x, size_t first, size_t end) {
#pragma omp simd
    for (size_t i = first; i < end; i++) store(dtype, out, i, x[i]);
}

INLINE void widen_loop(enum dtype dtype, float *out, const void *x, size_t first, size_t end) {
#pragma omp simd
    for (size_t i = first; i < end; i++) out[i] = load(dtype, x, i);
}

/* BF16 to FP16 or back: a piece at a time through fp32, of which both are subsets. */
INLINE void change_loop(enum dtype dtype, void *out, enum dtype out_dtype, const void *x, size_t first,
                        size_t end) {
#pragma omp simd
    for (size_t i = first; i < end; i++) store(out_dtype, out, i, load(dtype, x, i));
}

HOT static void convert_piece(enum dtype out_dtype, void *out, enum dtype dtype, const void *x, size_t first,
                              size_t end) {
    if (dtype == out_dtype)
        memcpy(element(dtype, out, first), const_element(dtype, x, first), (end - first) * dtype_size(dtype));
    else if (dtype == FP32)
        FOR_DTYPE(out_dtype, narrow_loop, out, x, first, end);
    else if (out_dtype == FP32)
        FOR_DTYPE(dtype, widen_loop, out, x, first, end);
    else if (dtype == BF16)
        change_loop(BF16, out, FP16, x, first, end);
    else
        change_loop(FP16, out, BF16, x, first, end);
}

void convert(struct stream *stream, enum dtype out_dtype, void *out, enum dtype dtype, const void *x,
             size_t count) {
    work_convert(stream, out_dtype, dtype, count);
    if (dtype > FP16 || out_dtype > FP16)
        fail("convert: from %s to %s is not offered", dtype_name(dtype), dtype_name(out_dtype));
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (size_t i = 0; i < count; i += PIECE)
        convert_piece(out_dtype, out, dtype, x, i, smaller(i + PIECE, count));
}

INLINE void add_loop(enum dtype dtype, void *out, const void *x, size_t first, size_t end) {
#pragma omp simd
    for (size_t i = first; i < end; i++) store(dtype, out, i, load(dtype, out, i) + load(dtype, x, i));
}

HOT static void add_piece(enum dtype dtype, void *out, const void *x, size_t first, size_t end) {
    FOR_DTYPE(dtype, add_loop, out, x, first, end);
}

void add_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_add_elements(stream, dtype, count);
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (size_t i = 0; i < count; i += PIECE) add_piece(dtype, out, x, i, smaller(i + PIECE, count));
}

HOT static void fill_piece(float *out, float value, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) out[i] = value;
}

void fill_value(struct stream *stream, float *out, float value, size_t count) {
    work_fill(stream, count);
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (size_t i = 0; i < count; i += PIECE) fill_piece(out + i, value, smaller(PIECE, count - i));
}

/* ---- normal values ---- */

#define GOLDEN_GAMMA UINT64_C(0x9e3779b97f4a7c15)

/* The mixing function of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
 * 2014). Draw number i of a generator that starts at `state` is mix(state + (i + 1)·GOLDEN_GAMMA), so that
 * any element can be computed without those before it. */
INLINE uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* −ln x of a normal x > 0, within 1e-7 of it (relative, or absolute near 1): x = 2^k · f with f within √½ …
 * √2, and ln f = 2·atanh(s) with s = (f − 1)/(f + 1), by its series up to s^9. */
INLINE float minus_log(float x) {
    const uint32_t root_half = 0x3f3504f3u;
    uint32_t above = bits_of_float(x) - root_half + (127u << 23);
    float k = (float)((int32_t)(above >> 23) - 127);
    float f = float_of_bits(bits_of_float(x) - ((above >> 23) << 23) + (127u << 23));
    float s = (f - 1.0f) / (f + 1.0f), square = s * s;
    float series = square * (1.0f / 3 + square * (1.0f / 5 + square * (1.0f / 7 + square * (1.0f / 9))));
    return -(k * 0.693147181f + 2.0f * (s + s * series));
}

/* cos(2π·turn) for |turn| ≤ ½, within 1e-7: the sine of the angle's distance from a quarter turn, by its
 * Taylor series up to x^13. */
INLINE float cos_of_turn(float turn) {
    float x = 6.28318531f * (0.25f - fabsf(turn)), square = x * x;
    float series = -1.0f / 39916800 + square * (1.0f / 6227020800.0f);
    series = 1.0f / 362880 + square * series;
    series = -1.0f / 5040 + square * series;
    series = 1.0f / 120 + square * series;
    series = -1.0f / 6 + square * series;
    return x + x * square * series;
}

/* Box and Muller 1958, with both uniform values from one draw of 64 bits. The largest value there is: 6.8. */
HOT static void normal_piece(float *out, uint64_t state, size_t count, float deviation) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint64_t draw = mix(state + (i + 1) * GOLDEN_GAMMA);
        float uniform = ((float)(uint32_t)(draw >> 32) + 0.5f) * 0x1p-32f;
        float turn = (float)(int32_t)(uint32_t)draw * 0x1p-32f;
        out[i] = deviation * (sqrtf(2.0f * fabsf(minus_log(uniform))) * cos_of_turn(turn));
    }
}

void fill_normal(struct stream *stream, float *out, uint64_t seed, uint64_t tensor, size_t first,
                 size_t count, float deviation) {
    work_fill(stream, count);
    uint64_t key = mix(mix(seed + GOLDEN_GAMMA) + tensor * GOLDEN_GAMMA);
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (size_t i = 0; i < count; i += PIECE)
        normal_piece(out + i, key + (first + i) * GOLDEN_GAMMA, smaller(PIECE, count - i), deviation);
}
