#include "common/tools/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/device/kernels.h"
#include "common/train/update_times.h"

enum { LEAST_PRODUCTS = 5, MOST_PRODUCTS = 200 };

/* Large enough that its edges cost nothing, small enough for a second. */
static int matrix_rows(void) {
    return !strcmp(device_backend(), "cuda") ? 8192 : 2048;
}

/* Device memory [elements] of dtype, normal values: products of zeros are faster on some devices. */
static void *random_matrix(struct stream *stream, enum dtype dtype, size_t elements, uint64_t tensor) {
    struct device *device = stream_device(stream);
    float *values = device_alloc(device, BUFFERS, elements * sizeof(float), "a matrix");
    fill_normal(stream, values, 1, tensor, 0, elements, 1);
    if (dtype == FP32) return values;
    void *matrix = device_alloc(device, BUFFERS, elements * dtype_size(dtype), "a matrix");
    convert(stream, dtype, matrix, FP32, values, elements);
    stream_synchronize(stream);
    device_free(device, values);
    return matrix;
}

/* Milliseconds of one product out of `count` that are queued together: their median. */
static double product_milliseconds(struct stream *stream, enum dtype dtype, void *y, const void *x,
                                   const void *w, size_t n, int count) {
    struct event *events[MOST_PRODUCTS + 1];
    double times[MOST_PRODUCTS];
    for (int i = 0; i <= count; i++) {
        events[i] = event_open_timed(stream_device(stream));
        if (i) linear_forward(stream, dtype, y, n, x, w, NULL, NULL, n, n, n);
        event_record(events[i], stream);
    }
    for (int i = 0; i < count; i++) times[i] = event_milliseconds(events[i], events[i + 1]);
    for (int i = 0; i <= count; i++) event_close(events[i]);
    return quantile(times, count, 0.5);
}

/* The rate of y = x · wᵀ, all three square, sustained for about a second. */
static double product_flops(struct device *device, enum dtype dtype) {
    struct stream *stream = stream_open(device, "products");
    size_t n = (size_t)matrix_rows();
    void *x = random_matrix(stream, dtype, n * n, 0), *w = random_matrix(stream, dtype, n * n, 1);
    void *y = device_alloc(device, BUFFERS, n * n * dtype_size(dtype), "a matrix");
    product_milliseconds(stream, dtype, y, x, w, n, 2); /* to warm up */
    int count = (int)(1000 / product_milliseconds(stream, dtype, y, x, w, n, 3));
    if (count < LEAST_PRODUCTS) count = LEAST_PRODUCTS;
    if (count > MOST_PRODUCTS) count = MOST_PRODUCTS;
    double seconds = 1e-3 * product_milliseconds(stream, dtype, y, x, w, n, count);
    device_free(device, y);
    device_free(device, w);
    device_free(device, x);
    stream_close(stream);
    return 2 * (double)n * (double)n * (double)n / seconds;
}

static void measure(struct bench_machine *machine, enum dtype dtype) {
    struct device *device =
        device_open(&(struct device_options){.world_size = 1, .node_size = 1, .dtype = dtype});
    snprintf(machine->device, sizeof machine->device, "%s", device_name(device));
    machine->devices = !strcmp(device_backend(), "cuda") ? device_count() : 1;
    machine->cores = device_cores(device);
    machine->matrix = matrix_rows();
    machine->peak_flops = product_flops(device, dtype);
    device_close(device);
}

bool bench_measure(struct bench_machine *machine, enum dtype dtype) {
    int ends[2];
    fflush(NULL);
    if (pipe(ends) != 0) fail("no pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child < 0) fail("no process: %s", strerror(errno));
    if (child == 0) {
        measure(machine, dtype);
        _exit(write(ends[1], machine, sizeof *machine) == (ssize_t)sizeof *machine ? 0 : 1);
    }
    close(ends[1]);
    ssize_t got = read(ends[0], machine, sizeof *machine);
    close(ends[0]);
    int status = 0;
    if (waitpid(child, &status, 0) != child) fail("the measuring process is lost: %s", strerror(errno));
    return got == (ssize_t)sizeof *machine && status == 0;
}
