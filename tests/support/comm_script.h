/*
 * A fixed series of collectives, the same for a backend that sends and for the dry one, and what must have
 * been counted and booked after it: worked out here from the description in comm.h, not by comm's own
 * functions.
 */
#ifndef TESTS_SUPPORT_COMM_SCRIPT_H
#define TESTS_SUPPORT_COMM_SCRIPT_H

#include "common/comm/comm.h"

/* Runs it; the communicator is fresh and attached to `device`. */
void comm_script_run(struct comm *comm, struct device *device);
/* Bytes that rank `rank` of `size` must have sent in the script; node_of [size] says who is where. */
void comm_script_bytes(int rank, int size, const int *node_of, struct comm_bytes *bytes);
/* Staging that it must have booked on the device by then, where pieces are staged there; and the places of
 * copies between GPUs. */
size_t comm_script_staging(int rank, int size);
size_t comm_script_places(int size);

/* fail()s where the counters differ from that, or the ledger from `staging` bytes of buffers. */
void comm_script_check(struct comm *comm, const struct device *device, size_t staging);

#endif
