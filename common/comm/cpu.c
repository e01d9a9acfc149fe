/* The CPU backend's choice: device memory is host memory, which messages may come from and go to. */
#include "common/comm/mpi_private.h"

const struct carrier *backend_carrier(const struct comm_options *options) {
    return options->share_device ? &mpi_staged_carrier : &mpi_carrier;
}

/* The thread that runs the model is the only one that sends and receives. */
int backend_mpi_threads(void) {
    return MPI_THREAD_FUNNELED;
}
