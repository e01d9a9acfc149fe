/*
 * Ranks and how they talk: the collectives that data-parallel training is made of.
 *
 *   mpi*.c         the CPU backend: pairwise exchanges and our own sums in rank order, in fp32 (never
 *                  MPI_Reduce): the same bits every time, on every rank
 *   nccl*.c        the CUDA backend, a GPU for each rank: NCCL's rings and trees, on a stream of its own;
 *                  the host waits for nothing. MPI carries what is between hosts
 *   peer*.c        the same among GPUs of one node that reach each other's memory: reduce-scatter, all-gather
 *                  and all-reduce by copy engines, which leave the multiprocessors to the model
 *   mpi_staged.c   ranks that share a GPU (comm_options.share_device): the CPU backend's exchanges and sums
 *                  on copies in pinned host memory: the same bits as there, and slow
 *   dry.c          any one rank of any world size in one process: bytes counted, nothing sent
 *
 * A collective is called by all ranks of a communicator, in the same order. start() queues it behind the work
 * queued so far on `stream` and returns at once; wait() lets the work queued on `stream` from then on see its
 * result. Between the two its buffers belong to the collective. Collectives complete in the order in which
 * they were started. A program started without mpirun is a world of one; collectives are then local copies
 * and send nothing.
 *
 * A peer that is lost, or silent for longer than the time-out, ends the job with a message that names it and
 * the collective: no function returns an error. (That ranks pass different counts is noticed by MPI alone.)
 *
 * Sums: with MPI and between GPUs of one node in rank order, in fp32, rounded once. With NCCL in the type of
 * the elements, rounded after each addition, in an order that depends on the ranks' place in its ring or
 * tree: the same bits on all ranks, and in every run of the same program on the same machines, as algorithms
 * that do not promise this are left out (NCCL_ALGO is set to Ring,Tree where it is not set). Between two
 * ranks both give the same bits.
 */
#ifndef COMMON_COMM_COMM_H
#define COMMON_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/device/device.h"

struct comm;

enum collective { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, ALL_TO_ALL, BROADCAST, COLLECTIVES };
const char *collective_name(enum collective collective); /* "all_reduce", … as in metrics.jsonl */

/* A started collective. Passed by value; wait exactly once. {0} is one that is complete already. */
struct comm_request {
    long long ticket;
};

struct comm_options {
    double timeout;      /* seconds without progress after which a collective gives its peers up; 0: never */
    bool share_device;   /* collectives go through host memory: ranks may have the same GPU */
    bool no_peer_copies; /* NCCL moves everything, also between GPUs that reach each other's memory */
    const char
        *network_interface; /* that MPI (over TCP) and NCCL use between nodes; NULL or "": they choose */
    int dry_rank;           /* dry backend: which rank … */
    int dry_size;           /* … of how many (0: 1) */
    int dry_node_size;      /* … and how many consecutive ranks share a node (0: all) */
    bool dry_gpu;           /* … with a GPU each: books what the CUDA backend does */
};

/* The world. Initialises MPI on first use; registers with error.h how fail() ends the job. Host-side only:
 * device work needs comm_attach() first. */
struct comm *comm_open_world(const struct comm_options *options);
/* Called by all ranks of `comm`; completes what was started. Ends MPI with the last one closed. NULL is fine.
 */
void comm_close(struct comm *comm);
/* The ranks that have this rank's colour, ordered by their rank in `comm`: a new communicator. colours
 * [size]: the colour of every rank, the same array on all of them (who is where is known to all:
 * comm_node()). Has the parent's time-out and device; counts its own bytes. */
struct comm *comm_split(struct comm *comm, const int *colours);
/* From now on, as comm_options.timeout. */
void comm_set_timeout(struct comm *comm, double seconds);
/* From now on nodes [size] say which ranks share a node, wherever they run (equal numbers, any; the same
 * array on all ranks): several nodes on one machine, for learning and tests. Call it after device_open() and
 * comm_attach(), which have to know who shares the machine, and before comm_split(). */
