/*
 * device.h on a GPU: memory from cudaMalloc, CUDA's streams and events, ranges for NVIDIA's profilers.
 */
#include <ctype.h>
#include <math.h>
#include <nvtx3/nvToolsExt.h>
#include <nvtx3/nvToolsExtCudaRt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/device/backend.h"
#include "common/device/cgroup.h"
#include "common/device/cores.h"
#include "common/device/cuda/cuda.h"
#include "common/device/cuda/peak.h"

struct device {
    struct device_options options;
    int ordinal; /* CUDA's number of it in this process */
    struct cudaDeviceProp properties;
    int code; /* cuda_code() */
    struct blocks memory, host;
    struct work work;
    struct cores cores;
    bool shared; /* by several ranks */
    void *products;
    void (*close_products)(void *products);
};

struct stream {
    struct device *device;
    cudaStream_t handle;
    void *workspace; /* CUDA_WORKSPACE_BYTES; NULL until a kernel needs it */
};

struct event {
    struct device *device;
    cudaEvent_t handle;
};

void cuda_check(cudaError_t code, const char *what) {
    if (code == cudaSuccess) return;
    const char *advice = "run again with CUDA_LAUNCH_BLOCKING=1, which finds the call that failed";
    if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorUnsupportedPtxVersion)
        advice = "build again on a machine that has this GPU, or with -DCMAKE_CUDA_ARCHITECTURES set to its";
    if (code == cudaErrorInsufficientDriver)
        advice =
            "the driver is older than the CUDA toolkit of this build: load an older toolkit and build again";
    if (code == cudaErrorECCUncorrectable || code == cudaErrorDevicesUnavailable)
        advice = "the GPU is broken or taken: nvidia-smi says more; try another one";
    fail("%s: CUDA says: %s (%s); %s", what, cudaGetErrorString(code), cudaGetErrorName(code), advice);
}

/* ---- opening ---- */

static int count_devices(void) {
    int count = 0, driver = 0;
    cudaError_t code = cudaGetDeviceCount(&count);
    bool no_driver = cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0;
    if (no_driver || code == cudaErrorNoDevice || (code == cudaSuccess && count == 0))
        fail("no GPU is visible to this process: look at nvidia-smi and CUDA_VISIBLE_DEVICES, ask the batch "
             "system "
             "for one, or use --device cpu");
    CUDA_CHECK(code, "looking for GPUs");
    return count;
}

/* A rank that sees but one GPU takes that one: the batch system gives each rank its own (then
 * CUDA_VISIBLE_DEVICES is set), or there is no other; comm_attach() knows whether two ranks have met. */
static bool has_its_own(const struct device_options *options, int count) {
    return !options->share_device && count == 1 &&
           (options->node_size == 1 || getenv("CUDA_VISIBLE_DEVICES"));
}

/* Else rank i of a node takes its GPU i. */
static int choose_device(const struct device_options *options) {
    int count = count_devices();
    if (options->share_device) return options->node_rank % count;
    if (has_its_own(options, count)) return 0;
    if (options->node_size > count)
        fail("%d ranks on this node, but %d GPU%s: start %d rank%s a node, or let ranks share a GPU, for "
             "learning, "
             "with --share_device",
             options->node_size, count, count > 1 ? "s" : "", count, count > 1 ? "s" : "");
    return options->node_rank;
}

static void refuse_what_it_lacks(const struct device *device) {
    const struct cudaDeviceProp *properties = &device->properties;
    if (device->options.dtype == BF16 && properties->major < 8)
        fail(
            "%s (compute capability %d.%d) does not compute in bf16, which begins with 8.0: use --bf16 false "
            "--fp16 true",
            properties->name, properties->major, properties->minor);
}

