#include "06-multinode/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/error.h"

/* ---- who is where ---- */

/* A rank's place among those of its node. */
static int local_rank_of(const struct comm *world, int rank) {
    int before = 0;
    for (int r = 0; r < rank; r++) before += comm_node(world, r) == comm_node(world, rank);
    return before;
}

static int ranks_of_node(const struct comm *world, int node) {
    int count = 0;
    for (int r = 0; r < comm_size(world); r++) count += comm_node(world, r) == node;
    return count;
}

static void count_nodes(struct topology *t) {
    for (int r = 0; r < comm_size(t->world); r++)
        if (comm_node(t->world, r) >= t->nodes) t->nodes = comm_node(t->world, r) + 1;
    t->node = comm_node(t->world, comm_rank(t->world));
    t->local_rank = local_rank_of(t->world, comm_rank(t->world));
    t->ranks_per_node = ranks_of_node(t->world, t->node);
}

/* Two levels or one, and a word on it. */
static void choose_levels(struct topology *t) {
    int first = ranks_of_node(t->world, 0), other = first, n = 0;
    while (other == first && ++n < t->nodes) other = ranks_of_node(t->world, n);
    t->two_levels = other == first && t->nodes > 1 && first > 1;
    if (other != first)
        snprintf(t->note, sizeof t->note,
                 "nodes 0 and %d have %d and %d ranks: collectives in one level, as two need equally many", n,
                 first, other);
    else
        snprintf(t->note, sizeof t->note, "%d node%s of %d rank%s: collectives in %s", t->nodes,
                 t->nodes == 1 ? "" : "s", first, first == 1 ? "" : "s",
                 t->two_levels ? "two levels" : "one level");
}

/* Where a node's ranks are in `across` is asked of the ranks themselves, not of the nodes' numbers: ranks may
 * be dealt to nodes in any order, and communicators are ordered by rank. */
static void number_slices(struct topology *t, const int *local_ranks) {
    for (int r = 0; r < comm_size(t->world); r++) {
        int before = 0;
        for (int other = 0; other < r; other++) before += local_ranks[other] == local_ranks[r];
        t->slices[r] = t->two_levels ? local_ranks[r] * t->nodes + before : r;
    }
}

static void split(struct topology *t, const int *local_ranks) {
    int size = comm_size(t->world), *nodes = xmalloc((size_t)size * sizeof *nodes);
    for (int r = 0; r < size; r++) nodes[r] = comm_node(t->world, r);
    t->inside = comm_split(t->world, nodes);
    t->across = comm_split(t->world, local_ranks);
    free(nodes);
}

void topology_open(struct topology *topology, struct comm *world) {
    struct topology *t = topology;
    size_t size = (size_t)comm_size(world);
    *t = (struct topology){.world = world, .slices = xmalloc(size * sizeof *t->slices)};
    count_nodes(t);
    choose_levels(t);
    int *local_ranks = xmalloc(size * sizeof *local_ranks);
    for (int r = 0; r < (int)size; r++) local_ranks[r] = local_rank_of(world, r);
    number_slices(t, local_ranks);
    if (t->two_levels) split(t, local_ranks);
    free(local_ranks);
}

void topology_close(struct topology *topology) {
    comm_close(topology->across);
    comm_close(topology->inside);
    free(topology->slices);
}

int topology_slice_of(const struct topology *topology, int rank) {
    return topology->slices[rank];
}

/* ---- how fast it is there ---- */

enum { PROBE_BYTES = 4 << 20, PROBES = 3 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The best of a few all-gathers in which each rank sends PROBE_BYTES in all, behind one that makes
 * connections. */
static double measure(const struct topology *t, struct comm *level, struct stream *stream, char *memory) {
    if (!level) return 0;
    size_t others = (size_t)comm_size(level) - 1, count = PROBE_BYTES / sizeof(float) / others;
    double best = 0;
    for (int i = 0; i <= PROBES; i++) {
        comm_barrier(t->world);
        double begin = now();
        comm_all_gather(level, stream, memory, memory + (size_t)comm_rank(level) * count * sizeof(float),
                        count, FP32);
        stream_synchronize(stream);
        double rate = (double)(others * count * sizeof(float)) / (now() - begin);
        if (i > 0 && rate > best) best = rate;
    }
    return best;
}

struct level_rates topology_measure(const struct topology *topology, struct device *device) {
    const struct topology *t = topology;
    int size = comm_size(t->world);
    struct comm *inside = t->two_levels ? t->inside : t->nodes == 1 && size > 1 ? t->world : NULL;
    struct comm *across = t->two_levels ? t->across : t->nodes == size && size > 1 ? t->world : NULL;
    if (!inside && !across) return (struct level_rates){0};
    struct stream *stream = stream_open(device, "measuring links");
    char *memory = device_alloc(device, BUFFERS, 2 * (size_t)PROBE_BYTES, "measuring links");
    fill_zero(stream, memory, 2 * (size_t)PROBE_BYTES);
    struct level_rates rates = {.inside = measure(t, inside, stream, memory),
                                .across = measure(t, across, stream, memory)};
    stream_synchronize(stream);
    device_free(device, memory);
    stream_close(stream);
    return device_computes() ? rates : (struct level_rates){0};
}
