/*
 * The loops themselves, for a file that has defined
 *
 *   LANES, vector          elements of a vector, and its type, which has + − · / as operators
 *   broadcast(x)           a vector of one value
 *   square_root(x)         of each lane, rounded correctly
 *   get(dtype, array, i)   elements i … i + LANES − 1 as fp32; dtype is FP32, BF16 or FP16, and a constant
 *   put(dtype, array, i, x)         the reverse, rounded to nearest even
 *   put_past_cache(dtype, array, i, x)  the same; the address is aligned to LANES elements
 *   fence()                makes what was put past the cache visible to others
 *
 * Each operation rounds once and none is fused (the build says -ffp-contract=off), so that all vectors give
 * what single elements give.
 */
#include "common/device/host/loops.h"

struct vector_factors {
    vector gradient_multiplier, keep, beta2, m_weight, v_weight, root_correction2, epsilon, step;
};

INLINE struct vector_factors broadcast_factors(const struct adamw_factors *f) {
    return (struct vector_factors){
        .gradient_multiplier = broadcast(f->gradient_multiplier),
        .keep = broadcast(f->keep),
        .beta2 = broadcast(f->beta2),
        .m_weight = broadcast(f->m_weight),
        .v_weight = broadcast(f->v_weight),
        .root_correction2 = broadcast(f->root_correction2),
        .epsilon = broadcast(f->epsilon),
        .step = broadcast(f->step),
    };
}

/* The order of operations is that of the CPU backend's adamw(). */
INLINE void adamw_loop(enum dtype dtype, enum dtype gradient_dtype, bool parameters,
                       const struct adamw_arrays *arrays, const struct adamw_factors *factors, size_t first,
                       size_t end) {
    const struct adamw_arrays a = *arrays;
    const struct vector_factors f = broadcast_factors(factors);
    LOOP for (size_t i = first; i < end; i += LANES) {
        vector gradient = get(gradient_dtype, a.gradient, i) * f.gradient_multiplier;
        vector m = get(FP32, a.m, i), v = get(FP32, a.v, i), master = get(FP32, a.master, i);
        vector moment = m + f.m_weight * (gradient - m);
        vector square = v * f.beta2 + f.v_weight * gradient * gradient;
        vector root = square_root(square) / f.root_correction2 + f.epsilon;
        vector parameter = master * f.keep + f.step * moment / root;
        put(FP32, a.m, i, moment);
        put(FP32, a.v, i, square);
        put(FP32, a.master, i, parameter);
        if (parameters) put_past_cache(dtype, a.parameters, i, parameter);
    }
    fence();
}

static void loops_adamw(enum dtype dtype, enum dtype gradient_dtype, const struct adamw_arrays *arrays,
                        const struct adamw_factors *factors, size_t first, size_t end) {
    bool fp32 = gradient_dtype == FP32;
    if (!arrays->parameters)
        adamw_loop(FP32, FP32, false, arrays, factors, first, end);
    else if (dtype == FP32)
        adamw_loop(FP32, FP32, true, arrays, factors, first, end);
    else if (dtype == BF16 && fp32)
        adamw_loop(BF16, FP32, true, arrays, factors, first, end);
    else if (dtype == BF16)
        adamw_loop(BF16, BF16, true, arrays, factors, first, end);
    else if (fp32)
        adamw_loop(FP16, FP32, true, arrays, factors, first, end);
    else
        adamw_loop(FP16, FP16, true, arrays, factors, first, end);
}

INLINE void accumulate_loop(enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient,
                            size_t first, size_t end, bool add) {
    LOOP for (size_t i = first; i < end; i += LANES) {
        vector x = get(dtype, gradient, i);
        if (add) x = get(sum_dtype, sum, i) + x;
        put(sum_dtype, sum, i, x);
    }
}

/* `add` as a constant, too: a compiler does not always take it out of the loop. */
INLINE void accumulate_either(enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient,
                              size_t first, size_t end, bool add) {
    if (add)
        accumulate_loop(sum_dtype, sum, dtype, gradient, first, end, true);
    else
        accumulate_loop(sum_dtype, sum, dtype, gradient, first, end, false);
}

static void loops_accumulate(enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient,
                             size_t first, size_t end, bool add) {
    if (sum_dtype == BF16)
        accumulate_either(BF16, sum, BF16, gradient, first, end, add);
    else if (sum_dtype == FP16)
        accumulate_either(FP16, sum, FP16, gradient, first, end, add);
    else if (dtype == BF16)
        accumulate_either(FP32, sum, BF16, gradient, first, end, add);
    else if (dtype == FP16)
        accumulate_either(FP32, sum, FP16, gradient, first, end, add);
    else
        accumulate_either(FP32, sum, FP32, gradient, first, end, add);
}
