#include "common/comm/mpi_private.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/error.h"

/* The most that one message carries: below what an int counts, and small enough that a slow network shows
 * progress well within any time-out. */
#define MESSAGE_BYTES ((size_t)16 << 20)

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void exchange_open(struct exchange *exchange, struct comm *comm, const char *what, long long number,
                   enum part part) {
    *exchange = (struct exchange){.comm = comm, .what = what, .number = number, .part = part};
}

void exchange_close(struct exchange *exchange) {
    free(exchange->requests);
    free(exchange->messages);
    free(exchange->finished);
    free(exchange->statuses);
}

void exchange_withdraw(struct exchange *exchange) {
    for (int i = 0; i < exchange->count; i++) {
        if (exchange->requests[i] == MPI_REQUEST_NULL) continue;
        if (exchange->messages[i].receives) {
            mpi_check(MPI_Cancel(&exchange->requests[i]), exchange->what);
            mpi_check(MPI_Wait(&exchange->requests[i], MPI_STATUS_IGNORE), exchange->what);
        } else { /* small: it has long left */
            mpi_check(MPI_Request_free(&exchange->requests[i]), exchange->what);
        }
    }
    exchange_close(exchange);
}

static int new_message(struct exchange *exchange, struct message message) {
    if (exchange->count == exchange->capacity) {
        size_t capacity = exchange->capacity ? 2 * (size_t)exchange->capacity : 16;
        exchange->requests = xrealloc(exchange->requests, capacity * sizeof *exchange->requests);
        exchange->messages = xrealloc(exchange->messages, capacity * sizeof *exchange->messages);
        exchange->finished = xrealloc(exchange->finished, capacity * sizeof *exchange->finished);
        exchange->statuses = xrealloc(exchange->statuses, capacity * sizeof *exchange->statuses);
        exchange->capacity = (int)capacity;
    }
    exchange->messages[exchange->count] = message;
    exchange->requests[exchange->count] = MPI_REQUEST_NULL;
    exchange->pending++;
    return exchange->count++;
}

/* MPI promises tags up to 32767. Messages of one tag keep their order, so that numbers may come round again.
 */
static int tag(const struct exchange *exchange) {
    return (int)(exchange->number % (32768 / PARTS)) * PARTS + (int)exchange->part;
}

/* For errors: which collective, "all_reduce number 17". */
struct name {
    char text[64];
};
static struct name name_of(const struct exchange *exchange) {
    struct name name;
    if (exchange->number)
        snprintf(name.text, sizeof name.text, "%s number %lld", exchange->what, exchange->number);
    else
        snprintf(name.text, sizeof name.text, "%s", exchange->what);
    return name;
}

/* Ranks, as in the world. */
static int world_rank(const struct exchange *exchange, int rank) {
    return exchange->comm->world_ranks[rank];
}

static int my_rank(const struct exchange *exchange) {
    return world_rank(exchange, exchange->comm->rank);
}

/* Messages of other sizes than expected: the ranks disagree about which collective this is. */
static _Noreturn void fail_as_different(const struct exchange *exchange, int peer, const char *how) {
    fail("rank %d: rank %d sent %s than expected in %s; all ranks must run the same program with the same "
         "settings "
         "and files",
         my_rank(exchange), world_rank(exchange, peer), how, name_of(exchange).text);
}

static _Noreturn void fail_with(const struct exchange *exchange, int peer, int code) {
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0, class = MPI_SUCCESS;
    MPI_Error_class(code, &class);
    if (class == MPI_ERR_TRUNCATE) fail_as_different(exchange, peer, "more bytes");
    MPI_Error_string(code, text, &length);
    fail("rank %d: lost rank %d in %s: %s; see what that rank printed, and whether its node is up",
         my_rank(exchange), world_rank(exchange, peer), name_of(exchange).text, text);
}

