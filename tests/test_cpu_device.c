/* The CPU backend's device: what it takes of the node, and what it books by itself. */
#include <string.h>

#include "common/device/cpu/cpu.h"
#include "tests/support/check.h"
#include "tests/support/device_checks.h"

static void test_open(void **state) {
    (void)state;
    struct device_options options = {.world_size = 1, .node_size = 1, .threads = 2, .dtype = FP32};
    struct device *device = device_open(&options);
    assert_true(device_computes());
    assert_string_equal(device_backend(), "cpu");
    assert_true(strlen(device_name(device)) > 0);
    assert_int_equal(device_cores(device), 2);
    /* Without a setting the limit is the node's memory. */
    assert_true(device_ledger(device)->limit > 64u << 20);
    size_t whole = device_ledger(device)->limit;
    device_close(device);
    options.node_size = 4;
    device = device_open(&options);
    assert_int_equal(device_ledger(device)->limit, whole / 4);
    device_close(device);
}

static void test_workspace_is_memory(void **state) {
    (void)state;
    struct device_options options = {.world_size = 1, .node_size = 1, .dtype = FP32};
    for (int half = 0; half < 2; half++) {
        options.dtype = half ? FP16 : FP32;
        struct device *device = device_open(&options);
        struct stream *stream = stream_open(device, "test");
        size_t bytes;
        float *workspace = cpu_workspace(stream, &bytes);
        assert_int_equal(bytes, half ? CPU_WORKSPACE_BYTES : 0);
        assert_true(half ? (uintptr_t)workspace % 256 == 0 : !workspace);
        if (half) memset(workspace, 1, bytes);
        stream_close(stream);
        device_close(device);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open),
        cmocka_unit_test(check_workspace),
        cmocka_unit_test(test_workspace_is_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
