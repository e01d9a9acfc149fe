/*
 * A device without memory. Its blocks have addresses, distinct and aligned, in a range where no program has
 * memory: code may compare them and add to them, and is stopped by the system where it reads or writes.
 */
#include <string.h>

#include "common/base/error.h"
#include "common/device/immediate/immediate.h"

_Static_assert(sizeof(void *) == 8,
               "the dry backend needs 64-bit addresses: a large model does not fit into 32");

/* User programs have at most 57 bits of address space. */
#define FIRST_ADDRESS ((uintptr_t)1 << 62)

bool device_computes(void) {
    return false;
}

void immediate_open(struct device *device) {
    device->name = xstrdup("dry (memory and work counted, nothing computed)");
    device->cores.threads = device->options.threads > 0 ? device->options.threads : 1;
    device->cores.text = xstrdup("no cores: nothing is computed");
    device->next_address = FIRST_ADDRESS;
    blocks_open(&device->memory, "device", device->options.memory_limit);
    blocks_open(&device->host, "host", 0);
}

/* Addresses are never given twice: one that is used after it was freed is found in no table. A gap after each
 * block keeps its end from being the next one's beginning, also where it has no bytes. */
void *immediate_get(struct device *device, size_t bytes) {
    if (bytes > UINTPTR_MAX - device->next_address - 2 * DEVICE_ALIGNMENT) return NULL;
    void *pointer = (void *)device->next_address;
    device->next_address += (bytes / DEVICE_ALIGNMENT + 2) * DEVICE_ALIGNMENT;
    return pointer;
}

void immediate_release(void *pointer) {
    (void)pointer;
}

/* ---- copies ---- */

void copy_to_device(struct stream *stream, void *device, const void *host, size_t bytes) {
    (void)device;
    (void)host;
    work_copy_host(stream, bytes);
}

void copy_to_host(struct stream *stream, void *host, const void *device, size_t bytes) {
    (void)device;
    work_copy_host(stream, bytes);
    bool is_memory = (uintptr_t)host < FIRST_ADDRESS; /* and not host_alloc()'s */
    if (bytes && is_memory) memset(host, 0, bytes);
}

void copy_on_device(struct stream *stream, void *to, const void *from, size_t bytes) {
    (void)to;
    (void)from;
    work_copy_device(stream, bytes);
}

void fill_zero(struct stream *stream, void *device, size_t bytes) {
    (void)device;
    work_fill_zero(stream, bytes);
}
