/* Linear layers against their definition in double precision, in every storage type. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

struct shape {
    size_t m, n, k;
};

/* No rows; odd sizes; more than one block of a result in half precision in each direction. */
static const struct shape shapes[] = {{0, 5, 7},     {1, 1, 1},    {5, 3, 7},    {13, 31, 64},
                                      {33, 100, 17}, {64, 48, 96}, {1030, 3, 5}, {7, 1100, 9}};
/* Sums of more terms than the workspace holds at once in half precision: of the forward, and of its two
 * gradients. */
static const struct shape long_forward = {2, 1027, 8500}, long_input = {1, 8500, 1027},
                          long_weight = {8500, 1, 1027};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* What fp32 sums lose, of the result's largest value. */
#define SUMS 1e-5

/* A GPU's library rounds some products before what follows them: of the result's largest value, what that
 * costs. */
static double second_rounding(enum dtype dtype) {
    if (strcmp(device_backend(), "cuda") != 0 || dtype == FP32) return 0;
    return dtype == BF16 ? 0x1p-8 : 0x1p-11;
}

/* ---- references ---- */

/* out [m,n] (leading dimension ld) = x [m,k] · w [n,k]ᵀ + bias + residual. */
static double *forward(const struct shape *s, const double *x, const double *w, const double *bias,
                       const double *residual) {
    double *y = xmalloc((s->m * s->n + 1) * sizeof *y);
    for (size_t r = 0; r < s->m; r++) {
        for (size_t c = 0; c < s->n; c++) {
            double sum = (bias ? bias[c] : 0) + (residual ? residual[r * s->n + c] : 0);
            for (size_t i = 0; i < s->k; i++) sum += x[r * s->k + i] * w[c * s->k + i];
            y[r * s->n + c] = sum;
        }
    }
    return y;
}

static double gelu(double x) {
    return 0.5 * x * (1 + tanh(0.79788456 * x * (1 + 0.044715 * x * x)));
}

static double gelu_slope(double x) {
    const double step = 1e-5;
    return (gelu(x + step) - gelu(x - step)) / (2 * step);
}

/* Rows of n values with `gap` more after each; the caller frees. */
static double *with_gaps(const double *x, size_t rows, size_t n, size_t gap) {
    double *out = xmalloc((rows * (n + gap) + 1) * sizeof *out);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < n + gap; c++) out[r * (n + gap) + c] = c < n ? x[r * n + c] : UNTOUCHED;
    return out;
}

/* ---- forward ---- */

static void check_forward(enum dtype dtype, const struct shape *s, bool with_bias, bool with_residual,
                          size_t gap) {
    struct stream *stream = kernels_stream();
    size_t outputs = s->m * s->n;
    double *x = random_values(dtype, s->m * s->k, 1), *w = random_values(dtype, s->n * s->k, 1);
    double *bias = random_values(dtype, s->n, 4), *residual = random_values(dtype, outputs, 4);
    double *y = forward(s, x, w, with_bias ? bias : NULL, with_residual ? residual : NULL);
    double *expected = with_gaps(y, s->m, s->n, gap);

    void *dx = to_device(dtype, x, s->m * s->k), *dw = to_device(dtype, w, s->n * s->k);
    void *db = to_device(dtype, bias, s->n), *dr = to_device(dtype, residual, outputs);
    void *dy = to_device(dtype, NULL, s->m * (s->n + gap));
    linear_forward(stream, dtype, dy, s->n + gap, dx, dw, with_bias ? db : NULL, with_residual ? dr : NULL,
                   s->m, s->n, s->k);
    check_device("linear_forward", dtype, dy, expected, s->m * (s->n + gap), SUMS);
    if (with_residual) {
        linear_forward(stream, dtype, dr, s->n, dx, dw, with_bias ? db : NULL, dr, s->m, s->n, s->k);
        check_device("linear_forward onto its residual", dtype, dr, y, outputs, SUMS);
    }
    void *const blocks[] = {dx, dw, db, dr, dy};
    for (int i = 0; i < 5; i++) release(blocks[i]);
    double *const arrays[] = {x, w, bias, residual, y, expected};
    for (int i = 0; i < 6; i++) free(arrays[i]);
}

static void test_forward(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++) {
        for (int i = 0; i < SHAPES; i++)
            for (int bits = 0; bits < 8; bits++)
                check_forward(dtypes[d], &shapes[i], bits & 1, bits & 2, bits & 4 ? 5 : 0);
        check_forward(dtypes[d], &long_forward, true, true, 3);
    }
}