/* The cores near a GPU as the system lists them; malloc()ed, NULL where it does not say. */
static char *cores_near(int ordinal) {
    char id[32] = "", list[4096] = "";
    if (cudaDeviceGetPCIBusId(id, sizeof id, ordinal) != cudaSuccess) {
        (void)cudaGetLastError(); /* nothing depends on it */
        return NULL;
    }
    for (char *c = id; *c; c++) *c = (char)tolower((unsigned char)*c);
    char *path = xformat("/sys/bus/pci/devices/%s/local_cpulist", id);
    FILE *file = fopen(path, "re");
    free(path);
    bool read = file && fgets(list, sizeof list, file);
    if (file) fclose(file);
    return read ? xstrdup(list) : NULL;
}

/* This rank's share of the cores, near its GPU. Where each rank sees its own GPU only, nobody knows where the
 * others' are, and the cores are dealt without regard to that. */
static struct cores open_cores(const struct device_options *options) {
    int count = count_devices(), ranks = options->node_size;
    char **near = xcalloc((size_t)ranks, sizeof *near);
    bool known = ranks == 1 || !has_its_own(options, count);
    for (int rank = 0; rank < ranks; rank++)
        if (known || rank == options->node_rank) near[rank] = cores_near(known ? rank % count : 0);
    struct cores cores = cores_open(options->node_rank, ranks, options->threads, near);
    for (int rank = 0; rank < ranks; rank++) free(near[rank]);
    free(near);
    return cores;
}

static void release_device(void *pointer) {
    (void)cudaFree(pointer);
}

static void release_host(void *pointer) {
    struct cudaPointerAttributes attributes;
    bool pinned = cudaPointerGetAttributes(&attributes, pointer) == cudaSuccess &&
                  attributes.type == cudaMemoryTypeHost;
    if (pinned)
        (void)cudaFreeHost(pointer);
    else
        free(pointer);
}

/* Streams have queues of their own, up to this number of queues; the driver's default is 8. Each one in use
 * slows the launches of the others: with 32 queues, two H200 lose 1% against 4. (With 2, what should overlap
 * does not.) Streams that share a queue go in the order in which the host calls; as none waits for what is
 * queued later, on any rank, that is never a deadlock. */
static void ask_for_queues(void) {
    if (setenv("CUDA_DEVICE_MAX_CONNECTIONS", "4", 0) != 0)
        fail("the environment has no room for CUDA_DEVICE_MAX_CONNECTIONS");
}

struct device *device_open(const struct device_options *options) {
    struct device *device = xcalloc(1, sizeof *device);
    ask_for_queues();
    device->options = *options;
    device->ordinal = choose_device(options);
    device->cores = open_cores(options);
    device->shared = options->share_device && options->node_size > 1;
    CUDA_CHECK(cudaSetDevice(device->ordinal), "opening the GPU");
    CUDA_CHECK(cudaGetDeviceProperties(&device->properties, device->ordinal), "opening the GPU");
    refuse_what_it_lacks(device);
    CUDA_CHECK(cudaFree(NULL), "opening the GPU");
    CUDA_CHECK(cuda_probe_kernels(&device->code), device->properties.name);
    blocks_open(&device->memory, "device",
                options->memory_limit ? options->memory_limit : device->properties.totalGlobalMem);
    blocks_open(&device->host, "host", memory_share(options->node_size));
    return device;
}

void device_close(struct device *device) {
    CUDA_CHECK(cudaDeviceSynchronize(), "closing the GPU");
    if (device->close_products) device->close_products(device->products);
    blocks_close(&device->memory, release_device);
    blocks_close(&device->host, release_host);
    cores_free(&device->cores);
    free(device);
}

