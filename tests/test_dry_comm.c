/* The dry backend's communicators: who is where, bytes counted, staging booked; nothing sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "common/comm/comm.h"
#include "tests/support/comm_script.h"

static struct device *open_device(const struct comm *comm) {
    return device_open(&(struct device_options){.rank = comm_rank(comm),
                                                .world_size = comm_size(comm),
                                                .node_rank = comm_node_rank(comm),
                                                .node_size = comm_node_size(comm),
                                                .dtype = FP32});
}

static struct comm *open_world(int rank, int size, int node_size) {
    return comm_open_world(
        &(struct comm_options){.dry_rank = rank, .dry_size = size, .dry_node_size = node_size});
}

static void test_layout(void **state) {
    (void)state;
    struct comm *comm = open_world(0, 0, 0);
    assert_int_equal(comm_size(comm), 1);
    assert_int_equal(comm_rank(comm), 0);
    comm_close(comm);

    comm = open_world(5, 10, 4); /* the last node has two ranks */
    assert_int_equal(comm_rank(comm), 5);
    assert_int_equal(comm_node_rank(comm), 1);
    assert_int_equal(comm_node_size(comm), 4);
    assert_int_equal(comm_node(comm, 3), 0);
    assert_int_equal(comm_node(comm, 9), 2);
    assert_true(comm_same_node(comm, 4) && comm_same_node(comm, 7));
    assert_false(comm_same_node(comm, 3) || comm_same_node(comm, 8));
    comm_close(comm);
}

static void test_script(void **state) {
    (void)state;
    const int worlds[][3] = {{0, 1, 1}, {0, 2, 2},  {1, 2, 1},   {2, 3, 2},    {0, 4, 4},
                             {3, 4, 2}, {5, 16, 4}, {13, 14, 8}, {77, 512, 8}, {511, 512, 8}};
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
        struct comm *comm = open_world(worlds[w][0], worlds[w][1], worlds[w][2]);
        struct device *device = open_device(comm);
        comm_attach(comm, device);
        comm_script_run(comm, device);
        comm_script_check(comm, device, comm_script_staging(worlds[w][0], worlds[w][1]));
        comm_close(comm);
        assert_int_equal(device_ledger(device)->total.bytes, 0);
        device_close(device);
    }
}

/* The same numbers written down: 10 elements over 4 ranks are slices of 3, 3, 2, 2. */
static void test_known_counts(void **state) {
    (void)state;
    struct comm *comm = open_world(1, 4, 2);
    struct device *device = open_device(comm);
    comm_attach(comm, device);
    struct stream *stream = stream_open(device, "test");
    char *memory = device_alloc(device, GRADIENTS, 1 << 20, "test");
    comm_all_reduce(comm, stream, memory, 10, FP32);
    struct comm_bytes bytes[COLLECTIVES];
    comm_bytes_sent(comm, bytes);
    assert_int_equal(bytes[ALL_REDUCE].calls, 1);
    assert_true(bytes[ALL_REDUCE].bytes == 4 * ((3 + 2 + 2) + 3 * 3));
    assert_true(bytes[ALL_REDUCE].inside_bytes == 4 * (3 + 3));
    assert_true(bytes[ALL_REDUCE].across_bytes == 4 * ((2 + 3) + (2 + 3)));
    comm_broadcast(comm, stream, memory, 100, BF16, 1);
    comm_broadcast(comm, stream, memory, 100, BF16, 0);
    comm_bytes_sent(comm, bytes);
    assert_int_equal(bytes[BROADCAST].calls, 2);
    assert_true(bytes[BROADCAST].bytes == 600 && bytes[BROADCAST].inside_bytes == 200);
    assert_int_equal(comm_staging_bytes(comm, ALL_REDUCE, 10, FP32), 3 * 3 * 4);
    device_free(device, memory);
    stream_close(stream);
    comm_close(comm);
    device_close(device);
}

