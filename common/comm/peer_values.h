/*
 * Numbers in memory that a stream writes, or waits for, when its turn comes: by the GPU's front end, without
 * a kernel and without the host. The memory is a GPU's own, a peer's that this one reaches, or the host's,
 * page-locked.
 *
 * These are functions of the driver (cuStreamWriteValue32, cuStreamWaitValue32), looked up when they are
 * needed: a login node, where the programs are built and asked for --help, has no driver to link with.
 */
#ifndef COMMON_COMM_PEER_VALUES_H
#define COMMON_COMM_PEER_VALUES_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

/* Does the driver have them? */
bool stream_values_work(void);
/* Writes `value` when all that was queued on `stream` before is done, and can be seen by all GPUs and the
 * host. */
void stream_write_value(cudaStream_t stream, volatile uint32_t *number, uint32_t value);
/* What is queued on `stream` from now on waits until the number is `value` or more. */
void stream_await_value(cudaStream_t stream, volatile uint32_t *number, uint32_t value);

#endif