int device_count(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

const char *device_backend(void) {
    return WORKSHOP_BACKEND;
}

bool device_computes(void) {
    return true;
}

const char *device_name(const struct device *device) {
    return device->properties.name;
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

double device_peak_flops(const struct device *device, enum dtype dtype) {
    return peak_flops(device->properties.name, cuda_capability(device), dtype);
}

int cuda_ordinal(const struct device *device) {
    return device->ordinal;
}

int cuda_capability(const struct device *device) {
    return 10 * device->properties.major + device->properties.minor;
}

int cuda_code(const struct device *device) {
    return device->code;
}

/* ---- memory ---- */

/* The sampler asks from a thread of its own, which has to choose the device first. */
size_t device_bytes_in_use(const struct device *device) {
    size_t unused, total;
    CUDA_CHECK(cudaSetDevice(device->ordinal), "memory in use");
    CUDA_CHECK(cudaMemGetInfo(&unused, &total), "memory in use");
    return total - unused;
}

size_t device_bytes_outside_ledger(const struct device *device) {
    if (device->shared) return 0; /* whose it is cannot be told */
    size_t used = device_bytes_in_use(device), booked = device->memory.ledger.total.bytes;
    return used > booked ? used - booked : 0;
}

void *device_alloc(struct device *device, enum heading heading, size_t bytes, const char *what) {
    blocks_check(&device->memory, heading, bytes, what);
    void *pointer = NULL;
    cudaError_t code = cudaMalloc(&pointer, bytes ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) blocks_full(&device->memory, heading, bytes, what);
    CUDA_CHECK(code, what);
    blocks_add(&device->memory, pointer, heading, bytes);
    return pointer;
}

/* cudaFree() waits for the device, so that no kernel still uses the block. */
void device_free(struct device *device, void *pointer) {
    if (!pointer) return;
    blocks_remove(&device->memory, pointer);
    CUDA_CHECK(cudaFree(pointer), "freeing device memory");
}

enum { HUGE_PAGE = 2 << 20 };

/* As on the CPU backend: large blocks on huge pages, which the host's AdamW reads and writes with fewer
 * misses of the translation buffer. NULL where there is no memory for it. */
static void *get_pageable(size_t bytes) {
    bool large = bytes >= 2 * HUGE_PAGE;
    void *pointer;
    if (posix_memalign(&pointer, large ? HUGE_PAGE : DEVICE_ALIGNMENT, bytes ? bytes : 1) != 0) return NULL;
    if (large) (void)madvise(pointer, bytes - bytes % HUGE_PAGE, MADV_HUGEPAGE); /* for speed only */
    return pointer;
}

/* NULL where the system does not lock so much. */
static void *get_pinned(size_t bytes, const char *what) {
    void *pointer = NULL;
    cudaError_t code = cudaHostAlloc(&pointer, bytes ? bytes : 1, cudaHostAllocDefault);
    if (code == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return NULL;
    }
    CUDA_CHECK(code, what);
    return pointer;
}

void *host_alloc(struct device *device, enum heading heading, size_t bytes, bool pinned, const char *what) {
    blocks_check(&device->host, heading, bytes, what);
    void *pointer = pinned ? get_pinned(bytes, what) : get_pageable(bytes);
    if (!pointer && pinned)
        blocks_full(&device->host, heading, bytes,
                    xformat("%s, page-locked (ordinary memory may be there: --pin_memory false)", what));
    if (!pointer) blocks_full(&device->host, heading, bytes, what);
    blocks_add(&device->host, pointer, heading, bytes);
    return pointer;
}

void host_free(struct device *device, void *pointer) {
    if (!pointer) return;
    blocks_remove(&device->host, pointer);
    release_host(pointer);
}

const struct ledger *device_ledger(const struct device *device) {
    return &device->memory.ledger;
}

const struct ledger *host_ledger(const struct device *device) {
    return &device->host.ledger;
}

void *cuda_workspace(struct stream *stream) {
    if (!stream->workspace)
        stream->workspace =
            device_alloc(stream->device, BUFFERS, CUDA_WORKSPACE_BYTES, "workspace of a stream's kernels");
    return stream->workspace;
}

void **cuda_products(struct stream *stream, void (*close)(void *products)) {
    stream->device->close_products = close;
    return &stream->device->products;
}

/* ---- streams, events ---- */

/* Not ordered with CUDA's default stream, which nothing here uses. */
static struct stream *open_stream(struct device *device, const char *name, int priority) {
    struct stream *stream = xcalloc(1, sizeof *stream);
    stream->device = device;
    CUDA_CHECK(cudaStreamCreateWithPriority(&stream->handle, cudaStreamNonBlocking, priority),
               "opening a stream");
    nvtxNameCudaStreamA(stream->handle, name);
    return stream;
}

/* Greater priorities are lower numbers. The greatest is left to NCCL's stream. */
struct stream *stream_open(struct device *device, const char *name) {
    int least, greatest;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest), "opening a stream");
    return open_stream(device, name, least > greatest ? least - 1 : least);
}

