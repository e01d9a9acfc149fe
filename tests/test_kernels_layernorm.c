/* Layer norm against its definition in double precision, its backward against finite differences. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

#define EPS 1e-5

struct problem {
    size_t rows, h;
    double *x, *weight, *bias;
    double *slope; /* dy: the value is Σ slope · out */
    double *out, *mean, *rstd;
};

static struct problem problem_of(enum dtype dtype, size_t rows, size_t h, double offset) {
    struct problem p = {rows,
                        h,
                        random_values(dtype, rows * h, 2),
                        random_values(dtype, h, 1.5),
                        random_values(dtype, h, 1),
                        random_values(dtype, rows * h, 1),
                        xcalloc(rows * h + 1, sizeof(double)),
                        xcalloc(rows + 1, sizeof(double)),
                        xcalloc(rows + 1, sizeof(double))};
    for (size_t i = 0; i < rows * h; i++) p.x[i] = rounded_to(dtype, p.x[i] + offset);
    return p;
}

static void problem_free(struct problem *p) {
    double *const arrays[] = {p->x, p->weight, p->bias, p->slope, p->out, p->mean, p->rstd};
    for (int i = 0; i < 7; i++) free(arrays[i]);
}

/* Fills in out, mean and rstd; returns Σ slope · out. */
static double layernorm(void *context) {
    struct problem *p = context;
    double value = 0;
    for (size_t r = 0; r < p->rows; r++) {
        const double *x = p->x + r * p->h;
        double mean = 0, variance = 0;
        for (size_t i = 0; i < p->h; i++) mean += x[i] / (double)p->h;
        for (size_t i = 0; i < p->h; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)p->h;
        p->mean[r] = mean;
        p->rstd[r] = 1 / sqrt(variance + EPS);
        for (size_t i = 0; i < p->h; i++) {
            size_t at = r * p->h + i;
            p->out[at] = (x[i] - mean) * p->rstd[r] * p->weight[i] + p->bias[i];
            value += p->out[at] * p->slope[at];
        }
    }
    return value;
}

static const size_t shapes[][2] = {{0, 8},    {1, 1},     {3, 5},    {7, 33},   {2, 129}, {70, 16},
                                   {3, 1100}, {200, 130}, {700, 96}, {9, 1536}, {6, 3072}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* ---- forward ---- */

static void check_forward(enum dtype dtype, size_t rows, size_t h, double offset) {
    struct stream *stream = kernels_stream();
    struct problem p = problem_of(dtype, rows, h, offset);
    layernorm(&p);
    void *x = to_device(dtype, p.x, rows * h), *weight = to_device(dtype, p.weight, h);
    void *bias = to_device(dtype, p.bias, h), *out = to_device(dtype, NULL, rows * h);
    float *mean = to_device(FP32, NULL, rows), *rstd = to_device(FP32, NULL, rows);
    layernorm_forward(stream, dtype, out, mean, rstd, x, weight, bias, rows, h, (float)EPS);
    check_device("mean", FP32, mean, p.mean, rows, 1e-6);
    check_device("rstd", FP32, rstd, p.rstd, rows, 2e-6);
    /* What the mean loses is as large as x is, and is then scaled to deviations of 1. */
    double tolerance = 2e-6 * (1 + fabs(offset));
    check_device("layernorm_forward", dtype, out, p.out, rows * h, tolerance);
    double *first = from_device(dtype, out, rows * h);
    layernorm_recompute(stream, dtype, out, mean, rstd, x, weight, bias, rows, h);
    double *again = from_device(dtype, out, rows * h);
    assert_memory_equal(first, again, rows * h * sizeof *first);
    void *const blocks[] = {x, weight, bias, out, mean, rstd};
    for (int i = 0; i < 6; i++) release(blocks[i]);
    free(first);
    free(again);
    problem_free(&p);
}

static void test_forward(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < SHAPES; i++) check_forward(dtypes[d], shapes[i][0], shapes[i][1], 0);
    /* A mean far from 0: Σx² − (Σx)² would have lost the variance. */
    check_forward(FP32, 9, 300, 1000);
}

/* ---- backward ---- */

