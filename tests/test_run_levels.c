/* Collectives in two levels, and what a node keeps of the parameters. This program starts itself under
 * mpirun: `test_run_levels rank ROLE …` is one rank, `test_run_levels share ROLE …` one of those that share a
 * device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#undef fail /* cmocka's; here it is the one of error.h */
#include "06-multinode/hierarchical_collectives.h"
#include "common/base/error.h"
#include "tests/support/command.h"
#include "tests/support/training.h"

/* ---- what a rank does ---- */

struct rank {
    struct comm *comm;
    struct device *device;
    struct stream *stream;
    struct topology topology;
    struct hierarchy hierarchy;
    struct collectives collectives;
    int size, rank;
};

static bool share_device;

/* NCCL adds in an order of its own, and rounds each time. */
static bool by_nccl(void) {
    return strcmp(device_backend(), "cuda") == 0 && !share_device;
}

/* Nodes of `ranks_per_node`; 0: as `nodes` says. */
static struct rank rank_open(int ranks_per_node, const int *nodes, double timeout) {
    struct rank r = {0};
    r.comm = comm_open_world(&(struct comm_options){.timeout = timeout, .share_device = share_device});
    r.device = device_open(&(struct device_options){.rank = comm_rank(r.comm),
                                                    .world_size = comm_size(r.comm),
                                                    .node_rank = comm_node_rank(r.comm),
                                                    .node_size = comm_node_size(r.comm),
                                                    .threads = 1,
                                                    .dtype = FP32,
                                                    .share_device = share_device});
    r.stream = stream_open(r.device, "test");
    comm_attach(r.comm, r.device);
    if (nodes) comm_set_nodes(r.comm, nodes);
    if (ranks_per_node) comm_declare_nodes(r.comm, ranks_per_node);
    topology_open(&r.topology, r.comm);
    r.size = comm_size(r.comm);
    r.rank = comm_rank(r.comm);
    return r;
}

/* Once `r` is where it stays. */
static void make_collectives(struct rank *r) {
    r->hierarchy = (struct hierarchy){.topology = &r->topology};
    r->collectives = hierarchical_collectives(&r->hierarchy);
}

static void rank_close(struct rank *r) {
    stream_close(r->stream);
    topology_close(&r->topology);
    comm_close(r->comm);
    if (device_ledger(r->device)->total.bytes)
        fail("%zu bytes are still booked", device_ledger(r->device)->total.bytes);
    device_close(r->device);
    printf("done\n");
}

/* ---- cases with known answers ---- */

struct level_case {
    const struct rank *rank;
    enum collective collective;
    enum dtype dtype;
    size_t count; /* of a slice */
    unsigned salt;
    bool in_place;
    bool exact; /* small whole numbers, whose sums are exact in every type */
    char *in, *out;
    struct comm_request request;
};

union element {
    float f32;
    uint16_t f16;
    double f64;
    uint32_t i32;
};

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static union element rounded(enum dtype dtype, double value) {
    union element e = {0};
    if (dtype == FP32) e.f32 = (float)value;
    if (dtype == BF16) e.f16 = bf16_from_float((float)value);
    if (dtype == FP16) e.f16 = fp16_from_float((float)value);
    if (dtype == FP64) e.f64 = value;
    if (dtype == INT32) e.i32 = (uint32_t)(int32_t)value;
    return e;
}

static double value_of(enum dtype dtype, union element e) {
    switch (dtype) {
    case FP32:
        return (double)e.f32;
    case BF16:
        return (double)bf16_to_float(e.f16);
    case FP16:
        return (double)fp16_to_float(e.f16);
    case FP64:
        return e.f64;
    default:
        return (double)(int32_t)e.i32;
    }
}

/* Element i of what `rank` brings. */
static union element element(const struct level_case *c, int rank, size_t i) {
    uint64_t bits = mix(mix(((uint64_t)c->salt << 32) + (uint64_t)rank) + i);
    double value = ((double)(bits >> 11) * 0x1p-53 - 0.5) * (double)(1 << (bits & 7));
    if (c->exact || c->dtype == INT32) value = (double)(bits % 33) - 16;
    return rounded(c->dtype, value);
}

