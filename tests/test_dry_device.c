/* The dry backend's device: memory booked and work counted as on a backend that computes, and nothing else.
 */
#include <string.h>

#include "common/device/kernels.h"
#include "tests/support/check.h"
#include "tests/support/device_checks.h"

static struct device *open_device(void) {
    struct device_options options = {
        .rank = 17, .world_size = 512, .node_rank = 1, .node_size = 8, .dtype = FP32};
    return device_open(&options);
}

static void test_open(void **state) {
    (void)state;
    struct device *device = open_device();
    assert_false(device_computes());
    assert_string_equal(device_backend(), "dry");
    assert_true(strncmp(device_name(device), "dry (", 5) == 0);
    assert_int_equal(device_cores(device), 1);
    assert_int_equal(device_ledger(device)->limit, 0);
    assert_int_equal(host_ledger(device)->limit, 0);
    device_close(device);
}

/* bloom-176b on one rank: more than any machine has. */
static void test_more_than_there_is(void **state) {
    (void)state;
    struct device *device = open_device();
    size_t parameters = 176247271424;
    char *whole = device_alloc(device, PARAMETERS, 2 * parameters, "parameters");
    char *states = device_alloc(device, OPTIMIZER, 12 * parameters, "optimizer");
    char *host = host_alloc(device, OPTIMIZER, 12 * parameters, true, "optimizer");
    assert_true(whole + 2 * parameters < states && states + 12 * parameters < host);
    assert_int_equal((uintptr_t)states % 256, 0);
    assert_int_equal((uintptr_t)host % 256, 0);
    assert_int_equal(device_ledger(device)->total.bytes, 14 * parameters);
    device_free(device, whole);
    char *again = device_alloc(device, PARAMETERS, 10, "parameters");
    assert_true(again != whole);
    device_close(device);
}

static void test_copies_to_host_are_zero(void **state) {
    (void)state;
    struct device *device = open_device();
    struct stream *stream = stream_open(device, "test");
    void *memory = device_alloc(device, BUFFERS, 100, "memory");
    unsigned char host[100];
    memset(host, 0xaa, sizeof host);
    copy_to_device(stream, memory, host, sizeof host);
    assert_int_equal(host[0], 0xaa);
    copy_to_host(stream, host, memory, 60);
    for (int i = 0; i < 100; i++) assert_int_equal(host[i], i < 60 ? 0 : 0xaa);
    /* Host memory of this backend is none either: it must not be written. */
    void *staging = host_alloc(device, BUFFERS, 1 << 20, true, "staging");
    copy_to_host(stream, staging, memory, 100);
    copy_to_device(stream, memory, staging, 100);
    assert_true(device_work(device).copied_bytes == 360);
    stream_close(stream);
    device_close(device);
}

/* A GPU's workspace: one for each stream that computes, in any precision, from its first kernel on. */
static void test_gpu_workspaces(void **state) {
    (void)state;
    enum { WORKSPACE = 32 << 20, N = 64 };
    struct device *device = device_open(
        &(struct device_options){.world_size = 1, .node_size = 1, .dtype = FP16, .dry_gpu = true});
    assert_int_equal(device_ledger(device)->total.bytes, 0);
    struct stream *first = stream_open(device, "first"), *second = stream_open(device, "second");
    void *x = device_alloc(device, ACTIVATIONS, N * N * 2, "x");
    gelu_forward(first, FP16, x, x, N * N);
    linear_forward(first, FP16, x, N, x, x, NULL, NULL, 0, N, N);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 0);
    for (int i = 0; i < 2; i++) linear_forward(first, FP16, x, N, x, x, NULL, NULL, N, N, N);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, WORKSPACE);
    sum_of_squares(second, FP16, x, x, N);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 2 * WORKSPACE);
    stream_close(second);
    stream_close(first);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 0);
    device_free(device, x);
    device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(test_more_than_there_is),
        cmocka_unit_test(test_copies_to_host_are_zero),
        cmocka_unit_test(test_gpu_workspaces),
        cmocka_unit_test(check_booking),
        cmocka_unit_test(check_workspace),
        cmocka_unit_test(check_memory_limit),
        cmocka_unit_test(check_unknown_pointers),
        cmocka_unit_test(check_copies_counted),
        cmocka_unit_test(check_kernels_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
