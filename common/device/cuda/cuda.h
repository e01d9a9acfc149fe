/*
 * Inside the CUDA backend: what its kernels and NCCL may know of its device and streams. For C and, through
 * cuda.cuh, for CUDA C++. Private to common/device/cuda and common/comm/nccl*.c.
 *
 * A kernel of kernels.h first counts its work, then launches on cuda_stream(stream):
 *
 *     void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
 *         work_gelu_forward(stream, dtype, count);
 *         if (count == 0) return;          (a grid of no blocks is an error)
 *         launch(stream, gelu_kernel<…>, blocks, threads, 0, "gelu", …);
 *
 * launch() is in cuda.cuh. Kernels that run seldom are launched by <<<…>>> on cuda_stream(stream), and
 * CUDA_LAUNCHED() after it.
 *
 * Nothing here waits for the device unless its comment says so.
 */
#ifndef COMMON_DEVICE_CUDA_CUDA_H
#define COMMON_DEVICE_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "common/base/error.h"
#include "common/device/device.h"
#include "common/device/work.h"
#include "common/device/workspace.h"

/* Ends the job with the runtime's words, what was being done, and what to do. Use the macro. */
#define CUDA_CHECK(call, what) cuda_check((call), (what))
void cuda_check(cudaError_t code, const char *what);
/* After a launch: fails where its configuration was refused (an error inside the kernel shows later). */
#define CUDA_LAUNCHED(kernel) cuda_check(cudaGetLastError(), (kernel))

cudaStream_t cuda_stream(const struct stream *stream);
cudaEvent_t cuda_event(const struct event *event);
/* The number of the device for cudaSetDevice(), which other threads than the one that opened it must call. */
int cuda_ordinal(const struct device *device);
/* Compute capability as 10 · major + minor: 80 for an A100, 90 for an H100. */
int cuda_capability(const struct device *device);
/* The one that this program's kernels are compiled for (__CUDA_ARCH__ / 10), where they run on this device: a
 * lower one where the driver has translated code for an older GPU, which lacks what that does not have. */
int cuda_code(const struct device *device);

/* Finds cuda_code() of the current device. An error where this program holds no code that it can run. */
cudaError_t cuda_probe_kernels(int *code);

/* Scratch of a stream's kernels, 256-byte aligned: cuBLASLt's workspace and partial sums. Its content does
 * not outlast a kernel of kernels.h. Booked under buffers when a stream first needs it, and of one size
 * always (CUDA_WORKSPACE_BYTES), as the algorithms that cuBLASLt chooses depend on it. */
void *cuda_workspace(struct stream *stream);

/* A place where product_plans.cu keeps the library handle and plans: NULL at first. `close` is called with
 * it when the device is closed. */
void **cuda_products(struct stream *stream, void (*close)(void *products));

#endif
