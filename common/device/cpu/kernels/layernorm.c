/*
 * Layer norm: out = (x − mean) · rstd · weight + bias over rows of h elements, rstd = 1 / sqrt(variance +
 * eps).
 */
#include <math.h>

#include "common/device/cpu/cpu.h"
#include "common/device/cpu/kernels/columns.h"

/* ---- forward: a row at a time ---- */

INLINE void row_statistics(enum dtype dtype, float *mean, float *rstd, const void *x, size_t h, float eps) {
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < h; i++) sum += load(dtype, x, i);
    float center = sum / (float)h;
#pragma omp simd reduction(+ : squares)
    for (size_t i = 0; i < h; i++) {
        float distance = load(dtype, x, i) - center;
        squares += distance * distance;
    }
    *mean = center;
    *rstd = 1.0f / sqrtf(squares / (float)h + eps);
}

INLINE void row_normalize(enum dtype dtype, void *out, float mean, float rstd, const void *x,
                          const void *weight, const void *bias, size_t h) {
#pragma omp simd
    for (size_t i = 0; i < h; i++) {
        float normal = (load(dtype, x, i) - mean) * rstd;
        store(dtype, out, i, normal * load(dtype, weight, i) + load(dtype, bias, i));
    }
}

HOT static void statistics(enum dtype dtype, float *mean, float *rstd, const void *x, size_t h, float eps) {
    FOR_DTYPE(dtype, row_statistics, mean, rstd, x, h, eps);
}

HOT static void normalize(enum dtype dtype, void *out, float mean, float rstd, const void *x,
                          const void *weight, const void *bias, size_t h) {
    FOR_DTYPE(dtype, row_normalize, out, mean, rstd, x, weight, bias, h);
}

void layernorm_forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                       const void *x, const void *weight, const void *bias, size_t rows, size_t h,
                       float eps) {
    work_layernorm_forward(stream, dtype, rows, h);
#pragma omp parallel for schedule(static) if (rows * h > PIECE)
    for (size_t r = 0; r < rows; r++) {
        const void *row = const_element(dtype, x, r * h);
        statistics(dtype, &mean[r], &rstd[r], row, h, eps);
        normalize(dtype, element(dtype, out, r * h), mean[r], rstd[r], row, weight, bias, h);
    }
}

static void normalize_rows(enum dtype dtype, void *out, const float *mean, const float *rstd, const void *x,
                           const void *weight, const void *bias, size_t rows, size_t h) {
#pragma omp parallel for schedule(static) if (rows * h > PIECE)
    for (size_t r = 0; r < rows; r++)
        normalize(dtype, element(dtype, out, r * h), mean[r], rstd[r], const_element(dtype, x, r * h), weight,
                  bias, h);
}

void layernorm_recompute(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                         const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                         size_t h) {
    work_layernorm_forward(stream, dtype, rows, h);
    normalize_rows(dtype, out, mean, rstd, x, weight, bias, rows, h);
}

/* ---- backward ----
 *
 * With n = (x − mean) · rstd and g = dy · weight:
 *     dweight = Σ over rows of dy · n        dbias = Σ over rows of dy
 *     dx = rstd · (g − mean of g − n · mean of g·n), the means over the row */

struct layernorm_input {
    const void *dy, *x, *weight;
    const float *mean, *rstd;
    size_t rows, h;
};

INLINE void column_gradients(enum dtype dtype, void *dweight, void *dbias, const struct layernorm_input *in,
                             size_t first, size_t columns, bool accumulate) {
    float weight_total[COLUMN_PIECE] = {0}, weight_part[COLUMN_PIECE] = {0};
    float bias_total[COLUMN_PIECE] = {0}, bias_part[COLUMN_PIECE] = {0};
    for (size_t r = 0; r < in->rows; r++) {
        const void *dy = const_element(dtype, in->dy, r * in->h + first);
        const void *x = const_element(dtype, in->x, r * in->h + first);
        float mean = in->mean[r], rstd = in->rstd[r];
#pragma omp simd
        for (size_t c = 0; c < columns; c++) {
            float slope = load(dtype, dy, c);
            weight_part[c] += slope * ((load(dtype, x, c) - mean) * rstd);
            bias_part[c] += slope;
        }
        if ((r + 1) % ROW_BLOCK == 0 || r + 1 == in->rows) {
            fold_columns(weight_total, weight_part, columns);
            fold_columns(bias_total, bias_part, columns);
        }
    }
    store_columns(dtype, element(dtype, dweight, first), weight_total, columns, accumulate);
    store_columns(dtype, element(dtype, dbias, first), bias_total, columns, accumulate);
}

HOT static void backward_columns(enum dtype dtype, void *dweight, void *dbias,
                                 const struct layernorm_input *in, size_t first, size_t columns,
                                 bool accumulate) {
    FOR_DTYPE(dtype, column_gradients, dweight, dbias, in, first, columns, accumulate);
}

INLINE void row_gradient(enum dtype dtype, void *dx, const struct layernorm_input *in, const void *add,
                         size_t r) {
    const void *dy = const_element(dtype, in->dy, r * in->h), *x = const_element(dtype, in->x, r * in->h);
    const void *weight = in->weight;
    float mean = in->mean[r], rstd = in->rstd[r], sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
    for (size_t i = 0; i < in->h; i++) {
        float slope = load(dtype, dy, i) * load(dtype, weight, i);
        sum += slope;
        product += slope * ((load(dtype, x, i) - mean) * rstd);
    }
    sum /= (float)in->h;
    product /= (float)in->h;
    void *out = element(dtype, dx, r * in->h);
    if (add) {
        const void *row = const_element(dtype, add, r * in->h);
#pragma omp simd
        for (size_t i = 0; i < in->h; i++) {
            float slope = load(dtype, dy, i) * load(dtype, weight, i);
            float normal = (load(dtype, x, i) - mean) * rstd;
            store(dtype, out, i, rstd * (slope - sum - normal * product) + load(dtype, row, i));
        }
    } else {
#pragma omp simd
        for (size_t i = 0; i < in->h; i++) {
            float slope = load(dtype, dy, i) * load(dtype, weight, i);
            float normal = (load(dtype, x, i) - mean) * rstd;
            store(dtype, out, i, rstd * (slope - sum - normal * product));
        }
    }
}

HOT static void backward_row(enum dtype dtype, void *dx, const struct layernorm_input *in, const void *add,
                             size_t r) {
    FOR_DTYPE(dtype, row_gradient, dx, in, add, r);
}

void layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                        const void *dy, const void *x, const void *weight, const void *bias,
                        const float *mean, const float *rstd, const void *add, size_t rows, size_t h,
                        bool accumulate) {
    work_layernorm_backward(stream, dtype, to, add != NULL, rows, h, accumulate);
    struct layernorm_input in = {dy, x, weight, mean, rstd, rows, h};
    /* The columns first: dx may overwrite dy. */
#pragma omp parallel for schedule(static) if (rows * h > PIECE)
    for (size_t c = 0; c < h; c += COLUMN_PIECE)
        backward_columns(dtype, to->dweight, to->dbias, &in, c, smaller(COLUMN_PIECE, h - c), accumulate);
    if (to->out) normalize_rows(dtype, to->out, mean, rstd, x, weight, bias, rows, h);
#pragma omp parallel for schedule(static) if (rows * h > PIECE)
    for (size_t r = 0; r < rows; r++) backward_row(dtype, to->dx, &in, add, r);
    if (to->dx_sums) column_sums(dtype, to->dx_sums, to->dx, h, rows, h, accumulate);
}
