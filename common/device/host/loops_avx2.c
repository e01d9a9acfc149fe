/* 8 elements at a time: AVX2 and F16C (conversion from and to fp16), of nearly all processors since 2013. */
#include <cpuid.h>
#include <immintrin.h>

#include "common/device/cpu/kernels/vector.h"

enum { LANES = 8 };
typedef __m256 vector;
#define LOOP

INLINE vector broadcast(float value) {
    return _mm256_set1_ps(value);
}

INLINE vector square_root(vector x) {
    return _mm256_sqrt_ps(x);
}

INLINE vector get(enum dtype dtype, const void *array, size_t i) {
    if (dtype == FP32) return _mm256_loadu_ps((const float *)array + i);
    __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)array + i));
    if (dtype == FP16) return _mm256_cvtph_ps(halves);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/* As vector.h's bf16_of_float(). */
INLINE __m128i bf16_of(vector x) {
    __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i lanes = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), nan, is_nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
}

INLINE __m128i halves_of(enum dtype dtype, vector x) {
    return dtype == FP16 ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : bf16_of(x);
}

INLINE void put(enum dtype dtype, void *array, size_t i, vector x) {
    if (dtype == FP32)
        _mm256_storeu_ps((float *)array + i, x);
    else
        _mm_storeu_si128((__m128i *)(void *)((uint16_t *)array + i), halves_of(dtype, x));
}

INLINE void put_past_cache(enum dtype dtype, void *array, size_t i, vector x) {
    if (dtype == FP32)
        _mm256_stream_ps((float *)array + i, x);
    else
        _mm_stream_si128((__m128i *)(void *)((uint16_t *)array + i), halves_of(dtype, x));
}

INLINE void fence(void) {
    _mm_sfence();
}

#include "common/device/host/loops_body.h"

/* Four of the sixteen lanes. */
INLINE __m256d add_squares(__m256d sum, __m128 x) {
    __m256d wide = _mm256_cvtps_pd(x);
    return sum + wide * wide; /* the product is exact: an fp32 squared fits an fp64 */
}

INLINE void squares_loop(enum dtype dtype, const void *array, size_t first, size_t end, double *sums) {
    __m256d parts[4];
    for (int p = 0; p < 4; p++) parts[p] = _mm256_loadu_pd(sums + 4 * p);
    for (size_t i = first; i < end; i += SQUARE_LANES) {
        vector low = get(dtype, array, i), high = get(dtype, array, i + LANES);
        parts[0] = add_squares(parts[0], _mm256_castps256_ps128(low));
        parts[1] = add_squares(parts[1], _mm256_extractf128_ps(low, 1));
        parts[2] = add_squares(parts[2], _mm256_castps256_ps128(high));
        parts[3] = add_squares(parts[3], _mm256_extractf128_ps(high, 1));
    }
    for (int p = 0; p < 4; p++) _mm256_storeu_pd(sums + 4 * p, parts[p]);
}

static void loops_squares(enum dtype dtype, const void *x, size_t first, size_t end,
                          double sums[SQUARE_LANES]) {
    FOR_DTYPE(dtype, squares_loop, x, first, end, sums);
}

/* Not every compiler's __builtin_cpu_supports() knows F16C by name. */
static bool has_f16c(void) {
    unsigned int eax, ebx, ecx = 0, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

const struct host_loops *host_loops_avx2(void) {
    static const struct host_loops loops = {
        .name = "avx2",
        .lanes = LANES,
        .adamw = loops_adamw,
        .accumulate = loops_accumulate,
        .squares = loops_squares,
    };
    return __builtin_cpu_supports("avx2") && has_f16c() ? &loops : NULL;
}