static void test_gelu_forward(void **state) {
    (void)state;
    struct stream *stream = kernels_stream();
    for (int d = 0; d < DTYPES; d++) {
        for (int i = 0; i < 6; i++) {
            enum dtype dtype = dtypes[d];
            const struct shape *s = &shapes[i];
            size_t outputs = s->m * s->n;
            double *x = random_values(dtype, s->m * s->k, 1), *w = random_values(dtype, s->n * s->k, 1);
            double *bias = random_values(dtype, s->n, 2), *y = forward(s, x, w, bias, NULL);
            void *dx = to_device(dtype, x, s->m * s->k), *dw = to_device(dtype, w, s->n * s->k);
            void *db = to_device(dtype, bias, s->n), *pre = to_device(dtype, NULL, outputs);
            void *out = to_device(dtype, NULL, outputs), *again = to_device(dtype, NULL, outputs);
            linear_gelu_forward(stream, dtype, out, pre, dx, dw, db, s->m, s->n, s->k);
            check_device("pre of linear_gelu_forward", dtype, pre, y, outputs, SUMS);
            double *stored = from_device(dtype, pre, outputs);
            for (size_t j = 0; j < outputs; j++) stored[j] = gelu(stored[j]);
            check_device("linear_gelu_forward", dtype, out, stored, outputs, 1e-6);
            gelu_forward(stream, dtype, again, pre, outputs);
            double *first = from_device(dtype, out, outputs), *second = from_device(dtype, again, outputs);
            assert_memory_equal(first, second, outputs * sizeof *first);
            void *const blocks[] = {dx, dw, db, pre, out, again};
            for (int j = 0; j < 6; j++) release(blocks[j]);
            double *const arrays[] = {x, w, bias, y, stored, first, second};
            for (int j = 0; j < 7; j++) free(arrays[j]);
        }
    }
}

/* From the far left, where it is almost 0 and the tanh form has lost all its digits, to the far right. */
static void test_gelu_range(void **state) {
    (void)state;
    enum { COUNT = 40001 };
    static const double steps[] = {0, 0x1p-8, 0x1p-11}, smallest[] = {1e-37, 2e-37, 0x1p-25};
    for (int d = 0; d < DTYPES; d++) {
        double *x = random_values(dtypes[d], COUNT, 12), *y = xmalloc(COUNT * sizeof *y);
        x[0] = 0;
        x[1] = 3e4;
        x[2] = -3e4;
        for (int i = 3; i < 2000; i++) x[i] = rounded_to(dtypes[d], x[i] * 1e-3);
        for (int i = 0; i < COUNT; i++) x[i] = rounded_to(dtypes[d], x[i]);
        void *in = to_device(dtypes[d], x, COUNT), *out = to_device(dtypes[d], NULL, COUNT);
        gelu_forward(kernels_stream(), dtypes[d], out, in, COUNT);
        double *got = from_device(dtypes[d], out, COUNT);
        for (int i = 0; i < COUNT; i++) {
            double u = 0.79788456 * x[i] * (1 + 0.044715 * x[i] * x[i]);
            y[i] = x[i] / (1 + exp(-2 * u)); /* the same, without a difference */
            /* An error of u is one of e^2u that many times as large. Where it is as small as the
             * smallest normal numbers it may be 0. */
            double bound = fabs(y[i]) * (4e-7 * (1 + fabs(u)) + steps[d]) + smallest[d];
            if (!(fabs(got[i] - y[i]) <= bound))
                fail_msg("gelu(%.9g) in %s is %.9g, not %.9g", x[i], dtype_name(dtypes[d]), got[i], y[i]);
        }
        release(in);
        release(out);
        free(x);
        free(y);
        free(got);
    }
}

/* ---- backward ---- */

/* dx [m,k] = dy [m,n] · w [n,k]: a forward with w transposed. */
static double *backward_input(const struct shape *s, const double *dy, const double *w, const double *add) {
    double *transposed = xmalloc((s->n * s->k + 1) * sizeof *transposed);
    for (size_t c = 0; c < s->n; c++)
        for (size_t i = 0; i < s->k; i++) transposed[i * s->n + c] = w[c * s->k + i];
    struct shape swapped = {s->m, s->k, s->n};
    double *dx = forward(&swapped, dy, transposed, NULL, add);
    free(transposed);
    return dx;
}

