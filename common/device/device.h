/*
 * Where tensors live and work is done: one interface, three implementations.
 *
 *   cpu/    memory of this process, cores of this rank; streams do their work at once
 *   cuda/   a GPU's memory, CUDA streams and events
 *   dry/    nothing is allocated and nothing computed: memory is booked, operations and bytes are counted
 *
 * The rules that make one program fit all three:
 *   - memory from device_alloc() is never read or written by host code, only by kernels.h, comm.h and
 *     the copies below;
 *   - work is queued on a stream and done in the stream's order, later than the call that queued it;
 *   - order between two streams comes from events, and the host waits only where it says so.
 *
 * A failing call ends the job with fail(): no function here returns an error.
 */
#ifndef COMMON_DEVICE_DEVICE_H
#define COMMON_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/device/dtype.h"
#include "common/device/ledger.h"

struct device;
struct stream;
struct event;

struct device_options {
    int rank, world_size;     /* of this process in the job */
    int node_rank, node_size; /* of this process among those on its node */
    int threads;              /* CPU threads; 0: this rank's share of the node's cores */
    size_t memory_limit;      /* bytes of device memory this rank may book; 0: what there is */
    enum dtype dtype;         /* the run's precision: half precision needs a workspace on some backends */
    bool share_device;        /* several ranks may use one device (CUDA): slow, for learning and tests */
    bool dry_gpu;             /* dry backend: book what the CUDA backend does, not what the CPU's does */
};

/* Opens the device of this rank. On the CPU this also moves the process to its share of the node's cores,
 * whatever mpirun bound it to, and must come before any OpenMP work. One device a process. */
struct device *device_open(const struct device_options *options);
/* How many ranks of this node can have a device of their own: GPUs that this process sees, 0 where there is
 * none; INT_MAX on the other backends. Can be asked before device_open(). */
int device_count(void);
void device_close(struct device *device);

const char *device_backend(void);                     /* "cpu", "cuda", "dry" */
const char *device_name(const struct device *device); /* for people: processor or GPU model */
int device_cores(const struct device *device);        /* CPU threads that this rank's work uses */
/* For people: "8 threads on cores 0-7 of 64, near its GPU"; and NULL, or why these are few and what to do. */
const char *device_cores_text(const struct device *device);
const char *device_cores_warning(const struct device *device);
/* Peak rate of matrix products in this precision, FLOP/s; 0 where it is not known. */
double device_peak_flops(const struct device *device, enum dtype dtype);
/* Bytes of device memory that this process holds outside the ledger (context, libraries); 0: not known. */
size_t device_bytes_outside_ledger(const struct device *device);
/* Bytes in use on the device now by everyone, for the sampler; on the CPU: the ledger's total. */
size_t device_bytes_in_use(const struct device *device);

/* ---- memory ---- */

/* Device memory, 256-byte aligned, content undefined. `what` names it in the error that is raised when there
 * is not enough: which heading asked for how much, what is booked where, and which stage would need less.
 * Zero bytes give a pointer that must not be used but may be freed. */
void *device_alloc(struct device *device, enum heading heading, size_t bytes, const char *what);
void device_free(struct device *device, void *pointer); /* NULL is fine */

/* Host memory that is large or takes part in copies; `pinned` asks for page-locked memory (CUDA). Booked in
 * the host's ledger. The dry backend gives memory that must not be touched: host code may only read and write
 * it where device_computes() is true. */
void *host_alloc(struct device *device, enum heading heading, size_t bytes, bool pinned, const char *what);
void host_free(struct device *device, void *pointer);

const struct ledger *device_ledger(const struct device *device);
const struct ledger *host_ledger(const struct device *device);
/* False on the dry backend, whose buffers hold nothing. */
bool device_computes(void);

/* ---- streams, events ---- */

struct stream *stream_open(struct device *device, const char *name); /* `name` shows in profiles */
/* For work that nothing waits for soon: the device prefers what is queued on other streams. */
struct stream *stream_open_background(struct device *device, const char *name);
void stream_close(struct stream *stream);
struct device *stream_device(const struct stream *stream);
void stream_synchronize(struct stream *stream); /* the host waits for all work queued so far */

struct event *event_open(struct device *device);
/* One that also notes the time at which it is reached. */
struct event *event_open_timed(struct device *device);
void event_close(struct event *event);
/* Reached when the work queued so far is done. */
void event_record(struct event *event, struct stream *stream);
void stream_wait_event(struct stream *stream, struct event *event); /* later work of `stream` waits for it */
void event_synchronize(struct event *event);                        /* the host waits for it */
/* Milliseconds between two timed events, both recorded; the host waits for the later one. 0 on the dry
 * backend. */
double event_milliseconds(struct event *from, struct event *to);

/* ---- copies: queued on the stream; host memory must stay as it is until they are done ---- */

void copy_to_device(struct stream *stream, void *device, const void *host, size_t bytes);
/* On the dry backend the host memory is filled with zeros. */
void copy_to_host(struct stream *stream, void *host, const void *device, size_t bytes);
void copy_on_device(struct stream *stream, void *to, const void *from, size_t bytes);
void fill_zero(struct stream *stream, void *device, size_t bytes);

/* ---- work done, counted from the kernels' arguments, the same on every backend ---- */

struct work {
    double product_flops; /* multiply-adds of matrix products and attention, two FLOP each */
    double bytes;         /* read and written by kernels, each operand once */
    double copied_bytes;  /* between host and device */
    long long kernels;    /* calls */
};
struct work device_work(const struct device *device);

/* Named range in a profiler's view (NVTX), timed where a clock runs (phases.h). Ranges nest. */
void profile_push(const char *name);
void profile_pop(void);

#endif
