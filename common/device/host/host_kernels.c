#include "common/device/host_kernels.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/host/loops.h"

/* Elements of a piece: the unit in which threads share an array, and in which squares are summed. 32 to 64
 * KiB of what is accumulated, which stay in a core's cache until they are squared. */
#define PIECE ((size_t)16384)

/* ---- instruction sets ---- */

static const struct host_loops *chosen; /* NULL: not yet */

/* Number `i`, best first; NULL behind the last. */
static const struct host_loops *(*candidate(int i))(void) {
    static const struct host_loops *(*const candidates[])(void) = {
#ifdef WORKSHOP_AVX512
        host_loops_avx512,
#endif
#ifdef WORKSHOP_AVX2
        host_loops_avx2,
#endif
        host_loops_plain,
        NULL,
    };
    return candidates[i];
}

bool host_kernels_use(const char *name) {
    for (int i = 0; candidate(i); i++) {
        const struct host_loops *loops = candidate(i)();
        if (!loops || (name && strcmp(name, loops->name) != 0)) continue;
        chosen = loops;
        return true;
    }
    return false;
}

static const struct host_loops *loops_in_use(void) {
    if (!chosen) host_kernels_use(NULL);
    return chosen;
}

const char *host_kernels_instructions(void) {
    return loops_in_use()->name;
}

/* ---- pieces ---- */

/* Elements first … middle − 1 and last … end − 1 are too few for a vector, or before the first address that
 * is aligned to one. */
struct parts {
    size_t middle, last;
};

/* `size` bytes an element of the array at `base` whose vectors are to be aligned; NULL: none are. */
static struct parts cut(const struct host_loops *loops, const void *base, size_t size, size_t first,
                        size_t end) {
    size_t vector = loops->lanes * size;
    size_t past = base ? ((uintptr_t)base + first * size) % vector : 0;
    size_t middle = first + (past ? (vector - past) / size : 0);
    if (middle > end) middle = end;
    return (struct parts){.middle = middle, .last = end - (end - middle) % loops->lanes};
}

static size_t piece_end(size_t first, size_t end) {
    return end - first > PIECE ? first + PIECE : end;
}

/* ---- AdamW ---- */

/* In fp64, then rounded, as PyTorch does. */
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

/* The types of one call. */
struct adamw_types {
    enum dtype dtype, gradient;
};

static void adamw_piece(const struct host_loops *loops, struct adamw_types types,
                        const struct adamw_arrays *arrays, const struct adamw_factors *factors, size_t first,
                        size_t end) {
    const struct host_loops *plain = host_loops_plain();
    struct parts parts = cut(loops, arrays->parameters, dtype_size(types.dtype), first, end);
    plain->adamw(types.dtype, types.gradient, arrays, factors, first, parts.middle);
    loops->adamw(types.dtype, types.gradient, arrays, factors, parts.middle, parts.last);
    plain->adamw(types.dtype, types.gradient, arrays, factors, parts.last, end);
}

/* Elements first … end − 1, which share their factors. */
static void adamw_range(int threads, struct adamw_types types, const struct adamw_arrays *arrays,
                        struct adamw_factors factors, size_t first, size_t end) {
    const struct host_loops *loops = loops_in_use();
#pragma omp parallel for schedule(static) num_threads(threads) if (end - first > PIECE)
    for (size_t i = first; i < end; i += PIECE)
        adamw_piece(loops, types, arrays, &factors, i, piece_end(i, end));
}

static void check_types(const char *what, enum dtype dtype, enum dtype other) {
    bool known = dtype == FP32 || dtype == BF16 || dtype == FP16;
    if (!known || (other != dtype && other != FP32))
        fail("%s: not for elements of type %s beside %s", what, dtype_name(dtype), dtype_name(other));
}

void host_adamw(int threads, enum dtype dtype, void *parameters, float *master, float *m, float *v,
                enum dtype gradient_dtype, const void *gradient, size_t count, size_t decayed,
                const struct update_state *state, const struct update_rule *rule) {
    check_types("host_adamw", dtype, gradient_dtype);
    if (!device_computes() || state->skip) return;
    struct adamw_types types = {dtype, gradient_dtype};
    struct adamw_arrays arrays = {parameters == (void *)master ? NULL : parameters, master, m, v, gradient};
    adamw_range(threads, types, &arrays, adamw_factors(state, rule, true), 0, decayed);
    adamw_range(threads, types, &arrays, adamw_factors(state, rule, false), decayed, count);
}

/* ---- gradients ---- */

static double squares_piece(const struct host_loops *loops, enum dtype dtype, const void *x, size_t first,
                            size_t end) {
    double sums[SQUARE_LANES] = {0}, total = 0;
    size_t last = end - (end - first) % SQUARE_LANES;
    loops->squares(dtype, x, first, last, sums);
    host_loops_plain()->squares(dtype, x, last, end, sums);
    for (int lane = 0; lane < SQUARE_LANES; lane++) total += sums[lane];
    return total;
}

static double accumulate_piece(const struct host_loops *loops, enum dtype sum_dtype, void *sum,
                               enum dtype dtype, const void *gradient, size_t first, size_t end, bool add) {
    struct parts parts = cut(loops, NULL, 1, first, end);
    loops->accumulate(sum_dtype, sum, dtype, gradient, first, parts.last, add);
    host_loops_plain()->accumulate(sum_dtype, sum, dtype, gradient, parts.last, end, add);
    return squares_piece(loops, sum_dtype, sum, first, end);
}

/* The pieces' sums in their order, whatever thread found them. */
static double sum_of_pieces(double *sums, size_t pieces) {
    double total = 0;
    for (size_t p = 0; p < pieces; p++) total += sums[p];
    free(sums);
    return total;
}

double host_accumulate(int threads, enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient,
                       size_t count, bool add) {
    check_types("host_accumulate", dtype, sum_dtype);
    if (!device_computes()) return 0;
    const struct host_loops *loops = loops_in_use();
    size_t pieces = (count + PIECE - 1) / PIECE;
    double *sums = xcalloc(pieces + 1, sizeof *sums);
#pragma omp parallel for schedule(static) num_threads(threads) if (pieces > 1)
    for (size_t p = 0; p < pieces; p++)
        sums[p] = accumulate_piece(loops, sum_dtype, sum, dtype, gradient, p * PIECE,
                                   piece_end(p * PIECE, count), add);
    return sum_of_pieces(sums, pieces);
}

double host_sum_of_squares(int threads, enum dtype dtype, const void *x, size_t count) {
    check_types("host_sum_of_squares", dtype, dtype);
    if (!device_computes()) return 0;
    const struct host_loops *loops = loops_in_use();
    size_t pieces = (count + PIECE - 1) / PIECE;
    double *sums = xcalloc(pieces + 1, sizeof *sums);
#pragma omp parallel for schedule(static) num_threads(threads) if (pieces > 1)
    for (size_t p = 0; p < pieces; p++)
        sums[p] = squares_piece(loops, dtype, x, p * PIECE, piece_end(p * PIECE, count));
    return sum_of_pieces(sums, pieces);
}
