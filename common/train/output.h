/*
 * The run's folder: which one it is, whether it may be used, and whether the disk holds what the run will
 * write.
 */
#ifndef COMMON_TRAIN_OUTPUT_H
#define COMMON_TRAIN_OUTPUT_H

#include "common/bloom/layout.h"
#include "common/bloom/model_directory.h"
#include "common/comm/comm.h"
#include "common/train/settings.h"

/* Chooses output_dir (runs/STAGE-<number> where none is set), creates it, and keeps other runs out of it
 * until this process ends. Refuses one that already holds a run, unless that is gone on with, or is to be
 * overwritten and so removed. *resume becomes the checkpoint to go on from, checked to be whole, or NULL;
 * where it lies in another folder, that one's metrics.jsonl up to the checkpoint is copied. Both are the
 * caller's to free. Collective. */
char *output_open(const struct settings *settings, const char *stage, const char *model, struct comm *comm,
                  char **resume);

/* Fails where the disk has no room for `checkpoints` checkpoints (one more than stay where save_total_limit
 * is set) and the final model. Collective. */
void output_check_space(const char *output_dir, const struct settings *settings, const struct layout *layout,
                        enum dtype dtype, const struct model_sources *sources, long long checkpoints,
                        struct comm *comm);

#endif
