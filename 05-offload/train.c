/*
 * Stage 05, offload: slices live in host memory, and the CPU updates them. ZeRO's stage is a setting.
 *
 * The walk is stage 04's; what its calls do depends on zero_stage and on where slices are (zero_state.h).
 * With the optimizer's state in host memory, gradients of my slices come down when their norm is known, AdamW
 * runs on the CPU, and new parameters go up, unit by unit, all three at once. Gradients may add up in host
 * memory, too; and with zero_stage 3 parameters may live there, copied up just before a unit is used.
 *
 *   read main() first, then train_update(), forward() and backward()
 *
 * Memory for Ψ parameters, in half precision: as the zero_stage says, but for what is on the host: 12Ψ/N
 * optimizer, 2Ψ/N gradients, 2Ψ/N parameters; in fp32: 12Ψ/N (masters apart from parameters), 4Ψ/N and 4Ψ/N.
 */
#include <stdlib.h>

#include "05-offload/zero_state.h"
#include "common/base/error.h"
#include "common/bloom/model.h"
#include "common/train/session.h"

struct run {
    struct session session;
    struct model model;
    const struct layout *layout; /* how the model is cut into units */
    struct collectives collectives;
    struct zero_state zero; /* parameters, gradients, optimizer's state: what is mine of them */
};

/* ---- set-up ---- */

static void open_run(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout = &s->layout;
    r->collectives = collectives_flat(s->comm);
    zero_state_open(&r->zero, s, &r->collectives);

    model_open(&r->model, s->device, s->stream, layout, s->dtype, s->capacity,
               s->settings.gradient_checkpointing);
}

static void close_run(struct run *r) {
    model_close(&r->model);
    zero_state_close(&r->zero);
}

/* What checkpoints ask a stage for: rank r saves slice r of the optimizer's state, so that all of it is saved
 * once, */
static struct slice owned(void *self, int u) {
    struct run *r = self;
    return zero_state_saved(&r->zero, u);
}

/* and has to load what it holds: the same slice; with zero_stage 0 all of it. */
static struct slice held(void *self, int u) {
    struct run *r = self;
    return zero_state_kept(&r->zero, u);
}

static float *master_at(void *self, int u, size_t element) {
    struct run *r = self;
    return zero_state_master(&r->zero, u, element);
}

static float *m_at(void *self, int u, size_t element) {
    struct run *r = self;
    return zero_state_m(&r->zero, u, element);
}

static float *v_at(void *self, int u, size_t element) {
    struct run *r = self;
    return zero_state_v(&r->zero, u, element);
}

/* A unit's parameters are whole until they are released; the units that follow in this direction are on their
 * way. */
static void use_unit(struct run *r, int u, int direction) {
    r->model.parameters[u] = zero_state_use(&r->zero, u, direction);
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
                                .optimizer_on_host = r->zero.offload_optimizer,
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
        zero_state_load(&r->zero, s->weights);
    }
    zero_state_round(&r->zero);
}

static struct memory_prediction predict_memory(const struct run *r) {
    const struct session *s = &r->session;
    struct memory_prediction prediction = memory_prediction_none();
    prediction.device[ACTIVATIONS] = (double)model_activation_bytes(
        &s->config, r->layout, s->dtype, s->capacity, s->settings.gradient_checkpointing);
    zero_state_predict(&r->zero, &prediction);
    return prediction;
}

/* ---- one update ---- */

/* The tokens' rows of the embedding come from their owners, through memory that is free at this time. */
static void look_up(struct run *r) {
    struct activations *a = &r->model.activations;
    zero_state_look_up(&r->zero, a->embedded, a->norm);
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
    r->model.gradients[u] = zero_state_gradient(&r->zero, u);
}

/* A unit's gradient is complete: its sum over the ranks starts, of which I get my slice, and goes on behind
 * the next unit's backward. */
static void reduce_unit(struct run *r, int u) {
    zero_state_reduce(&r->zero, u);
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
    zero_state_forget(&r->zero); /* they may change now */
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
    struct update_state *state = s->update_state;
    profile_push("optimizer");
    zero_state_finish(&r->zero);
    comm_all_reduce(s->comm, s->stream, &state->loss_sum, zero_state_open_sums(&r->zero), FP64);
    update_prepare(s->stream, state, &s->rule, s->learning_rates);
    zero_state_update(&r->zero);
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
        r->model.accumulate = zero_state_begin(&r->zero, pack, s->update.packs);
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
    zero_state_predict_sent(&r->zero, s);

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