/* a + b as one addition of a sum: in fp32, or in fp64 for it (and exactly for integers). */
static double plus(enum dtype dtype, double a, double b) {
    return dtype == FP64 || dtype == INT32 ? a + b : (double)((float)a + (float)b);
}

/* The ranks' sum of element i: of each node, rounded, then of the nodes, in the order of ranks. */
static union element sum_in_levels(const struct level_case *c, size_t i, double *magnitude) {
    const struct rank *r = c->rank;
    double sum = 0;
    *magnitude = 0;
    for (int n = 0; n < r->topology.nodes; n++) {
        double node = 0;
        for (int k = 0; k < r->size; k++) {
            if (r->topology.two_levels && comm_node(r->comm, k) != n) continue;
            double value = value_of(c->dtype, element(c, k, i));
            node = plus(c->dtype, node, value);
            *magnitude += fabs(value);
        }
        sum = plus(c->dtype, sum, value_of(c->dtype, rounded(c->dtype, node)));
        if (!r->topology.two_levels) break;
    }
    return rounded(c->dtype, sum);
}

static size_t whole_count(const struct level_case *c) {
    return c->count * (size_t)c->rank->size;
}

static size_t in_count(const struct level_case *c) {
    return c->collective == ALL_GATHER ? c->count : whole_count(c);
}

static size_t out_count(const struct level_case *c) {
    return c->collective == REDUCE_SCATTER ? c->count : whole_count(c);
}

static void level_start(struct level_case *c) {
    const struct rank *r = c->rank;
    const struct collectives *collectives = &r->collectives;
    size_t size = dtype_size(c->dtype), whole = whole_count(c) * size;
    char *large = device_alloc(r->device, ACTIVATIONS, whole + 1, "test");
    char *small = large + (size_t)collectives->slice * c->count * size;
    if (!c->in_place) small = device_alloc(r->device, ACTIVATIONS, c->count * size + 1, "test");
    c->in = c->collective == ALL_GATHER ? small : large;
    c->out = c->collective == REDUCE_SCATTER ? small : large;
    char *host = xcalloc(in_count(c) + 1, size);
    for (size_t i = 0; i < in_count(c); i++) {
        union element e = element(c, r->rank, i);
        memcpy(host + i * size, &e, size);
    }
    copy_to_device(r->stream, c->in, host, in_count(c) * size);
    stream_synchronize(r->stream);
    free(host);
    if (c->collective == ALL_REDUCE)
        c->request = all_reduce_start(collectives, r->stream, large, c->count, c->dtype);
    if (c->collective == REDUCE_SCATTER)
        c->request = reduce_scatter_start(collectives, r->stream, c->out, c->in, c->count, c->dtype);
    if (c->collective == ALL_GATHER)
        c->request = all_gather_start(collectives, r->stream, c->out, c->in, c->count, c->dtype);
}

/* The rank that owns a slice. */
static int owner_of(const struct rank *r, int slice) {
    int owner = 0;
    while (slice_of(&r->collectives, owner) != slice) owner++;
    return owner;
}

static bool is_right(const struct level_case *c, union element got, size_t i) {
    static const double units[] = {[FP32] = 0x1p-24, [BF16] = 0x1p-8, [FP16] = 0x1p-11, [FP64] = 0x1p-53};
    const struct rank *r = c->rank;
    double magnitude = 0;
    if (c->collective == ALL_GATHER) {
        union element expected = element(c, owner_of(r, (int)(i / c->count)), i % c->count);
        return memcmp(&got, &expected, dtype_size(c->dtype)) == 0;
    }
    size_t first = c->collective == REDUCE_SCATTER ? (size_t)r->collectives.slice * c->count : 0;
    union element expected = sum_in_levels(c, first + i, &magnitude);
    double difference = fabs(value_of(c->dtype, got) - value_of(c->dtype, expected));
    if (c->exact || c->dtype == INT32 || !by_nccl()) return difference == 0;
    return difference <= 2 * r->size * units[c->dtype] * magnitude;
}

