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

void linear_gelu_backward_input(struct stream *stream, enum dtype dtype, void *dpre, const void *dy,
                                const void *w, const void *pre, size_t m, size_t n, size_t k) {
    work_linear_gelu_backward_input(stream, dtype, m, n, k);
    struct product product = {};
    product.dtype = product.out_dtype = dtype;
    product.a = {dy, n, false};
    product.b = {w, k, false};
    product.m = m, product.n = k, product.k = n;
    product.out = dpre, product.ldout = k;
    product.pre = pre;
    if (m && k) multiply(stream, &product);
}

/* ---- gradients of the weights ---- */

enum { COLUMN_THREADS = 1024, FEW_BLOCKS = 128 };

template <typename T, int V, int WIDE>
__global__ void __launch_bounds__(COLUMN_THREADS)
    column_sums_kernel(T *out, const T *x, size_t ld, size_t rows, size_t columns, bool accumulate) {
    const column_place<V, WIDE, COLUMN_THREADS> place(blockIdx.x);
    float parts[V] = {};
    if (place.column < columns) {
#pragma unroll 4
        for (size_t r = place.first_row; r < rows; r += place.rows) {
            float values[V];
            load_lanes(values, x + r * ld + place.column);
#pragma unroll
            for (int i = 0; i < V; i++) parts[i] += values[i];
        }
    }
    finish_columns<WIDE, COLUMN_THREADS>(blockIdx.x, parts, columns, [&](size_t column, float sum) {
        store(&out[column], accumulate ? load(&out[column]) + sum : sum);
    });
}

/* out [columns] (+)= the sums of x's columns, x [rows, columns] with leading dimension ld. */
static void column_sums(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t ld,
                        size_t rows, size_t columns, bool accumulate) {
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = LANES<T>;
        const auto launch = [&](auto kernel, unsigned blocks) {
            kernel<<<blocks, COLUMN_THREADS, 0, cuda_stream(stream)>>>((T *)out, (const T *)x, ld, rows,
                                                                       columns, accumulate);
        };
        if (!aligned16(x) || ld % V != 0 || columns % V != 0)
            launch(column_sums_kernel<T, 1, 2>, column_blocks<1, 2>(columns));
        else if (column_blocks<V, 2>(columns) < FEW_BLOCKS)
            launch(column_sums_kernel<T, V, 1>, column_blocks<V, 1>(columns));
        else
            launch(column_sums_kernel<T, V, 2>, column_blocks<V, 2>(columns));
    });
    CUDA_LAUNCHED("gradient of a bias");
}

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