struct stream *stream_open_background(struct device *device, const char *name) {
    int least, greatest;
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest), "opening a stream");
    return open_stream(device, name, least);
}

void stream_close(struct stream *stream) {
    CUDA_CHECK(cudaStreamSynchronize(stream->handle), "closing a stream");
    CUDA_CHECK(cudaStreamDestroy(stream->handle), "closing a stream");
    device_free(stream->device, stream->workspace);
    free(stream);
}

struct device *stream_device(const struct stream *stream) {
    return stream->device;
}

cudaStream_t cuda_stream(const struct stream *stream) {
    return stream->handle;
}

void stream_synchronize(struct stream *stream) {
    CUDA_CHECK(cudaStreamSynchronize(stream->handle), "waiting for a stream");
}

static struct event *new_event(struct device *device, unsigned flags) {
    struct event *event = xmalloc(sizeof *event);
    event->device = device;
    CUDA_CHECK(cudaEventCreateWithFlags(&event->handle, flags), "opening an event");
    return event;
}

struct event *event_open(struct device *device) {
    return new_event(device, cudaEventDisableTiming);
}

struct event *event_open_timed(struct device *device) {
    return new_event(device, cudaEventDefault);
}

void event_close(struct event *event) {
    CUDA_CHECK(cudaEventDestroy(event->handle), "closing an event");
    free(event);
}

cudaEvent_t cuda_event(const struct event *event) {
    return event->handle;
}

void event_record(struct event *event, struct stream *stream) {
    CUDA_CHECK(cudaEventRecord(event->handle, stream->handle), "recording an event");
}

void stream_wait_event(struct stream *stream, struct event *event) {
    CUDA_CHECK(cudaStreamWaitEvent(stream->handle, event->handle, 0), "waiting for an event");
}

void event_synchronize(struct event *event) {
    CUDA_CHECK(cudaEventSynchronize(event->handle), "waiting for an event");
}

double event_milliseconds(struct event *from, struct event *to) {
    float milliseconds = 0;
    event_synchronize(to);
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, from->handle, to->handle), "reading a clock");
    return (double)milliseconds;
}

/* ---- copies ---- */

static void copy(struct stream *stream, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                 const char *what) {
    if (bytes) CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, kind, stream->handle), what);
}

void copy_to_device(struct stream *stream, void *device, const void *host, size_t bytes) {
    work_copy_host(stream, bytes);
    copy(stream, device, host, bytes, cudaMemcpyHostToDevice, "copying to the device");
}

void copy_to_host(struct stream *stream, void *host, const void *device, size_t bytes) {
    work_copy_host(stream, bytes);
    copy(stream, host, device, bytes, cudaMemcpyDeviceToHost, "copying to the host");
}

void copy_on_device(struct stream *stream, void *to, const void *from, size_t bytes) {
    work_copy_device(stream, bytes);
    copy(stream, to, from, bytes, cudaMemcpyDeviceToDevice, "copying on the device");
}

void fill_zero(struct stream *stream, void *device, size_t bytes) {
    work_fill_zero(stream, bytes);
    if (bytes) CUDA_CHECK(cudaMemsetAsync(device, 0, bytes, stream->handle), "clearing device memory");
}

/* ---- work, profiles ---- */

struct work device_work(const struct device *device) {
    return device->work;
}

struct work *stream_work(struct stream *stream) {
    return &stream->device->work;
}

void backend_range_push(const char *name) {
    nvtxRangePushA(name);
}

void backend_range_pop(void) {
    nvtxRangePop();
}
