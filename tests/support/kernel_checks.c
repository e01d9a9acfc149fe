#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static struct device *device;
static struct stream *stream;

struct stream *kernels_open(int threads) {
    struct device_options options = {.world_size = 1, .node_size = 1, .threads = threads, .dtype = FP16};
    device = device_open(&options);
    stream = stream_open(device, "kernels");
    return stream;
}

void kernels_close(void) {
    stream_close(stream);
    device_close(device);
}

int kernels_setup(void **state) {
    (void)state;
    kernels_open(2);
    return 0;
}

int kernels_teardown(void **state) {
    (void)state;
    kernels_close();
    return 0;
}

struct stream *kernels_stream(void) {
    return stream;
}

/* ---- operands ---- */

static uint64_t random_state = 1;

uint64_t random_bits(void) { /* xorshift64* (Vigna 2016) */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * UINT64_C(0x2545f4914f6cdd1d);
}

size_t random_below(size_t n) {
    return (size_t)((random_bits() >> 11) % n);
}

double rounded_to(enum dtype dtype, double value) {
    if (dtype == BF16) return bf16_to_float(bf16_from_float((float)value));
    if (dtype == FP16) return fp16_to_float(fp16_from_float((float)value));
    return dtype == FP32 ? (double)(float)value : value;
}

double *random_values(enum dtype dtype, size_t count, double scale) {
    double *values = xmalloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = rounded_to(dtype, scale * ((double)(random_bits() >> 11) * 0x1p-52 - 1.0));
    return values;
}

static void encode(enum dtype dtype, void *out, size_t i, double value) {
    if (dtype == FP64)
        ((double *)out)[i] = value;
    else if (dtype == FP32)
        ((float *)out)[i] = (float)value;
    else
        ((uint16_t *)out)[i] = dtype == BF16 ? bf16_from_float((float)value) : fp16_from_float((float)value);
}

static double decode(enum dtype dtype, const void *in, size_t i) {
    if (dtype == FP64) return ((const double *)in)[i];
    if (dtype == FP32) return (double)((const float *)in)[i];
    uint16_t bits = ((const uint16_t *)in)[i];
    return dtype == BF16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

/* A device block with a copy of this host memory, which is freed. */
static void *sent(void *host, size_t bytes) {
    void *block = device_alloc(device, BUFFERS, bytes, "operand");
    copy_to_device(stream, block, host, bytes);
    stream_synchronize(stream);
    free(host);
    return block;
}

void *to_device(enum dtype dtype, const double *values, size_t count) {
    void *host = xmalloc(count * dtype_size(dtype) + 1);
    for (size_t i = 0; i < count; i++) encode(dtype, host, i, values ? values[i] : UNTOUCHED);
    return sent(host, count * dtype_size(dtype));
}

int32_t *ids_to_device(const int32_t *ids, size_t count) {
    int32_t *host = xmalloc(count * sizeof *host + 1);
    if (count) memcpy(host, ids, count * sizeof *host);
    return sent(host, count * sizeof *host);
}

double *from_device(enum dtype dtype, const void *block, size_t count) {
    void *host = xmalloc(count * dtype_size(dtype) + 1);
    copy_to_host(stream, host, block, count * dtype_size(dtype));
    stream_synchronize(stream);
    double *values = xmalloc((count + 1) * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = decode(dtype, host, i);
    free(host);
    return values;
}

void release(void *block) {
    device_free(device, block);
}

/* ---- comparison ---- */

/* The most by which rounding to dtype changes a value. */
static double rounding_of(enum dtype dtype, double value) {
    switch (dtype) {
    case BF16:
        return fabs(value) * 0x1p-8;
    case FP16:
        return fmax(fabs(value) * 0x1p-11, 0x1p-25);
    default:
        return fabs(value) * 0x1p-24;
    }
}

void check_values(const char *what, enum dtype dtype, const double *got, const double *expected, size_t count,
                  double tolerance) {
    double largest = 0, worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
    for (size_t i = 0; i < count; i++) {
        double bound = rounding_of(dtype, expected[i]) * 1.001 + tolerance * largest;
        double off = fabs(got[i] - expected[i]) / fmax(bound, 0x1p-149);
        if (!(off <= worst)) {
            worst = off;
            at = i;
        }
        if (isnan(got[i]) || isnan(expected[i])) break;
    }
    if (!(worst <= 1))
        fail_msg("%s in %s: element %zu of %zu is %.9g, not %.9g: %.3g times the bound", what,
                 dtype_name(dtype), at, count, got[at], expected[at], worst);
}

void check_device(const char *what, enum dtype dtype, const void *block, const double *expected, size_t count,
                  double tolerance) {
    double *got = from_device(dtype, block, count);
    check_values(what, dtype, got, expected, count, tolerance);
    free(got);
}

double *gradient_by_differences(double (*value)(void *context), void *context, double *x, size_t count) {
    double *gradient = xmalloc((count + 1) * sizeof *gradient);
    for (size_t i = 0; i < count; i++) {
        const double at = x[i], step = 1e-5;
        x[i] = at + step;
        double above = value(context);
        x[i] = at - step;
        double below = value(context);
        x[i] = at;
        gradient[i] = (above - below) / (2 * step);
    }
    return gradient;
}

void check_same_bits(const char *what, void (*compute)(struct stream *stream, void *out), size_t bytes,
                     bool any_threads) {
    static const int threads[] = {2, 2, 1, 3};
    char *first = xcalloc(1, bytes), *again = xcalloc(1, bytes);
    kernels_close();
    for (int i = 0; i < (any_threads ? 4 : 2); i++) {
        uint64_t before = random_state; /* the same operands each time */
        compute(kernels_open(threads[i]), i == 0 ? first : again);
        kernels_close();
        random_state = before;
        if (i > 0 && memcmp(first, again, bytes) != 0)
            fail_msg("%s: other bits %s", what,
                     i == 1 ? "the second time" : "with another number of threads");
    }
    kernels_open(2);
    free(first);
    free(again);
}
