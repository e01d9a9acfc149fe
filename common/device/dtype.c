#include "common/device/dtype.h"

#include <math.h>
#include <string.h>

#include "common/base/error.h"

size_t dtype_size(enum dtype dtype) {
    switch (dtype) {
    case FP32:
    case INT32:
        return 4;
    case BF16:
    case FP16:
        return 2;
    case FP64:
        return 8;
    }
    fail("element type %d is unknown: a mistake in this program", (int)dtype);
}

const char *dtype_name(enum dtype dtype) {
    switch (dtype) {
    case FP32:
        return "fp32";
    case BF16:
        return "bf16";
    case FP16:
        return "fp16";
    case FP64:
        return "fp64";
    case INT32:
        return "int32";
    }
    fail("element type %d is unknown: a mistake in this program", (int)dtype);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* bf16 is the upper half of an fp32: 8 exponent bits, 7 of the fraction. */

uint16_t bf16_from_float(float value) {
    uint32_t bits = bits_of(value);
    /* A NaN whose fraction lies in the lower half only would become infinity: keep it quiet, and a NaN. */
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    /* Half a unit of the last place kept, less one where that place is even: ties go to even. */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float bf16_to_float(uint16_t bits) {
    return float_of((uint32_t)bits << 16);
}

/* fp16 (IEEE 754 binary16): 5 exponent bits with bias 15, 10 of the fraction. */

/* The magnitude of an fp32 below 2⁻¹⁴, as a multiple of 2⁻²⁴: the bits of a subnormal fp16. */
static uint32_t fp16_subnormal(uint32_t magnitude) {
    uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return 0; /* below 2⁻²⁵, half of the smallest */
    uint32_t significand = (magnitude & 0x7fffff) | 0x800000;
    uint32_t shift = 126 - exponent; /* 14 … 24 */
    uint32_t kept = significand >> shift, lost = significand & ((1u << shift) - 1), half = 1u << (shift - 1);
    return kept + (lost > half || (lost == half && (kept & 1)));
}

uint16_t fp16_from_float(float value) {
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
    uint32_t sign = bits >> 16 & 0x8000;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65,520: half-way beyond the largest */
    if (magnitude < 0x38800000) return (uint16_t)(sign | fp16_subnormal(magnitude));
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
}

float fp16_to_float(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, magnitude = bits & 0x7fff;
    if (magnitude >= 0x7c00) return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x0400) return copysignf((float)magnitude * 0x1p-24f, float_of(sign));
    return float_of(sign | ((magnitude << 13) + (112u << 23)));
}