static void level_finish(struct level_case *c) {
    const struct rank *r = c->rank;
    size_t size = dtype_size(c->dtype), count = out_count(c);
    comm_wait(r->comm, r->stream, c->request);
    char *host = xcalloc(count + 1, size);
    copy_to_host(r->stream, host, c->out, count * size);
    stream_synchronize(r->stream);
    for (size_t i = 0; i < count; i++) {
        union element got = {0};
        memcpy(&got, host + i * size, size);
        if (!is_right(c, got, i))
            fail("rank %d of %d, %d a node: %s of slices of %zu %s%s: element %zu is wrong", r->rank, r->size,
                 r->topology.ranks_per_node, collective_name(c->collective), c->count, dtype_name(c->dtype),
                 c->in_place ? " in place" : "", i);
    }
    free(host);
    char *small = c->collective == ALL_GATHER ? c->in : c->out;
    if (!c->in_place) device_free(r->device, small);
    device_free(r->device, c->collective == ALL_GATHER ? c->out : c->in);
}

/* ---- roles ---- */

/* Every collective, element type and kind of size, one at a time; 1.5 million doubles take several messages.
 */
static void cases(struct rank *r) {
    const size_t counts[] = {0, 1, 2, 7, 1000, 4099};
    unsigned salt = 1;
    for (int dtype = FP32; dtype <= INT32; dtype++)
        for (int collective = ALL_REDUCE; collective <= ALL_GATHER; collective++)
            for (size_t n = 0; n <= sizeof counts / sizeof *counts; n++)
                for (int form = 0; form < 4; form++) {
                    bool large = n == sizeof counts / sizeof *counts;
                    struct level_case c = {.rank = r,
                                           .collective = (enum collective)collective,
                                           .dtype = (enum dtype)dtype,
                                           .count = large ? 200000 / (size_t)r->size : counts[n],
                                           .salt = salt++,
                                           .in_place = form % 2 || collective == ALL_REDUCE,
                                           .exact = form / 2};
                    if (large && form > 0) continue;
                    level_start(&c);
                    level_finish(&c);
                }
}

static void role_cases(int ranks_per_node) {
    struct rank r = rank_open(ranks_per_node, NULL, 60);
    make_collectives(&r);
    cases(&r);
    rank_close(&r);
}

/* Ranks dealt to two nodes as no launcher would; and nodes that differ in size, which leave one level. */
static void role_places(void) {
    const int odd[] = {0, 1, 1, 0, 1, 0}, uneven[] = {0, 1, 1, 1, 1, 1};
    struct rank r = rank_open(0, odd, 60);
    make_collectives(&r);
    if (!r.topology.two_levels || r.topology.nodes != 2) fail("two levels were expected");
    for (int slice = 0; slice < r.size; slice++) {
        const int owners[] = {0, 1, 2, 3, 4, 5}; /* by local rank: 0 1 │ 2 3 │ 4 5 */
        if (owner_of(&r, slice) != owners[slice]) fail("slice %d has another owner", slice);
    }
    cases(&r);
    topology_close(&r.topology);
    comm_set_nodes(r.comm, uneven);
    topology_open(&r.topology, r.comm);
    make_collectives(&r);
    if (r.topology.two_levels || !strstr(r.topology.note, "have")) fail("one level was expected");
    struct level_rates rates = topology_measure(&r.topology, r.device);
    if (rates.inside != 0 || rates.across != 0) fail("a level was measured that is not there");
    cases(&r);
    rank_close(&r);
}

