#include "tests/support/comm_extras.h"

#include <string.h>

#include "common/base/error.h"
#include "common/device/kernels.h"

static void fill(const struct rank *r, void *memory, enum dtype dtype, size_t count, unsigned salt) {
    float *values = host_alloc(r->device, BUFFERS, (count + 1) * sizeof *values, true, "test");
    float *wide = device_alloc(r->device, BUFFERS, (count + 1) * sizeof *wide, "test");
    for (size_t i = 0; i < count; i++) {
        salt = salt * 1664525u + 1013904223u;
        values[i] = (float)(int)(salt >> 8) / 16777216.0f - 0.5f;
    }
    copy_to_device(r->stream, wide, values, count * sizeof *wide);
    convert(r->stream, dtype, memory, FP32, wide, count);
    stream_synchronize(r->stream);
    device_free(r->device, wide);
    host_free(r->device, values);
}

void comm_check_adding(const struct rank *r, enum dtype dtype, size_t count) {
    size_t bytes = count * dtype_size(dtype), all = bytes * (size_t)comm_size(r->comm);
    char *in = device_alloc(r->device, GRADIENTS, all, "test");
    char *apart = device_alloc(r->device, GRADIENTS, 2 * bytes, "test"), *sum = apart + bytes;
    char *added = device_alloc(r->device, GRADIENTS, bytes, "test");
    fill(r, in, dtype, count * (size_t)comm_size(r->comm), 17u + (unsigned)comm_rank(r->comm));
    fill(r, apart, dtype, count, 5);
    copy_on_device(r->stream, added, apart, bytes);
    comm_reduce_scatter(r->comm, r->stream, sum, in, count, dtype);
    add_elements(r->stream, dtype, apart, sum, count);
    comm_wait(r->comm, r->stream, comm_reduce_scatter_add_start(r->comm, r->stream, added, in, count, dtype));
    char *host = host_alloc(r->device, BUFFERS, 2 * bytes, true, "test");
    copy_to_host(r->stream, host, apart, bytes);
    copy_to_host(r->stream, host + bytes, added, bytes);
    stream_synchronize(r->stream);
    if (memcmp(host, host + bytes, bytes) != 0)
        fail("%zu elements of %s: a sum that is added on its way differs from one added afterwards", count,
             dtype_name(dtype));
    host_free(r->device, host);
    device_free(r->device, added);
    device_free(r->device, apart);
    device_free(r->device, in);
}

enum { ROUNDS = 12, UNITS = 3, UNIT = 70000 };

static float element_of(int round, int unit, int rank, int i) {
    return (float)(round * 100000 + unit * 10000 + rank * 1000 + i % 997);
}

void comm_check_sharing(const struct rank *r, bool in_place) {
    int size = comm_size(r->comm), rank = comm_rank(r->comm);
    size_t bytes = UNIT * sizeof(float), whole = (size_t)size * bytes;
    char *out = device_alloc(r->device, PARAMETERS, UNITS * whole, "test");
    char *slices = in_place ? out : device_alloc(r->device, PARAMETERS, UNITS * bytes, "test");
    char *apart = device_alloc(r->device, BUFFERS, whole + bytes, "test");
    float *given = host_alloc(r->device, BUFFERS, ROUNDS * UNITS * bytes, true, "test");
    float *got = host_alloc(r->device, BUFFERS, ROUNDS * UNITS * whole, true, "test");
    for (int e = 0; e < ROUNDS * UNITS * UNIT; e++)
        given[e] = element_of(e / UNIT / UNITS, e / UNIT % UNITS, rank, e % UNIT);
    fill_zero(r->stream, apart, whole + bytes);
    comm_share(r->comm, slices, UNITS * (in_place ? whole : bytes));
    for (int round = 0; round < ROUNDS; round++) {
        struct comm_request requests[UNITS];
        for (int u = 0; u < UNITS; u++) {
            char *mine =
                in_place ? out + (size_t)u * whole + (size_t)rank * bytes : slices + (size_t)u * bytes;
            copy_to_device(r->stream, mine, given + (round * UNITS + u) * UNIT, bytes);
            requests[u] =
                comm_all_gather_start(r->comm, r->stream, out + (size_t)u * whole, mine, UNIT, FP32);
            if (u == round % UNITS) comm_all_gather(r->comm, r->stream, apart, apart + whole, UNIT, FP32);
        }
        for (int u = 0; u < UNITS; u++) comm_wait(r->comm, r->stream, requests[u]);
        copy_to_host(r->stream, (char *)got + (size_t)round * UNITS * whole, out, UNITS * whole);
        comm_all_reduce(r->comm, r->stream, apart, 5, FP64);
    }
    stream_synchronize(r->stream);
    for (int e = 0; e < ROUNDS * UNITS * size * UNIT; e++) {
        int unit = e / UNIT / size;
        if (got[e] != element_of(unit / UNITS, unit % UNITS, e / UNIT % size, e % UNIT))
            fail("round %d: gathered from shared memory, element %d of unit %d is wrong", unit / UNITS,
                 e % (size * UNIT), unit % UNITS);
    }
    comm_unshare(r->comm);
    host_free(r->device, got);
    host_free(r->device, given);
    device_free(r->device, apart);
    if (!in_place) device_free(r->device, slices);
    device_free(r->device, out);
}

