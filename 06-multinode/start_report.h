/*
 * What a run says at its start, before anybody wonders why it is slow: where each rank is, on which device
 * and cores, and how fast its links are.
 *
 *     2 nodes of 2 ranks: collectives in two levels
 *     rank  node  host      inside   across  device and cores
 *        0     0  lab01      412       3.1  NVIDIA H200, 8 threads on cores 0-7 of 32, near its GPU
 *
 * Rates are in GB/s (1e9 bytes), sent by the rank while all others send; "-" for a level that is not there.
 */
#ifndef MULTINODE_START_REPORT_H
#define MULTINODE_START_REPORT_H

#include "06-multinode/topology.h"
#include "common/train/session.h"

/* Writes the lines (one a rank, up to 64 of them) and an event "topology" with all ranks:
 *
 *     {"event": "topology", "nodes", "ranks_per_node", "levels", "ranks": [{"rank", "node", "host", "device",
 *      "cores", "inside_bytes_per_second", "across_bytes_per_second"}, …]}
 *
 * rates null where nothing was measured. On the dry backend only the rank that is played is in it. Call it
 * after session_begin(). Collective. */
void start_report(struct session *session, const struct topology *topology, struct level_rates rates);

#endif
