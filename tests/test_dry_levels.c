/* Collectives in two levels on the dry backend: bytes, staging and the second cut of the parameters, in
 * worlds of any size. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "06-multinode/hierarchical_collectives.h"
#include "tests/support/failing.h"

struct world {
    struct comm *comm;
    struct device *device;
    struct stream *stream;
    struct topology topology;
    struct hierarchy hierarchy;
    struct collectives collectives;
};

/* Nodes as the dry world has them, of `node_size` ranks, or declared. */
static void world_open(struct world *w, int rank, int size, int node_size, bool declared) {
    w->comm = comm_open_world(&(struct comm_options){
        .dry_rank = rank, .dry_size = size, .dry_node_size = declared ? 0 : node_size});
    w->device = device_open(&(struct device_options){.rank = rank,
                                                     .world_size = size,
                                                     .node_rank = comm_node_rank(w->comm),
                                                     .node_size = comm_node_size(w->comm),
                                                     .dtype = FP32}); /* half precision books a workspace */
    w->stream = stream_open(w->device, "test");
    comm_attach(w->comm, w->device);
    if (declared) comm_declare_nodes(w->comm, node_size);
    topology_open(&w->topology, w->comm);
    w->hierarchy = (struct hierarchy){.topology = &w->topology};
    w->collectives = hierarchical_collectives(&w->hierarchy);
}

static void world_close(struct world *w) {
    topology_close(&w->topology);
    stream_close(w->stream);
    comm_close(w->comm);
    assert_int_equal(device_ledger(w->device)->total.bytes, 0);
    device_close(w->device);
}

/* Rank, ranks, ranks of a node. */
static const int worlds[][3] = {{1, 2, 1},  {0, 2, 2},    {3, 4, 2},     {2, 6, 3},     {7, 8, 4},
                                {5, 16, 8}, {77, 512, 8}, {511, 512, 8}, {200, 384, 4}, {13, 48, 16}};

/* Every slice has one owner; the M slices of one local rank follow each other. */
static void test_slices(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        for (int declared = 0; declared < 2; declared++) {
            int rank = worlds[i][0], size = worlds[i][1], local = worlds[i][2], nodes = size / local;
            struct world w;
            world_open(&w, rank, size, local, declared);
            bool two = nodes > 1 && local > 1;
            assert_int_equal(w.topology.two_levels, two);
            assert_int_equal(w.topology.nodes, nodes);
            assert_int_equal(w.topology.ranks_per_node, local);
            assert_int_equal(w.topology.node, rank / local);
            assert_int_equal(w.topology.local_rank, rank % local);
            for (int r = 0; r < size; r++)
                assert_int_equal(slice_of(&w.collectives, r), (r % local) * nodes + r / local);
            assert_int_equal(w.collectives.slice, slice_of(&w.collectives, rank));
            assert_int_equal(w.collectives.slices, size);
            if (two) {
                assert_int_equal(comm_size(w.topology.inside), local);
                assert_int_equal(comm_rank(w.topology.inside), rank % local);
                assert_int_equal(comm_size(w.topology.across), nodes);
                assert_int_equal(comm_rank(w.topology.across), rank / local);
            }
            world_close(&w);
        }
}

/* The table of hierarchical_collectives.h, and what comm counts. Two in flight need a staging of
 * (G − 1)/G of the buffer each, and nothing else. */
