/*
 * Run checkpoints: a folder checkpoint-<update> in output_dir that a run can go on from with the same bits,
 * at another world size and in another stage.
 *
 *   config.json, tokenizer files, model.safetensors
 *                    what Transformers loads (parameters in the run's precision)
 *   optimizer-RRRRR-of-NNNNN.safetensors
 *                    what rank R owns of the optimizer's state: for every piece of a unit fp32 moments m and
 *                    v and, in half precision, the master parameters
 *   state.json       the run's state: updates done, loss scale, loss sums, …
 *   manifest.json    every file and its size; written last
 *
 * A checkpoint is written as checkpoint-<update>.part, every file synced, the manifest last, then renamed: a
 * crash at any moment leaves the previous one whole. One whose manifest is missing or does not hold is not
 * whole and is passed over.
 *
 * Pieces are named by what they are, not by how a world size cuts them: "block.3", "embedding_norm",
 * "final_norm" or "embedding" (all chunks together), and the first element, unpadded: "block.3.65536.m".
 */
#ifndef COMMON_TRAIN_CHECKPOINT_H
#define COMMON_TRAIN_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"
#include "common/bloom/layout.h"
#include "common/bloom/model_directory.h"
#include "common/comm/comm.h"
#include "common/device/device.h"

/* How a stage shows its state to whoever saves or loads it. Elements are of the unit's padded buffer. */
struct stage_state {
    void *self;
    const struct layout *layout;
    enum dtype dtype;
    /* The part of unit `unit`'s optimizer state that this rank owns: [begin, begin + count). In a stage that
     * keeps it whole, rank r owns slice r all the same for saving, so that every element is saved once. */
    struct slice (*owned)(void *self, int unit);
    /* fp32 memory of element `begin` of the optimizer state that this rank holds, begin being of owned() or,
     * in a stage that keeps all whole, any element; master: the parameters themselves in fp32. Device memory,
     * or host memory where optimizer_on_host: then in fp32, too, masters are a copy. */
    bool optimizer_on_host;
    float *(*master)(void *self, int unit, size_t begin);
    float *(*m)(void *self, int unit, size_t begin);
    float *(*v)(void *self, int unit, size_t begin);
    /* The parts that this rank must load: all of it in a stage that keeps it whole. */
    struct slice (*held)(void *self, int unit);
    /* Makes a unit's parameters whole in device memory, in the run's precision, on every rank that calls (all
     * do, in the same order), valid until release. */
    const void *(*unit_use)(void *self, int unit);
    void (*unit_release)(void *self, int unit);
};

/* Writes output_dir/checkpoint-<update>; removes the oldest whole ones beyond `limit` (0: none) once it
 * stands. `state` is stored as state.json (borrowed). Collective: all ranks call. A full disk and the like
 * fail(). */
void checkpoint_save(const char *output_dir, long long update, int limit, const struct stage_state *stage,
                     const struct model_sources *sources, const json_t *state, struct comm *comm,
                     struct stream *stream);

/* The folder of the last whole checkpoint in output_dir, which the caller frees; NULL where there is none.
 * Others are passed over with a warning. */
char *checkpoint_last(const char *output_dir);
/* Removes leftovers of saving or removing that did not end. By the leader. */
void checkpoint_clean(const char *output_dir);
/* Removes the checkpoints of later updates than `update`: a run that goes on from there writes them anew. By
 * the leader. */
void checkpoint_remove_after(const char *output_dir, long long update);
/* Checks that `folder` is a whole checkpoint and reads its state.json, every member that the kit wrote there
 * checked: a new reference, or NULL. */
json_t *checkpoint_state(const char *folder, struct error *error);
/* Loads what this rank holds: masters (from model.safetensors in fp32), m, v. The stage then makes its
 * parameters of the masters. Errors fail(). */
void checkpoint_load(const char *folder, const struct stage_state *stage, struct stream *stream);

/* Writes the final model into output_dir itself (config, tokenizer, model.safetensors). Collective. */
void checkpoint_save_model(const char *output_dir, const struct stage_state *stage,
                           const struct model_sources *sources, struct comm *comm, struct stream *stream);

/* Bytes on disk of one checkpoint, and of the final model: at least what they take. */
size_t checkpoint_bytes(const struct layout *layout, enum dtype dtype, const struct model_sources *sources);
size_t checkpoint_model_bytes(const struct layout *layout, enum dtype dtype,
                              const struct model_sources *sources);

#endif
