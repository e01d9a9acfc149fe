#include "common/comm/nccl_private.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/comm/mpi_private.h"
#include "common/comm/peer_values.h"
#include "common/device/cuda/cuda.h"

enum {
    MOST = 512,                  /* in flight; the host waits before it queues more */
    LOOK_NANOSECONDS = 50000000, /* between two looks of the thread */
};
#define CONNECTING_SECONDS 60.0 /* that NCCL may take for setting up connections, when no progress shows */
#define LAUNCHER_SECONDS                                                                                     \
    1.0 /* for the launcher to say that a process ended, which explains NCCL's errors                        \
         */

/* What the thread has seen of the oldest flight. */
struct vigil {
    long long sequence;        /* of this flight in the family; 0: of none */
    double since;              /* when all that it needs of this rank was there, in seconds */
    double broken;             /* when NCCL first told of an error; 0: it has not */
    bool asked;                /* who else is there: */
    struct exchange roll_call; /* all ranks that wait send all others a word, … */
    char *words;               /* … which arrive here */
};

struct flights {
    cudaStream_t stream;
    volatile uint32_t *marks; /* pinned: two for each place */
    struct flight ring[MOST];
    long long begun, ended; /* those between the two, modulo MOST, are in flight */
    struct vigil vigil;
    pthread_t thread;
    pthread_mutex_t lock; /* of all above, but for what belongs to a flight that is not queued yet */
    pthread_cond_t wake;
    bool closing;
};

/* ---- flights; under the lock ---- */

static struct flight *flight_at(struct flights *flights, long long sequence) {
    return &flights->ring[sequence % MOST];
}

/* Forgets those that are done. */
static void retire(struct flights *flights) {
    while (flights->ended < flights->begun) {
        struct flight *flight = flight_at(flights, flights->ended + 1);
        if (!flight->queued || !*flight->ended) return;
        flights->ended++;
    }
}

/* ---- the thread; it has the lock but for its pauses ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void drop_roll_call(struct vigil *vigil) {
    if (!vigil->asked) return;
    exchange_withdraw(&vigil->roll_call);
    free(vigil->words);
    vigil->asked = false;
}

/* Half the time is gone: this rank tells the others that it is there, and listens who else is. */
static void call_the_roll(struct vigil *vigil, const struct flight *flight) {
    static const char here = 1;
    struct exchange *exchange = &vigil->roll_call;
    vigil->words = xcalloc((size_t)flight->comm->size, 1);
    exchange_open(exchange, flight->comm, flight->what, flight->number, ROLL_CALL);
    for (int r = 0; r < flight->comm->size; r++)
        if (r != flight->comm->rank) exchange_receive(exchange, &vigil->words[r], 1, r);
    for (int r = 0; r < flight->comm->size; r++)
        if (r != flight->comm->rank) exchange_send(exchange, &here, 1, r);
    vigil->asked = true;
}

static int world_rank(const struct flight *flight) {
    return flight->comm->world_ranks[flight->comm->rank];
}

/* No communicator is aborted, which is for processes that live on: the job ends, and with each process the
 * driver ends its kernels. */
static _Noreturn void give_up(const struct vigil *vigil, const struct flight *flight) {
    if (vigil->roll_call.pending) exchange_give_up(&vigil->roll_call);
    fail(
        "rank %d: %s number %lld is not done after %g s, though all its ranks take part; look at the network "
        "(NCCL_DEBUG=INFO shows NCCL's choices), or raise communication_timeout if it is only slow",
        world_rank(flight), flight->what, flight->number, flight->timeout);
}

/* What NCCL has noticed itself: connections that broke, most often as a process at the other end is gone. */
static void look_for_errors(struct vigil *vigil, const struct flight *flight) {
    ncclResult_t state = ncclSuccess;
    if (!flight->handle) return;
    ncclResult_t code = ncclCommGetAsyncError(flight->handle, &state);
    if (code != ncclSuccess) state = code;
    if (state == ncclSuccess || state == ncclInProgress) return;
    if (!vigil->broken) vigil->broken = now();
    if (now() - vigil->broken < LAUNCHER_SECONDS) return;
    fail("rank %d: %s number %lld: NCCL says: %s (%s); see what was printed by other ranks, and run again "
         "with "
         "NCCL_DEBUG=WARN, which says more",
         world_rank(flight), flight->what, flight->number, ncclGetErrorString(state),
         ncclGetLastError(flight->handle));
}