/* Gradients of a problem in x, weight and bias. */
struct gradients {
    double *x, *weight, *bias;
};

/* By formula; test_finite_differences() takes them from the definition. */
static struct gradients gradients_of(const struct problem *p) {
    struct gradients g = {xcalloc(p->rows * p->h + 1, sizeof(double)), xcalloc(p->h, sizeof(double)),
                          xcalloc(p->h, sizeof(double))};
    for (size_t r = 0; r < p->rows; r++) {
        const double *x = p->x + r * p->h, *dy = p->slope + r * p->h;
        double sum = 0, product = 0;
        for (size_t i = 0; i < p->h; i++) {
            double normal = (x[i] - p->mean[r]) * p->rstd[r];
            sum += dy[i] * p->weight[i] / (double)p->h;
            product += dy[i] * p->weight[i] * normal / (double)p->h;
            g.weight[i] += dy[i] * normal;
            g.bias[i] += dy[i];
        }
        for (size_t i = 0; i < p->h; i++) {
            double normal = (x[i] - p->mean[r]) * p->rstd[r];
            g.x[r * p->h + i] = p->rstd[r] * (dy[i] * p->weight[i] - sum - normal * product);
        }
    }
    return g;
}

static void gradients_free(struct gradients *g) {
    free(g->x);
    free(g->weight);
    free(g->bias);
}

static void add_to(double *sum, const double *values, size_t count) {
    for (size_t i = 0; i < count; i++) sum[i] += values[i];
}

enum target { FRESH, ONTO_ADD, ONTO_DY };

/* Beside the sums of dx as the device has stored it, `rounding` of each element away from what it has summed.
 */
static void check_dx_sums(enum dtype dtype, const struct problem *p, void *sums, const double *before,
                          const void *dx, bool accumulate) {
    double rounding = dtype == FP32 ? 0 : dtype == BF16 ? 0x1p-9 : 0x1p-12;
    double *stored = from_device(dtype, dx, p->rows * p->h), *expected = xcalloc(p->h, sizeof(double));
    for (size_t i = 0; i < p->h; i++) {
        if (accumulate) expected[i] = before[i];
        for (size_t r = 0; r < p->rows; r++) expected[i] += stored[r * p->h + i];
    }
    check_device("dx_sums of layernorm_backward", dtype, sums, expected, p->h, 1e-5 + 4 * rounding);
    free(stored);
    free(expected);
}

/* `target`: where dx goes. */
static void check_backward(enum dtype dtype, const struct problem *p, const struct gradients *g,
                           bool with_add, enum target target, bool accumulate) {
    size_t count = p->rows * p->h, h = p->h;
    double *add = random_values(dtype, count, 3), *before = random_values(dtype, 3 * h, 3);
    double *dx = xmalloc((count + 1) * sizeof *dx), *dw = xmalloc(2 * h * sizeof *dw);
    memcpy(dx, g->x, count * sizeof *dx);
    memcpy(dw, g->weight, h * sizeof *dw);
    memcpy(dw + h, g->bias, h * sizeof *dw);
    if (with_add) add_to(dx, add, count);
    if (accumulate) add_to(dw, before, 2 * h);

    void *x = to_device(dtype, p->x, count), *weight = to_device(dtype, p->weight, h);
    void *bias = to_device(dtype, p->bias, h);
    void *dy = to_device(dtype, p->slope, count), *added = to_device(dtype, add, count);
    void *mean = to_device(FP32, p->mean, p->rows), *rstd = to_device(FP32, p->rstd, p->rows);
    void *dweight = to_device(dtype, before, h), *dbias = to_device(dtype, before + h, h);
    void *fresh = to_device(dtype, NULL, count);
    void *out = target == FRESH ? fresh : target == ONTO_ADD ? added : dy;
    /* What may be left out is asked for where there is something to add. */
    void *sums = to_device(dtype, before + 2 * h, h), *normed = to_device(dtype, NULL, count);
    struct layernorm_gradients to = {out, dweight, dbias, with_add ? sums : NULL, with_add ? normed : NULL};
    layernorm_backward(kernels_stream(), dtype, &to, dy, x, weight, bias, mean, rstd, with_add ? added : NULL,
                       p->rows, h, accumulate);
    check_device("dx of layernorm_backward", dtype, out, dx, count, 3e-6);
    check_device("dweight of layernorm_backward", dtype, dweight, dw, h, 3e-6);
    check_device("dbias of layernorm_backward", dtype, dbias, dw + h, h, 3e-6);
    if (with_add) {
        check_device("out of layernorm_backward", dtype, normed, p->out, count, 3e-6);
        check_dx_sums(dtype, p, sums, before + 2 * h, out, accumulate);
    }
    void *const blocks[] = {x, weight, bias, dy, added, mean, rstd, dweight, dbias, fresh, sums, normed};
    for (int i = 0; i < 12; i++) release(blocks[i]);
    double *const arrays[] = {add, before, dx, dw};
    for (int i = 0; i < 4; i++) free(arrays[i]);
}

