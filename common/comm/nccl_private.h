/*
 * Inside the CUDA backend's collectives.
 *
 *   nccl.c         which carrier serves; communicators of NCCL, made with the help of MPI; the collectives
 *   nccl_watch.c   collectives in flight, and the thread that notices when one does not end
 *
 * Collectives have a stream of their own (and copies between GPUs some more). A collective's start lets it wait
 * for what the caller's stream has queued so far, and its wait lets the caller's stream wait for the
 * collective; the host waits for neither. So nobody
 * is there to notice a lost peer but a thread that watches. It must never call CUDA, where another thread's
 * call (cudaFree(), say) may be waiting for the very kernel that hangs, and hold the driver's lock: the
 * stream itself writes into host memory how far it has come.
 */
#ifndef COMMON_COMM_NCCL_PRIVATE_H
#define COMMON_COMM_NCCL_PRIVATE_H

#include <cuda_runtime_api.h>
#include <nccl.h>

#include "common/comm/comm_private.h"

/* What NCCL is doing, from before the call that queues it until it is done on the device. */
struct flight {
    struct comm *comm;
    ncclComm_t handle; /* NULL while there is none */
    const char *what;  /* name of the collective, or what else NCCL was asked for */
    long long number;  /* of the collective in its communicator; 0: something else */
    long long ticket;  /* of the collective in its family; 0: something else */
    double timeout;
    bool queued;                     /* the call that queues it has returned */
    cudaStream_t ends;               /* where it ends: on the stream of all, or, … */
    bool copies;                     /* … if it is done by copies between GPUs, perhaps on one of theirs; */
    cudaEvent_t ready, done, beside; /* what they do on others is done up to here */
    /* Host memory that the stream sets to 1: it has come to this collective; it is done. */
    volatile uint32_t *reached, *ended;
};

/* A family's collectives in flight, in the order in which they were started. */
struct flights;

/* Makes the stream and starts the thread; flights_close() ends both, when all is done. */
struct flights *flights_open(void);
void flights_close(struct flights *flights);
cudaStream_t flights_stream(const struct flights *flights);

/* Begins one: from now on it is watched. The flight stays where it is until it is done. */
struct flight *flight_begin(struct flights *flights, struct flight what);
/* What is queued for it is between these two: behind the work queued on `stream` so far, and before what
 * waits for it. */
void flight_follow(struct flights *flights, struct flight *flight, cudaStream_t stream);
void flight_queued(struct flights *flights, struct flight *flight);
/* Ends one that has nothing to do on the device. */
void flight_end(struct flights *flights, struct flight *flight);

/* Lets a stream wait for the results of `ticket`, unless they are there. */
void flights_wait(struct flights *flights, cudaStream_t stream, long long ticket);
/* Before `comm`, which has nothing in flight any more, is freed. */
void flights_forget(struct flights *flights, const struct comm *comm);

#endif
