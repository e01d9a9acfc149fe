#include "common/device/immediate/immediate.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/error.h"

struct device *device_open(const struct device_options *options) {
    struct device *device = xcalloc(1, sizeof *device);
    device->options = *options;
    immediate_open(device);
    bool books_gpu = !device_computes() && options->dry_gpu;
    if (options->dtype != FP32 && !books_gpu)
        device->workspace =
            device_alloc(device, BUFFERS, CPU_WORKSPACE_BYTES, "workspace of half-precision products");
    return device;
}

void device_close(struct device *device) {
    blocks_close(&device->memory, immediate_release);
    blocks_close(&device->host, immediate_release);
    free(device->name);
    cores_free(&device->cores);
    free(device);
}

int device_count(void) {
    return INT_MAX;
}

const char *device_backend(void) {
    return WORKSHOP_BACKEND;
}

const char *device_name(const struct device *device) {
    return device->name;
}

int device_cores(const struct device *device) {
    return device->cores.threads;
}

const char *device_cores_text(const struct device *device) {
    return device->cores.text;
}

const char *device_cores_warning(const struct device *device) {
    return device->cores.warning;
}

/* Not known: it depends on vector units and on clocks under load, which no system call tells. */
double device_peak_flops(const struct device *device, enum dtype dtype) {
    (void)device;
    (void)dtype;
    return 0;
}

size_t device_bytes_outside_ledger(const struct device *device) {
    (void)device;
    return 0;
}

size_t device_bytes_in_use(const struct device *device) {
    return atomic_load_explicit(&device->memory.in_use, memory_order_relaxed);
}

/* ---- memory ---- */

static void *get_block(struct device *device, struct blocks *blocks, enum heading heading, size_t bytes,
                       const char *what) {
    blocks_check(blocks, heading, bytes, what);
    void *pointer = immediate_get(device, bytes);
    if (!pointer) blocks_full(blocks, heading, bytes, what);
    blocks_add(blocks, pointer, heading, bytes);
    return pointer;
}

static void free_block(struct blocks *blocks, void *pointer) {
    if (!pointer) return;
    blocks_remove(blocks, pointer);
    immediate_release(pointer);
}

void *device_alloc(struct device *device, enum heading heading, size_t bytes, const char *what) {
    return get_block(device, &device->memory, heading, bytes, what);
}

void device_free(struct device *device, void *pointer) {
    free_block(&device->memory, pointer);
}

void *host_alloc(struct device *device, enum heading heading, size_t bytes, bool pinned, const char *what) {
    (void)pinned; /* the same memory as the device's */
    return get_block(device, &device->host, heading, bytes, what);
}

void host_free(struct device *device, void *pointer) {
    free_block(&device->host, pointer);
}

const struct ledger *device_ledger(const struct device *device) {
    return &device->memory.ledger;
}

const struct ledger *host_ledger(const struct device *device) {
    return &device->host.ledger;
}

/* ---- streams and events: work is done when it is called for ---- */

struct event {
    struct device *device;
    struct timespec reached; /* when it was last recorded */
};

struct stream *stream_open(struct device *device, const char *name) {
    (void)name;
    struct stream *stream = xcalloc(1, sizeof *stream);
    stream->device = device;
    return stream;
}

struct stream *stream_open_background(struct device *device, const char *name) {
    return stream_open(device, name);
}

void stream_close(struct stream *stream) {
    device_free(stream->device, stream->workspace);
    free(stream);
}

struct device *stream_device(const struct stream *stream) {
    return stream->device;
}

void stream_synchronize(struct stream *stream) {
    (void)stream;
}

struct event *event_open(struct device *device) {
    struct event *event = xcalloc(1, sizeof *event);
    event->device = device;
    return event;
}

struct event *event_open_timed(struct device *device) {
    return event_open(device);
}

void event_close(struct event *event) {
    free(event);
}

void event_record(struct event *event, struct stream *stream) {
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &event->reached);
}

void stream_wait_event(struct stream *stream, struct event *event) {
    (void)stream;
    (void)event;
}

void event_synchronize(struct event *event) {
    (void)event;
}

double event_milliseconds(struct event *from, struct event *to) {
    if (!device_computes()) return 0;
    return 1e3 * (double)(to->reached.tv_sec - from->reached.tv_sec) +
           1e-6 * (double)(to->reached.tv_nsec - from->reached.tv_nsec);
}

/* ---- work, profiles ---- */

struct work device_work(const struct device *device) {
    return device->work;
}

struct work *stream_work(struct stream *stream) {
    return &stream->device->work;
}

void backend_range_push(const char *name) {
    (void)name;
}

void backend_range_pop(void) {
}