static void post(struct exchange *exchange, int i, const void *data) {
    const struct message *message = &exchange->messages[i];
    MPI_Comm handle = ((struct mpi_comm *)exchange->comm->state)->handle;
    int code = MPI_Isend(data, message->bytes, MPI_BYTE, message->peer, tag(exchange), handle,
                         &exchange->requests[i]);
    if (code != MPI_SUCCESS) fail_with(exchange, message->peer, code);
}

/* Messages to other nodes pass a slow link one after the other, and arrive when the last byte has passed. */
static void hold(struct exchange *exchange, int i, const void *data) {
    struct family *family = exchange->comm->family;
    struct message *message = &exchange->messages[i];
    double begins = fmax(now(), family->link_free);
    message->held = data;
    message->leaves = family->link_free = begins + message->bytes / family->link_rate;
    exchange->held++;
}

/* Sends those that have passed their link. */
static void let_go(struct exchange *exchange) {
    double time = now();
    for (int i = 0; i < exchange->count; i++) {
        struct message *message = &exchange->messages[i];
        if (!message->held || message->leaves > time) continue;
        post(exchange, i, message->held);
        message->held = NULL;
        exchange->held--;
    }
}

void exchange_send(struct exchange *exchange, const void *data, size_t bytes, int peer) {
    bool slow = exchange->comm->family->link_rate > 0 && !comm_same_node(exchange->comm, peer);
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        int part = (int)(bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES);
        int i = new_message(exchange, (struct message){.peer = peer, .bytes = part});
        (slow ? hold : post)(exchange, i, (const char *)data + at);
    }
}

void exchange_receive(struct exchange *exchange, void *data, size_t bytes, int peer) {
    MPI_Comm handle = ((struct mpi_comm *)exchange->comm->state)->handle;
    for (size_t at = 0; at < bytes; at += MESSAGE_BYTES) {
        int part = (int)(bytes - at < MESSAGE_BYTES ? bytes - at : MESSAGE_BYTES);
        int i = new_message(exchange, (struct message){.peer = peer, .bytes = part, .receives = true});
        int code =
            MPI_Irecv((char *)data + at, part, MPI_BYTE, peer, tag(exchange), handle, &exchange->requests[i]);
        if (code != MPI_SUCCESS) fail_with(exchange, peer, code);
    }
}

static void check_size(const struct exchange *exchange, const struct message *message,
                       const MPI_Status *status) {
    int bytes = 0;
    if (!message->receives) return;
    MPI_Get_count(status, MPI_BYTE, &bytes);
    if (bytes != message->bytes) fail_as_different(exchange, message->peer, "fewer bytes");
}

bool exchange_test(struct exchange *exchange) {
    if (!exchange->pending) return false;
    if (exchange->held) let_go(exchange);
    int finished = 0;
    int code =
        MPI_Testsome(exchange->count, exchange->requests, &finished, exchange->finished, exchange->statuses);
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) mpi_check(code, exchange->what);
    if (finished == MPI_UNDEFINED) finished = 0;
    for (int i = 0; i < finished; i++) {
        const struct message *message = &exchange->messages[exchange->finished[i]];
        int error = exchange->statuses[i].MPI_ERROR;
        if (code == MPI_ERR_IN_STATUS && error != MPI_SUCCESS && error != MPI_ERR_PENDING)
            fail_with(exchange, message->peer, error);
        check_size(exchange, message, &exchange->statuses[i]);
    }
    exchange->pending -= finished;
    return finished > 0;
}

void exchange_wait(struct exchange *exchange) {
    struct patience patience;
    patience_begin(&patience);
    while (exchange->pending) {
        bool moved = exchange_test(exchange);
        if (collectives_move(exchange->comm->family) || moved)
            patience_begin(&patience);
        else
            patience_pause(&patience, exchange);
    }
}

/* ---- patience ---- */

static void sleep_seconds(double seconds) {
    struct timespec time = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&time, NULL);
}

/* Which ranks have not answered: [size], by rank in the communicator. Those that owe us something come first:
 * a rank that has not taken what we sent may only be waiting for another. */
