/*
 * The loops behind host_kernels.h, once for each instruction set. Private to common/device/host.
 *
 * loops_body.h has them once, in terms of a few operations on vectors; each loops_NAME.c defines these for
 * its instructions, is compiled for them, and includes it. host_kernels.c cuts arrays into pieces, picks an
 * instruction set when the program runs, and gives the ends that do not fill a vector to the plain loops.
 */
#ifndef COMMON_DEVICE_HOST_LOOPS_H
#define COMMON_DEVICE_HOST_LOOPS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/device/dtype.h"

struct adamw_arrays {
    void *parameters; /* NULL: the master is all there is */
    float *master, *m, *v;
    const void *gradient;
};

/* What is the same for all elements. */
struct adamw_factors {
    float gradient_multiplier;
    float keep;  /* of a parameter, after decay */
    float beta2; /* of v */
    float m_weight, v_weight;
    float root_correction2, epsilon;
    float step; /* −learning rate / correction1 */
};

/* Sums of squares are taken in this many lanes, of which a vector may be several, whatever the machine has:
 * so all instruction sets give the same bits. */
enum { SQUARE_LANES = 16 };

/* Elements first … end − 1; end − first is a multiple of `lanes` (of SQUARE_LANES for squares). */
struct host_loops {
    const char *name;
    size_t lanes; /* elements of a vector: what is written past the cache must be aligned to so many */
    void (*adamw)(enum dtype dtype, enum dtype gradient_dtype, const struct adamw_arrays *arrays,
                  const struct adamw_factors *factors, size_t first, size_t end);
    void (*accumulate)(enum dtype sum_dtype, void *sum, enum dtype dtype, const void *gradient, size_t first,
                       size_t end, bool add);
    /* sums[(i − first) mod SQUARE_LANES] += x[i]² */
    void (*squares)(enum dtype dtype, const void *x, size_t first, size_t end, double sums[SQUARE_LANES]);
};

/* NULL where this processor does not have the instructions. The last two are in builds whose compiler knows
 * them: WORKSHOP_AVX2 and WORKSHOP_AVX512 are defined. */
const struct host_loops *host_loops_plain(void);
const struct host_loops *host_loops_avx2(void);
const struct host_loops *host_loops_avx512(void);

#endif
