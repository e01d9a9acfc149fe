#include "common/comm/mpi_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static void host_open(struct exchange *exchange, struct comm *comm, const char *what) {
    struct mpi_comm *mpi = comm->state;
    exchange_open(exchange, comm, what, ++mpi->host_number, HOST_PART);
}

static void host_finish(struct exchange *exchange) {
    exchange_wait(exchange);
    exchange_close(exchange);
}

/* Each rank's `mine` at its place of `all` on every rank. */
static void gather(struct comm *comm, const char *what, char *all, const void *mine, size_t bytes) {
    memcpy(all + (size_t)comm->rank * bytes, mine, bytes);
    if (comm->size == 1) return;
    struct exchange exchange;
    host_open(&exchange, comm, what);
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank) exchange_receive(&exchange, all + (size_t)r * bytes, bytes, r);
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank) exchange_send(&exchange, mine, bytes, r);
    host_finish(&exchange);
}

/* A word from everyone: a tree would take fewer messages, but could not say who is missing. */
void comm_barrier(struct comm *comm) {
    char here = 1, *all = xmalloc((size_t)comm->size);
    gather(comm, "barrier", all, &here, 1);
    free(all);
}

void comm_host_gather(struct comm *comm, void *all, const void *mine, size_t bytes) {
    gather(comm, "host_gather", all, mine, bytes);
}

void comm_host_sum(struct comm *comm, double *values, size_t count) {
    if (comm->size == 1) return;
    double *all = xmalloc((size_t)comm->size * count * sizeof *all);
    gather(comm, "host_sum", (char *)all, values, count * sizeof *all);
    memcpy(values, all, count * sizeof *all);
    for (int r = 1; r < comm->size; r++)
        for (size_t i = 0; i < count; i++) values[i] += all[(size_t)r * count + i];
    free(all);
}

void comm_host_max(struct comm *comm, double *values, size_t count) {
    if (comm->size == 1) return;
    double *all = xmalloc((size_t)comm->size * count * sizeof *all);
    gather(comm, "host_max", (char *)all, values, count * sizeof *all);
    for (int r = 0; r < comm->size; r++)
        for (size_t i = 0; i < count; i++) {
            double value = all[(size_t)r * count + i];
            if (isnan(value) || value > values[i]) values[i] = value;
        }
    free(all);
}

void comm_host_broadcast(struct comm *comm, void *data, size_t bytes, int root) {
    if (comm->size == 1) return;
    struct exchange exchange;
    host_open(&exchange, comm, "host_broadcast");
    if (comm->rank != root) exchange_receive(&exchange, data, bytes, root);
    for (int r = 0; r < comm->size && comm->rank == root; r++)
        if (r != root) exchange_send(&exchange, data, bytes, r);
    host_finish(&exchange);
}