static void check_backward_input(enum dtype dtype, enum dtype dx_dtype, const struct shape *s, size_t gap) {
    struct stream *stream = kernels_stream();
    size_t inputs = s->m * s->k;
    double *dy = random_values(dtype, s->m * s->n, 1), *w = random_values(dtype, s->n * s->k, 1);
    double *add = random_values(dx_dtype, inputs, 4), *wide = with_gaps(dy, s->m, s->n, gap);
    double *plain = backward_input(s, dy, w, NULL), *added = backward_input(s, dy, w, add);
    void *ddy = to_device(dtype, wide, s->m * (s->n + gap)), *dw = to_device(dtype, w, s->n * s->k);
    void *dadd = to_device(dx_dtype, add, inputs), *dx = to_device(dx_dtype, NULL, inputs);
    linear_backward_input(stream, dtype, dx, dx_dtype, ddy, s->n + gap, dw, NULL, s->m, s->n, s->k);
    check_device("linear_backward_input", dx_dtype, dx, plain, inputs, SUMS);
    linear_backward_input(stream, dtype, dx, dx_dtype, ddy, s->n + gap, dw, dadd, s->m, s->n, s->k);
    check_device("linear_backward_input with add", dx_dtype, dx, added, inputs, SUMS);
    linear_backward_input(stream, dtype, dadd, dx_dtype, ddy, s->n + gap, dw, dadd, s->m, s->n, s->k);
    check_device("linear_backward_input accumulating", dx_dtype, dadd, added, inputs, SUMS);
    void *const blocks[] = {ddy, dw, dadd, dx};
    for (int i = 0; i < 4; i++) release(blocks[i]);
    double *const arrays[] = {dy, w, add, wide, plain, added};
    for (int i = 0; i < 6; i++) free(arrays[i]);
}

static void test_backward_input(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++) {
        for (int i = 0; i < SHAPES; i++) {
            check_backward_input(dtypes[d], dtypes[d], &shapes[i], 0);
            check_backward_input(dtypes[d], FP32, &shapes[i], 3);
        }
        check_backward_input(dtypes[d], FP32, &long_input, 0);
    }
    /* A chunk without rows: nothing comes back through it. */
    check_backward_input(FP32, FP32, &(struct shape){6, 0, 5}, 0);
    check_backward_input(BF16, FP32, &(struct shape){6, 0, 5}, 0);
}

/* The bias's gradient, beside the sums of what the device has stored, rounded from what it has summed. */
static void check_gelu_bias(enum dtype dtype, const struct shape *s, void *dbias, double *expected,
                            const void *dpre, bool accumulate) {
    double *stored = from_device(dtype, dpre, s->m * s->k);
    for (size_t c = 0; c < s->k; c++) {
        if (!accumulate) expected[c] = 0;
        for (size_t r = 0; r < s->m; r++) expected[c] += stored[r * s->k + c];
    }
    double rounding = dtype == FP32 ? 0 : dtype == BF16 ? 0x1p-9 : 0x1p-12;
    check_device("dbias of linear_gelu_backward_input", dtype, dbias, expected, s->k, SUMS + 4 * rounding);
    free(stored);
}

static void check_gelu_backward_input(enum dtype dtype, const struct shape *s, bool accumulate) {
    size_t inputs = s->m * s->k;
    double *dy = random_values(dtype, s->m * s->n, 1), *w = random_values(dtype, s->n * s->k, 1);
    double *pre = random_values(dtype, inputs, 4), *expected = backward_input(s, dy, w, NULL);
    double *bias = random_values(dtype, s->k, 4);
    for (size_t j = 0; j < inputs; j++) expected[j] *= gelu_slope(pre[j]);
    void *ddy = to_device(dtype, dy, s->m * s->n), *dw = to_device(dtype, w, s->n * s->k);
    void *dpre = to_device(dtype, pre, inputs), *out = to_device(dtype, NULL, inputs);
    void *active = to_device(dtype, NULL, inputs), *again = to_device(dtype, NULL, inputs);
    void *dbias = to_device(dtype, bias, s->k);
    linear_gelu_backward_input(kernels_stream(), dtype, out, dbias, active, ddy, dw, dpre, s->m, s->n, s->k,
                               accumulate);
    check_device("linear_gelu_backward_input", dtype, out, expected, inputs, SUMS + second_rounding(dtype));
    check_gelu_bias(dtype, s, dbias, bias, out, accumulate);
    gelu_forward(kernels_stream(), dtype, again, dpre, inputs);
    double *recomputed = from_device(dtype, active, inputs), *first = from_device(dtype, again, inputs);
    assert_memory_equal(recomputed, first, inputs * sizeof *first);
    void *const blocks[] = {ddy, dw, dpre, out, active, again, dbias};
    for (int j = 0; j < 7; j++) release(blocks[j]);
    double *const arrays[] = {dy, w, pre, expected, bias, recomputed, first};
    for (int j = 0; j < 7; j++) free(arrays[j]);
}