void comm_set_nodes(struct comm *comm, const int *nodes);
/* The same for nodes of so many consecutive ranks; ends the job where that does not divide their number. */
void comm_declare_nodes(struct comm *comm, int ranks_per_node);
/* A slow network between nodes, for learning and tests: from now on what ranks of this family send to other
 * nodes leaves each node at this many bytes per second at most, in both directions at once; each of the
 * node's ranks has the same share of that. Ends the job where NCCL sends, which nobody can hold back; does
 * nothing on the dry backend. 0: as fast as it goes. Call it with the world. */
void comm_slow_links(struct comm *comm, double bytes_per_second);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_node_rank(const struct comm *comm); /* rank among this communicator's ranks on this node */
int comm_node_size(const struct comm *comm);
/* The number of a rank's node, 0 …, in the order of the nodes' first ranks. */
int comm_node(const struct comm *comm, int rank);
bool comm_same_node(const struct comm *comm, int rank); /* does `rank` share my node? */

/* True on the one process that writes the run's files and speaks for all ranks: rank 0; on the dry backend
 * the only process, whatever rank it plays. */
static inline bool comm_is_leader(const struct comm *comm) {
    return comm_rank(comm) == 0 || !device_computes();
}

/* Lets collectives of `comm` and of all communicators split from it use device memory: staging is booked
 * there (heading buffers; on the host where ranks share a device). Called by all ranks. At most two of their
 * collectives are in flight together, starting a third completes the first: so staging is at most twice the
 * largest collective's. It grows with need and is freed when the last of them is closed, which must be before
 * device_close(). With NCCL there is no such limit, and no staging
 * but NCCL's own, outside the ledger, and the places of copies between GPUs (under buffers: two pieces of the
 * largest collective from each rank). */
void comm_attach(struct comm *comm, struct device *device);
/* Lets the ranks of `comm` take straight from each other's `memory`, a block of device_alloc()'s, where that
 * saves copies (GPUs of one node): in all-gathers whose `in` lies there, at the same offset on all ranks, or in
 * place in an `out` that does, and in all-reduces of buffers that do. A collective is done when this rank has
 * what it takes; when the others have is not told. So what they take from here must not change before a later
 * collective that all start behind their comm_wait() for this one, as an update's all-reduce of its loss is.
 * Called by all of them, after comm_attach(); one block a communicator. comm_unshare(), also by all, comes
 * before it is freed. */
void comm_share(struct comm *comm, void *memory, size_t bytes);
void comm_unshare(struct comm *comm);
/* Bytes of staging in device memory that one such collective of `count` elements (as passed to its start)
 * needs while it is in flight. */
size_t comm_staging_bytes(const struct comm *comm, enum collective collective, size_t count,
                          enum dtype dtype);

/* ---- collectives on device memory; counts are in elements of dtype ---- */

/* buffer [count]: the sum over ranks, in fp32 (fp64 for FP64), rounded once; NCCL: see above. In place. */
struct comm_request comm_all_reduce_start(struct comm *comm, struct stream *stream, void *buffer,
                                          size_t count, enum dtype dtype);
/* out [count] = the sum over ranks of their in's slice number `rank`, in [size · count]. out may be that
 * slice of in. */
struct comm_request comm_reduce_scatter_start(struct comm *comm, struct stream *stream, void *out,
                                              const void *in, size_t count, enum dtype dtype);
/* The same, added to what is in out: out [count] += the sum, rounded once more. Only where comm_adds(), which
 * saves the sum's way through memory. out does not overlap with in, which is scratch memory: it holds nothing
 * of use afterwards. */
struct comm_request comm_reduce_scatter_add_start(struct comm *comm, struct stream *stream, void *out,
                                                  void *in, size_t count, enum dtype dtype);
bool comm_adds(const struct comm *comm);
/* out [size · count]: rank r's in [count] at slice r. in may be that slice of out. */
struct comm_request comm_all_gather_start(struct comm *comm, struct stream *stream, void *out, const void *in,
                                          size_t count, enum dtype dtype);
/* Rank r gets send_counts[r] elements of `in` (packed in rank order), and gives recv_counts[r] of `out`. The
 * counts [size] are host memory, read before the call returns. `in` and `out` do not overlap. */
struct comm_request comm_all_to_all_start(struct comm *comm, struct stream *stream, void *out,
                                          const size_t *recv_counts, const void *in,
                                          const size_t *send_counts, enum dtype dtype);
