/*
 * Which cores a rank computes on, found without the user's help.
 *
 * The ranks of a node share its cores evenly: rank i of n gets cores i·C/n … (i+1)·C/n − 1 of the C that the
 * job may use, at least one, so that with more ranks than cores several share one. This undoes mpirun's own
 * binding, which gives each rank one core (with more than two ranks: one socket) unless it is told otherwise.
 * A mask that somebody chose is kept: a batch system's (srun), or the user's own (taskset).
 *
 * Threads do not compete: a rank uses as many as it has cores. OpenMP's threads wait for their next piece of
 * work by spinning, which would stand in the way of other ranks only where cores are shared, and there each
 * rank has one thread and none that waits. One thing cannot be undone from inside: libgomp looks at its cores
 * when it is loaded, before main(), and spins but briefly where it sees fewer cores than threads. Under
 * `mpirun --bind-to none` it sees them all; otherwise small kernels on many threads start some microseconds
 * later.
 */
#ifndef COMMON_DEVICE_CPU_CORES_H
#define COMMON_DEVICE_CPU_CORES_H

#include <stdbool.h>

struct core_range {
    int first, count;
};

/* The cores of rank `rank` of `ranks`, of `cores` in all. */
struct core_range cores_share(int cores, int rank, int ranks);

/* Threads for a rank with `share` cores on a node whose control group allows all ranks together `limit`
 * processors' worth of time: at least one. */
int cores_threads(int share, double limit, int ranks);

/* How this process was started, as far as it tells whose the mask of cores is that it was started with. */
struct core_mask {
    int at_start, usable; /* cores in the mask at start; cores that the system lets this process use */
    bool from_mpirun;     /* OMPI_COMM_WORLD_RANK is set */
    bool from_slurm;      /* SLURM_JOB_ID is set, with SLURM_CPUS_PER_TASK or SLURM_CPU_BIND */
    int ranks;            /* on this node */
};
/* Was the mask chosen for this rank, so that it is its share already? */
bool cores_mask_is_chosen(const struct core_mask *mask);

/* Moves this process to its share of the node's cores, and all threads it starts from now on: the number of
 * threads that the share is good for. Comes before any OpenMP work. */
int cores_claim(int node_rank, int node_size);

#endif
