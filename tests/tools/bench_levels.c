/*
 * How long an update's collectives take in one level and in two, on a BLOOM of 20 million parameters in fp32,
 * behind a network between nodes that is slow; nothing is computed.
 *
 *     mpirun -n 4 bench_levels RANKS_PER_NODE GBIT_PER_SECOND [UPDATES]
 *
 * With a number of ranks a node that many consecutive ranks are declared one; with 0, nodes are as they are
 * (behind a real slow link, say). With 0 Gbit/s no slow link is imitated. The walks over the units are those
 * of stages 03 and 04 with one pack an update. Prints a table, whose last column is the time in one level
 * over that in this line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "06-multinode/hierarchical_collectives.h"
#include "common/base/error.h"

enum { ROTATION = 2 };

/* Whole units take turns, each when its collective is complete. */
struct rotation {
    char *whole[ROTATION];
    struct comm_request requests[ROTATION];
    int units[ROTATION];
    int turn;
};

struct bench {
    struct comm *comm;
    struct device *device;
    struct stream *stream;
    struct topology topology;
    struct layout layout;
    struct collectives collectives; /* in use */
    struct secondary_shard secondary;
    char *slices; /* [layout.sliced] parameters */
    struct rotation gathered, reduced;
    double flat_seconds; /* of the walk just done in one level */
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- walks ---- */

static void reduce(struct bench *b, int u) {
    struct rotation *r = &b->reduced;
    size_t slice = b->layout.units[u].slice;
    int i = r->turn = (r->turn + 1) % ROTATION;
    comm_wait(b->comm, b->stream, r->requests[i]);
    char *mine = r->whole[i] + (size_t)b->collectives.slice * slice * sizeof(float);
    r->requests[i] = reduce_scatter_start(&b->collectives, b->stream, mine, r->whole[i], slice, FP32);
    comm_progress(b->comm);
}

/* Begins to gather a unit; the one whose buffer it gets is complete, and its part is kept. */
static void gather(struct bench *b, int u) {
    struct rotation *r = &b->gathered;
    int i = r->turn = (r->turn + 1) % ROTATION;
    comm_wait(b->comm, b->stream, r->requests[i]);
    if (r->units[i] >= 0) secondary_shard_keep(&b->secondary, b->stream, r->units[i], r->whole[i]);
    r->units[i] = u;
    if (u < 0) return;
    const struct unit *unit = &b->layout.units[u];
    r->requests[i] = all_gather_start(&b->collectives, b->stream, r->whole[i],
                                      b->slices + unit->slice_offset * sizeof(float), unit->slice, FP32);
    comm_progress(b->comm);
}

static void finish(struct bench *b) {
    for (int i = 0; i < ROTATION; i++) {
        gather(b, -1);
        comm_wait(b->comm, b->stream, b->reduced.requests[i]);
        b->gathered.requests[i] = b->reduced.requests[i] = (struct comm_request){0};
    }
    stream_synchronize(b->stream);
}

/* Gradients reduced in the backward, then parameters gathered. */
static void walk_of_03(struct bench *b) {
    for (int u = b->layout.count; u-- > 0;) reduce(b, u);
    for (int u = 0; u < b->layout.count; u++) gather(b, u);
    finish(b);
}

/* Parameters gathered in the forward, and again in the backward, which reduces gradients. */
static void walk_of_04(struct bench *b) {
    secondary_shard_forget(&b->secondary);
    for (int u = 0; u < b->layout.count; u++) gather(b, u);
    for (int u = b->layout.count; u-- > 0;) {
        gather(b, u);
        reduce(b, u);
    }
    finish(b);
}

/* ---- measuring ---- */

static void measure(struct bench *b, const char *name, void (*walk)(struct bench *b), int updates,
                    bool flat) {
    struct comm_bytes before[COLLECTIVES], after[COLLECTIVES];
    double inside = 0, across = 0, best = 0;
    walk(b); /* connects, grows staging */
    comm_bytes_sent_family(b->comm, before);
    for (int i = 0; i < updates; i++) {
        comm_barrier(b->comm);
        double begin = now();
        walk(b);
        comm_barrier(b->comm);
        double seconds = now() - begin;
        if (i == 0 || seconds < best) best = seconds;
    }
    comm_bytes_sent_family(b->comm, after);
    for (int c = 0; c < COLLECTIVES; c++) {
        inside += (after[c].inside_bytes - before[c].inside_bytes) / updates;
        across += (after[c].across_bytes - before[c].across_bytes) / updates;
    }
    if (flat) b->flat_seconds = best;
    if (comm_is_leader(b->comm))
        printf("%-28s %9.1f ms   a rank sends %7.2f MB inside, %7.2f MB across   %5.2f\n", name, 1e3 * best,
               1e-6 * inside, 1e-6 * across, b->flat_seconds / best);
}

static void compare(struct bench *b, int updates) {
    struct hierarchy plain = {.topology = &b->topology};
    struct hierarchy keeping = {.topology = &b->topology, .secondary = &b->secondary};
    b->collectives = collectives_flat(b->comm);
    measure(b, "03 one level", walk_of_03, updates, true);
    b->collectives = hierarchical_collectives(&plain);
    measure(b, "03 two levels", walk_of_03, updates, false);
    b->collectives = collectives_flat(b->comm);
    measure(b, "04 one level", walk_of_04, updates, true);
    b->collectives = hierarchical_collectives(&plain);
    measure(b, "04 two levels", walk_of_04, updates, false);
    b->collectives = hierarchical_collectives(&keeping);
    measure(b, "04 two levels, second cut", walk_of_04, updates, false);
}

/* ---- set-up ---- */

static void bench_open(struct bench *b, int ranks_per_node, double gbit) {
    struct bloom_config config = {
        .vocabulary = 8192, .hidden = 512, .layers = 5, .heads = 8, .head_dim = 64}; /* 20 million */
    *b = (struct bench){.comm = comm_open_world(&(struct comm_options){.timeout = 60})};
    b->device = device_open(&(struct device_options){.rank = comm_rank(b->comm),
                                                     .world_size = comm_size(b->comm),
                                                     .node_rank = comm_node_rank(b->comm),
                                                     .node_size = comm_node_size(b->comm),
                                                     .threads = 1,
                                                     .dtype = FP32});
    b->stream = stream_open(b->device, "bench");
    comm_attach(b->comm, b->device);
    if (ranks_per_node > 0) comm_declare_nodes(b->comm, ranks_per_node);
    topology_open(&b->topology, b->comm);
    comm_slow_links(b->comm, gbit * 1e9 / 8);
    layout_open(&b->layout, &config, comm_size(b->comm));
    size_t sliced = b->layout.sliced * sizeof(float), largest = b->layout.largest * sizeof(float);
    b->slices = device_alloc(b->device, PARAMETERS, sliced, "bench");
    fill_zero(b->stream, b->slices, sliced);
    for (int i = 0; i < ROTATION; i++) {
        b->gathered.whole[i] = device_alloc(b->device, BUFFERS, largest, "bench");
        b->reduced.whole[i] = device_alloc(b->device, BUFFERS, largest, "bench");
        fill_zero(b->stream, b->reduced.whole[i], largest);
        b->gathered.units[i] = -1;
    }
    secondary_shard_open(&b->secondary, b->device, &b->topology, &b->layout, b->slices, FP32,
                         b->topology.ranks_per_node);
    struct level_rates rates = topology_measure(&b->topology, b->device);
    if (comm_is_leader(b->comm))
        printf("%s; %.1f M parameters; a rank's links: %.1f MB/s inside, %.1f MB/s across\n",
               b->topology.note, 1e-6 * (double)b->layout.parameters, 1e-6 * rates.inside,
               1e-6 * rates.across);
}

static void bench_close(struct bench *b) {
    secondary_shard_close(&b->secondary);
    for (int i = 0; i < ROTATION; i++) {
        device_free(b->device, b->gathered.whole[i]);
        device_free(b->device, b->reduced.whole[i]);
    }
    device_free(b->device, b->slices);
    layout_close(&b->layout);
    topology_close(&b->topology);
    stream_close(b->stream);
    comm_close(b->comm);
    device_close(b->device);
}

int main(int argc, char **argv) {
    struct bench bench;
    if (argc < 3) fail("usage: mpirun -n RANKS bench_levels RANKS_PER_NODE GBIT_PER_SECOND [UPDATES]");
    int updates = argc > 3 ? atoi(argv[3]) : 5;
    bench_open(&bench, atoi(argv[1]), atof(argv[2]));
    compare(&bench, updates > 0 ? updates : 1);
    bench_close(&bench);
    return 0;
}
