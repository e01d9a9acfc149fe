/*
 * Stage 04, ZeRO-3: parameters, too, are cut among the ranks.
 *
 * Each rank keeps only its slices of the parameters, the gradients and the optimizer's state. On N ranks
 * every rank computes its own share of an update's examples. A unit's parameters are whole only around their
 * use: the ranks give each other their slices (all-gathered), while the unit before is at work, in the
 * forward and again in the backward pass. A unit's gradient is whole only until it is summed over the ranks,
 * but each rank gets only the sum of its slices (reduce-scattered), in every micro-batch, while the backward
 * pass is at work on the next unit. It updates its slices of the parameters, and that is all.
 *
 *   read main() first, then train_update(), forward() and backward()
 *
 * Memory for Ψ parameters, in half precision: 2Ψ/N parameters + 2Ψ/N gradients + 12Ψ/N optimizer (fp32 master
 * parameters and two moments) = 16Ψ/N bytes; in fp32: 4Ψ/N + 4Ψ/N + 8Ψ/N, also 16Ψ/N. And two units' whole
 * parameters and two units' whole gradients.
 */
#include <stdlib.h>

#include "02-zero1/optimizer_shard.h"
#include "03-zero2/gradient_shard.h"
#include "04-zero3/parameter_shard.h"
#include "04-zero3/row_exchange.h"
#include "common/base/error.h"
#include "common/bloom/model.h"
#include "common/train/session.h"

struct run {
    struct session session;
    struct model model;
    const struct layout *layout; /* how the model is cut into units */
    struct collectives collectives;
    struct parameter_shard parameters; /* my slices of them */
    struct row_exchange rows;          /* the look-up's */
    struct optimizer_shard optimizer;  /* masters and moments of my slices */
    struct gradient_shard gradients;   /* my slices of them */
};

/* ---- set-up ---- */

static void open_run(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout = &s->layout;
    r->collectives = collectives_flat(s->comm);
    parameter_shard_open(&r->parameters, s->device, s->stream, s->comm, layout, &r->collectives, s->dtype,
                         (int)s->settings.stage3_prefetch);
    row_exchange_open(&r->rows, s->device, s->comm, &r->collectives, layout, s->capacity, layout->largest);
    optimizer_shard_open(&r->optimizer, s->device, s->stream, layout, &r->collectives, s->dtype);
    gradient_shard_open(&r->gradients, s->device, s->stream, s->comm, layout, &r->collectives, s->dtype);

    model_open(&r->model, s->device, s->stream, layout, s->dtype, s->capacity,
               s->settings.gradient_checkpointing);
}

static void close_run(struct run *r) {
    model_close(&r->model);
    optimizer_shard_close(&r->optimizer);
    gradient_shard_close(&r->gradients);
    row_exchange_close(&r->rows);
    parameter_shard_close(&r->parameters);
}

/* What checkpoints ask a stage for: rank r saves slice r of the optimizer's state, so that all of it is saved
 * once, */
static struct slice owned(void *self, int u) {
    struct run *r = self;
    return optimizer_shard_slice(&r->optimizer, u);
}

/* and has to load what it holds: the same slice. */
static struct slice held(void *self, int u) {
    return owned(self, u);
}

/* My slices of a unit. */
static void *my_parameters(struct run *r, int u) {
    return parameter_shard_slice(&r->parameters, u);
}

static void *my_gradients(struct run *r, int u) {
    return gradient_shard_slice(&r->gradients, u);
}

static float *master_at(void *self, int u, size_t element) {
    struct run *r = self;
    if (r->session.dtype == FP32) return (float *)my_parameters(r, u) + element - owned(r, u).begin;
    return optimizer_shard_at(&r->optimizer, r->optimizer.master, u, element);
}

static float *m_at(void *self, int u, size_t element) {
    struct run *r = self;
    return optimizer_shard_at(&r->optimizer, r->optimizer.m, u, element);
}

static float *v_at(void *self, int u, size_t element) {
    struct run *r = self;
    return optimizer_shard_at(&r->optimizer, r->optimizer.v, u, element);
}

/* A unit's parameters are whole until they are released; the units that follow in this direction are on their
 * way. */
static void use_unit(struct run *r, int u, int direction) {
    r->model.parameters[u] = parameter_shard_use(&r->parameters, u, direction);
}

