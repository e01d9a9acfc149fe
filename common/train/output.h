/*
 * The run's folder: which one it is, whether it may be used, and whether the disk holds what the run will
 * write.
 */
#ifndef COMMON_TRAIN_OUTPUT_H
#define COMMON_TRAIN_OUTPUT_H

#include "common/bloom/layout.h"
#include "common/comm/comm.h"
#include "common/train/settings.h"

/* Chooses output_dir (runs/STAGE-<number> where none is set), refuses one that already holds a run unless it
 * is resumed or overwritten, creates or empties it. *resume becomes the checkpoint to go on from, or NULL.
 * Both are the caller's to free. Collective. */
char *output_open(const struct settings *settings, const char *stage, struct comm *comm, char **resume);

/* Fails where the disk has no room for `checkpoints` checkpoints (one more than stay where save_total_limit
 * is set) and the final model. Collective. */
void output_check_space(const char *output_dir, const struct settings *settings, const struct layout *layout,
                        enum dtype dtype, long long checkpoints, struct comm *comm);

#endif
