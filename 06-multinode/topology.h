/*
 * Who is where: ranks, nodes, and which slice of every unit a rank owns.
 *
 * M nodes of G ranks each. A rank has a place on its node, its local rank g = 0 … G − 1, and two
 * communicators beside the world:
 *
 *                   node 0      node 1      node 2
 *     g = 0         rank 0      rank 2      rank 4      across: the ranks with the same g, M of them
 *     g = 1         rank 1      rank 3      rank 5
 *                      inside: the ranks of a node, G of them
 *
 * Rank (node n, local rank g) owns slice g·M + n. So the slices of those who share a local rank lie side by
 * side, and together are one of G equal parts of a unit: that is what lets collectives work in two levels
 * without copying anything from place to place (hierarchical_collectives.h).
 *
 *     slice         0       1       2       3       4       5
 *     owner         rank 0  rank 2  rank 4  rank 1  rank 3  rank 5
 *     part          0: local ranks 0        1: local ranks 1
 *
 * Nodes are those that comm knows: found by MPI, or declared (setting ranks_per_node), so that one machine
 * can play several. Two levels need two nodes or more, all with equally many ranks, two or more; elsewhere
 * one level is left, and the note says why.
 */
#ifndef MULTINODE_TOPOLOGY_H
#define MULTINODE_TOPOLOGY_H

#include "common/comm/comm.h"

struct topology {
    struct comm *world;
    int nodes;          /* M */
    int ranks_per_node; /* G; of this rank's node, where they differ */
    int node;           /* n of this rank, */
    int local_rank;     /* and its g */
    bool two_levels;
    struct comm *inside; /* NULL, as the next, with one level */
    struct comm *across;
    int *slices;    /* [world] the slice that each rank owns */
    char note[160]; /* for people: "2 nodes of 4 ranks: collectives in two levels" */
};

/* Called by all ranks; `world` must live as long. The caller closes it, before the world. */
void topology_open(struct topology *topology, struct comm *world);
void topology_close(struct topology *topology);

/* The slice that a rank of the world owns; with one level, slice r is rank r's. */
int topology_slice_of(const struct topology *topology, int rank);

/* Bytes per second that this rank sends to the others of its node, and across, when all ranks do so at once:
 * all-gathers of a few MiB, timed. 0 for a level that is not there, for both where nodes differ in size, and
 * on the dry backend, which books the same memory. Collective; a fraction of a second on a usual network. */
struct level_rates {
    double inside, across;
};
struct level_rates topology_measure(const struct topology *topology, struct device *device);

#endif
