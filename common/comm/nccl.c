#include "common/comm/nccl_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/comm/mpi_private.h"
#include "common/comm/peer_copies.h"
#include "common/device/cuda/cuda.h"

/* Ends the job with what NCCL says where `code` is an error; `what` was tried. */
static void nccl_check(ncclResult_t code, const char *what) {
    if (code == ncclSuccess) return;
    fail("%s: NCCL says: %s (%s); run again with NCCL_DEBUG=WARN, which says more", what,
         ncclGetErrorString(code), ncclGetLastError(NULL));
}

/* ---- communicators ---- */

/* comm->carried */
struct connection {
    ncclComm_t handle;
    struct peers *peers; /* NULL: NCCL moves everything */
    bool peers_sought;   /* only when the first collective comes: by then it is said what a node is */
};

static struct connection *connection_of(const struct comm *comm) {
    return comm->carried;
}

/* What ranks tell each other before they connect. */
struct greeting {
    ncclUniqueId id; /* rank 0's is the communicator's */
    cudaUUID_t device;
};

/* NCCL would refuse as well, in words that do not help. */
static void refuse_shared_devices(const struct comm *comm, const struct greeting *greetings) {
    for (int r = 0; r < comm->size; r++)
        for (int other = 0; other < r; other++)
            if (comm_same_node(comm, r) && comm_same_node(comm, other) &&
                memcmp(&greetings[r].device, &greetings[other].device, sizeof greetings[r].device) == 0)
                fail(
                    "ranks %d and %d have the same GPU: start no more ranks a node than it has GPUs, have "
                    "the "
                    "batch system show each rank its own or all ranks all of them, or let them share it, for "
                    "learning, with --share_device",
                    comm->world_ranks[other], comm->world_ranks[r]);
}

/* Sums must not change from run to run, and NVLink SHARP adds in whatever order the numbers come. Rings and
 * trees do not; which of them, NCCL takes from the size, never from a clock. */
static void pin_algorithms(void) {
    setenv("NCCL_ALGO", "Ring,Tree", 0);
}

static ncclUniqueId meet(struct comm *comm) {
    struct greeting mine = {0}, *all = xmalloc((size_t)comm->size * sizeof *all);
    struct cudaDeviceProp properties;
    pin_algorithms();
    if (comm->rank == 0) nccl_check(ncclGetUniqueId(&mine.id), "connecting NCCL");
    CUDA_CHECK(cudaGetDeviceProperties(&properties, cuda_ordinal(comm->family->device)), "connecting NCCL");
    mine.device = properties.uuid;
    comm_host_gather(comm, all, &mine, sizeof mine); /* all are there, or it says who is not */
    refuse_shared_devices(comm, all);
    ncclUniqueId id = all[0].id;
    free(all);
    return id;
}

static void nccl_attach(struct comm *comm) {
    struct family *family = comm->family;
    ncclComm_t handle;
    if (comm->carried) return;
    if (!family->state) family->state = flights_open();
    ncclUniqueId id = meet(comm);
    struct flight *flight = flight_begin(
        family->state, (struct flight){.comm = comm, .what = "connecting NCCL", .timeout = comm->timeout});
    nccl_check(ncclCommInitRank(&handle, comm->size, id, comm->rank), "connecting NCCL");
    flight_end(family->state, flight);
    struct connection *connection = xcalloc(1, sizeof *connection);
    connection->handle = handle;
    comm->carried = connection;
}

static void nccl_close(struct comm *comm) {
    struct flights *flights = comm->family->state;
    if (comm->carried) {
        struct connection *connection = connection_of(comm);
        CUDA_CHECK(cudaStreamSynchronize(flights_stream(flights)), "closing NCCL");
        struct flight *flight = flight_begin(
            flights, (struct flight){.comm = comm, .what = "closing NCCL", .timeout = comm->timeout});
        nccl_check(ncclCommDestroy(connection->handle), "closing NCCL");
        flight_end(flights, flight);
        peers_close(connection->peers);
        free(connection);
        flights_forget(flights, comm);
    }
    if (flights && comm->family->members == 1) flights_close(flights);
}

/* ---- collectives ---- */

static ncclDataType_t nccl_type(enum dtype dtype) {
    static const ncclDataType_t types[] = {[FP32] = ncclFloat32,
                                           [BF16] = ncclBfloat16,
                                           [FP16] = ncclFloat16,
                                           [FP64] = ncclFloat64,
                                           [INT32] = ncclInt32};
    return types[dtype];
}

