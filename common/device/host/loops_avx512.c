/* 16 elements at a time: AVX-512's foundation, of Intel's Xeons since 2017 and AMD's since Zen 4. */
#include <immintrin.h>

#include "common/device/cpu/kernels/vector.h"

enum { LANES = 16 };
typedef __m512 vector;
#define LOOP

INLINE vector broadcast(float value) {
    return _mm512_set1_ps(value);
}

INLINE vector square_root(vector x) {
    return _mm512_sqrt_ps(x);
}

INLINE vector get(enum dtype dtype, const void *array, size_t i) {
    if (dtype == FP32) return _mm512_loadu_ps((const float *)array + i);
    __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)((const uint16_t *)array + i));
    if (dtype == FP16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* As vector.h's bf16_of_float(). The processor's own conversion would take subnormal numbers for zero. */
INLINE __m256i bf16_of(vector x) {
    __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __m512i nan = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(is_nan, _mm512_srli_epi32(rounded, 16), nan));
}

INLINE __m256i halves_of(enum dtype dtype, vector x) {
    return dtype == FP16 ? _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) : bf16_of(x);
}

INLINE void put(enum dtype dtype, void *array, size_t i, vector x) {
    if (dtype == FP32)
        _mm512_storeu_ps((float *)array + i, x);
    else
        _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)array + i), halves_of(dtype, x));
}

INLINE void put_past_cache(enum dtype dtype, void *array, size_t i, vector x) {
    if (dtype == FP32)
        _mm512_stream_ps((float *)array + i, x);
    else
        _mm256_stream_si256((__m256i *)(void *)((uint16_t *)array + i), halves_of(dtype, x));
}

INLINE void fence(void) {
    _mm_sfence();
}

#include "common/device/host/loops_body.h"

INLINE __m512d squared(__m512d x) {
    return x * x; /* exact: an fp32 squared fits an fp64 */
}

INLINE void squares_loop(enum dtype dtype, const void *array, size_t first, size_t end, double *sums) {
    __m512d lower = _mm512_loadu_pd(sums), upper = _mm512_loadu_pd(sums + 8);
    for (size_t i = first; i < end; i += SQUARE_LANES) {
        vector x = get(dtype, array, i);
        __m256 second = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
        lower += squared(_mm512_cvtps_pd(_mm512_castps512_ps256(x)));
        upper += squared(_mm512_cvtps_pd(second));
    }
    _mm512_storeu_pd(sums, lower);
    _mm512_storeu_pd(sums + 8, upper);
}

static void loops_squares(enum dtype dtype, const void *x, size_t first, size_t end,
                          double sums[SQUARE_LANES]) {
    FOR_DTYPE(dtype, squares_loop, x, first, end, sums);
}

const struct host_loops *host_loops_avx512(void) {
    static const struct host_loops loops = {
        .name = "avx512",
        .lanes = LANES,
        .adamw = loops_adamw,
        .accumulate = loops_accumulate,
        .squares = loops_squares,
    };
    return __builtin_cpu_supports("avx512f") ? &loops : NULL;
}
