/*
 * Stages 0 to 3 of ZeRO behind one setting, and each part of the model's state on the device or the host.
 *
 * train.c makes stage 04's walk, whatever zero_stage says: use a unit, open its gradient, reduce it, release
 * it; then update. What these calls do depends on what a rank keeps:
 *
 *                        0                  1                   2                    3
 *     parameters kept    whole              whole               whole                slices
 *     use                –                  waits for the       as 1                 gathers
 *                                           update's gather                          (parameter_shard)
 *     gradients kept     whole              whole               slices               slices
 *     reduce             all-reduce in the  reduce-scatter in   in every micro-batch (gradient_shard)
 *                        last micro-batch   the last one
 *     optimizer's state  whole              slices (optimizer_shard, or on the host: host_optimizer)
 *     update             my slices: all     mine, then a gather of each unit         mine
 *
 * Offload moves slices to host memory: the optimizer's (stages 1 to 3), with it gradients' (2, 3) and
 * parameters' (3). With whole parameters an update begins with the embedding, as the next forward does.
 */
#ifndef OFFLOAD_ZERO_STATE_H
#define OFFLOAD_ZERO_STATE_H

#include "02-zero1/optimizer_shard.h"
#include "03-zero2/gradient_shard.h"
#include "04-zero3/parameter_shard.h"
#include "04-zero3/row_exchange.h"
#include "05-offload/host_gradients.h"
#include "05-offload/host_optimizer.h"
#include "05-offload/host_parameters.h"
#include "common/train/session.h"

struct zero_state {
    struct session *session;
    const struct layout *layout;
    const struct collectives *collectives;
    enum dtype dtype;
    int stage;
    bool offload_optimizer, offload_gradients, offload_parameters;

    char *whole_parameters;                 /* stages 0 to 2: [layout->padded] */
    struct comm_request *gathering;         /* one a unit */
    struct parameter_shard parameter_shard; /* stage 3 */
    struct row_exchange rows;               /* its look-up */
    struct host_parameters host_parameters;

    char *whole_gradients;                /* stages 0 and 1: [layout->padded] */
    struct comm_request *reducing;        /* one a unit */
    bool last_pack;                       /* of an update: after its backward gradients are complete */
    struct gradient_shard gradient_shard; /* stages 2 and 3 */
    struct host_gradients host_gradients;

    struct layout uncut;       /* the layout, cut for one rank: stage 0's slices are whole units */
    const struct layout *cut;  /* that, or the layout itself: how the optimizer's state is cut, */
    struct collectives keeper; /* and which slice of it is mine */
    struct optimizer_shard optimizer;
    struct host_optimizer host_optimizer;
};

/* Memory for all of it, where the session's settings say. The session (with its layout) and the collectives
 * must live as long, and the struct must stay where it is. The caller closes it. */
void zero_state_open(struct zero_state *zero, struct session *session, const struct collectives *collectives);
void zero_state_close(struct zero_state *zero);
/* The formulas of the three headings, on device and host, and what the look-up adds to activations. */
void zero_state_predict(const struct zero_state *zero, struct memory_prediction *prediction);
/* What a rank sends by formula: the session's three arrays. */
void zero_state_predict_sent(const struct zero_state *zero, struct session *session);

/* ---- for checkpoints (stage_state), and loading ---- */

/* The part of a unit's optimizer state that this rank keeps, and the part that it saves: the same, but at
 * stage 0. */
struct slice zero_state_kept(const struct zero_state *zero, int unit);
struct slice zero_state_saved(const struct zero_state *zero, int unit);
/* Element `element` of a unit, one of those that are kept: host memory with offload_optimizer, else device
 * memory. In fp32 on the device the parameters are the masters. */
float *zero_state_master(const struct zero_state *zero, int unit, size_t element);
float *zero_state_m(const struct zero_state *zero, int unit, size_t element);
float *zero_state_v(const struct zero_state *zero, int unit, size_t element);
/* Masters of what is kept, from the model's files. */
void zero_state_load(struct zero_state *zero, const struct weights *weights);
/* Parameters are made of the masters, on all ranks. */
void zero_state_round(struct zero_state *zero);

/* ---- the walk ---- */

/* The tokens' rows of the embedding: out [tokens, hidden]. `received` is as large, and overwritten. */
void zero_state_look_up(struct zero_state *zero, void *out, void *received);
/* A unit's parameters, whole, for work queued from now on, until the next use but stage3_prefetch; the units
 * that follow in this direction begin to come. */
void *zero_state_use(struct zero_state *zero, int unit, int direction);
/* All parameters have been used; they may change. */
void zero_state_forget(struct zero_state *zero);

/* Pack number `pack` of an update's `packs` begins. True where its backward has to add to the gradients that
 * are there, false where it overwrites them. */
bool zero_state_begin(struct zero_state *zero, int pack, int packs);
/* Where a unit's whole gradient goes; and it is there. */
void *zero_state_gradient(struct zero_state *zero, int unit);
void zero_state_reduce(struct zero_state *zero, int unit);

/* ---- the update ---- */

/* Gradients are complete; update_state->square_sum has the squares of what this rank adds to the norm. */
void zero_state_finish(struct zero_state *zero);
/* How many of update_state's sums are still to be summed over the ranks: the loss, and where gradients are
 * cut the squares behind it. */
size_t zero_state_open_sums(const struct zero_state *zero);
/* The update is prepared: AdamW on what is kept, then all ranks' parameters are new, or on their way. */
void zero_state_update(struct zero_state *zero);

#endif
