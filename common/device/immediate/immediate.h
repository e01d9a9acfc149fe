/*
 * The part of device.h that the CPU and the dry backend have in common: a device that does its work at once,
 * or not at all, so that streams and events have nothing to keep or wait for, and whose ledgers must agree to
 * the byte. Private to common/device.
 */
#ifndef COMMON_DEVICE_IMMEDIATE_IMMEDIATE_H
#define COMMON_DEVICE_IMMEDIATE_IMMEDIATE_H

#include <stdint.h>

#include "common/device/backend.h"
#include "common/device/cores.h"
#include "common/device/work.h"
#include "common/device/workspace.h"

struct device {
    struct device_options options;
    struct blocks memory, host;
    struct work work;
    char *name; /* malloc()ed */
    struct cores cores;
    float *workspace;       /* CPU_WORKSPACE_BYTES; NULL in FP32, or where a GPU is booked */
    uintptr_t next_address; /* dry */
};

struct stream {
    struct device *device;
    void *workspace; /* dry, where a GPU is booked: CUDA_WORKSPACE_BYTES; NULL until a kernel needs it */
};

/* What the two backends do differently, called by immediate.c: */

/* Sets name and cores, and opens the blocks of memory and host with their limits; options are set. */
void immediate_open(struct device *device);
/* A block, aligned to DEVICE_ALIGNMENT; NULL where there is no memory for it. */
void *immediate_get(struct device *device, size_t bytes);
void immediate_release(void *pointer);

#endif
