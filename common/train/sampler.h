/*
 * The memory sampler: a thread that reads, at a set interval, how much memory is in use — on this rank's
 * device, and by all ranks of this node together (resident memory) — so that a run can report peak, average
 * and mode as monitoring tools do. The series goes to output_dir/memory.csv.
 */
#ifndef COMMON_TRAIN_SAMPLER_H
#define COMMON_TRAIN_SAMPLER_H

#include <jansson.h>

#include "common/comm/comm.h"
#include "common/device/device.h"

struct sampler;

/* Starts sampling every `interval` milliseconds (0: never, and there is nothing to report). Collective. */
struct sampler *sampler_start(struct comm *comm, struct device *device, long long interval);

/* Stops; gathers all ranks' series; rank 0 writes output_dir/memory.csv: seconds, then MiB of each device and
 * each node. The result is the memory_samples event of contracts.md: {"device": [{"peak", "average", "mode"}
 * …], "node": […]} in MiB, the mode being that of whole MiB, the smallest where several are as frequent; NULL
 * on other ranks. Collective; frees the sampler. */
json_t *sampler_stop(struct sampler *sampler, const char *output_dir);

#endif