static void look(struct vigil *vigil, const struct flight *flight, long long sequence) {
    if (vigil->sequence != sequence) {
        drop_roll_call(vigil);
        *vigil = (struct vigil){.sequence = sequence, .since = now()};
    }
    look_for_errors(vigil, flight);
    if (flight->queued && !*flight->reached) vigil->since = now(); /* this rank still computes */
    double idle = now() - vigil->since;
    double patience = flight->timeout + (flight->queued ? 0 : CONNECTING_SECONDS);
    if (flight->timeout <= 0) return;
    if (idle > patience / 2 && !vigil->asked) call_the_roll(vigil, flight);
    if (vigil->asked) exchange_test(&vigil->roll_call);
    if (idle > patience) give_up(vigil, flight);
}

static void *watch(void *pointer) {
    struct flights *flights = pointer;
    pthread_mutex_lock(&flights->lock);
    while (!flights->closing) {
        retire(flights);
        long long oldest = flights->ended + 1;
        if (oldest <= flights->begun) look(&flights->vigil, flight_at(flights, oldest), oldest);
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        time.tv_nsec += LOOK_NANOSECONDS;
        time.tv_sec += time.tv_nsec / 1000000000;
        time.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&flights->wake, &flights->lock, &time);
    }
    drop_roll_call(&flights->vigil);
    pthread_mutex_unlock(&flights->lock);
    return NULL;
}

/* ---- for nccl.c ---- */

static cudaEvent_t new_event(void) {
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "opening NCCL's events");
    return event;
}

struct flights *flights_open(void) {
    struct flights *flights = xcalloc(1, sizeof *flights);
    int least = 0, greatest = 0;
    void *marks = NULL;
    /* Its few blocks go first wherever one ends: what waits for them waits for all ranks. */
    CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest), "opening NCCL's stream");
    CUDA_CHECK(cudaStreamCreateWithPriority(&flights->stream, cudaStreamNonBlocking, greatest),
               "opening NCCL's stream");
    CUDA_CHECK(cudaHostAlloc(&marks, 2 * MOST * sizeof *flights->marks, cudaHostAllocDefault),
               "opening NCCL's stream");
    flights->marks = marks;
    for (int i = 0; i < MOST; i++) {
        struct flight *flight = &flights->ring[i];
        flight->ready = new_event();
        flight->done = new_event();
        flight->beside = new_event();
        flight->reached = flights->marks + 2 * i;
        flight->ended = flights->marks + 2 * i + 1;
    }
    pthread_mutex_init(&flights->lock, NULL);
    pthread_cond_init(&flights->wake, NULL);
    if (pthread_create(&flights->thread, NULL, watch, flights) != 0)
        fail("no thread to watch NCCL with: the process may have too many (ulimit -u)");
    return flights;
}

void flights_close(struct flights *flights) {
    pthread_mutex_lock(&flights->lock);
    flights->closing = true;
    pthread_cond_signal(&flights->wake);
    pthread_mutex_unlock(&flights->lock);
    pthread_join(flights->thread, NULL);
    pthread_cond_destroy(&flights->wake);
    pthread_mutex_destroy(&flights->lock);
    for (int i = 0; i < MOST; i++) {
        CUDA_CHECK(cudaEventDestroy(flights->ring[i].ready), "closing NCCL's events");
        CUDA_CHECK(cudaEventDestroy(flights->ring[i].done), "closing NCCL's events");
        CUDA_CHECK(cudaEventDestroy(flights->ring[i].beside), "closing NCCL's events");
    }
    CUDA_CHECK(cudaFreeHost((void *)flights->marks), "closing NCCL's stream");
    CUDA_CHECK(cudaStreamDestroy(flights->stream), "closing NCCL's stream");
    free(flights);
}

