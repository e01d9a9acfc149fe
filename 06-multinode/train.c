/*
 * Stage 06, several nodes: the collectives work in two levels, inside the nodes and across.
 *
 * The walk is stage 05's, call by call, and so are zero_stage and offload. What changes is the object that
 * ZeRO's modules ask to reduce and to gather (hierarchical_collectives.h): as little as can be crosses the
 * slow links between nodes. With zero_stage 3 the ranks of a node may keep the parameters among them a second
 * time, so that an update gathers them across once (secondary_shard.h).
 *
 *   read main() first, then open_run() and use_unit()
 *
 * Memory for Ψ parameters: as in stage 05; with zero_hpz_partition_size G, on nodes of G ranks, 2Ψ/G more in
 * half precision, 4Ψ/G in fp32. No rank sends less than in one level, but across G times less.
 */
#include <stdlib.h>

#include "05-offload/zero_state.h"
#include "06-multinode/hierarchical_collectives.h"
#include "06-multinode/start_report.h"
#include "common/base/error.h"
#include "common/bloom/model.h"
#include "common/train/session.h"

struct run {
    struct session session;
    struct model model;
    const struct layout *layout; /* how the model is cut into units */
    struct topology topology;    /* who is on which node, */
    struct level_rates rates;    /* and how fast the links between are */
    struct hierarchy hierarchy;  /* what the collectives know of it */
    struct collectives collectives;
    struct zero_state zero;           /* parameters, gradients, optimizer's state: what is mine of them */
    struct secondary_shard secondary; /* zero_stage 3: parameters, once more on each node */
};

/* ---- set-up ---- */

static void open_run(struct run *r) {
    struct session *s = &r->session;
    const struct layout *layout = r->layout = &s->layout;
    topology_open(&r->topology, s->comm);
    r->rates = topology_measure(&r->topology, s->device);
    r->hierarchy = (struct hierarchy){.topology = &r->topology, .secondary = &r->secondary};
    r->collectives = hierarchical_collectives(&r->hierarchy);
    zero_state_open(&r->zero, s, &r->collectives);
    secondary_shard_open(&r->secondary, s->device, &r->topology, layout, r->zero.parameter_shard.slices,
                         s->dtype, (int)s->settings.zero_hpz_partition_size);

    model_open(&r->model, s->device, s->stream, layout, s->dtype, s->capacity,
               s->settings.gradient_checkpointing);
}

static void close_run(struct run *r) {
    model_close(&r->model);
    secondary_shard_close(&r->secondary);
    zero_state_close(&r->zero);
    topology_close(&r->topology);
}

/* What checkpoints ask a stage for: each rank saves its slice of the optimizer's state, so that all of it is
 * saved once, */
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
 * way. My node keeps them. */
static void use_unit(struct run *r, int u, int direction) {
    r->model.parameters[u] = zero_state_use(&r->zero, u, direction);
    secondary_shard_keep(&r->secondary, r->session.stream, u, r->model.parameters[u]);
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
    prediction.device[PARAMETERS] +=
        secondary_shard_bytes(&r->topology, r->layout, s->dtype, (int)s->settings.zero_hpz_partition_size);
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
    secondary_shard_forget(&r->secondary);
    profile_pop();
}

/* The update's examples, in packs: gradients add up over packs and ranks, and the loss is a mean over all of
 * the update's predicted positions, so that neither the number of packs nor that of ranks changes the result.
 */
static void train_update(struct run *r) {
    struct session *s = &r->session;
    update_begin(s->stream, s->update_state);
    secondary_shard_forget(&r->secondary); /* what evaluation kept: each update sends the same bytes */
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
    hierarchical_predict_sent(&r->hierarchy, s);

    session_begin(s);
    start_report(s, &r->topology, r->rates);
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
