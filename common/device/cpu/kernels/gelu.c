#include "common/device/cpu/kernels/gelu.h"

#include "common/device/cpu/cpu.h"

INLINE void gelu_loop(enum dtype dtype, void *out, const void *x, size_t first, size_t end) {
#pragma omp simd
    for (size_t i = first; i < end; i++) store(dtype, out, i, gelu(load(dtype, x, i)));
}

HOT static void gelu_piece(enum dtype dtype, void *out, const void *x, size_t first, size_t end) {
    FOR_DTYPE(dtype, gelu_loop, out, x, first, end);
}

void gelu_elements(enum dtype dtype, void *out, const void *x, size_t count) {
#pragma omp parallel for schedule(static) if (count > PIECE)
    for (size_t i = 0; i < count; i += PIECE) gelu_piece(dtype, out, x, i, smaller(i + PIECE, count));
}

void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_gelu_forward(stream, dtype, count);
    gelu_elements(dtype, out, x, count);
}
