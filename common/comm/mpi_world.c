#include "common/comm/mpi_private.h"

#include <net/if.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/leaks.h"

/* MPI is one a process: it ends with the last of these. */
static int open_communicators;

void mpi_check(int code, const char *what) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    fail("%s: the MPI library says: %s", what, text);
}

/* Gives `comm` its MPI communicator. */
static MPI_Comm *new_handle(struct comm *comm) {
    struct mpi_comm *mpi = xcalloc(1, sizeof *mpi);
    comm->state = mpi;
    open_communicators++;
    return &mpi->handle;
}

static void leave(int signal_number) {
    (void)signal_number;
    _exit(1);
}

/* How fail() ends the other ranks: they are wherever they are, perhaps waiting for this one. MPI_Abort talks
 * to the launcher; where that does not answer, leaving without a farewell tells it as well: it then ends the
 * others. */
static void end_job(int code) {
    enum { PATIENCE = 5 }; /* seconds */
    int finalized = 0;
    mpi_watch_failing();
    MPI_Finalized(&finalized);
    signal(SIGALRM, leave);
    alarm(PATIENCE);
    if (!finalized) MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}

/* How many processes the launcher says it started; 0 where there is none. Processes that Slurm started one by
 * one, as in an interactive shell, are worlds of one. */
static long launched(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (!value) continue;
        long count = strtol(value, NULL, 10);
        return i == 2 && count == 1 ? 0 : count;
    }
    return getenv("PMIX_RANK") ? 1 : 0;
}

/* Open MPI's ranks on a node read each other's memory; where that is forbidden, as in some containers, it
 * would complain about every message before it sends it in another way. */
static void avoid_forbidden_reads(void) {
#ifdef __linux__
    char from = 1, to = 0;
    struct iovec remote = {.iov_base = &from, .iov_len = 1}, local = {.iov_base = &to, .iov_len = 1};
    if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != 1)
        setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
#endif
}

/* The libraries read this when they start. What the user has set for one of them stands. */
static void use_interface(const char *name) {
    setenv("OMPI_MCA_btl_tcp_if_include", name, 0);
    setenv("NCCL_SOCKET_IFNAME", name, 0);
}

/* MPI would only say that nobody can be reached. */
static void refuse_missing_interface(const char *name) {
    if (!name || !name[0] || if_nametoindex(name)) return;
    char here[512] = "";
    struct if_nameindex *interfaces = if_nameindex();
    for (struct if_nameindex *i = interfaces; i && i->if_name; i++)
        if (strlen(here) + strlen(i->if_name) + 3 < sizeof here)
            strcat(strcat(here, here[0] ? ", " : ""), i->if_name);
    if (interfaces) if_freenameindex(interfaces);
    fail("settings: network_interface: this machine has no '%s'; it has %s", name, here[0] ? here : "none");
}

/* Starts MPI with `processes` in the world. Without a launcher it is left alone: a library asked to make a
 * world of one may start a helper process, or fail for want of one. */
static void start_mpi(long processes) {
    /* Open MPI unloads its parts in the end, and with them every trace of what they had allocated. So this
     * program's own leaks are looked for in worlds of one. */
    leaks_ignore();
    int running = 0;
    MPI_Initialized(&running);
    if (!running) {
        /* fail() says what went wrong; Open MPI need not add that MPI_ABORT was called. */
        setenv("OMPI_MCA_orte_execute_quiet", "1", 0);
        avoid_forbidden_reads();
        /* Or writing to a rank that has just been lost would end this one before it can say so. */
        signal(SIGPIPE, SIG_IGN);
        int provided = MPI_THREAD_SINGLE;
        mpi_check(MPI_Init_thread(NULL, NULL, backend_mpi_threads(), &provided), "starting MPI");
        if (provided < backend_mpi_threads())
            fail("the MPI library cannot be used by a program with threads: install one that can (Open MPI, "
                 "MPICH)");
    }
    mpi_check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "starting MPI");
    int rank = 0, size = 0;
    mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "starting MPI");
    mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &size), "starting MPI");
    error_set_world(rank, end_job);
    if (processes > 1 && size == 1)
        fail("%ld processes were started, but the MPI library sees one: start them with the mpirun that "
             "belongs "
             "to it, or with srun --mpi=pmix",
             processes);
}

/* Each rank's node, as the world rank of its first: [size]. */
static int *find_nodes(int size) {
    MPI_Comm node;
    int first = 0;
    mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &first), "finding nodes");
    mpi_check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
              "finding nodes");
    mpi_check(MPI_Bcast(&first, 1, MPI_INT, 0, node), "finding nodes");
    mpi_check(MPI_Comm_free(&node), "finding nodes");
    int *nodes = xmalloc((size_t)size * sizeof *nodes);
    mpi_check(MPI_Allgather(&first, 1, MPI_INT, nodes, 1, MPI_INT, MPI_COMM_WORLD), "finding nodes");
    return nodes;
}

static struct comm *world_of_one(double timeout) {
    return comm_new(NULL, 0, 1, xcalloc(1, sizeof(int)), xcalloc(1, sizeof(int)), timeout);
}

static struct comm *world_of_ranks(long processes, const struct comm_options *options) {
    start_mpi(processes);
    int rank = 0, size = 0;
    mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "starting MPI");
    mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &size), "starting MPI");
    int *world_ranks = xmalloc((size_t)size * sizeof *world_ranks);
    for (int r = 0; r < size; r++) world_ranks[r] = r;
    int *nodes = find_nodes(size);
    mpi_watch_open(nodes, options->network_interface);
    struct comm *comm = comm_new(NULL, rank, size, nodes, world_ranks, options->timeout);
    MPI_Comm *handle = new_handle(comm);
    mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, handle), "opening the world");
    mpi_check(MPI_Comm_set_errhandler(*handle, MPI_ERRORS_RETURN), "opening the world");
    return comm;
}

struct comm *comm_open_world(const struct comm_options *options) {
    long processes = launched();
    const char *interface = options->network_interface;
    if (interface && if_nametoindex(interface)) use_interface(interface);
    struct comm *comm = processes ? world_of_ranks(processes, options) : world_of_one(options->timeout);
    refuse_missing_interface(interface); /* now that there is one who says it for all */
    comm->family->carrier = backend_carrier(options);
    comm->family->no_peer_copies = options->no_peer_copies;
    return comm;
}

void backend_split(struct comm *comm, struct comm *parent, int colour) {
    struct mpi_comm *mpi = parent->state;
    if (!mpi) return;     /* a world without MPI */
    comm_barrier(parent); /* so that a lost rank is noticed: MPI's own function would wait forever */
    MPI_Comm *handle = new_handle(comm);
    mpi_check(MPI_Comm_split(mpi->handle, colour, parent->rank, handle), "splitting a communicator");
    mpi_check(MPI_Comm_set_errhandler(*handle, MPI_ERRORS_RETURN), "splitting a communicator");
}

void backend_close(struct comm *comm) {
    struct mpi_comm *mpi = comm->state;
    if (!mpi) return;
    comm_barrier(comm);
    mpi_check(MPI_Comm_free(&mpi->handle), "closing a communicator");
    free(mpi);
    if (--open_communicators > 0) return;
    mpi_watch_close();
    mpi_check(MPI_Finalize(), "ending MPI");
}
