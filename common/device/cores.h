/*
 * Which cores a rank computes on, found without the user's help. On the CPU backend they do all the work;
 * beside a GPU they read text and, in stage 05, update parameters.
 *
 * The ranks of a node share its cores evenly: rank i of n gets cores i·C/n … (i+1)·C/n − 1 of the C that the
 * job may use, at least one, so that with more ranks than cores several share one. Where the system says
 * which cores are near which GPU, a rank gets as many as otherwise, but those near its own GPU first. This
 * undoes mpirun's own binding, which gives each rank one core (with more than two ranks: one socket) unless
 * it is told otherwise. A mask that somebody chose is kept: a batch system's (srun), or the user's own
 * (taskset).
 *
 * Threads do not compete: a rank uses as many as it has cores. OpenMP's threads wait for their next piece of
 * work by spinning, which would stand in the way of other ranks only where cores are shared, and there each
 * rank has one thread and none that waits. One thing cannot be undone from inside: libgomp looks at its cores
 * when it is loaded, before main(), and spins but briefly where it sees fewer cores than threads. Under
 * `mpirun --bind-to none` it sees them all; otherwise small kernels on many threads start some microseconds
 * later.
 */
#ifndef COMMON_DEVICE_CORES_H
#define COMMON_DEVICE_CORES_H

#include <stdbool.h>

/* What a rank got. */
struct cores {
    int threads;
    char *text;    /* for people: "8 threads on cores 0-7 of 64, near its GPU" */
    char *warning; /* NULL, or why these are few and what to do about it */
};

/* Moves this process to its share of the node's cores, and all threads it starts from now on, and sets how
 * many threads OpenMP uses: `threads` if that is not 0, else the user's OMP_NUM_THREADS, else what the share
 * is good for. `near` [node_size] are lists ("0-7,64-71") of the cores near each rank's device; NULL where
 * there are none, or one of them is not known. Comes before any OpenMP work. cores_free() the result. */
struct cores cores_open(int node_rank, int node_size, int threads, char *const near[]);
void cores_free(struct cores *cores);

/* ---- the parts of it ---- */

struct core_range {
    int first, count;
};

/* The cores of rank `rank` of `ranks`, of `cores` in all. */
struct core_range cores_share(int cores, int rank, int ranks);

/* Deals cores among no more ranks than there are cores: owners[c] becomes the rank that gets core c. Each
 * gets as many as cores_share() says. near[rank · cores + c]: core c is near the rank's device; ranks with
 * the same cores near them share those evenly, and what is still missing comes from those that are left.
 * Without any near, the ranges are those of cores_share(). */
void cores_deal(int cores, int ranks, const bool *near, int *owners);

/* Marks the members of a list as Linux writes it ("0-7,64-71"), as far as they are below `most`. False where
 * it is no such list. */
bool cores_read_list(const char *list, bool *members, int most);

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

/* Why a rank has few threads (under four, where its part of the node's cores is more), and what to do;
 * malloc()ed. NULL where that is not so. */
struct core_limits {
    struct core_mask mask;
    int online;           /* cores of the node */
    int share;            /* cores that this rank was left with */
    int threads;          /* that it uses */
    double limit;         /* of the control group, processors */
    bool from_user;       /* OMP_NUM_THREADS is set */
    bool bound_by_openmp; /* OMP_PROC_BIND or OMP_PLACES is set: threads stay in the mask of the start */
};
char *cores_warning(const struct core_limits *limits);

#endif
