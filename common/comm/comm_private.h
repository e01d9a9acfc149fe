/*
 * Inside comm: what the backends share.
 *
 * comm.c does for every backend what must not differ between them: it checks and counts each call, keeps at
 * most two collectives in flight, books their staging, and copies a rank's own part. The rest is moved by a
 * carrier, of which a backend has one or two:
 *
 *   mpi_carrier          the CPU's: messages from and to device memory, which is the host's
 *   mpi_staged_carrier   the same, through copies in host memory: several ranks on one GPU
 *   nccl_carrier         a GPU for each rank: NCCL, and copies between GPUs of one node (peer_copies.h)
 *   dry_carrier          nothing moves
 *
 * A backend chooses one when it opens the world, and implements the functions at the end of this file and the
 * exchanges between hosts.
 */
#ifndef COMMON_COMM_COMM_PRIVATE_H
#define COMMON_COMM_COMM_PRIVATE_H

#include "common/comm/comm.h"

enum { IN_FLIGHT = 2 };

/* A collective from its start to its completion. */
struct operation {
    struct comm *comm;
    enum collective collective;
    enum collective counted_as; /* the same, but for steps of a chain */
    enum dtype dtype;
    const char *in; /* device memory, as out */
    char *out;      /* in place: the same as in */
    size_t count;   /* elements, as passed to its start */
    int root;       /* broadcast */
    bool adds;      /* reduce-scatter: the sum is added to what is in out */
    bool follows;   /* makes use of what the one started before leaves: a later step of a chain */
    size_t
        *send_offsets; /* all-to-all: elements before each rank's, and their sum at the end [size + 1]; … */
    size_t *recv_offsets; /* … freed by comm.c */
    long long number;     /* of this collective in its communicator, from 1 */
    long long ticket;     /* in its family, from 1; 0: this place is free */
    struct staging *staging;
    void *state;            /* the carrier's */
    struct operation *next; /* the chain's next step, which takes this one's place when it is complete */
};

/* Memory that pieces to be summed arrive in; kept, and grown with need. */
struct staging {
    char *memory;
    size_t bytes;
};

struct family;

/* How collectives get from rank to rank. Those of a world of one never come here. */
struct carrier {
    /* start() only queues, on the device: there is no limit to what is in flight, no staging; and it copies
     * this rank's own slice of an all-gather itself, and adds the sum of a reduce-scatter that asks for it */
    bool queues;
    bool stages; /* pieces to be summed arrive in device memory, which comm.c books */
    bool chains; /* goes through a chain's steps, by operation_advance(); else comm.c waits for each */
    /* `comm` has a device from now on; called by all its ranks. NULL: nothing to do. */
    void (*attach)(struct comm *comm);
    /* comm_share(), memory NULL: comm_unshare(). NULL: of no use. */
    void (*share)(struct comm *comm, void *memory, size_t bytes);
    void (*start)(struct operation *operation, struct stream *stream);
    /* Where it queues: what is queued on `stream` later sees the results up to this ticket's. */
    void (*wait)(struct family *family, struct stream *stream, long long ticket);
    /* Where it does not: returns when it is complete. */
    void (*finish)(struct operation *operation);
    void (*progress)(struct family *family);
    /* Completes what is queued, and lets go of what attach() and start() made, if they ever did; what belongs
     * to the family with its last communicator. NULL: nothing to do. */
    void (*close)(struct comm *comm);
};

/* A communicator and all that were split from it: they share the device and the two places for collectives in
 * flight. */
struct family {
    const struct carrier *carrier;
    void *state;           /* the carrier's */
    struct device *device; /* NULL: none attached */
    struct operation operations[IN_FLIGHT];
    struct staging staging[IN_FLIGHT];
    long long tickets;
    int members;       /* open communicators */
    struct comm *root; /* the world, while it is open */
    struct comm_bytes bytes[COLLECTIVES];
    bool counting;
    bool no_peer_copies; /* comm_options */
    double link_rate;    /* bytes per second that a rank may send to other nodes; 0: no limit */
    double link_free;    /* time at which what it sent so far has left, in seconds */
};

struct comm {
    struct family *family;
    int rank, size;
    int *nodes;       /* [size] number of each rank's node */
    int *world_ranks; /* [size] each rank's rank in the world, for messages */
    int node_rank, node_size;
    double timeout;
    long long number; /* of its last collective */
    struct comm_bytes bytes[COLLECTIVES];
    void *state;   /* the backend's */
    void *carried; /* the carrier's */
};

/* A communicator of a new family (parent NULL) or of its parent's. Takes `nodes` and `world_ranks` over:
 * arrays of [size], from malloc; nodes may hold any number that is the same for ranks of one node. */
struct comm *comm_new(const struct comm *parent, int rank, int size, int *nodes, int *world_ranks,
                      double timeout);

/* Puts the next step of a chain in the place of the one that is complete: with its ticket, staging and state.
 * False where there is none. */
bool operation_advance(struct operation *operation);

/* Elements before rank r's slice when `count` elements are cut into `size` slices whose sizes differ by one
 * at most, the larger ones first; r = size gives count. */
size_t slice_offset(size_t count, int size, int r);
size_t slice_count(size_t count, int size, int r);

/* Bytes that the other ranks' pieces of what this rank sums take. */
size_t piece_bytes(const struct comm *comm, enum collective collective, size_t count, enum dtype dtype);

/* ---- what a backend implements ---- */

/* Makes `comm`, just split from `parent`, able to exchange; `colour` is not negative. */
void backend_split(struct comm *comm, struct comm *parent, int colour);
/* Before the communicator is freed. */
void backend_close(struct comm *comm);

#endif
