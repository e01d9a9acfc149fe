#include "common/device/dtype.h"

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
    float value;
    fp16_to_floats(&value, &bits, 1);
    return value;
}

void bf16_to_floats(float *restrict out, const uint16_t *restrict bits, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = float_of((uint32_t)bits[i] << 16);
}

/* Without a branch, so that compilers make it vector instructions. */
void fp16_to_floats(float *restrict out, const uint16_t *restrict bits, size_t count) {
    const uint32_t rebias = 112u << 23; /* from fp16's exponent bias, 15, to fp32's, 127 */
    for (size_t i = 0; i < count; i++) {
        uint32_t sign = (uint32_t)(bits[i] & 0x8000) << 16, magnitude = bits[i] & 0x7fff;
        uint32_t normal = (magnitude << 13) + rebias;
        uint32_t infinite = normal + rebias; /* exponent 31 becomes 255; a NaN keeps its fraction */
        uint32_t subnormal = bits_of((float)(int32_t)magnitude * 0x1p-24f);
        uint32_t finite = magnitude < 0x0400 ? subnormal : normal;
        out[i] = float_of(sign | (magnitude < 0x7c00 ? finite : infinite));
    }
}