static void test_gelu_backward_input(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++) {
        for (int i = 0; i < SHAPES; i++) {
            check_gelu_backward_input(dtypes[d], &shapes[i], false);
            check_gelu_backward_input(dtypes[d], &shapes[i], true);
        }
    }
}

/* The bound of a column's sum, beside its terms: these may cancel each other. */
static double bound_of_sums(const double *dy, const double *sums, size_t m, size_t n) {
    double terms = 0, largest = 0;
    for (size_t c = 0; c < n; c++) {
        double column = 0;
        for (size_t r = 0; r < m; r++) column += fabs(dy[r * n + c]);
        terms = fmax(terms, column);
        largest = fmax(largest, fabs(sums[c]));
    }
    return largest > 0 ? SUMS * fmax(1, terms / largest) : SUMS;
}

static void check_backward_weight(enum dtype dtype, const struct shape *s, bool with_bias, bool accumulate,
                                  size_t gap) {
    size_t weights = s->n * s->k;
    double *dy = random_values(dtype, s->m * s->n, 1), *x = random_values(dtype, s->m * s->k, 1);
    double *dw = random_values(dtype, weights, 4), *dbias = random_values(dtype, s->n, 4);
    double *wide = with_gaps(dy, s->m, s->n, gap);
    void *ddy = to_device(dtype, wide, s->m * (s->n + gap)), *dx = to_device(dtype, x, s->m * s->k);
    void *ddw = to_device(dtype, dw, weights), *ddbias = to_device(dtype, dbias, s->n);
    if (!accumulate) {
        memset(dw, 0, weights * sizeof *dw);
        memset(dbias, 0, s->n * sizeof *dbias);
    }
    for (size_t r = 0; r < s->m; r++)
        for (size_t c = 0; c < s->n; c++) {
            dbias[c] += dy[r * s->n + c];
            for (size_t i = 0; i < s->k; i++) dw[c * s->k + i] += dy[r * s->n + c] * x[r * s->k + i];
        }
    linear_backward_weight(kernels_stream(), dtype, ddw, with_bias ? ddbias : NULL, ddy, s->n + gap, dx, s->m,
                           s->n, s->k, accumulate);
    check_device("dw of linear_backward_weight", dtype, ddw, dw, weights, SUMS);
    if (with_bias)
        check_device("dbias of linear_backward_weight", dtype, ddbias, dbias, s->n,
                     bound_of_sums(dy, dbias, s->m, s->n));
    void *const blocks[] = {ddy, dx, ddw, ddbias};
    for (int i = 0; i < 4; i++) release(blocks[i]);
    double *const arrays[] = {dy, x, dw, dbias, wide};
    for (int i = 0; i < 5; i++) free(arrays[i]);
}

static void test_backward_weight(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++) {
        for (int i = 0; i < SHAPES; i++) {
            check_backward_weight(dtypes[d], &shapes[i], true, false, 0);
            check_backward_weight(dtypes[d], &shapes[i], i % 2, true, 3);
        }
        check_backward_weight(dtypes[d], &long_weight, true, true, 0);
    }
}

/* ---- finite differences: the three backward kernels belong to the forward ---- */

struct layer {
    const struct shape *shape;
    double *x, *w, *bias, *slope; /* the value is Σ slope · gelu(x) · wᵀ + … , x being before the GELU */
};

static double layer_value(void *context) {
    const struct layer *l = context;
    size_t inputs = l->shape->m * l->shape->k;
    double *active = xmalloc(inputs * sizeof *active), value = 0;
    for (size_t i = 0; i < inputs; i++) active[i] = gelu(l->x[i]);
    double *y = forward(l->shape, active, l->w, l->bias, NULL);
    for (size_t i = 0; i < l->shape->m * l->shape->n; i++) value += l->slope[i] * y[i];
    free(active);
    free(y);
    return value;
}