static void test_backward(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < SHAPES; i++) {
            struct problem p = problem_of(dtypes[d], shapes[i][0], shapes[i][1], 0);
            layernorm(&p);
            struct gradients g = gradients_of(&p);
            check_backward(dtypes[d], &p, &g, false, FRESH, false);
            check_backward(dtypes[d], &p, &g, true, FRESH, true);
            check_backward(dtypes[d], &p, &g, true, ONTO_ADD, false);
            check_backward(dtypes[d], &p, &g, true, ONTO_DY, true);
            check_backward(dtypes[d], &p, &g, false, ONTO_DY, false);
            gradients_free(&g);
            problem_free(&p);
        }
}

static void test_finite_differences(void **state) {
    (void)state;
    struct problem p = problem_of(FP32, 5, 19, 0);
    layernorm(&p);
    struct gradients differences = {gradient_by_differences(layernorm, &p, p.x, p.rows * p.h),
                                    gradient_by_differences(layernorm, &p, p.weight, p.h),
                                    gradient_by_differences(layernorm, &p, p.bias, p.h)};
    layernorm(&p);
    check_backward(FP32, &p, &differences, false, FRESH, false);
    gradients_free(&differences);
    problem_free(&p);
}

/* ---- the same bits ---- */

enum { BITS_ROWS = 300, BITS_H = 400, BITS_COUNT = BITS_ROWS * BITS_H };

static void both_ways(struct stream *stream, void *out) {
    struct problem p = problem_of(FP32, BITS_ROWS, BITS_H, 0);
    float *x = to_device(FP32, p.x, BITS_COUNT), *weight = to_device(FP32, p.weight, BITS_H);
    float *bias = to_device(FP32, p.bias, BITS_H), *dy = to_device(FP32, p.slope, BITS_COUNT);
    float *y = to_device(FP32, NULL, BITS_COUNT), *mean = to_device(FP32, NULL, BITS_ROWS);
    float *rstd = to_device(FP32, NULL, BITS_ROWS), *dweight = to_device(FP32, p.weight, BITS_H);
    layernorm_forward(stream, FP32, y, mean, rstd, x, weight, bias, BITS_ROWS, BITS_H, (float)EPS);
    struct layernorm_gradients to = {.dx = y, .dweight = dweight, .dbias = bias};
    layernorm_backward(stream, FP32, &to, dy, x, weight, NULL, mean, rstd, y, BITS_ROWS, BITS_H, true);
    copy_to_host(stream, out, y, BITS_COUNT * sizeof(float));
    copy_to_host(stream, (float *)out + BITS_COUNT, dweight, BITS_H * sizeof(float));
    copy_to_host(stream, (float *)out + BITS_COUNT + BITS_H, bias, BITS_H * sizeof(float));
    stream_synchronize(stream);
    float *const blocks[] = {x, weight, bias, dy, y, mean, rstd, dweight};
    for (int i = 0; i < 8; i++) release(blocks[i]);
    problem_free(&p);
}

static void test_same_bits(void **state) {
    (void)state;
    check_same_bits("layer norm", both_ways, (BITS_COUNT + 2 * BITS_H) * sizeof(float), true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_backward),
                                       cmocka_unit_test(test_finite_differences),
                                       cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
