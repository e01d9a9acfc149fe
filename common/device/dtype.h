/*
 * Element types, and what they are called in settings and safetensors files.
 */
#ifndef COMMON_DEVICE_DTYPE_H
#define COMMON_DEVICE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

enum dtype { FP32, BF16, FP16, FP64, INT32 };

/* Bytes of one element. */
size_t dtype_size(enum dtype dtype);
/* "fp32", "bf16", … : a string that lives forever. */
const char *dtype_name(enum dtype dtype);

/* One value, rounded to nearest even; a NaN stays one; what is too large for fp16 becomes infinite. */
uint16_t bf16_from_float(float value);
float bf16_to_float(uint16_t bits);
uint16_t fp16_from_float(float value);
float fp16_to_float(uint16_t bits);

/* out [count] of bits [count]: the same values, several at a time. */
void bf16_to_floats(float *out, const uint16_t *bits, size_t count);
void fp16_to_floats(float *out, const uint16_t *bits, size_t count);

#endif
