/*
 * Stage 02, ZeRO-1: the optimizer's state is cut among the ranks.
 *
 * Each rank keeps all parameters and all gradients, but only its slices of the optimizer's state. On N ranks
 * every rank computes its own share of an update's examples; the gradients are then summed, but each rank
 * gets only its slices of the sum (reduce-scattered), unit by unit behind the rest of the backward. It
 * updates its slices of the parameters, which all give each other (all-gathered) behind the next forward.
 *
 *   read main() first, then train_update(), forward() and backward()
 *
 * Memory for Ψ parameters, in half precision: 2Ψ parameters + 2Ψ gradients + 12Ψ/N optimizer (fp32 master
 * parameters and two moments); in fp32: 4Ψ + 4Ψ + 8Ψ/N bytes.
 */
#include <stdlib.h>

#include "02-zero1/optimizer_shard.h"
#include "common/base/error.h"
#include "common/bloom/model.h"
#include "common/train/session.h"

struct run {
    struct session session;
    struct model model;
    const struct layout *layout; /* how the model is cut into units */
    char *parameters;            /* all units, whole, in the run's precision */
    char *gradients;             /* the same */

    struct collectives collectives;
    struct optimizer_shard optimizer; /* masters and moments of my slices */
    struct comm_request *reducing;    /* one a unit: its gradient's reduce-scatter */
    struct comm_request *gathering;   /* one a unit: its parameters' all-gather */
    bool last_pack;                   /* of an update: gradients are complete after its backward */
};

/* ---- set-up ---- */

static void open_run(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout = &s->layout;
    size_t size = dtype_size(s->dtype), elements = layout->padded;
    r->parameters = device_alloc(s->device, PARAMETERS, elements * size, "parameters");
    r->gradients = device_alloc(s->device, GRADIENTS, elements * size, "gradients");
    comm_share(s->comm, r->parameters, elements * size); /* gathered straight from each other's */
    r->collectives = collectives_flat(s->comm);
    optimizer_shard_open(&r->optimizer, s->device, s->stream, layout, &r->collectives, s->dtype);
    r->reducing = xcalloc((size_t)layout->count, sizeof *r->reducing);
    r->gathering = xcalloc((size_t)layout->count, sizeof *r->gathering);
    fill_zero(s->stream, r->gradients, elements * size);

    model_open(&r->model, s->device, s->stream, layout, s->dtype, s->capacity,
               s->settings.gradient_checkpointing);
    for (int u = 0; u < layout->count; u++) {
        r->model.parameters[u] = r->parameters + layout->units[u].offset * size;
        r->model.gradients[u] = r->gradients + layout->units[u].offset * size;
    }
}

static void close_run(struct run *r) {
    struct device *device = r->session.device;
    for (int u = 0; u < r->layout->count; u++) /* the last update's, which nothing has waited for */
        comm_wait(r->session.comm, r->session.stream, r->gathering[u]);
    model_close(&r->model);
    free(r->gathering);
    free(r->reducing);
    optimizer_shard_close(&r->optimizer);
    comm_unshare(r->session.comm);
    device_free(device, r->gradients);
    device_free(device, r->parameters);
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
    return (char *)r->model.parameters[u] + owned(r, u).begin * dtype_size(r->session.dtype);
}

static void *my_gradients(struct run *r, int u) {
    return (char *)r->model.gradients[u] + owned(r, u).begin * dtype_size(r->session.dtype);
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

/* Task: A unit's parameters begin to become whole on all ranks again: each gives its slice. */
static void gather_unit(struct run *r, int u) {
    struct session *s = &r->session;
    r->gathering[u] = all_gather_start(&r->collectives, s->stream, r->model.parameters[u],
                                       my_parameters(r, u), r->layout->units[u].slice, s->dtype);
    comm_progress(s->comm);
}

/* Before the first use of a unit's parameters after that. */
static void await_unit(struct run *r, int u) {
    comm_wait(r->session.comm, r->session.stream, r->gathering[u]);
    r->gathering[u] = (struct comm_request){0};
}

static const void *unit_use(void *self, int u) {
    struct run *r = self;
    await_unit(r, u);
    return r->model.parameters[u];
}

static void unit_release(void *self, int u) {
    (void)self, (void)u;
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
        gather_unit(r, u);
    }
}

