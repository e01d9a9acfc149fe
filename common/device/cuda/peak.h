/*
 * What vendors' data sheets promise: dense matrix products (no sparsity, fp32 sums), FLOP/s.
 */
#ifndef COMMON_DEVICE_CUDA_PEAK_H
#define COMMON_DEVICE_CUDA_PEAK_H

#include "common/device/dtype.h"

/* Peak rate of the GPU of this name (as CUDA gives it) and compute capability (10 · major + minor) in this
 * precision, FP32 without TF32; 0 where it is not known. */
double peak_flops(const char *name, int capability, enum dtype dtype);

#endif