static unsigned next(unsigned *state, unsigned below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

/* One and the same random program on all ranks: several in flight, some waited for out of order, with
 * collectives of the world between them. */
static void role_flight(int ranks_per_node) {
    struct rank r = rank_open(ranks_per_node, NULL, 60);
    make_collectives(&r);
    unsigned state = 5;
    float *buffer = device_alloc(r.device, ACTIVATIONS, 1000 * sizeof *buffer, "test");
    fill_zero(r.stream, buffer, 1000 * sizeof *buffer);
    for (int round = 0; round < 100; round++) {
        struct level_case flights[3];
        unsigned flying = 1 + next(&state, 3);
        for (unsigned i = 0; i < flying; i++) {
            flights[i] = (struct level_case){.rank = &r, .salt = 5000 + (unsigned)round * 3 + i};
            flights[i].collective = (enum collective)next(&state, 3);
            flights[i].dtype = (enum dtype)next(&state, 5);
            flights[i].count = next(&state, round % 10 ? 700 : 50000);
            flights[i].in_place = next(&state, 2) || flights[i].collective == ALL_REDUCE;
            level_start(&flights[i]);
            for (unsigned k = next(&state, 4); k > 0; k--) comm_progress(r.comm);
            if (next(&state, 6) == 0) comm_all_reduce(r.comm, r.stream, buffer, 1000, FP32);
            if (next(&state, 8) == 0) comm_barrier(r.comm);
        }
        bool backwards = next(&state, 2);
        for (unsigned i = 0; i < flying; i++) level_finish(&flights[backwards ? flying - 1 - i : i]);
    }
    device_free(r.device, buffer);
    rank_close(&r);
}

/* What was sent since the last call, of the whole family. */
static struct comm_bytes sent_since(struct comm *comm, enum collective collective) {
    static struct comm_bytes before[COLLECTIVES];
    struct comm_bytes now[COLLECTIVES], *old = &before[collective];
    comm_bytes_sent_family(comm, now);
    struct comm_bytes difference = now[collective];
    difference.bytes -= old->bytes;
    difference.inside_bytes -= old->inside_bytes;
    difference.across_bytes -= old->across_bytes;
    *old = now[collective];
    return difference;
}

static void expect_sent(struct rank *r, enum collective collective, struct level_bytes expected) {
    struct comm_bytes sent = sent_since(r->comm, collective);
    if (sent.inside_bytes != expected.inside || sent.across_bytes != expected.across ||
        sent.bytes != expected.inside + expected.across)
        fail("rank %d, %s: %.0f bytes inside and %.0f across; %.0f and %.0f expected", r->rank,
             collective_name(collective), sent.inside_bytes, sent.across_bytes, expected.inside,
             expected.across);
}

/* A model whose parameter number i of unit u is a function of both and of the update. */
static float parameter(int update, int unit, size_t i) {
    return (float)(update * 1000 + unit) + (float)(i % 4096) / 8192;
}

static void set_slices(const struct rank *r, const struct layout *layout, float *slices, int update) {
    float *host = xcalloc(layout->sliced, sizeof *host);
    for (int u = 0; u < layout->count; u++) {
        struct slice part = layout_slice(&layout->units[u], r->collectives.slice);
        for (size_t i = 0; i < part.count; i++)
            host[layout->units[u].slice_offset + i] = parameter(update, u, part.begin + i);
    }
    copy_to_device(r->stream, slices, host, layout->sliced * sizeof *host);
    stream_synchronize(r->stream);
    free(host);
}

static void check_whole(const struct rank *r, const struct unit *unit, int number, const float *whole,
                        int update) {
    float *host = xcalloc(unit->padded, sizeof *host);
    copy_to_host(r->stream, host, whole, unit->padded * sizeof *host);
    stream_synchronize(r->stream);
    for (size_t i = 0; i < unit->padded; i++)
        if (host[i] != parameter(update, number, i))
            fail("rank %d: unit %d, update %d: element %zu is wrong", r->rank, number, update, i);
    free(host);
}

/* Two updates of two packs each: forward and backward, and what goes across only once an update. */
static void role_secondary(int ranks_per_node) {
    struct rank r = rank_open(ranks_per_node, NULL, 60);
    struct bloom_config config = {.vocabulary = 100, .hidden = 16, .layers = 3, .heads = 2, .head_dim = 8};
    struct layout layout;
    layout_open(&layout, &config, r.size);
    make_collectives(&r);
    size_t before = device_ledger(r.device)->lines[PARAMETERS].bytes;
    float *slices = device_alloc(r.device, PARAMETERS, layout.sliced * sizeof *slices, "test");
    float *whole = device_alloc(r.device, BUFFERS, layout.largest * sizeof *whole, "test");
    struct secondary_shard secondary;
    secondary_shard_open(&secondary, r.device, &r.topology, &layout, slices, FP32, ranks_per_node);
    size_t booked = device_ledger(r.device)->lines[PARAMETERS].bytes - before;
    double parts = r.topology.two_levels ? (double)(layout.padded / (size_t)ranks_per_node) : 0;
    if ((double)booked != 4 * ((double)layout.sliced + parts)) fail("%zu bytes are booked", booked);
    r.hierarchy.secondary = &secondary;
    struct level_bytes all = hierarchical_bytes(&r.topology, 4.0 * (double)layout.padded), inside = all;
    if (r.topology.two_levels) inside.across = 0;
    for (int update = 0; update < 2; update++) {
        set_slices(&r, &layout, slices, update);
        secondary_shard_forget(&secondary);
        for (int walk = 0; walk < 4; walk++) { /* forward, backward, forward, backward */
            for (int k = 0; k < layout.count; k++) {
                int u = walk % 2 ? layout.count - 1 - k : k;
                const struct unit *unit = &layout.units[u];
                comm_wait(r.comm, r.stream,
                          all_gather_start(&r.collectives, r.stream, whole, slices + unit->slice_offset,
                                           unit->slice, FP32));
                secondary_shard_keep(&secondary, r.stream, u, whole);
                check_whole(&r, unit, u, whole, update);
            }
            expect_sent(&r, ALL_GATHER, walk == 0 ? all : inside);
        }
    }
    secondary_shard_close(&secondary);
    device_free(r.device, whole);
    device_free(r.device, slices);
    layout_close(&layout);
    rank_close(&r);
}

/* Each kind counted, exactly; all-reduce twice what the others send. */
static void role_bytes(int ranks_per_node) {
    struct rank r = rank_open(ranks_per_node, NULL, 60);
    make_collectives(&r);
    for (int collective = ALL_REDUCE; collective <= ALL_GATHER; collective++) {
        struct level_case c = {
            .rank = &r, .collective = (enum collective)collective, .dtype = BF16, .count = 1200};
        c.in_place = collective == ALL_REDUCE;
        struct level_bytes expected = hierarchical_bytes(&r.topology, 2.0 * (double)whole_count(&c));
        if (collective == ALL_REDUCE)
            expected = (struct level_bytes){2 * expected.inside, 2 * expected.across};
        level_start(&c);
        level_finish(&c);
        expect_sent(&r, c.collective, expected);
    }
    comm_count_bytes(r.comm, false);
    struct level_case c = {.rank = &r, .collective = ALL_GATHER, .dtype = FP32, .count = 5};
    level_start(&c);
    level_finish(&c);
    expect_sent(&r, ALL_GATHER, (struct level_bytes){0});
    rank_close(&r);
}

/* A slow link between two nodes, 16 MB/s: what a rank has of it, and what a level inside does not lose. */
static void role_slow(void) {
    struct rank r = rank_open(2, NULL, 60);
    comm_slow_links(r.comm, 16e6);
    struct level_rates rates = topology_measure(&r.topology, r.device);
    if (rates.across > 8.1e6 || rates.across < 6e6) fail("%g bytes a second across", rates.across);
    if (rates.inside < 5 * rates.across) fail("%g bytes a second inside", rates.inside);
    rank_close(&r);
}

/* One rank is not there for the second reduce-scatter. */
static void role_lost(int ranks_per_node, int lost) {
    struct rank r = rank_open(ranks_per_node, NULL, 2);
    make_collectives(&r);
    for (int i = 0; i < 3; i++) {
        struct level_case c = {
            .rank = &r, .collective = REDUCE_SCATTER, .dtype = FP32, .count = 1000, .in_place = true};
        if (i == 1 && r.rank == lost) nanosleep(&(struct timespec){.tv_sec = 20}, NULL);
        level_start(&c);
        level_finish(&c);
    }
    rank_close(&r);
}

static int run_role(int count, char **arguments) {
    const char *role = arguments[0];
    int number = count > 1 ? atoi(arguments[1]) : 0;
    if (strcmp(role, "cases") == 0) role_cases(number);
    if (strcmp(role, "places") == 0) role_places();
    if (strcmp(role, "flight") == 0) role_flight(number);
    if (strcmp(role, "secondary") == 0) role_secondary(number);
    if (strcmp(role, "bytes") == 0) role_bytes(number);
    if (strcmp(role, "slow") == 0) role_slow();
    if (strcmp(role, "lost") == 0) role_lost(number, atoi(arguments[2]));
    return 0;
}

/* ---- starting the ranks ---- */

static char program[4096];

/* A test's state: "rank", each with a device of its own, or "share". */
static bool enough(void **state, int size) {
    return strcmp(*state, "share") == 0 ? device_count() > 0 : device_count() >= size;
}

static void skip_unless(void **state, int size) {
    if (enough(state, size)) return;
    print_message("skipped: %d ranks need more GPUs than the %d that are visible\n", size, device_count());
    skip();
}

/* All ranks must say that they are done, and nothing else. */
static void run_ranks(void **state, int size, const char *role) {
    struct command_result result =
        command_run(240, COMMAND_MPIRUN "%s %s %s", size, program, (const char *)*state, role);
    assert_string_equal(result.err, "");
    assert_int_equal(result.exit_code, 0);
    assert_int_equal(lines_with(result.out, "done"), size);
    command_free(&result);
}

/* In worlds of 2, 4, 6 and 8 ranks on nodes of 1, 2, 3, 4 and more. */
static void run_shapes(void **state, const char *role) {
    const int shapes[][2] = {{2, 1}, {2, 2}, {4, 1}, {4, 2}, {4, 4}, {6, 2}, {6, 3}, {8, 4}};
    bool share = strcmp(*state, "share") == 0;
    skip_unless(state, 2);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char with_shape[64];
        if (training_is_brief() && shapes[i][0] != 4 && shapes[i][0] != 6) continue;
        if (!enough(state, shapes[i][0]) || (share && shapes[i][0] != 4 && shapes[i][0] != 2)) continue;
        snprintf(with_shape, sizeof with_shape, "%s %d", role, shapes[i][1]);
        run_ranks(state, shapes[i][0], with_shape);
    }
}

