/*
 * Inside the backends that have MPI: messages, waiting, sums.
 *
 *   mpi_world.c         starting and ending MPI, communicators
 *   mpi_watch.c         nodes that are lost without MPI's notice (watch.h)
 *   mpi_exchange.c      sets of messages in flight; who is waited for, and for how long
 *   mpi_collectives.c   the collectives on host memory, as exchanges and sums
 *   mpi_staged.c        the same on device memory, through copies of it on the host
 *   mpi_host.c          the exchanges between hosts
 *   mpi_sum.c           sums in rank order
 *
 * The CPU backend has its collectives from here (cpu.c); the CUDA backend has what is between hosts, roll
 * calls, and the staged collectives where ranks share a device (nccl.c). There the thread that watches NCCL
 * uses exchanges of its own, beside those of the thread that runs the model.
 *
 * MPI serves as a carrier of point-to-point messages only: every order of addition is ours.
 */
#ifndef COMMON_COMM_MPI_PRIVATE_H
#define COMMON_COMM_MPI_PRIVATE_H

#include <mpi.h>

#include "common/comm/comm_private.h"

/* comm->state */
struct mpi_comm {
    MPI_Comm handle;
    long long host_number; /* of the last exchange between hosts */
};

/* Which carrier serves, by the backend. */
const struct carrier *backend_carrier(const struct comm_options *options);
/* The support for threads that it needs of MPI: MPI_THREAD_FUNNELED or more. */
int backend_mpi_threads(void);

/* Ends the job with what MPI says where `code` is an error; `what` was tried. */
void mpi_check(int code, const char *what);

/* Starts to watch the others where they are on several nodes; nodes [size]: the world rank of each rank's
 * first one on its node. Called by all ranks. A lost one ends the job with a message that names it and its
 * node. */
void mpi_watch_open(const int *nodes, const char *interface);
/* Before MPI ends, behind a barrier. */
void mpi_watch_close(void);
/* Before this rank ends the job, having said why. */
void mpi_watch_failing(void);

/* ---- messages in flight ---- */

/* Messages between two ranks are matched by what they belong to: the number of the collective and its part.
 */
enum part { FIRST_PART, SECOND_PART, HOST_PART, ROLL_CALL, LAST_CALL, PARTS };

struct message {
    int peer;
    int bytes;
    bool receives;
    const void *held; /* data of one that waits until a slow link is free for it (comm_slow_links()), … */
    double leaves;    /* … and the time when it has passed it, in seconds */
};

struct exchange {
    struct comm *comm;
    const char *what; /* name of the collective */
    long long number;
    enum part part;
    int count, capacity, pending;
    int held;              /* of those that are pending, not sent yet */
    MPI_Request *requests; /* [capacity] */
    struct message *messages;
    int *finished; /* scratch for MPI_Testsome, as statuses */
    MPI_Status *statuses;
};

void exchange_open(struct exchange *exchange, struct comm *comm, const char *what, long long number,
                   enum part part);
void exchange_close(struct exchange *exchange);
/* Adds a message. Memory of any size, which must stay until the exchange is complete; nothing where bytes is
 * 0. */
void exchange_send(struct exchange *exchange, const void *data, size_t bytes, int peer);
void exchange_receive(struct exchange *exchange, void *data, size_t bytes, int peer);
/* Has any message arrived or gone? */
bool exchange_test(struct exchange *exchange);
/* Waits until all have; collectives in flight move on meanwhile. */
void exchange_wait(struct exchange *exchange);
/* Ends the job: names the ranks that have not answered, and says after how long. */
_Noreturn void exchange_give_up(const struct exchange *exchange);
/* Closes it although messages may be pending: they are no longer of interest. */
void exchange_withdraw(struct exchange *exchange);

/* ---- collectives ---- */

/* Operations whose `in`, `out` and staging are host memory, as start(), finish() and progress() of a carrier
 * (`stream` may be NULL). */
void mpi_start(struct operation *operation, struct stream *stream);
void mpi_finish(struct operation *operation);
void mpi_progress(struct family *family);

extern const struct carrier mpi_carrier, mpi_staged_carrier;

/* Moves the collectives in flight on; true where one did. */
bool collectives_move(struct family *family);

/* ---- waiting ---- */

/* Waiting for peers: a short while at full attention, then less and less, as other ranks may need this core.
 */
struct patience {
    double since; /* time of the last progress, in seconds */
};
void patience_begin(struct patience *patience);
/* Nothing has moved: pauses a moment. After the time-out ends the job, naming those that `exchange` waits
 * for. */
void patience_pause(struct patience *patience, const struct exchange *exchange);

/* ---- sums ---- */

/* out [count] = parts[0] + parts[1] + … + parts[ranks − 1], added in this order in fp32 (fp64 for FP64; INT32
 * wraps around) and rounded once. out may be one of the parts. */
void sum_in_order(enum dtype dtype, void *out, const void *const *parts, int ranks, size_t count);

#endif