/* buffer [count] of rank `root` to all, each directly. */
struct comm_request comm_broadcast_start(struct comm *comm, struct stream *stream, void *buffer, size_t count,
                                         enum dtype dtype, int root);

/* ---- chains: collectives of a family's communicators, one behind the other ---- */

enum { CHAIN_STEPS = 3 };

/* A collective, with what its start takes. */
struct comm_step {
    struct comm *comm;          /* of two ranks or more */
    enum collective collective; /* reduce-scatter, all-gather; all-reduce, whose in is its out */
    void *out;
    const void *in;
    size_t count;
};

/* Starts steps[0], and each of the others (`count` in all, CHAIN_STEPS at most) when the one before it is
 * complete, of whose result it may make use; in an all-gather that is not the first `in` must be its slice of
 * `out`. For wait(), and where the number in flight is limited, they are one collective; its bytes are
 * counted as `as`, with each step's communicator. The host waits for all but the last where ranks share a
 * device. */
struct comm_request comm_chain_start(struct stream *stream, enum collective as, const struct comm_step *steps,
                                     int count, enum dtype dtype);

/* ---- waiting ---- */

/* Collectives that were started before this one complete too. */
void comm_wait(struct comm *comm, struct stream *stream, struct comm_request request);
/* True where waiting only queues work on the stream and the host goes on (NCCL); false where the host waits.
 */
bool comm_wait_is_queued(const struct comm *comm);
/* Moves started collectives on, where the backend needs the caller for that; call between blocks. */
void comm_progress(struct comm *comm);

/* The same, started and waited for. */
void comm_all_reduce(struct comm *comm, struct stream *stream, void *buffer, size_t count, enum dtype dtype);
void comm_reduce_scatter(struct comm *comm, struct stream *stream, void *out, const void *in, size_t count,
                         enum dtype dtype);
void comm_all_gather(struct comm *comm, struct stream *stream, void *out, const void *in, size_t count,
                     enum dtype dtype);
void comm_all_to_all(struct comm *comm, struct stream *stream, void *out, const size_t *recv_counts,
                     const void *in, const size_t *send_counts, enum dtype dtype);
void comm_broadcast(struct comm *comm, struct stream *stream, void *buffer, size_t count, enum dtype dtype,
                    int root);

/* ---- between hosts: small exchanges outside the training step, not counted ---- */

void comm_barrier(struct comm *comm);
/* Host memory, in place: sums (in rank order) and maxima over ranks (NaN where any has one). The dry backend
 * leaves the values alone. */
void comm_host_sum(struct comm *comm, double *values, size_t count);
void comm_host_max(struct comm *comm, double *values, size_t count);
/* Host memory from rank `root` to all. */
void comm_host_broadcast(struct comm *comm, void *data, size_t bytes, int root);
/* all [size · bytes] host memory: rank r's `mine` [bytes] at position r. On the dry backend: mine at every
 * position. */
void comm_host_gather(struct comm *comm, void *all, const void *mine, size_t bytes);

/* ---- bytes sent by this rank, counted from the calls' arguments ----
 *
 * With N ranks and c = count · dtype_size, a rank sends in all
 *   all_reduce       c − s to reduce and (N − 1) s to gather, s being its own of N slices, whose sizes differ
 *                    by one element at most
 *   reduce_scatter   (N − 1) c
 *   all_gather       (N − 1) c
 *   all_to_all       its send_counts, but for its own
 *   broadcast        (N − 1) c from the root, nothing from the others
 */

struct comm_bytes {
    long long calls;
    double bytes;        /* sent by this rank */
    double inside_bytes; /* of these, to ranks on this node */
    double across_bytes; /* of these, to other nodes */
};
/* Sum over the collectives since opening; `bytes` [COLLECTIVES]. */
void comm_bytes_sent(const struct comm *comm, struct comm_bytes *bytes);
/* The same over all communicators of the family: the world and all that were ever split from it. */
void comm_bytes_sent_family(const struct comm *comm, struct comm_bytes *bytes);
/* Stops or goes on counting in all of the family: evaluation and saving are kept apart from training. */
void comm_count_bytes(struct comm *comm, bool count);

#endif
