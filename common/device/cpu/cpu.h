/*
 * Inside the CPU backend: what its kernels (cpu/kernels) may know of its device.
 *
 * A kernel does its work before it returns, with the threads that OpenMP gives by default: device_open() has
 * set their number and moved the process to its cores, so that a kernel names no number of threads. Its first
 * line counts it:
 *
 *     void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
 *         work_gelu_forward(stream, dtype, count);
 *         …
 *
 * Device memory is ordinary memory of this process, 256-byte aligned; large blocks are on huge pages where
 * the system has them.
 */
#ifndef COMMON_DEVICE_CPU_CPU_H
#define COMMON_DEVICE_CPU_CPU_H

#include "common/device/immediate/immediate.h"
#include "common/device/work.h"

/* Scratch for fp32 copies of half-precision operands: CPU_WORKSPACE_BYTES, 256-byte aligned, one for all
 * streams of the device, as each kernel ends before the next one begins; its content does not outlast a
 * kernel. NULL and 0 bytes on a device that was opened for FP32. */
float *cpu_workspace(struct stream *stream, size_t *bytes);

#endif
