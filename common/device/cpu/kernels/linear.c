/*
 * Linear layers, as products.
 */
#include "common/device/cpu/kernels/columns.h"
#include "common/device/cpu/kernels/gelu.h"
#include "common/device/cpu/kernels/product.h"

void linear_forward(struct stream *stream, enum dtype dtype, void *y, size_t ldy, const void *x,
                    const void *w, const void *bias, const void *residual, size_t m, size_t n, size_t k) {
    work_linear_forward(stream, dtype, bias != NULL, residual != NULL, m, n, k);
    struct product product = {.dtype = dtype,
                              .a = {x, k, false},
                              .b = {w, k, true},
                              .m = m,
                              .n = n,
                              .k = k,
                              .out_dtype = dtype,
                              .out = y,
                              .ldout = ldy,
                              .bias = bias,
                              .add = residual};
    multiply(stream, &product);
}

void linear_gelu_forward(struct stream *stream, enum dtype dtype, void *out, void *pre, const void *x,
                         const void *w, const void *bias, size_t m, size_t n, size_t k) {
    work_linear_gelu_forward(stream, dtype, m, n, k);
    struct product product = {.dtype = dtype,
                              .a = {x, k, false},
                              .b = {w, k, true},
                              .m = m,
                              .n = n,
                              .k = k,
                              .out_dtype = dtype,
                              .out = pre,
                              .ldout = n,
                              .bias = bias};
    multiply(stream, &product);
    /* Of pre as it is stored, so that gelu_forward() gives the same bits when it recomputes. */
    gelu_elements(dtype, out, pre, m * n);
}

void linear_backward_input(struct stream *stream, enum dtype dtype, void *dx, enum dtype dx_dtype,
                           const void *dy, size_t lddy, const void *w, const void *add, size_t m, size_t n,
                           size_t k) {
    work_linear_backward_input(stream, dtype, dx_dtype, add != NULL, m, n, k);
    struct product product = {.dtype = dtype,
                              .a = {dy, lddy, false},
                              .b = {w, k, false},
                              .m = m,
                              .n = k,
                              .k = n,
                              .out_dtype = dx_dtype,
                              .out = dx,
                              .ldout = k,
                              .add = add};
    multiply(stream, &product);
}

/* ---- gradients of the weights ---- */

void linear_backward_weight(struct stream *stream, enum dtype dtype, void *dw, void *dbias, const void *dy,
                            size_t lddy, const void *x, size_t m, size_t n, size_t k, bool accumulate) {
    work_linear_backward_weight(stream, dtype, dbias != NULL, m, n, k, accumulate);
    if (m > 0 || !accumulate) {
        struct product product = {.dtype = dtype,
                                  .a = {dy, lddy, true},
                                  .b = {x, k, false},
                                  .m = n,
                                  .n = k,
                                  .k = m,
                                  .out_dtype = dtype,
                                  .out = dw,
                                  .ldout = k,
                                  .add = accumulate ? dw : NULL};
        multiply(stream, &product);
    }
    if (dbias) column_sums(dtype, dbias, dy, lddy, m, n, accumulate);
}

void linear_gelu_backward_input(struct stream *stream, enum dtype dtype, void *dpre, void *dbias,
                                void *active, const void *dy, const void *w, const void *pre, size_t m,
                                size_t n, size_t k, bool accumulate) {
    work_linear_gelu_backward_input(stream, dtype, m, n, k, accumulate);
    struct product product = {.dtype = dtype,
                              .a = {dy, n, false},
                              .b = {w, k, false},
                              .m = m,
                              .n = k,
                              .k = n,
                              .out_dtype = dtype,
                              .out = dpre,
                              .ldout = k,
                              .pre = pre};
    multiply(stream, &product);
    gelu_elements(dtype, active, pre, m * k);
    column_sums(dtype, dbias, dpre, k, m, k, accumulate);
}