/* Of rank 0 … size − 1; whole numbers, and exact in fp32. */
static float sum_of(int round, int unit, int size, int i) {
    float sum = 0;
    for (int rank = 0; rank < size; rank++) sum += element_of(round, unit, rank, i);
    return sum;
}

void comm_check_shared_sums(const struct rank *r) {
    int size = comm_size(r->comm), rank = comm_rank(r->comm);
    const size_t bytes = UNIT * sizeof(float);
    char *units = device_alloc(r->device, GRADIENTS, UNITS * bytes, "test");
    char *apart = device_alloc(r->device, BUFFERS, (size_t)(size + 1) * bytes, "test");
    float *given = host_alloc(r->device, BUFFERS, ROUNDS * UNITS * bytes, true, "test");
    float *got = host_alloc(r->device, BUFFERS, ROUNDS * UNITS * bytes, true, "test");
    for (int e = 0; e < ROUNDS * UNITS * UNIT; e++)
        given[e] = element_of(e / UNIT / UNITS, e / UNIT % UNITS, rank, e % UNIT);
    fill_zero(r->stream, apart, (size_t)(size + 1) * bytes);
    comm_share(r->comm, units, UNITS * bytes);
    for (int round = 0; round < ROUNDS; round++) {
        struct comm_request requests[UNITS];
        for (int u = 0; u < UNITS; u++) {
            char *unit = units + (size_t)u * bytes;
            copy_to_device(r->stream, unit, given + (round * UNITS + u) * UNIT, bytes);
            requests[u] = comm_all_reduce_start(r->comm, r->stream, unit, UNIT - (size_t)u, FP32);
            if (u == round % UNITS)
                comm_all_gather(r->comm, r->stream, apart, apart + (size_t)size * bytes, UNIT, FP32);
        }
        for (int u = 0; u < UNITS; u++) comm_wait(r->comm, r->stream, requests[u]);
        copy_to_host(r->stream, (char *)got + (size_t)round * UNITS * bytes, units, UNITS * bytes);
        comm_all_reduce(r->comm, r->stream, apart, 5, FP64);
    }
    stream_synchronize(r->stream);
    for (int e = 0; e < ROUNDS * UNITS * UNIT; e++) {
        int round = e / UNIT / UNITS, u = e / UNIT % UNITS, i = e % UNIT;
        if (got[e] != (i < UNIT - u ? sum_of(round, u, size, i) : given[e]))
            fail("round %d: summed in shared memory, element %d of unit %d is wrong", round, i, u);
    }
    comm_unshare(r->comm);
    host_free(r->device, got);
    host_free(r->device, given);
    device_free(r->device, apart);
    device_free(r->device, units);
}
