#include "common/device/cpu/kernels/product.h"

#include "common/device/cpu/kernels/gelu.h"

#ifdef WORKSHOP_DNNL
#include <dnnl.h>
#else
#include <cblas.h>
#include <limits.h>
#endif

/* c [m,n] = a [m,k] · b [k,n] + beta · c, where `ta` and `tb` say that a and b are stored transposed. */
static void sgemm(bool ta, bool tb, size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                  size_t ldb, float beta, float *c, size_t ldc) {
#ifdef WORKSHOP_DNNL
    dnnl_status_t status =
        dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', (dnnl_dim_t)m, (dnnl_dim_t)n, (dnnl_dim_t)k, 1.0f, a,
                   (dnnl_dim_t)lda, b, (dnnl_dim_t)ldb, beta, c, (dnnl_dim_t)ldc);
    if (status != dnnl_success)
        fail("oneDNN: the product of [%zu,%zu] and [%zu,%zu] ended with status %d%s", m, k, k, n, (int)status,
             status == dnnl_out_of_memory ? ": out of memory" : "");
#else
    if (m > INT_MAX || n > INT_MAX || k > INT_MAX || lda > INT_MAX || ldb > INT_MAX || ldc > INT_MAX)
        fail("CBLAS: the product of [%zu,%zu] and [%zu,%zu] is too large for its integers", m, k, k, n);
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                (int)k, 1.0f, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
#endif
}

/* ---- FP32: in place ---- */

/* out [n] = bias + add; 0 where neither is. */
HOT static void prefill_row(float *out, const float *bias, const float *add, size_t n) {
    if (bias && add) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] = bias[i] + add[i];
    } else if (bias || add) {
        memmove(out, bias ? bias : add, n * sizeof *out);
    } else {
        memset(out, 0, n * sizeof *out);
    }
}

HOT static void scale_row(float *out, const float *pre, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] *= gelu_derivative(pre[i]);
}

static void multiply_fp32(const struct product *p) {
    float *out = p->out;
    const float *bias = p->bias, *add = p->add, *pre = p->pre;
    bool in_place = add == out && !bias;
    if ((bias || add || p->k == 0) && !in_place) {
#pragma omp parallel for schedule(static) if (p->m * p->n > PIECE)
        for (size_t r = 0; r < p->m; r++)
            prefill_row(out + r * p->ldout, bias, add ? add + r * p->n : NULL, p->n);
    }
    if (p->k > 0)
        sgemm(p->a.transposed, p->b.transposed, p->m, p->n, p->k, p->a.data, p->a.ld, p->b.data, p->b.ld,
              bias || add ? 1.0f : 0.0f, out, p->ldout);
    if (!pre) return;
#pragma omp parallel for schedule(static) if (p->m * p->n > PIECE)
    for (size_t r = 0; r < p->m; r++) scale_row(out + r * p->ldout, pre + r * p->n, p->n);
}

/* ---- half precision: through the workspace ---- */

/* Rows and columns of a block of the result. A converted element then serves 2·BLOCK operations. */
#define BLOCK ((size_t)1024)

struct range {
    size_t first, count;
};

/* Part number i of `parts` nearly equal ones of 0 … count−1. */
static struct range part_of(size_t count, size_t parts, size_t i) {
    size_t first = count * i / parts;
    return (struct range){first, count * (i + 1) / parts - first};
}

static size_t parts_of(size_t count, size_t most) {
    return (count + most - 1) / most;
}

INLINE void widen(enum dtype dtype, float *out, const void *x, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) out[i] = load(dtype, x, i);
}

HOT static void widen_row(enum dtype dtype, float *out, const void *x, size_t count) {
    FOR_DTYPE(dtype, widen, out, x, count);
}

/* out [rows, columns] dense = that part of a stored matrix. */
static void widen_block(enum dtype dtype, float *out, const void *x, size_t ld, struct range rows,
                        struct range columns) {
#pragma omp parallel for schedule(static) if (rows.count * columns.count > PIECE)
    for (size_t r = 0; r < rows.count; r++)
        widen_row(dtype, out + r * columns.count,
                  const_element(dtype, x, (rows.first + r) * ld + columns.first), columns.count);
}

/* Part of an operand, which as it is used has these rows and columns; its leading dimension as it is stored.
 */
static size_t widen_operand(enum dtype dtype, float *out, const struct operand *operand, struct range rows,
                            struct range columns) {
    struct range stored_rows = operand->transposed ? columns : rows;
    struct range stored_columns = operand->transposed ? rows : columns;
    widen_block(dtype, out, operand->data, operand->ld, stored_rows, stored_columns);
    return stored_columns.count;
}

/* One row of a block of the result: columns first … first+count−1 of row r. */
struct finish {
    float *sum; /* [count] */
    size_t r, first, count;
};

