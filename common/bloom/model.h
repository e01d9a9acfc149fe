/*
 * BLOOM, forward and backward, a unit at a time (layout.h).
 *
 * A stage program walks the units itself: it puts the buffers that hold a unit's parameters (and, in the
 * backward, takes its gradients) into model->parameters[unit] and model->gradients[unit], then calls the
 * functions below in this order:
 *
 *   forward    embed_lookup, embed_forward, block_forward for each block, final_norm_forward, head_logits for
 * each chunk, head_loss backward   head_dx for each chunk (last first), final_norm_backward, block_backward
 * for each block (last first), embed_backward, head_dw for each chunk
 *
 * The word embedding is both the look-up table and the output head, so its gradient has two parts: head_dw
 * adds them, chunk by chunk, when everything else is done, and no more than one chunk of it need exist.
 *
 * In a block's backward no layer waits for the gradients of another's weights: they are queued on a stream of
 * their own, so that the device always finds work there, and model->stream waits for them when the block is
 * done. Nobody outside this module sees that stream.
 *
 * Shapes in the comments: n rows (tokens) of a pack, r labelled rows, h hidden, V vocabulary. Everything is
 * queued on model->stream, or done there for those who wait for it; storage is model->dtype. The numbers are
 * those of Hugging Face's BloomForCausalLM (Scao et al. 2022).
 */
#ifndef COMMON_BLOOM_MODEL_H
#define COMMON_BLOOM_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bloom/input.h"
#include "common/bloom/layout.h"
#include "common/device/device.h"
#include "common/device/kernels.h"

/* What a block's forward leaves for its backward: 10 activations of [n,h], and statistics. Layer-norm outputs
 * and the GELU are recomputed. */
struct block_activations {
    void *x;                              /* [n,h]  the block's input */
    void *qkv;                            /* [n,3h] */
    void *context;                        /* [n,h]  attention's output */
    void *middle;                         /* [n,h]  after attention and its residual */
    void *up;                             /* [n,4h] before GELU */
    float *mean1, *rstd1, *mean2, *rstd2; /* [n] of the two layer norms */
    float *lse;                           /* [heads,n] */
};

struct activations {
    struct block_activations *blocks; /* [layers]; with gradient checkpointing all share all but x */
    void *embedded;                   /* [n,h] looked-up rows, before the embedding's layer norm */
    float *embedded_mean, *embedded_rstd;
    void *last;     /* [n,h] the last block's output */
    void *selected; /* [r,h] its labelled rows */
    float *selected_mean, *selected_rstd;
    void *normed;  /* [r,h] after the final layer norm */
    void *logits;  /* [r,V padded]; the loss turns them into their gradients */
    float *losses; /* [r] weighted cross-entropy of each labelled row */
    /* Used by one unit after the other: */
    void *norm;        /* [n,h]  a layer norm's output */
    void *wide;        /* [n,4h] GELU's output */
    void *d_wide;      /* [n,4h] */
    void *d_x;         /* [n,h]  the gradient that is handed from block to block */
    void *d_middle;    /* [n,h]  within a block, between its two halves */
    void *d_temporary; /* [n,h] */
    void *d_qkv;       /* [n,3h] */
    float *d_normed;   /* [r,h]  fp32: summed over the chunks */
    float *d_scratch;  /* [heads,n] */
};

struct model {
    struct bloom_config config;
    const struct layout *layout;
    enum dtype dtype;
    bool gradient_checkpointing; /* keep only each block's input; recompute the rest in its backward */
    struct device *device;
    struct stream *stream;
    struct stream *weights_stream; /* of a block's weights' gradients */
    struct event *queued;          /* what one of the two streams has to wait for in the other */
    struct event *down_done;       /* weights_stream needs d_x no longer */
    void **parameters;             /* [units] where a unit's parameters are now, whole; NULL: not here */
    void **gradients;              /* [units] where a unit's gradients go, whole */
    bool accumulate;               /* gradients add to what is there; without: overwrite it */
    struct pack_size capacity;
    struct activations activations;
};

/* Activations for packs up to `capacity` (no more labelled rows than rows). `layout` must live as long; the
 * caller fills in parameters and gradients. */
void model_open(struct model *model, struct device *device, struct stream *stream,
                const struct layout *layout, enum dtype dtype, struct pack_size capacity,
                bool gradient_checkpointing);
void model_close(struct model *model);

/* Bytes of activations by formula, for the ledger's prediction (input included). */
size_t model_activation_bytes(const struct bloom_config *config, const struct layout *layout,
                              enum dtype dtype, struct pack_size capacity, bool gradient_checkpointing);

/* FLOP of forward and backward without recomputation, for utilization: 6 a parameter of the blocks and row,
 * 6·V·h a labelled row, and attention. */
double model_flops(const struct bloom_config *config, const struct input *input);

/* Memory of tensor number `tensor` of a unit in its buffer of parameters or gradients. */
void *model_tensor(const struct model *model, void *const *buffers, int unit, int tensor);

/* ---- forward ---- */

/* Looks the pack's tokens up. All chunks must lie one behind the other from parameters[chunks_begin] on. */
void embed_lookup(struct model *model, const struct input *input);
void embed_forward(struct model *model, const struct input *input); /* unit 0 */
void block_forward(struct model *model, int unit, const struct input *input);
void final_norm_forward(struct model *model, const struct input *input); /* unit layout->final_norm */
void head_logits(struct model *model, int unit, const struct input *input);

/* Cross entropies of all labelled rows; their sum is added to *loss_sum (fp64). With a loss_scale (device
 * memory) the logits become their gradients: scaled by it, and by 1 / the update's predicted positions.
 * Without (NULL): evaluation.
 */
void head_loss(struct model *model, const struct input *input, double *loss_sum, const float *loss_scale,
               double positions);

/* ---- backward ---- */

void head_dx(struct model *model, int unit, const struct input *input); /* the last chunk first */
void final_norm_backward(struct model *model, const struct input *input);
void block_backward(struct model *model, int unit, const struct input *input);
void embed_backward(struct model *model, const struct input *input);
void head_dw(struct model *model, int unit, const struct input *input);

#endif
