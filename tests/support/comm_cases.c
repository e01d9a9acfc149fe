#include "tests/support/comm_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

/* ---- data ---- */

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Element i of rank's data: of many magnitudes, so that rounding shows in which order they were added. */
static void set_element(enum dtype dtype, void *array, size_t at, unsigned salt, int rank, size_t i) {
    uint64_t bits = mix(mix(((uint64_t)salt << 32) + (uint64_t)rank) + i);
    double value = ((double)(bits >> 11) * 0x1p-53 - 0.5) * (double)(1 << (bits & 7));
    switch (dtype) {
    case FP32:
        ((float *)array)[at] = (float)value;
        break;
    case BF16:
        ((uint16_t *)array)[at] = bf16_from_float((float)value);
        break;
    case FP16:
        ((uint16_t *)array)[at] = fp16_from_float((float)value);
        break;
    case FP64:
        ((double *)array)[at] = value;
        break;
    case INT32:
        ((uint32_t *)array)[at] = (uint32_t)bits;
    }
}

static void *host_data(enum dtype dtype, size_t count) {
    return xcalloc(count ? count : 1, dtype_size(dtype));
}

/* Elements from … of rank's data. */
static void fill(enum dtype dtype, void *array, size_t at, size_t count, unsigned salt, int rank,
                 size_t from) {
    for (size_t i = 0; i < count; i++) set_element(dtype, array, at + i, salt, rank, from + i);
}

static double element_value(enum dtype dtype, const void *array, size_t at) {
    switch (dtype) {
    case FP32:
        return (double)((const float *)array)[at];
    case BF16:
        return (double)bf16_to_float(((const uint16_t *)array)[at]);
    case FP16:
        return (double)fp16_to_float(((const uint16_t *)array)[at]);
    case FP64:
        return ((const double *)array)[at];
    default:
        return (double)((const uint32_t *)array)[at];
    }
}

/* array[at] = the sum over ranks of their element i; `step` is 1, or −1 for the wrong order. */
static void set_sum(enum dtype dtype, void *array, size_t at, unsigned salt, int size, size_t i, int step) {
    float sum = 0;
    double sum64 = 0;
    uint32_t integer = 0;
    for (int k = 0; k < size; k++) {
        union {
            float f32;
            uint16_t f16;
            double f64;
            uint32_t i32;
        } one;
        set_element(dtype, &one, 0, salt, step > 0 ? k : size - 1 - k, i);
        float value = dtype == FP32   ? one.f32
                      : dtype == BF16 ? bf16_to_float(one.f16)
                      : dtype == FP16 ? fp16_to_float(one.f16)
                                      : 0;
        sum = k ? sum + value : value;
        if (dtype == FP64) sum64 = k ? sum64 + one.f64 : one.f64;
        if (dtype == INT32) integer += one.i32;
    }
    if (dtype == FP32) ((float *)array)[at] = sum;
    if (dtype == BF16) ((uint16_t *)array)[at] = bf16_from_float(sum);
    if (dtype == FP16) ((uint16_t *)array)[at] = fp16_from_float(sum);
    if (dtype == FP64) ((double *)array)[at] = sum64;
    if (dtype == INT32) ((uint32_t *)array)[at] = integer;
}

static void fill_sums(enum dtype dtype, void *array, size_t count, unsigned salt, int size, size_t from,
                      int step) {
    for (size_t i = 0; i < count; i++) set_sum(dtype, array, i, salt, size, from + i, step);
}

bool case_order_matters(enum dtype dtype, size_t count, int size, unsigned salt) {
    void *right = host_data(dtype, count), *wrong = host_data(dtype, count);
    fill_sums(dtype, right, count, salt, size, 0, 1);
    fill_sums(dtype, wrong, count, salt, size, 0, -1);
    bool differs = memcmp(right, wrong, count * dtype_size(dtype)) != 0;
    free(right);
    free(wrong);
    return differs;
}

/* ---- cases ---- */

/* All-to-all: uneven, at times nothing. */
static size_t rows(const struct comm_case *c, int from, int to) {
    return c->count * (size_t)((from + 2 * to + (int)c->salt) % 3);
}

static size_t total_rows(const struct comm_case *c, bool sent) {
    size_t total = 0;
    for (int r = 0; r < comm_size(c->comm); r++)
        total += sent ? rows(c, comm_rank(c->comm), r) : rows(c, r, comm_rank(c->comm));
    return total;
}

static size_t in_count(const struct comm_case *c) {
    if (c->collective == REDUCE_SCATTER) return (size_t)comm_size(c->comm) * c->count;
    return c->collective == ALL_TO_ALL ? total_rows(c, true) : c->count;
}

static size_t out_count(const struct comm_case *c) {
    if (c->collective == ALL_GATHER) return (size_t)comm_size(c->comm) * c->count;
    return c->collective == ALL_TO_ALL ? total_rows(c, false) : c->count;
}

static void *device_data(struct comm_case *c, size_t count) {
    return device_alloc(stream_device(c->stream), ACTIVATIONS, count * dtype_size(c->dtype), "test");
}