static bool *silent_ranks(const struct exchange *exchange) {
    bool *silent = xcalloc((size_t)exchange->comm->size, sizeof *silent);
    bool any = false;
    for (int receives = 1; receives >= 0 && !any; receives--)
        for (int i = 0; i < exchange->count; i++) {
            if (exchange->requests[i] == MPI_REQUEST_NULL || exchange->messages[i].receives != receives)
                continue;
            silent[exchange->messages[i].peer] = true;
            any = true;
        }
    return silent;
}

/* "rank 3", "ranks 0, 2 and 5 more": those that are silent, as in the world. */
static void list_ranks(const struct comm *comm, const bool *silent, char *text, size_t size) {
    int count = 0;
    for (int r = 0; r < comm->size; r++) count += silent[r];
    size_t used = (size_t)snprintf(text, size, count > 1 ? "ranks" : "rank");
    int listed = 0;
    for (int r = 0; r < comm->size && listed < 8; r++) {
        if (!silent[r]) continue;
        used += (size_t)snprintf(text + used, size - used, "%s %d", listed ? "," : "", comm->world_ranks[r]);
        listed++;
    }
    if (count > listed) snprintf(text + used, size - used, " and %d more", count - listed);
}

/* A rank that has not answered here may itself wait for another one elsewhere: in another communicator, or
 * between hosts. So all that give up tell each other, and those that do not are silent in the world: [size of
 * the world]. */
static bool *silent_in_world(struct comm *world) {
    static const char here = 1;
    size_t size = (size_t)world->size;
    char *words = xcalloc(size, 1);
    struct exchange exchange;
    exchange_open(&exchange, world, "last call", 0, LAST_CALL);
    for (int r = 0; r < world->size; r++)
        if (r != world->rank) exchange_receive(&exchange, &words[r], 1, r);
    for (int r = 0; r < world->size; r++)
        if (r != world->rank) exchange_send(&exchange, &here, 1, r);
    for (double begin = now(); exchange.pending && now() - begin < 1;) {
        exchange_test(&exchange);
        sleep_seconds(1e-3);
    }
    bool *silent = xcalloc(size, sizeof *silent);
    for (int r = 0; r < world->size; r++) silent[r] = r != world->rank && !words[r];
    return silent; /* messages may still come: neither exchange nor words are freed, as the job ends here */
}

static bool any_of(const bool *set, int size) {
    for (int i = 0; i < size; i++)
        if (set[i]) return true;
    return false;
}

/* Ends the job. Every rank that is not lost comes here at about the same time; the lowest of them speaks, and
 * its fail() ends the others while they hold their tongues. */
_Noreturn void exchange_give_up(const struct exchange *exchange) {
    const struct comm *comm = exchange->comm;
    const struct family *family = comm->family;
    bool *silent = silent_ranks(exchange);
    if (family->root) {
        bool *in_world = silent_in_world(family->root);
        if (any_of(in_world, family->root->size)) {
            comm = family->root;
            silent = in_world;
        }
    }
    char names[128];
    list_ranks(comm, silent, names, sizeof names);
    int speaker = 0;
    while (speaker < comm->size && silent[speaker]) speaker++;
    if (comm->rank != speaker) sleep_seconds(1);
    fail("rank %d: no answer from %s in %s for %g s; see what was printed there, and whether the node is up; "
         "raise "
         "communication_timeout if it is only slow",
         my_rank(exchange), names, name_of(exchange).text, exchange->comm->timeout);
}

void patience_begin(struct patience *patience) {
    patience->since = now();
}

void patience_pause(struct patience *patience, const struct exchange *exchange) {
    double idle = now() - patience->since;
    if (exchange->comm->timeout > 0 && idle > exchange->comm->timeout) exchange_give_up(exchange);
    if (idle < 20e-6) return;
    if (idle < 1e-3)
        sched_yield();
    else
        sleep_seconds(idle < 20e-3 ? 20e-6 : 200e-6);
}