static void release_unit(struct run *r, int u) {
    r->model.parameters[u] = NULL;
}

static const void *unit_use(void *self, int u) {
    struct run *r = self;
    use_unit(r, u, +1);
    return r->model.parameters[u];
}

static void unit_release(void *self, int u) {
    release_unit(self, u);
}

static struct stage_state stage_state(struct run *r) {
    return (struct stage_state){.self = r,
                                .layout = r->layout,
                                .dtype = r->session.dtype,
                                .owned = owned,
                                .held = held,
                                .master = master_at,
                                .m = m_at,
                                .v = v_at,
                                .unit_use = unit_use,
                                .unit_release = unit_release};
}

/* Master parameters of what this rank holds, from the model's files (or a checkpoint, moments too), and from
 * them the run's parameters. */
static void load(struct run *r) {
    struct session *s = &r->session;
    struct stage_state stage = stage_state(r);
    if (s->resume) {
        checkpoint_load(s->resume, &stage, s->stream);
    } else {
        float *staging = host_alloc(s->device, BUFFERS, WEIGHTS_STAGING * sizeof(float), true, "loading");
        for (int u = 0; u < r->layout->count; u++) {
            struct slice part = held(r, u);
            weights_load(s->weights, s->stream, u, part.begin, part.count, master_at(r, u, part.begin),
                         staging);
        }
        stream_synchronize(s->stream);
        host_free(s->device, staging);
    }
    for (int u = 0; u < r->layout->count; u++) {
        struct slice part = held(r, u);
        if (s->dtype != FP32)
            convert(s->stream, s->dtype, my_parameters(r, u), FP32, master_at(r, u, part.begin), part.count);
    }
}

static struct memory_prediction predict_memory(const struct run *r) {
    const struct session *s = &r->session;
    double parameters = (double)r->layout->parameters, size = (double)dtype_size(s->dtype);
    struct memory_prediction prediction = memory_prediction_none();
    prediction.device[PARAMETERS] = size * parameters / s->world_size;
    prediction.device[GRADIENTS] = size * parameters / s->world_size;
    prediction.device[OPTIMIZER] = optimizer_shard_bytes(r->layout, s->dtype);
    prediction.device[ACTIVATIONS] = (double)model_activation_bytes(
        &s->config, r->layout, s->dtype, s->capacity, s->settings.gradient_checkpointing);
    prediction.device[ACTIVATIONS] += (double)row_exchange_bytes(r->layout, s->capacity);
    return prediction;
}

/* ---- one update ---- */

/* The tokens' rows of the embedding come from their owners, through memory that is free at this time. */
static void look_up(struct run *r) {
    struct session *s = &r->session;
    struct activations *a = &r->model.activations;
    row_exchange_plan(&r->rows, s->stream, &s->pack);
    row_exchange_run(&r->rows, s->stream, s->dtype, a->embedded, my_parameters(r, r->layout->chunks_begin),
                     parameter_shard_buffer(&r->parameters), a->norm);
}

static void forward(struct run *r) {
    struct model *model = &r->model;
    const struct layout *layout = r->layout;
    const struct input *input = &r->session.input;
    profile_push("forward");
    look_up(r);
    use_unit(r, 0, +1);
    embed_forward(model, input);
    release_unit(r, 0);
    for (int u = layout->blocks_begin; u < layout->blocks_end; u++) {
        use_unit(r, u, +1);
        block_forward(model, u, input);
        release_unit(r, u);
    }
    use_unit(r, layout->final_norm, +1);
    final_norm_forward(model, input);
    release_unit(r, layout->final_norm);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) { /* the head, chunk by chunk */
        use_unit(r, c, +1);
        head_logits(model, c, input);
        release_unit(r, c);
    }
    profile_pop();
}

/* A unit's whole gradient gets a place to be, until it is reduced. */
static void open_gradient(struct run *r, int u) {
    r->model.gradients[u] = gradient_shard_whole(&r->gradients, u);
}

/* A unit's gradient is complete: its sum over the ranks starts, of which I get my slice, and goes on behind
 * the next unit's backward. */
static void reduce_unit(struct run *r, int u) {
    gradient_shard_reduce(&r->gradients, u);
    r->model.gradients[u] = NULL;
}