/* Two levels over 3 nodes of 4 ranks: inside a node, and the ranks of one place across nodes. */
static void test_split(void **state) {
    (void)state;
    struct comm *comm = open_world(6, 12, 4);
    struct device *device = open_device(comm);
    int node[12], place[12];
    for (int r = 0; r < 12; r++) {
        node[r] = comm_node(comm, r);
        place[r] = r % 4;
    }
    struct comm *inside = comm_split(comm, node), *across = comm_split(comm, place);
    comm_attach(comm, device);
    assert_int_equal(comm_size(inside), 4);
    assert_int_equal(comm_rank(inside), 2);
    assert_int_equal(comm_node_size(inside), 4);
    assert_int_equal(comm_size(across), 3);
    assert_int_equal(comm_rank(across), 1);
    assert_int_equal(comm_node_size(across), 1);
    struct stream *stream = stream_open(device, "test");
    char *memory = device_alloc(device, GRADIENTS, 1 << 20, "test");
    comm_reduce_scatter(inside, stream, memory, memory + 2 * 400, 100, FP32);
    comm_all_reduce(across, stream, memory, 99, FP32);
    comm_all_gather(inside, stream, memory, memory + 2 * 400, 100, FP32);
    struct comm_bytes bytes[COLLECTIVES];
    comm_bytes_sent(inside, bytes);
    assert_true(bytes[REDUCE_SCATTER].inside_bytes == 1200 && bytes[REDUCE_SCATTER].across_bytes == 0);
    assert_true(bytes[ALL_GATHER].bytes == 1200);
    comm_bytes_sent(across, bytes);
    assert_true(bytes[ALL_REDUCE].across_bytes == 4 * (66 + 66) && bytes[ALL_REDUCE].inside_bytes == 0);
    comm_bytes_sent(comm, bytes);
    for (int c = 0; c < COLLECTIVES; c++) assert_true(bytes[c].bytes == 0);
    /* one place in turn, shared: the larger of the two stagings */
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 1200);
    device_free(device, memory);
    stream_close(stream);
    comm_close(across);
    comm_close(comm);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 1200);
    comm_close(inside);
    assert_int_equal(device_ledger(device)->total.bytes, 0);
    device_close(device);
}

static void test_host(void **state) {
    (void)state;
    struct comm *comm = open_world(1, 3, 3);
    double values[2] = {1, 2};
    comm_barrier(comm);
    comm_host_sum(comm, values, 2);
    comm_host_max(comm, values, 2);
    comm_host_broadcast(comm, values, sizeof values, 0);
    assert_true(values[0] == 1 && values[1] == 2);
    char all[3];
    comm_host_gather(comm, all, "x", 1);
    assert_memory_equal(all, "xxx", 3);
    comm_close(comm);
}

/* ---- as if each rank had a GPU ---- */

enum { COUNT = 1000, PLACE = 2048, HEAD = 4096 }; /* 1,000 halves fill 7.8 times 256 bytes */

/* Bytes booked after a reduce-scatter of COUNT halves, an all-gather of half as many, and no more. */
static size_t booked_on_gpu(int size, int node_size, bool no_peer_copies) {
    struct comm *comm = comm_open_world(&(struct comm_options){
        .dry_size = size, .dry_node_size = node_size, .dry_gpu = true, .no_peer_copies = no_peer_copies});
    struct device *device = open_device(comm);
    comm_attach(comm, device);
    struct stream *stream = stream_open(device, "test");
    char *memory = device_alloc(device, GRADIENTS, 1 << 20, "test");
    assert_true(comm_wait_is_queued(comm));
    comm_reduce_scatter(comm, stream, memory, memory, COUNT, FP16);
    comm_all_gather(comm, stream, memory, memory, COUNT / 2, FP16);
    size_t booked = device_ledger(device)->lines[BUFFERS].bytes;
    assert_int_equal(device_ledger(device)->lines[BUFFERS].peak_bytes, booked);
    comm_close(comm);
    assert_int_equal(device_ledger(device)->lines[BUFFERS].bytes, 0);
    stream_close(stream);
    device_close(device);
    return booked;
}

/* GPUs of one node copy through places, two of each rank; NCCL's memory is not in the ledger. */
static void test_gpu_blocks(void **state) {
    (void)state;
    assert_int_equal(booked_on_gpu(1, 1, false), 0);
    assert_int_equal(booked_on_gpu(2, 2, false), HEAD + 2 * 2 * PLACE);
    assert_int_equal(booked_on_gpu(8, 8, false), HEAD + 2 * 8 * PLACE);
    assert_int_equal(booked_on_gpu(8, 8, true), 0);
    assert_int_equal(booked_on_gpu(8, 4, false), 0);
    assert_int_equal(booked_on_gpu(17, 17, false), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout), cmocka_unit_test(test_script),     cmocka_unit_test(test_known_counts),
        cmocka_unit_test(test_split),  cmocka_unit_test(test_gpu_blocks), cmocka_unit_test(test_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
