/* One element after the other, as C has it; a compiler may use what vectors every processor of its kind has.
 */
#include <math.h>

#include "common/device/cpu/kernels/vector.h"

enum { LANES = 1 };
typedef float vector;
#define LOOP _Pragma("omp simd")

INLINE vector broadcast(float value) {
    return value;
}

INLINE vector square_root(vector x) {
    return sqrtf(x);
}

INLINE vector get(enum dtype dtype, const void *array, size_t i) {
    return load(dtype, array, i);
}

INLINE void put(enum dtype dtype, void *array, size_t i, vector x) {
    store(dtype, array, i, x);
}

INLINE void put_past_cache(enum dtype dtype, void *array, size_t i, vector x) {
    store(dtype, array, i, x);
}

INLINE void fence(void) {
}

#include "common/device/host/loops_body.h"

INLINE void squares_loop(enum dtype dtype, const void *x, size_t first, size_t end, double *sums) {
    for (size_t i = first; i < end; i++) {
        double value = load(dtype, x, i);
        sums[(i - first) % SQUARE_LANES] += value * value;
    }
}

static void loops_squares(enum dtype dtype, const void *x, size_t first, size_t end,
                          double sums[SQUARE_LANES]) {
    FOR_DTYPE(dtype, squares_loop, x, first, end, sums);
}

const struct host_loops *host_loops_plain(void) {
    static const struct host_loops loops = {
        .name = "plain",
        .lanes = LANES,
        .adamw = loops_adamw,
        .accumulate = loops_accumulate,
        .squares = loops_squares,
    };
    return &loops;
}