static void test_cases(void **state) {
    run_shapes(state, "cases");
}

static void test_several_in_flight(void **state) {
    run_shapes(state, "flight");
}

static void test_bytes(void **state) {
    run_shapes(state, "bytes");
}

static void test_second_cut(void **state) {
    run_shapes(state, "secondary");
}

static void test_places(void **state) {
    skip_unless(state, 6);
    run_ranks(state, 6, "places");
}

static void test_slow_links(void **state) {
    if (strcmp(*state, "rank") == 0 && strcmp(device_backend(), "cuda") == 0) {
        print_message("skipped: NCCL cannot be held back\n");
        skip();
    }
    skip_unless(state, 4);
    run_ranks(state, 4, "slow");
}

/* Named by its rank in the world, though it is another rank that the first to give up has waited for. */
static void test_lost_rank(void **state) {
    skip_unless(state, 4);
    for (int lost = 0; lost < 4; lost += 3) {
        char expected[64];
        snprintf(expected, sizeof expected, "no answer from rank %d in reduce_scatter number 2 ", lost);
        struct command_result result =
            command_run(60, COMMAND_MPIRUN "%s %s lost 2 %d", 4, program, (const char *)*state, lost);
        assert_false(result.timed_out);
        assert_int_not_equal(result.exit_code, 0);
        assert_int_equal(lines_with(result.err, expected), 1);
        assert_int_equal(lines_with(result.err, "error:"), 1);
        command_free(&result);
    }
}