/* Buffers in which this rank's data stands. */
static void make_buffers(struct comm_case *c) {
    size_t element = dtype_size(c->dtype), mine = (size_t)comm_rank(c->comm) * c->count * element;
    bool same = c->collective == ALL_REDUCE || c->collective == BROADCAST;
    c->in = c->out = NULL;
    if (same) {
        c->in = c->out = device_data(c, c->count);
    } else if (c->in_place && c->collective == REDUCE_SCATTER) {
        c->in = device_data(c, in_count(c));
        c->out = (char *)c->in + mine;
    } else if (c->in_place && c->collective == ALL_GATHER) {
        c->out = device_data(c, out_count(c));
        c->in = (char *)c->out + mine;
    } else {
        c->in = device_data(c, in_count(c));
        c->out = device_data(c, out_count(c));
    }
    void *host = host_data(c->dtype, in_count(c));
    fill(c->dtype, host, 0, in_count(c), c->salt, comm_rank(c->comm), 0);
    copy_to_device(c->stream, c->in, host, in_count(c) * element);
    stream_synchronize(c->stream);
    free(host);
}

static void free_buffers(struct comm_case *c) {
    bool same = c->collective == ALL_REDUCE || c->collective == BROADCAST;
    bool in_is_part = c->in_place && c->collective == ALL_GATHER;
    bool out_is_part = same || (c->in_place && c->collective == REDUCE_SCATTER);
    if (!out_is_part) device_free(stream_device(c->stream), c->out);
    if (!in_is_part) device_free(stream_device(c->stream), c->in);
}

void case_start(struct comm_case *c) {
    make_buffers(c);
    switch (c->collective) {
    case ALL_REDUCE:
        c->request = comm_all_reduce_start(c->comm, c->stream, c->out, c->count, c->dtype);
        return;
    case REDUCE_SCATTER:
        c->request = comm_reduce_scatter_start(c->comm, c->stream, c->out, c->in, c->count, c->dtype);
        return;
    case ALL_GATHER:
        c->request = comm_all_gather_start(c->comm, c->stream, c->out, c->in, c->count, c->dtype);
        return;
    case BROADCAST:
        c->request = comm_broadcast_start(c->comm, c->stream, c->out, c->count, c->dtype, c->root);
        return;
    default:
        break;
    }
    int size = comm_size(c->comm), rank = comm_rank(c->comm);
    size_t *send = xmalloc((size_t)size * sizeof *send), *receive = xmalloc((size_t)size * sizeof *receive);
    for (int r = 0; r < size; r++) {
        send[r] = rows(c, rank, r);
        receive[r] = rows(c, r, rank);
    }
    c->request = comm_all_to_all_start(c->comm, c->stream, c->out, receive, c->in, send, c->dtype);
    free(send);
    free(receive);
}

static void *answer(const struct comm_case *c) {
    int size = comm_size(c->comm), rank = comm_rank(c->comm);
    void *data = host_data(c->dtype, out_count(c));
    size_t at = 0;
    switch (c->collective) {
    case ALL_REDUCE:
        fill_sums(c->dtype, data, c->count, c->salt, size, 0, 1);
        break;
    case REDUCE_SCATTER:
        fill_sums(c->dtype, data, c->count, c->salt, size, (size_t)rank * c->count, 1);
        break;
    case ALL_GATHER:
        for (int r = 0; r < size; r++) fill(c->dtype, data, (size_t)r * c->count, c->count, c->salt, r, 0);
        break;
    case BROADCAST:
        fill(c->dtype, data, 0, c->count, c->salt, c->root, 0);
        break;
    default:
        for (int r = 0; r < size; r++) {
            size_t before = 0;
            for (int to = 0; to < rank; to++) before += rows(c, r, to);
            fill(c->dtype, data, at, rows(c, r, rank), c->salt, r, before);
            at += rows(c, r, rank);
        }
    }
    return data;
}

/* How far a sum of the ranks' element i may be from the answer, if it was rounded after each addition: half a
 * unit in the last place each time, of no more than the sum of magnitudes; twice, as the answer may be off,
 * too. */
static double sum_bound(const struct comm_case *c, size_t i) {
    static const double units[] = {[FP32] = 0x1p-24, [BF16] = 0x1p-8, [FP16] = 0x1p-11, [FP64] = 0x1p-53};
    int size = comm_size(c->comm);
    size_t first = c->collective == REDUCE_SCATTER ? (size_t)comm_rank(c->comm) * c->count : 0;
    double magnitude = 0, one;
    if (c->dtype == INT32) return 0;
    for (int r = 0; r < size; r++) {
        set_element(c->dtype, &one, 0, c->salt, r, first + i);
        magnitude += fabs(element_value(c->dtype, &one, 0));
    }
    return 2 * size * units[c->dtype] * magnitude;
}

static bool is_right(const struct comm_case *c, const void *got, const void *expected, size_t i) {
    size_t element = dtype_size(c->dtype);
    if (memcmp((const char *)got + i * element, (const char *)expected + i * element, element) == 0)
        return true;
    bool sum = c->collective == ALL_REDUCE || c->collective == REDUCE_SCATTER;
    if (!sum || !c->any_order || comm_size(c->comm) <= 2) return false;
    double difference = element_value(c->dtype, got, i) - element_value(c->dtype, expected, i);
    return fabs(difference) <= sum_bound(c, i);
}

void case_finish(struct comm_case *c) {
    comm_wait(c->comm, c->stream, c->request);
    size_t element = dtype_size(c->dtype), bytes = out_count(c) * element;
    char *got = host_data(c->dtype, out_count(c)), *expected = answer(c);
    copy_to_host(c->stream, got, c->out, bytes);
    stream_synchronize(c->stream);
    for (size_t i = 0; i < out_count(c); i++)
        if (!is_right(c, got, expected, i))
            fail("rank %d of %d: %s of %zu %s%s: element %zu is wrong", comm_rank(c->comm),
                 comm_size(c->comm), collective_name(c->collective), c->count, dtype_name(c->dtype),
                 c->in_place ? " in place" : "", i);
    free(got);
    free(expected);
    free_buffers(c);
}