static void test_bytes_and_staging(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        int size = worlds[i][1], local = worlds[i][2], nodes = size / local;
        struct world w;
        world_open(&w, worlds[i][0], size, local, true);
        size_t count = 1200, whole = count * (size_t)size * 2;
        char *memory = device_alloc(w.device, GRADIENTS, 2 * whole, "test");
        struct comm_request requests[2];
        for (int k = 0; k < 2; k++)
            requests[k] = reduce_scatter_start(&w.collectives, w.stream, memory, memory, count, BF16);
        for (int k = 0; k < 2; k++) comm_wait(w.comm, w.stream, requests[k]);
        size_t staging = w.topology.two_levels ? whole / (size_t)local * (size_t)(local - 1)
                                               : whole / (size_t)size * (size_t)(size - 1);
        assert_int_equal(device_ledger(w.device)->lines[BUFFERS].peak_bytes, 2 * staging);
        comm_wait(w.comm, w.stream,
                  all_gather_start(&w.collectives, w.stream, memory, memory + whole, count, BF16));
        comm_wait(w.comm, w.stream, all_reduce_start(&w.collectives, w.stream, memory, count, BF16));
        assert_int_equal(device_ledger(w.device)->lines[BUFFERS].peak_bytes, 2 * staging);

        double slice = 2.0 * (double)count, inside = (local - 1) * slice, across = (size - local) * slice;
        if (w.topology.two_levels) {
            inside = (local - 1) * nodes * slice;
            across = (nodes - 1) * slice;
        }
        struct level_bytes predicted = hierarchical_bytes(&w.topology, (double)whole);
        assert_true(predicted.inside == inside && predicted.across == across);
        assert_true(inside + across == (size - 1) * slice);
        struct comm_bytes sent[COLLECTIVES];
        const int times[] = {[ALL_REDUCE] = 2, [REDUCE_SCATTER] = 2, [ALL_GATHER] = 1};
        comm_bytes_sent_family(w.comm, sent);
        for (int c = ALL_REDUCE; c <= ALL_GATHER; c++) {
            assert_true(sent[c].inside_bytes == times[c] * inside);
            assert_true(sent[c].across_bytes == times[c] * across);
            assert_true(sent[c].bytes == times[c] * (inside + across));
        }
        device_free(w.device, memory);
        world_close(&w);
    }
}

/* bloom-176b in half precision on 64 nodes of 8: the second cut is an eighth of the parameters on each
 * device, and the model's gathers cross the network once an update. */
static void test_second_cut(void **state) {
    (void)state;
    struct bloom_config config;
    struct layout layout;
    struct error error;
    assert_true(bloom_config_published(&config, "bloom", &error));
    layout_open(&layout, &config, 512);
    struct world w;
    world_open(&w, 100, 512, 8, false);
    char *slices = device_alloc(w.device, PARAMETERS, layout.sliced * 2, "test");
    char *whole = device_alloc(w.device, BUFFERS, layout.largest * 2, "test");
    struct secondary_shard secondary;
    secondary_shard_open(&secondary, w.device, &w.topology, &layout, slices, BF16, 8);
    w.hierarchy.secondary = &secondary;
    size_t booked = device_ledger(w.device)->lines[PARAMETERS].bytes - layout.sliced * 2;
    assert_int_equal(booked, layout.padded * 2 / 8);
    double predicted = secondary_shard_bytes(&w.topology, &layout, BF16, 8);
    assert_true((double)booked >= predicted && (double)booked < 1.01 * predicted);
    struct level_bytes once = hierarchical_bytes(&w.topology, 2.0 * (double)layout.padded);
    for (int walk = 1; walk <= 4; walk++) {
        for (int u = 0; u < layout.count; u++) {
            const struct unit *unit = &layout.units[u];
            comm_wait(w.comm, w.stream,
                      all_gather_start(&w.collectives, w.stream, whole, slices + unit->slice_offset * 2,
                                       unit->slice, BF16));
            secondary_shard_keep(&secondary, w.stream, u, whole);
        }
        struct comm_bytes sent[COLLECTIVES];
        comm_bytes_sent_family(w.comm, sent);
        assert_true(sent[ALL_GATHER].across_bytes == once.across);
        assert_true(sent[ALL_GATHER].inside_bytes == walk * once.inside);
    }
    secondary_shard_close(&secondary);
    /* None is kept where none is wanted, or where there is one level. */
    secondary_shard_open(&secondary, w.device, &w.topology, &layout, slices, BF16, 1);
    assert_null(secondary_shard_find(&secondary, slices));
    secondary_shard_keep(&secondary, w.stream, 0, whole);
    assert_null(secondary_shard_find(&secondary, slices));
    assert_true(secondary_shard_bytes(&w.topology, &layout, BF16, 1) == 0);
    secondary_shard_close(&secondary);
    device_free(w.device, whole);
    device_free(w.device, slices);
    world_close(&w);
    layout_close(&layout);
}

