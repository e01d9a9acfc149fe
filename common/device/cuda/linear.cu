/*
 * Linear layers, as products.
 */
#include "common/device/cuda/columns.cuh"
#include "common/device/cuda/gelu.cuh"
#include "common/device/cuda/product.cuh"

void linear_forward(struct stream *stream, enum dtype dtype, void *y, size_t ldy, const void *x,
                    const void *w, const void *bias, const void *residual, size_t m, size_t n, size_t k) {
    work_linear_forward(stream, dtype, bias != NULL, residual != NULL, m, n, k);
    struct product product = {};
    product.dtype = product.out_dtype = dtype;
    product.a = {x, k, false};
    product.b = {w, k, true};
    product.m = m, product.n = n, product.k = k;
    product.out = y, product.ldout = ldy;
    product.bias = bias;
    product.add = residual, product.ldadd = n;
    if (m && n) multiply(stream, &product);
}

void linear_gelu_forward(struct stream *stream, enum dtype dtype, void *out, void *pre, const void *x,
                         const void *w, const void *bias, size_t m, size_t n, size_t k) {
    work_linear_gelu_forward(stream, dtype, m, n, k);
    struct product product = {};
    product.dtype = product.out_dtype = dtype;
    product.a = {x, k, false};
    product.b = {w, k, true};
    product.m = m, product.n = n, product.k = k;
    product.out = pre, product.ldout = n;
    product.bias = bias;
    if (!m || !n) return;
    multiply(stream, &product);
    /* Of pre as it is stored, so that gelu_forward() gives the same bits when it recomputes. cuBLASLt's own
     * epilogue would round later, and took as long as these two kernels (H100, bloom-560m). */
    gelu_elements(stream, dtype, out, pre, m * n);
}

void linear_backward_input(struct stream *stream, enum dtype dtype, void *dx, enum dtype dx_dtype,
                           const void *dy, size_t lddy, const void *w, const void *add, size_t m, size_t n,
                           size_t k) {
    work_linear_backward_input(stream, dtype, dx_dtype, add != NULL, m, n, k);
    struct product product = {};
    product.dtype = dtype, product.out_dtype = dx_dtype;
    product.a = {dy, lddy, false};
    product.b = {w, k, false};
    product.m = m, product.n = k, product.k = n;
    product.out = dx, product.ldout = k;
    product.add = add, product.ldadd = k;
    if (m && k) multiply(stream, &product);
}

/* cuBLASLt's own epilogue for GELU's derivative takes longer (H200), and a tanh of 11 bits even in fp32. */
void linear_gelu_backward_input(struct stream *stream, enum dtype dtype, void *dpre, void *dbias,
                                void *active, const void *dy, const void *w, const void *pre, size_t m,
                                size_t n, size_t k, bool accumulate) {
    work_linear_gelu_backward_input(stream, dtype, m, n, k, accumulate);
    struct product product = {};
    product.dtype = product.out_dtype = dtype;
    product.a = {dy, n, false};
    product.b = {w, k, false};
    product.m = m, product.n = k, product.k = n;
    product.out = dpre, product.ldout = k;
    if (m && k) multiply(stream, &product);
    gelu_backward(stream, dtype, dpre, dbias, active, pre, m, k, accumulate);
}

/* ---- gradients of the weights ---- */

void linear_backward_weight(struct stream *stream, enum dtype dtype, void *dw, void *dbias, const void *dy,
                            size_t lddy, const void *x, size_t m, size_t n, size_t k, bool accumulate) {
    work_linear_backward_weight(stream, dtype, dbias != NULL, m, n, k, accumulate);
    if (m == 0 && accumulate) return;
    struct product product = {};
    product.dtype = product.out_dtype = dtype;
    product.a = {dy, lddy, true};
    product.b = {x, k, false};
    product.m = n, product.n = k, product.k = m;
    product.out = dw, product.ldout = k;
    product.add = accumulate ? dw : NULL, product.ldadd = k;
    if (n && k) multiply(stream, &product);
    if (dbias && n) column_sums(stream, dtype, dbias, dy, lddy, m, n, accumulate);
}
