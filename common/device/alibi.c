#include <math.h>

#include "common/device/kernels.h"

/* With m heads, a power of two, head i (from 1) has 2^(−8i/m). Other numbers take the m slopes of the power
 * of two below, then those that a series of 2m heads has between them. */
float alibi_slope(size_t head, size_t heads) {
    size_t m = 1;
    while (2 * m <= heads) m *= 2;
    if (head < m) return (float)exp2(-8.0 * (double)(head + 1) / (double)m);
    return (float)exp2(-8.0 * (double)(2 * (head - m) + 1) / (double)(2 * m));
}