static void test_bad_number(void **state) {
    skip_unless(state, 4);
    struct command_result result =
        command_run(60, COMMAND_MPIRUN "%s %s cases 3", 4, program, (const char *)*state);
    assert_int_not_equal(result.exit_code, 0);
    assert_true(strstr(result.err, "ranks_per_node 3: 4 ranks cannot be cut into nodes of 3") != NULL);
    command_free(&result);
}

int main(int count, char **arguments) {
    share_device = count > 2 && strcmp(arguments[1], "share") == 0;
    if (share_device || (count > 2 && strcmp(arguments[1], "rank") == 0))
        return run_role(count - 2, arguments + 2);
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) fail("where am I? /proc/self/exe cannot be read");
    char own[] = "rank", shared[] = "share";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_cases, own),
        cmocka_unit_test_prestate(test_several_in_flight, own),
        cmocka_unit_test_prestate(test_bytes, own),
        cmocka_unit_test_prestate(test_second_cut, own),
        cmocka_unit_test_prestate(test_places, own),
        cmocka_unit_test_prestate(test_slow_links, own),
        cmocka_unit_test_prestate(test_lost_rank, own),
        cmocka_unit_test_prestate(test_bad_number, own),
        cmocka_unit_test_prestate(test_cases, shared),
        cmocka_unit_test_prestate(test_several_in_flight, shared),
        cmocka_unit_test_prestate(test_second_cut, shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