static struct memory_prediction predict_memory(const struct run *r) {
    const struct session *s = &r->session;
    double parameters = (double)r->layout->parameters, size = (double)dtype_size(s->dtype);
    struct memory_prediction prediction = memory_prediction_none();
    prediction.device[PARAMETERS] = size * parameters;
    prediction.device[GRADIENTS] = size * parameters;
    prediction.device[OPTIMIZER] = optimizer_shard_bytes(r->layout, s->dtype);
    prediction.device[ACTIVATIONS] = (double)model_activation_bytes(
        &s->config, r->layout, s->dtype, s->capacity, s->settings.gradient_checkpointing);
    return prediction;
}

/* ---- one update ---- */

static void forward(struct run *r) {
    struct model *model = &r->model;
    const struct layout *layout = r->layout;
    const struct input *input = &r->session.input;
    profile_push("forward");
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) await_unit(r, c);
    embed_lookup(model, input);
    await_unit(r, 0);
    embed_forward(model, input);
    for (int u = layout->blocks_begin; u < layout->blocks_end; u++) {
        await_unit(r, u);
        block_forward(model, u, input);
    }
    await_unit(r, layout->final_norm);
    final_norm_forward(model, input);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) { /* the head, chunk by chunk */
        head_logits(model, c, input);
    }
    profile_pop();
}

/* Task: A unit's gradient is complete: its sum over the ranks starts, of which I get my slice, in its place.
 * It goes on behind the rest of the backward. Gradients add up until the last pack. */
static void reduce_unit(struct run *r, int u) {
    struct session *s = &r->session;
    if (r->last_pack)
        r->reducing[u] = reduce_scatter_start(&r->collectives, s->stream, my_gradients(r, u),
                                              r->model.gradients[u], r->layout->units[u].slice, s->dtype);
    comm_progress(s->comm);
}

/* The logits hold their gradients. */
static void backward(struct run *r) {
    struct model *model = &r->model;
    const struct layout *layout = r->layout;
    const struct input *input = &r->session.input;
    profile_push("backward");
    for (int c = layout->chunks_end; c-- > layout->chunks_begin;) {
        head_dx(model, c, input);
    }
    final_norm_backward(model, input);
    reduce_unit(r, layout->final_norm);
    for (int u = layout->blocks_end; u-- > layout->blocks_begin;) {
        block_backward(model, u, input);
        reduce_unit(r, u);
    }
    embed_backward(model, input);
    reduce_unit(r, 0);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) { /* head and look-up together */
        head_dw(model, c, input);
        reduce_unit(r, c);
    }
    profile_pop();
}

/* Task: Norm of the whole gradient, of which each rank adds its slices, then AdamW on my slices. A unit is
 * gathered behind the next one's AdamW and the next forward, which starts with the embedding, as here. */
static void optimize(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout;
    struct update_state *state = s->update_state;
    profile_push("optimizer");
    for (int u = 0; u < layout->count; u++) {
        comm_wait(s->comm, s->stream, r->reducing[u]);
        sum_of_squares(s->stream, s->dtype, &state->square_sum, my_gradients(r, u), layout->units[u].slice);
    }
    comm_all_reduce(s->comm, s->stream, &state->loss_sum, 2, FP64); /* and square_sum, which follows it */
    update_prepare(s->stream, state, &s->rule, s->learning_rates);
    for (int i = 0; i < layout->count; i++) {
        int u = (layout->chunks_begin + i) % layout->count;
        optimizer_shard_adamw(&r->optimizer, s->stream, u, my_parameters(r, u), my_gradients(r, u), state,
                              &s->rule);
        gather_unit(r, u);
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
        r->model.accumulate = pack > 0;
        r->last_pack = pack == s->update.packs - 1; /* after which the update's gradients are complete */
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
    /* What a rank sends in an update: (N − 1)/N of the gradients to have its slices of the sum, as much again
     * to give its slices of the parameters to all others. */
    double others = (double)(s->world_size - 1) / s->world_size;
    double model_bytes = (double)r->layout->parameters * (double)dtype_size(s->dtype);
    s->sent_per_update[REDUCE_SCATTER] = model_bytes * others;
    s->sent_per_update[ALL_GATHER] = model_bytes * others;

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
