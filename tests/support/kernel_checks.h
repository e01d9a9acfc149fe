/*
 * Testing kernels against plain double-precision references: random operands that a storage type can hold,
 * their way to the device and back, comparison with a bound that the type explains, and finite differences.
 */
#ifndef TESTS_SUPPORT_KERNEL_CHECKS_H
#define TESTS_SUPPORT_KERNEL_CHECKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/device/kernels.h"

/* Opens a device on which all precisions work, with that many threads, and its stream. */
struct stream *kernels_open(int threads);
void kernels_close(void);

/* cmocka group setup and teardown: kernels_open(2), whose stream is kernels_stream(). */
int kernels_setup(void **state);
int kernels_teardown(void **state);
struct stream *kernels_stream(void);

/* The same numbers in every run. */
uint64_t random_bits(void);
size_t random_below(size_t n);
/* Uniform in ±scale, rounded to dtype; the caller frees. */
double *random_values(enum dtype dtype, size_t count, double scale);
double rounded_to(enum dtype dtype, double value);

/* Device memory with these values (NULL: filled with 77), one for each `count`; device_free() by release().
 */
void *to_device(enum dtype dtype, const double *values, size_t count);
int32_t *ids_to_device(const int32_t *ids, size_t count);
double *from_device(enum dtype dtype, const void *device, size_t count); /* the caller frees */
void release(void *device);

/* What unwritten device memory from to_device() holds. */
#define UNTOUCHED 77.0

/* Fails unless each got[i] is expected[i], but for one rounding to dtype and `tolerance` times the largest
 * expected value (what a sum of larger terms loses). Says which element of `what` is furthest off. */
void check_values(const char *what, enum dtype dtype, const double *got, const double *expected, size_t count,
                  double tolerance);
/* The same for values on the device. */
void check_device(const char *what, enum dtype dtype, const void *device, const double *expected,
                  size_t count, double tolerance);

/* The gradient of value(context) in x [count], which it reads through its context, by central differences;
 * the caller frees. */
double *gradient_by_differences(double (*value)(void *context), void *context, double *x, size_t count);

/* Runs `compute`, which writes `bytes` bytes that it computes on the stream into `out`, twice with 2 threads,
 * then with 1 and with 3 (where `any_threads`): fails unless all have the same bits. */
void check_same_bits(const char *what, void (*compute)(struct stream *stream, void *out), size_t bytes,
                     bool any_threads);

#endif
