#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/comm/mpi_private.h"
#include "common/comm/watch.h"

/* As MPI, one a process. */
static struct watch *watch;

static int my_rank(void) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

/* What Slurm calls a node may not be what the machine calls itself. */
static void find_name(char name[WATCH_NAME]) {
    const char *slurm = getenv("SLURMD_NODENAME");
    memset(name, 0, WATCH_NAME);
    if (slurm)
        strncpy(name, slurm, WATCH_NAME - 1);
    else
        gethostname(name, WATCH_NAME - 1);
}

/* Rank 0 is missed by all; the lowest that is left speaks first, and thereby ends the others. */
static void wait_for_lower(int rank) {
    if (rank == 0) return;
    long tenths = rank < 20 ? rank - 1 : 20;
    struct timespec moment = {.tv_sec = tenths / 10, .tv_nsec = tenths % 10 * 100000000};
    nanosleep(&moment, NULL);
}

static void end_without(int rank, const char *node, bool failed) {
    int mine = my_rank();
    if (failed) { /* it has said why */
        mpi_watch_failing();
        _exit(1);
    }
    wait_for_lower(mine);
    fail_at_once("rank %d: lost rank %d on node %s; see what was printed there, and whether the node is up",
                 mine, rank, node);
}

void mpi_watch_open(const int *nodes, const char *interface) {
    int rank = my_rank(), size = 0;
    mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &size), "watching nodes");
    bool others = false;
    for (int r = 0; r < size; r++) others = others || nodes[r] != nodes[0];
    if (!others) return;
    char name[WATCH_NAME];
    find_name(name);
    struct watch_invitation invitation;
    if (rank == 0) watch = watch_listen(&invitation, interface, name, end_without);
    mpi_check(MPI_Bcast(&invitation, (int)sizeof invitation, MPI_BYTE, 0, MPI_COMM_WORLD), "watching nodes");
    if (rank > 0) watch = watch_join(&invitation, rank, name, end_without);
}

void mpi_watch_close(void) {
    watch_close(watch);
    watch = NULL;
}

void mpi_watch_failing(void) {
    watch_failing(watch);
}