/* The formulas of a run on 2 nodes of 4, of a model of B bytes, three times gathered a pack. */
static void test_predictions(void **state) {
    (void)state;
    struct session s = {.dtype = BF16};
    struct bloom_config config;
    struct error error;
    assert_true(bloom_config_published(&config, "bloom-560m", &error));
    struct world w;
    world_open(&w, 3, 8, 4, true);
    layout_open(&s.layout, &config, 8);
    double eighth = 2 * (double)s.layout.parameters / 8; /* of B */
    s.sent_per_update[ALL_REDUCE] = 2 * 7 * eighth;
    s.sent_per_pack[REDUCE_SCATTER] = 7 * eighth;
    s.sent_per_pack[ALL_GATHER] = 3 * 7 * eighth;
    hierarchical_predict_sent(&w.hierarchy, &s);
    assert_true(s.across_predicted);
    assert_float_equal(s.across_per_update[ALL_REDUCE], 2 * eighth, 1);
    assert_float_equal(s.across_per_pack[REDUCE_SCATTER], eighth, 1);
    assert_float_equal(s.across_per_pack[ALL_GATHER], 3 * eighth, 1);
    assert_float_equal(s.sent_per_pack[ALL_GATHER], 3 * 7 * eighth, 1);
    struct secondary_shard secondary;
    secondary_shard_open(&secondary, w.device, &w.topology, &s.layout, NULL, BF16, 4);
    w.hierarchy.secondary = &secondary;
    hierarchical_predict_sent(&w.hierarchy, &s);
    assert_float_equal(s.sent_per_pack[ALL_GATHER], 3 * 6 * eighth, 1);
    assert_float_equal(s.across_per_pack[ALL_GATHER], 0, 0);
    assert_float_equal(s.sent_per_update[ALL_GATHER], eighth, 1);
    assert_float_equal(s.across_per_update[ALL_GATHER], eighth, 1);
    secondary_shard_close(&secondary);
    layout_close(&s.layout);
    world_close(&w);
}

/* The last node has fewer ranks: one level, and the note says so. */
static void test_uneven_nodes(void **state) {
    (void)state;
    struct world w;
    world_open(&w, 5, 10, 4, false);
    assert_false(w.topology.two_levels);
    assert_string_equal(
        w.topology.note,
        "nodes 0 and 2 have 4 and 2 ranks: collectives in one level, as two need equally many");
    assert_int_equal(slice_of(&w.collectives, 7), 7);
    struct level_bytes bytes = hierarchical_bytes(&w.topology, 1000);
    assert_true(bytes.inside == 300 && bytes.across == 600);
    world_close(&w);
    world_open(&w, 0, 8, 2, true);
    assert_string_equal(w.topology.note, "4 nodes of 2 ranks: collectives in two levels");
    world_close(&w);
    world_open(&w, 0, 4, 4, true);
    assert_string_equal(w.topology.note, "1 node of 4 ranks: collectives in one level");
    world_close(&w);
}

static void open_undivided(void *context) {
    (void)context;
    struct world w;
    world_open(&w, 0, 10, 4, true);
}

static void open_wrong_cut(void *context) {
    (void)context;
    struct world w;
    struct layout layout;
    struct bloom_config config = {.vocabulary = 100, .hidden = 16, .layers = 1, .heads = 2, .head_dim = 8};
    layout_open(&layout, &config, 8);
    world_open(&w, 0, 8, 4, true);
    struct secondary_shard secondary;
    secondary_shard_open(&secondary, w.device, &w.topology, &layout, NULL, BF16, 2);
}

static void test_bad_numbers(void **state) {
    (void)state;
    CHECK_FAILS(open_undivided, NULL, "ranks_per_node 4", "10 ranks", "start a multiple");
    CHECK_FAILS(open_wrong_cut, NULL, "zero_hpz_partition_size 2", "4 ranks", "or to 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slices),      cmocka_unit_test(test_bytes_and_staging),
        cmocka_unit_test(test_second_cut),  cmocka_unit_test(test_uneven_nodes),
        cmocka_unit_test(test_bad_numbers), cmocka_unit_test(test_predictions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
