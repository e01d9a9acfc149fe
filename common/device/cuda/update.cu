/*
 * The update: loss scale, clipping, Adam's corrections, and AdamW itself.
 */
#include <cmath>

#include "common/device/cuda/cuda.cuh"

__global__ void begin_kernel(struct update_state *state) {
    state->loss_sum = 0.0;
    state->square_sum = 0.0;
}

void update_begin(struct stream *stream, struct update_state *state) {
    work_update_begin(stream);
    begin_kernel<<<1, 1, 0, cuda_stream(stream)>>>(state);
    CUDA_LAUNCHED("update_begin");
}

/* Below 1 a scale would make small gradients vanish to save ones that are beyond fp16 as they are. */
#define SMALLEST_LOSS_SCALE 1.0f

/* Halves the scale after an overflow, doubles it after scale_window updates without one. */
__device__ static void adapt_loss_scale(struct update_state *state, const struct update_rule &rule) {
    if (state->skip) {
        state->loss_scale = fmaxf(state->loss_scale * 0.5f, SMALLEST_LOSS_SCALE);
        state->clean_updates = 0;
    } else if (++state->clean_updates >= rule.scale_window) {
        state->loss_scale *= 2.0f;
        state->clean_updates = 0;
    }
}

__global__ void prepare_kernel(struct update_state *state, struct update_rule rule,
                               const double *learning_rates) {
    state->used_loss_scale = state->loss_scale;
    state->grad_norm = sqrt(state->square_sum) / state->loss_scale;
    state->learning_rate = learning_rates[state->applied];
    state->skip = rule.dynamic_loss_scale && !isfinite(state->square_sum);
    if (rule.dynamic_loss_scale) adapt_loss_scale(state, rule);
    if (state->skip) return;

    double clipping = 1.0;
    if (rule.max_grad_norm > 0.0) {
        clipping = rule.max_grad_norm / (state->grad_norm + 1e-6);
        if (clipping > 1.0) clipping = 1.0; /* a NaN stays one, as in PyTorch */
    }
    state->gradient_multiplier = (float)(clipping / state->used_loss_scale);
    state->applied++;
    state->correction1 = (float)(1.0 - pow(rule.beta1, (double)state->applied));
    state->correction2 = (float)(1.0 - pow(rule.beta2, (double)state->applied));
}

void update_prepare(struct stream *stream, struct update_state *state, const struct update_rule *rule,
                    const double *learning_rates) {
    work_update_prepare(stream);
    prepare_kernel<<<1, 1, 0, cuda_stream(stream)>>>(state, *rule, learning_rates);
    CUDA_LAUNCHED("update_prepare");
}

/* ---- AdamW ---- */

/* A block takes ADAMW_THREADS · VECTORS vectors of four. */
enum { ADAMW_THREADS = 256, VECTORS = 2 };

template <typename T> struct adamw_arrays {
    T *parameters; /* NULL in FP32, where the master parameters are those */
    float *master, *m, *v;
    const T *gradient;
};

/* What is the same for all elements, computed in fp64 and rounded, as PyTorch does. */
struct adamw_factors {
    float gradient_multiplier;
    float keep; /* of a parameter, after decay */
    float beta2, m_weight, v_weight;
    float root_correction2, epsilon;
    float step; /* −learning rate / correction1 */
};

/* V elements, on their way from memory to memory. */
template <typename T, int V> struct adamw_vector {
    lanes<T, V> gradient;
    float m[V], v[V], master[V];

    __device__ void get(const adamw_arrays<T> &arrays, size_t first) {
        gradient = *reinterpret_cast<const lanes<T, V> *>(arrays.gradient + first);
        load_lanes(m, arrays.m + first);
        load_lanes(v, arrays.v + first);
        load_lanes(master, arrays.master + first);
    }
    __device__ void update(const adamw_factors &f, size_t first, size_t decayed) {
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float g = to_float(gradient.values[i]) * f.gradient_multiplier;
            m[i] += f.m_weight * (g - m[i]);
            v[i] = v[i] * f.beta2 + f.v_weight * g * g;
            const float root = sqrtf(v[i]) / f.root_correction2 + f.epsilon;
            master[i] = master[i] * (first + i < decayed ? f.keep : 1.0f) + f.step * m[i] / root;
        }
    }
    __device__ void put(const adamw_arrays<T> &arrays, size_t first) const {
        store_lanes(arrays.m + first, m);
        store_lanes(arrays.v + first, v);
        store_lanes(arrays.master + first, master);
        if (arrays.parameters) store_lanes(arrays.parameters + first, master);
    }
};

template <typename T, int V>
__global__ void __launch_bounds__(ADAMW_THREADS, 4)
    adamw_kernel(adamw_arrays<T> arrays, size_t count, size_t decayed, const struct update_state *state,
                 struct update_rule rule) {
    wait_for_earlier_work();
    if (state->skip) return;
    const auto place = [](int i) {
        return (((size_t)blockIdx.x * VECTORS + i) * ADAMW_THREADS + threadIdx.x) * V;
    };
    adamw_vector<T, V> vectors[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
        if (place(i) + V <= count) vectors[i].get(arrays, place(i));
    /* Few fp64 operations, but slow ones on many devices: one thread a block does them. */
    __shared__ adamw_factors factors;
    if (threadIdx.x == 0) {
        factors.gradient_multiplier = state->gradient_multiplier;
        factors.keep = (float)(1.0 - state->learning_rate * rule.weight_decay);
        factors.beta2 = (float)rule.beta2;
        factors.m_weight = (float)(1.0 - rule.beta1);
        factors.v_weight = (float)(1.0 - rule.beta2);
        factors.root_correction2 = (float)sqrt((double)state->correction2);
        factors.epsilon = (float)rule.epsilon;
        factors.step = (float)(-state->learning_rate / (double)state->correction1);
    }
    __syncthreads();
    const adamw_factors f = factors;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        size_t first = place(i);
        if (first + V <= count) {
            vectors[i].update(f, first, decayed);
            vectors[i].put(arrays, first);
            continue;
        }
        for (; first < count; first++) { /* a last, incomplete vector */
            adamw_vector<T, 1> element;
            element.get(arrays, first);
            element.update(f, first, decayed);
            element.put(arrays, first);
        }
    }
}

void adamw(struct stream *stream, enum dtype dtype, void *parameters, float *master, float *m, float *v,
           const void *gradient, size_t count, size_t decayed, const struct update_state *state,
           const struct update_rule *rule) {
    work_adamw(stream, dtype, count);
    if (count == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const adamw_arrays<T> arrays = {dtype == FP32 ? NULL : (T *)parameters, master, m, v,
                                        (const T *)gradient};
        constexpr int EACH = ADAMW_THREADS * VECTORS;
        if (aligned16(parameters, master, m, v, gradient))
            launch(stream, adamw_kernel<T, 4>, blocks_for(count, EACH * 4), ADAMW_THREADS, 0, "adamw", arrays,
                   count, decayed, state, *rule);
        else
            launch(stream, adamw_kernel<T, 1>, blocks_for(count, EACH), ADAMW_THREADS, 0, "adamw", arrays,
                   count, decayed, state, *rule);
    });
}
