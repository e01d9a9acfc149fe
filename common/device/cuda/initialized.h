/*
 * Telling compute-sanitizer what has been written. Private to common/device/cuda.
 *
 * initcheck, compute-sanitizer's tool for reads of memory that nobody wrote, keeps account of the stores that
 * kernels make with ordinary instructions. From compute capability 9.0 on, cuBLASLt's kernels for half
 * precision store their results otherwise: they leave them in shared memory, and the tensor memory
 * accelerator copies them out. initcheck does not see that, and takes every later read of the result for an
 * error. So what such a product wrote is marked for it, through NVTX, and nothing else is. All other stores,
 * fp32's products among them, stay in initcheck's own account.
 *
 * A tool that can be told is there where it says so in the environment, as compute-sanitizer does unless its
 * option is --nvtx no. Without one nothing is marked, and nothing is done for it. CUDA's headers know the
 * mark from 12.8 on; built with older ones, the program marks nothing.
 */
#ifndef COMMON_DEVICE_CUDA_INITIALIZED_H
#define COMMON_DEVICE_CUDA_INITIALIZED_H

#include <stddef.h>

#include <cuda_runtime_api.h>

struct marks;

/* NULL where no tool wants to be told, or can be. After CUDA's first call, which compute-sanitizer waits for.
 */
struct marks *marks_open(void);

/* `marks` may be NULL. */
void marks_close(struct marks *marks);

/* What was queued on the stream last writes `rows` rows of `row_bytes` bytes in device memory, `stride_bytes`
 * from one to the next, and not what lies between them. Does nothing where `marks` is NULL. */
void mark_initialized(struct marks *marks, cudaStream_t stream, const void *first, size_t rows,
                      size_t row_bytes, size_t stride_bytes);

#endif