INLINE void finish_loop(enum dtype dtype, enum dtype out_dtype, const struct product *p,
                        const struct finish *f) {
    float *sum = f->sum;
    size_t count = f->count, at = f->r * p->n + f->first;
    void *out = element(out_dtype, p->out, f->r * p->ldout + f->first);
    if (p->bias) {
        const void *bias = const_element(dtype, p->bias, f->first);
#pragma omp simd
        for (size_t i = 0; i < count; i++) sum[i] += load(dtype, bias, i);
    }
    if (p->add) {
        const void *add = const_element(out_dtype, p->add, at);
#pragma omp simd
        for (size_t i = 0; i < count; i++) sum[i] += load(out_dtype, add, i);
    }
    if (p->pre) {
        const void *pre = const_element(dtype, p->pre, at);
#pragma omp simd
        for (size_t i = 0; i < count; i++) sum[i] *= gelu_derivative(load(dtype, pre, i));
    }
#pragma omp simd
    for (size_t i = 0; i < count; i++) store(out_dtype, out, i, sum[i]);
}

INLINE void finish_same(enum dtype dtype, const struct product *p, const struct finish *f) {
    finish_loop(dtype, dtype, p, f);
}

INLINE void finish_fp32(enum dtype dtype, const struct product *p, const struct finish *f) {
    finish_loop(dtype, FP32, p, f);
}

HOT static void finish_row(const struct product *p, const struct finish *f) {
    if (p->out_dtype == FP32)
        FOR_DTYPE(p->dtype, finish_fp32, p, f);
    else
        FOR_DTYPE(p->dtype, finish_same, p, f);
}

/* The parts that the workspace holds at once: `inner` of k elements, for a block of the result. */
struct blocks_of_product {
    float *a, *b, *sum;
    size_t row_parts, column_parts, inner_parts;
};

static struct blocks_of_product lay_out(struct stream *stream, const struct product *p) {
    size_t bytes;
    float *workspace = cpu_workspace(stream, &bytes);
    size_t rows = smaller(p->m, BLOCK), columns = smaller(p->n, BLOCK), sums = rows * columns;
    if (bytes / sizeof(float) < sums + rows + columns)
        fail("matrix product in half precision: the device was opened without the workspace that it needs");
    size_t inner = smaller((bytes / sizeof(float) - sums) / (rows + columns), p->k);
    struct blocks_of_product blocks = {
        .sum = workspace, .a = workspace + sums, .b = workspace + sums + rows * inner};
    blocks.row_parts = parts_of(p->m, rows);
    blocks.column_parts = parts_of(p->n, columns);
    blocks.inner_parts = p->k ? parts_of(p->k, inner) : 0;
    return blocks;
}

/* sum [rows, columns] = a · b there. An operand that still holds what is needed is not converted again. */
static void multiply_block(const struct product *p, const struct blocks_of_product *blocks, struct range rows,
                           struct range columns, bool same_rows) {
    if (p->k == 0) memset(blocks->sum, 0, rows.count * columns.count * sizeof(float));
    for (size_t i = 0; i < blocks->inner_parts; i++) {
        struct range inner = part_of(p->k, blocks->inner_parts, i);
        size_t lda = p->a.transposed ? rows.count : inner.count;
        if (!same_rows || blocks->inner_parts > 1) widen_operand(p->dtype, blocks->a, &p->a, rows, inner);
        size_t ldb = widen_operand(p->dtype, blocks->b, &p->b, inner, columns);
        sgemm(p->a.transposed, p->b.transposed, rows.count, columns.count, inner.count, blocks->a, lda,
              blocks->b, ldb, i == 0 ? 0.0f : 1.0f, blocks->sum, columns.count);
    }
}

static void multiply_half(struct stream *stream, const struct product *p) {
    struct blocks_of_product blocks = lay_out(stream, p);
    for (size_t i = 0; i < blocks.row_parts; i++) {
        struct range rows = part_of(p->m, blocks.row_parts, i);
        for (size_t j = 0; j < blocks.column_parts; j++) {
            struct range columns = part_of(p->n, blocks.column_parts, j);
            multiply_block(p, &blocks, rows, columns, j > 0);
#pragma omp parallel for schedule(static) if (rows.count * columns.count > PIECE)
            for (size_t r = 0; r < rows.count; r++) {
                struct finish finish = {blocks.sum + r * columns.count, rows.first + r, columns.first,
                                        columns.count};
                finish_row(p, &finish);
            }
        }
    }
}

void multiply(struct stream *stream, const struct product *product) {
    if (product->m == 0 || product->n == 0) return;
    if (product->dtype == FP32)
        multiply_fp32(product);
    else
        multiply_half(stream, product);
}
