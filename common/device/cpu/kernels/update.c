/*
 * The update: loss scale, clipping, Adam's corrections, and AdamW itself.
 */
#include <math.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/vector.h"

void update_begin(struct stream *stream, struct update_state *state) {
    work_update_begin(stream);
    state->loss_sum = 0.0;
    state->square_sum = 0.0;
}

/* Below 1 a scale would make small gradients vanish to save ones that are beyond fp16 as they are. */
#define SMALLEST_LOSS_SCALE 1.0f

/* Halves the scale after an overflow, doubles it after scale_window updates without one. */
static void adapt_loss_scale(struct update_state *state, const struct update_rule *rule) {
    if (state->skip) {
        state->loss_scale = fmaxf(state->loss_scale * 0.5f, SMALLEST_LOSS_SCALE);
        state->clean_updates = 0;
    } else if (++state->clean_updates >= rule->scale_window) {
        state->loss_scale *= 2.0f;
        state->clean_updates = 0;
    }
}

void update_prepare(struct stream *stream, struct update_state *state, const struct update_rule *rule,
                    const double *learning_rates) {
    work_update_prepare(stream);
    state->used_loss_scale = state->loss_scale;
    state->grad_norm = sqrt(state->square_sum) / state->loss_scale;
    state->learning_rate = learning_rates[state->applied];
    state->skip = rule->dynamic_loss_scale && !isfinite(state->square_sum);
    if (rule->dynamic_loss_scale) adapt_loss_scale(state, rule);
    if (state->skip) return;

    double clipping = 1.0;
    if (rule->max_grad_norm > 0.0) {
        clipping = rule->max_grad_norm / (state->grad_norm + 1e-6);
        if (clipping > 1.0) clipping = 1.0; /* a NaN stays one, as in PyTorch */
    }
    state->gradient_multiplier = (float)(clipping / state->used_loss_scale);
    state->applied++;
    state->correction1 = (float)(1.0 - pow(rule->beta1, state->applied));
    state->correction2 = (float)(1.0 - pow(rule->beta2, state->applied));
}

/* ---- AdamW ---- */

struct adamw_arrays {
    void *parameters;
    float *master, *m, *v;
    const void *gradient;
};

/* What is the same for all elements, computed in fp64 and rounded, as PyTorch does. */
struct adamw_factors {
    float gradient_multiplier;
    float keep;  /* of a parameter, after decay */
    float beta2; /* of v */
    float m_weight, v_weight;
    float root_correction2, epsilon;
    float step; /* −learning rate / correction1 */
};

static struct adamw_factors adamw_factors(const struct update_state *state, const struct update_rule *rule,
                                          bool decayed) {
    return (struct adamw_factors){
        .gradient_multiplier = state->gradient_multiplier,
        .keep = decayed ? (float)(1.0 - state->learning_rate * rule->weight_decay) : 1.0f,
        .beta2 = (float)rule->beta2,
        .m_weight = (float)(1.0 - rule->beta1),
        .v_weight = (float)(1.0 - rule->beta2),
        .root_correction2 = (float)sqrt((double)state->correction2),
        .epsilon = (float)rule->epsilon,
        .step = (float)(-state->learning_rate / (double)state->correction1),
    };
}

INLINE void adamw_loop(enum dtype dtype, const struct adamw_arrays *arrays,
                       const struct adamw_factors *factors, size_t first, size_t end) {
    struct adamw_factors f = *factors;
    float *master = arrays->master, *m = arrays->m, *v = arrays->v;
    void *parameters = arrays->parameters;
    const void *gradients = arrays->gradient;
#pragma omp simd
    for (size_t i = first; i < end; i++) {
        float gradient = load(dtype, gradients, i) * f.gradient_multiplier;
        float moment = m[i] + f.m_weight * (gradient - m[i]);
        float square = v[i] * f.beta2 + f.v_weight * gradient * gradient;
        float root = sqrtf(square) / f.root_correction2 + f.epsilon;
        float parameter = master[i] * f.keep + f.step * moment / root;
        m[i] = moment;
        v[i] = square;
        master[i] = parameter;
        if (dtype != FP32) store(dtype, parameters, i, parameter);
    }
}

HOT static void adamw_piece(enum dtype dtype, const struct adamw_arrays *arrays,
                            const struct adamw_factors *factors, size_t first, size_t end) {
    FOR_DTYPE(dtype, adamw_loop, arrays, factors, first, end);
}

/* Elements first … end−1, which share their factors. */
static void adamw_range(enum dtype dtype, const struct adamw_arrays *arrays, struct adamw_factors factors,
                        size_t first, size_t end) {
#pragma omp parallel for schedule(static) if (end - first > PIECE)
    for (size_t i = first; i < end; i += PIECE)
        adamw_piece(dtype, arrays, &factors, i, smaller(i + PIECE, end));
}

void adamw(struct stream *stream, enum dtype dtype, void *parameters, float *master, float *m, float *v,
           const void *gradient, size_t count, size_t decayed, const struct update_state *state,
           const struct update_rule *rule) {
    work_adamw(stream, dtype, count);
    if (state->skip) return;
    struct adamw_arrays arrays = {parameters, master, m, v, gradient};
    adamw_range(dtype, &arrays, adamw_factors(state, rule, true), 0, decayed);
    adamw_range(dtype, &arrays, adamw_factors(state, rule, false), decayed, count);
}