/* Each rank's rows to and from each other one; its own are not NCCL's business. */
static ncclResult_t queue_all_to_all(const struct operation *operation, ncclComm_t handle,
                                     cudaStream_t stream) {
    const struct comm *comm = operation->comm;
    size_t element = dtype_size(operation->dtype);
    ncclDataType_t type = nccl_type(operation->dtype);
    ncclResult_t code = ncclGroupStart();
    for (int r = 0; r < comm->size && code == ncclSuccess; r++) {
        const size_t *sent = operation->send_offsets + r, *received = operation->recv_offsets + r;
        if (r == comm->rank) continue;
        if (sent[1] > sent[0])
            code = ncclSend(operation->in + sent[0] * element, sent[1] - sent[0], type, r, handle, stream);
        if (code == ncclSuccess && received[1] > received[0])
            code = ncclRecv(operation->out + received[0] * element, received[1] - received[0], type, r,
                            handle, stream);
    }
    ncclResult_t end = ncclGroupEnd();
    return code == ncclSuccess ? end : code;
}

static ncclResult_t queue_nccl(const struct operation *operation, ncclComm_t handle, cudaStream_t stream) {
    ncclDataType_t type = nccl_type(operation->dtype);
    size_t count = operation->count;
    if (operation->collective == ALL_TO_ALL) return queue_all_to_all(operation, handle, stream);
    if (count == 0) return ncclSuccess;
    switch (operation->collective) {
    case ALL_REDUCE:
        return ncclAllReduce(operation->in, operation->out, count, type, ncclSum, handle, stream);
    case REDUCE_SCATTER:
        return ncclReduceScatter(operation->in, operation->out, count, type, ncclSum, handle, stream);
    case ALL_GATHER:
        return ncclAllGather(operation->in, operation->out, count, type, handle, stream);
    default:
        return ncclBroadcast(operation->in, operation->out, count, type, operation->root, handle, stream);
    }
}

/* NCCL's sum goes to my slice of `in`, which is scratch, and is added from there. */
static void queue_adding(const struct operation *operation, ncclComm_t handle, cudaStream_t stream) {
    struct operation reduction = *operation;
    size_t bytes = operation->count * dtype_size(operation->dtype);
    reduction.out = (char *)operation->in + (size_t)operation->comm->rank * bytes;
    nccl_check(queue_nccl(&reduction, handle, stream), "reduce_scatter");
    const void *const parts[] = {operation->out, reduction.out};
    peer_sum(stream, operation->dtype, operation->out, NULL, NULL, parts, 2, operation->count);
}

/* NULL where NCCL has to do it all. Called by all ranks with the same collective, as the first call asks
 * them. */
static struct peers *find_peers(struct comm *comm) {
    struct connection *connection = connection_of(comm);
    if (!connection->peers_sought) connection->peers = peers_open(comm, flights_stream(comm->family->state));
    connection->peers_sought = true;
    return connection->peers;
}

static void nccl_share(struct comm *comm, void *memory, size_t bytes) {
    if (!comm->carried) nccl_attach(comm);
    if (find_peers(comm)) peers_share(find_peers(comm), memory, bytes);
}

static void nccl_start(struct operation *operation, struct stream *stream) {
    struct comm *comm = operation->comm;
    if (!comm->carried) nccl_attach(comm); /* split before the device was attached */
    struct flights *flights = comm->family->state;
    struct peers *peers = find_peers(comm);
    ncclComm_t handle = connection_of(comm)->handle;
    struct flight *flight =
        flight_begin(flights, (struct flight){.comm = comm,
                                              .handle = handle,
                                              .what = collective_name(operation->collective),
                                              .number = operation->number,
                                              .ticket = operation->ticket,
                                              .timeout = comm->timeout,
                                              .ends = flights_stream(flights),
                                              .copies = peers_serve(peers, operation)});
    if (operation->follows) flights_wait(flights, flights_stream(flights), operation->ticket - 1);
    flight_follow(flights, flight, cuda_stream(stream));
    if (flight->copies)
        flight->ends = peers_queue(peers, operation, flight->ready, flight->beside);
    else if (operation->adds)
        queue_adding(operation, handle, flights_stream(flights));
    else
        nccl_check(queue_nccl(operation, handle, flights_stream(flights)), flight->what);
    flight_queued(flights, flight);
}

static void nccl_wait(struct family *family, struct stream *stream, long long ticket) {
    flights_wait(family->state, cuda_stream(stream), ticket);
}

/* The device moves them on. */
static void nccl_progress(struct family *family) {
    (void)family;
}

static const struct carrier nccl_carrier = {.queues = true,
                                            .attach = nccl_attach,
                                            .share = nccl_share,
                                            .start = nccl_start,
                                            .wait = nccl_wait,
                                            .progress = nccl_progress,
                                            .close = nccl_close};

const struct carrier *backend_carrier(const struct comm_options *options) {
    return options->share_device ? &mpi_staged_carrier : &nccl_carrier;
}

/* The thread that watches NCCL asks who is there. */
int backend_mpi_threads(void) {
    return MPI_THREAD_MULTIPLE;
}