cudaStream_t flights_stream(const struct flights *flights) {
    return flights->stream;
}

/* Waits without the lock, which the thread needs for noticing that this never ends. */
static void make_room(struct flights *flights, const char *what) {
    for (retire(flights); flights->begun - flights->ended == MOST; retire(flights)) {
        cudaEvent_t oldest = flight_at(flights, flights->ended + 1)->done;
        pthread_mutex_unlock(&flights->lock);
        CUDA_CHECK(cudaEventSynchronize(oldest), what);
        pthread_mutex_lock(&flights->lock);
    }
}

struct flight *flight_begin(struct flights *flights, struct flight what) {
    pthread_mutex_lock(&flights->lock);
    make_room(flights, what.what);
    struct flight *flight = flight_at(flights, flights->begun + 1);
    what.queued = false;
    what.ready = flight->ready;
    what.done = flight->done;
    what.beside = flight->beside;
    what.reached = flight->reached;
    what.ended = flight->ended;
    *flight = what;
    *flight->reached = *flight->ended = 0;
    flights->begun++;
    pthread_mutex_unlock(&flights->lock);
    return flight;
}

/* Sets a mark when the stream has come so far. */
static void set_mark(cudaStream_t stream, volatile uint32_t *mark) {
    if (stream_values_work())
        stream_write_value(stream, mark, 1);
    else
        CUDA_CHECK(cudaMemsetAsync((void *)mark, 1, 1, stream), "watching collectives");
}

void flight_follow(struct flights *flights, struct flight *flight, cudaStream_t stream) {
    CUDA_CHECK(cudaEventRecord(flight->ready, stream), flight->what);
    CUDA_CHECK(cudaStreamWaitEvent(flights->stream, flight->ready, 0), flight->what);
    set_mark(flights->stream, flight->reached);
}

void flight_queued(struct flights *flights, struct flight *flight) {
    CUDA_CHECK(cudaEventRecord(flight->done, flight->ends), flight->what); /* first: streams wait for it */
    if (flight->copies) CUDA_CHECK(cudaStreamWaitEvent(flight->ends, flight->beside, 0), flight->what);
    set_mark(flight->ends, flight->ended);
    pthread_mutex_lock(&flights->lock);
    flight->queued = true;
    pthread_mutex_unlock(&flights->lock);
}

void flight_end(struct flights *flights, struct flight *flight) {
    pthread_mutex_lock(&flights->lock);
    *flight->ended = 1;
    flight->queued = true;
    pthread_mutex_unlock(&flights->lock);
}

/* Of this one, not of a later one that is still in flight when this one is not; NULL: of none. */
static const struct flight *find(struct flights *flights, long long ticket) {
    const struct flight *found = NULL;
    pthread_mutex_lock(&flights->lock);
    retire(flights);
    for (long long s = flights->ended + 1; s <= flights->begun && !found; s++)
        if (flight_at(flights, s)->ticket == ticket) found = flight_at(flights, s);
    pthread_mutex_unlock(&flights->lock);
    return found;
}

/* Waits for both events itself, as one of them would be known a step later behind the other's stream. */
void flights_wait(struct flights *flights, cudaStream_t stream, long long ticket) {
    const struct flight *flight = find(flights, ticket);
    if (!flight) return;
    CUDA_CHECK(cudaStreamWaitEvent(stream, flight->done, 0), "waiting for a collective");
    if (flight->copies)
        CUDA_CHECK(cudaStreamWaitEvent(stream, flight->beside, 0), "waiting for a collective");
}

void flights_forget(struct flights *flights, const struct comm *comm) {
    pthread_mutex_lock(&flights->lock);
    if (flights->vigil.asked && flights->vigil.roll_call.comm == comm) drop_roll_call(&flights->vigil);
    pthread_mutex_unlock(&flights->lock);
}