static void test_finite_differences(void **state) {
    (void)state;
    struct stream *stream = kernels_stream();
    const struct shape s = {4, 5, 6};
    size_t inputs = s.m * s.k, weights = s.n * s.k, outputs = s.m * s.n;
    struct layer l = {&s, random_values(FP32, inputs, 2), random_values(FP32, weights, 1),
                      random_values(FP32, s.n, 1), random_values(FP32, outputs, 1)};
    double *dpre = gradient_by_differences(layer_value, &l, l.x, inputs);
    double *dw = gradient_by_differences(layer_value, &l, l.w, weights);
    double *dbias = gradient_by_differences(layer_value, &l, l.bias, s.n);

    void *pre = to_device(FP32, l.x, inputs), *w = to_device(FP32, l.w, weights);
    void *dy = to_device(FP32, l.slope, outputs), *active = to_device(FP32, NULL, inputs);
    void *out_pre = to_device(FP32, NULL, inputs), *out_w = to_device(FP32, NULL, weights);
    void *out_bias = to_device(FP32, NULL, s.n), *pre_bias = to_device(FP32, NULL, s.k);
    linear_gelu_backward_input(stream, FP32, out_pre, pre_bias, active, dy, w, pre, s.m, s.n, s.k, false);
    linear_backward_weight(stream, FP32, out_w, out_bias, dy, s.n, active, s.m, s.n, s.k, false);
    check_device("dpre beside finite differences", FP32, out_pre, dpre, inputs, 1e-6);
    check_device("dw beside finite differences", FP32, out_w, dw, weights, 1e-6);
    check_device("dbias beside finite differences", FP32, out_bias, dbias, s.n, 1e-6);
    void *const blocks[] = {pre, w, dy, active, out_pre, out_w, out_bias, pre_bias};
    for (int i = 0; i < 8; i++) release(blocks[i]);
    double *const arrays[] = {l.x, l.w, l.bias, l.slope, dpre, dw, dbias};
    for (int i = 0; i < 7; i++) free(arrays[i]);
}

/* ---- the same bits ---- */

enum { BITS_M = 150, BITS_N = 200, BITS_K = 120, BITS_OUT = BITS_M * BITS_K + BITS_N * BITS_K + BITS_N };

static void products(struct stream *stream, void *out) {
    char *to = out;
    for (int d = 0; d < DTYPES; d++) {
        enum dtype dtype = dtypes[d];
        double *dy = random_values(dtype, BITS_M * BITS_N, 1), *w = random_values(dtype, BITS_N * BITS_K, 1);
        double *x = random_values(dtype, BITS_M * BITS_K, 1);
        void *ddy = to_device(dtype, dy, BITS_M * BITS_N), *dw = to_device(dtype, w, BITS_N * BITS_K);
        void *dx = to_device(dtype, x, BITS_M * BITS_K), *dbias = to_device(dtype, NULL, BITS_N);
        linear_backward_input(stream, dtype, dx, dtype, ddy, BITS_N, dw, dx, BITS_M, BITS_N, BITS_K);
        linear_backward_weight(stream, dtype, dw, dbias, ddy, BITS_N, dx, BITS_M, BITS_N, BITS_K, true);
        void *const blocks[] = {dx, dw, dbias, ddy};
        const size_t counts[] = {BITS_M * BITS_K, BITS_N * BITS_K, BITS_N};
        for (int i = 0; i < 3; i++) {
            copy_to_host(stream, to, blocks[i], counts[i] * dtype_size(dtype));
            to += counts[i] * dtype_size(dtype);
        }
        stream_synchronize(stream);
        for (int i = 0; i < 4; i++) release(blocks[i]);
        free(dy);
        free(w);
        free(x);
    }
}

/* At one number of threads: how a product is cut among them is the library's affair. */
static void test_same_bits(void **state) {
    (void)state;
    check_same_bits("products", products, (size_t)BITS_OUT * 8, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward),
                                       cmocka_unit_test(test_gelu_forward),
                                       cmocka_unit_test(test_gelu_range),
                                       cmocka_unit_test(test_backward_input),
                                       cmocka_unit_test(test_gelu_backward_input),
                                       cmocka_unit_test(test_backward_weight),
                                       cmocka_unit_test(test_finite_differences),
                                       cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
