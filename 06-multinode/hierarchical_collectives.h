/*
 * Collectives in two levels: much inside the nodes, little across.
 *
 * Links inside a node (NVLink, shared memory) are ten times faster than those across (a network card, which
 * the node's ranks share). Of a buffer of B bytes, N = G·M ranks on M nodes of G:
 *
 *     a reduce-scatter or an all-gather     one level           two levels
 *     sent by a rank, inside its node       (G − 1)/N · B       (G − 1)/G · B
 *     sent by a rank, across                (N − G)/N · B       (M − 1)/N · B      G times less
 *     together                              (N − 1)/N · B       (N − 1)/N · B
 *
 * In one level each of a node's G ranks gets the same bytes from other nodes on its own. In two levels a node
 * gets them once, each of its ranks a part, and the ranks tell each other:
 *
 *     reduce-scatter   inside: rank g of each node gets part g of the buffer, summed over its node
 *                      across: of that part, rank n of those with the same g gets its slice, summed over all
 *     all-gather       across: those with the same g give each other their slices: each has part g, whole
 *                      inside: the ranks of a node give each other their parts
 *     all-reduce       a reduce-scatter inside, an all-reduce of part g across, an all-gather inside
 *
 * Part g is made of the slices g·M … g·M + M − 1, which are those of the ranks with local rank g
 * (topology.h), so that it lies in the buffer in one piece. Every step works in the caller's buffers: in the
 * one to be scattered part g is overwritten by its sum over the node. No memory is needed beside comm's own
 * staging, and that is smaller than with one level: (G − 1)/G · B instead of (N − 1)/N · B. In the other
 * order, first inside, an all-gather would have each rank send all its node's slices across, as much as with
 * one level.
 *
 * Sums: each level is a sum as comm.h promises it, first inside, then across, and
 * rounded to the element type after each of the two. So against one level
 *     int32         the same bits
 *     fp32, fp64    the last bits differ, as (a + b) + (c + d) instead of ((a + b) + c) + d
 *     fp16, bf16    one rounding to half precision more: half a unit in the last place of a node's sum
 * and where there is one level only, or where all sums are exact, none differ. Run after run, and on all
 * ranks, the bits are the same. All-gathers copy.
 *
 * Following: the hierarchical all-reduce of Jia et al. 2018, and the hierarchical all-gather and
 * reduce-scatter of MiCS (Zhang et al. 2022).
 */
#ifndef MULTINODE_HIERARCHICAL_COLLECTIVES_H
#define MULTINODE_HIERARCHICAL_COLLECTIVES_H

#include "06-multinode/secondary_shard.h"
#include "06-multinode/topology.h"
#include "common/comm/collectives.h"
#include "common/train/session.h"

struct hierarchy {
    const struct topology *topology;
    const struct secondary_shard *secondary; /* parameters that need no gathering across; NULL: none */
};

/* The object for ZeRO's modules, whose requests are waited for with the world. `hierarchy` must live as long.
 * Where the topology has one level, these are collectives_flat()'s. */
struct collectives hierarchical_collectives(struct hierarchy *hierarchy);

/* What this rank sends in a reduce-scatter, or in an all-gather, of a buffer of so many bytes in all (an
 * all-reduce: twice as much), by the formulas above; with one level by its, for any number of ranks on this
 * node. */
struct level_bytes {
    double inside, across;
};
struct level_bytes hierarchical_bytes(const struct topology *topology, double bytes);

/* From what a stage sends by formula in one level (the session's arrays, which it has set) makes what it
 * sends in two, and how much of that goes across. Where parameters are kept a second time, a unit is gathered
 * from all nodes once an update, and later only from its own. */
void hierarchical_predict_sent(const struct hierarchy *hierarchy, struct session *session);

#endif