/* The logits hold their gradients. */
static void backward(struct run *r) {
    struct model *model = &r->model;
    const struct layout *layout = r->layout;
    const struct input *input = &r->session.input;
    profile_push("backward");
    for (int c = layout->chunks_end; c-- > layout->chunks_begin;) {
        use_unit(r, c, -1);
        head_dx(model, c, input);
        release_unit(r, c);
    }
    use_unit(r, layout->final_norm, -1);
    open_gradient(r, layout->final_norm);
    final_norm_backward(model, input);
    release_unit(r, layout->final_norm);
    reduce_unit(r, layout->final_norm);
    for (int u = layout->blocks_end; u-- > layout->blocks_begin;) {
        use_unit(r, u, -1);
        open_gradient(r, u);
        block_backward(model, u, input);
        release_unit(r, u);
        reduce_unit(r, u);
    }
    use_unit(r, 0, -1);
    open_gradient(r, 0);
    embed_backward(model, input);
    release_unit(r, 0);
    parameter_shard_forget(&r->parameters); /* they may change now */
    reduce_unit(r, 0);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) { /* head and look-up together */
        open_gradient(r, c);
        head_dw(model, c, input);
        reduce_unit(r, c);
    }
    profile_pop();
}

/* Norm of the whole gradient, of which each rank adds its slices, then AdamW on my slices. */
static void optimize(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout;
    struct update_state *state = s->update_state;
    profile_push("optimizer");
    gradient_shard_finish(&r->gradients);
    for (int u = 0; u < layout->count; u++) {
        sum_of_squares(s->stream, s->dtype, &state->square_sum, my_gradients(r, u), layout->units[u].slice);
    }
    comm_all_reduce(s->comm, s->stream, &state->loss_sum, 2, FP64); /* and square_sum, which follows it */
    update_prepare(s->stream, state, &s->rule, s->learning_rates);
    for (int u = 0; u < layout->count; u++) {
        optimizer_shard_adamw(&r->optimizer, s->stream, u, my_parameters(r, u), my_gradients(r, u), state,
                              &s->rule);
    }
    profile_pop();
}

/* The update's examples, in packs: gradients add up over packs and ranks, and the loss is a mean over all of
 * the update's predicted positions, so that neither the number of packs nor that of ranks changes the result.
 */
static void train_update(struct run *r) {
    struct session *s = &r->session;
    update_begin(s->stream, s->update_state);
    for (int pack = 0; pack < s->update.packs; pack++) {
        session_load_pack(s, pack);
        gradient_shard_begin(&r->gradients, pack == 0);
        forward(r);
        head_loss(&r->model, &s->input, &s->update_state->loss_sum, &s->update_state->loss_scale,
                  (double)s->update.predicted);
        backward(r);
    }
    optimize(r);
}

static void evaluate_pack(void *self) {
    struct run *r = self;
    forward(r);
    head_loss(&r->model, &r->session.input, &r->session.update_state->loss_sum, NULL, 1);
}

int main(int argc, char **argv) {
    struct run run = {0}, *r = &run;
    struct session *s = &r->session;
    session_open(s, WORKSHOP_STAGE, argc, argv);
    open_run(r);
    load(r);
    struct stage_state stage = stage_state(r);
    struct memory_prediction prediction = predict_memory(r);
    /* What a rank sends for every pack: (N − 1)/N of the gradients to have its slices of the sum, nearly
     * twice as much to give its slices of the parameters to all others; and rows of the embedding, on average
     * as many as it needs. */
    double others = (double)(s->world_size - 1) / s->world_size;
    double model_bytes = (double)r->layout->parameters * (double)dtype_size(s->dtype);
    s->sent_per_pack[REDUCE_SCATTER] = model_bytes * others;
    s->sent_per_pack[ALL_GATHER] = model_bytes * others * parameter_shard_gathered(&r->parameters);
    s->sent_per_row[ALL_TO_ALL] = (double)(s->config.hidden * dtype_size(s->dtype)) * others;

    session_begin(s);
    if (session_should_evaluate(s)) session_evaluate(s, &stage, evaluate_pack, &r->model);
    while (session_next(s)) {
        train_update(r);
        session_update_done(s);
        if (session_should_evaluate(s)) session_evaluate(s, &stage, evaluate_pack, &r->model);
        if (session_should_save(s)) session_save(s, &stage);
    }
    session_finish(s, &stage, &prediction);
    close_run(r);
    session_close(s);
    return 0;
}
