/* Cross entropy against its definition in double precision and finite differences; sums. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

struct problem {
    size_t rows, vocabulary, ld;
    double *logits;  /* [rows, ld] */
    double *weights; /* [rows] */
    int32_t *labels;
    double scale; /* of the gradient */
    double *losses, *gradient;
};

/* A fifth of the rows have weight 0, and then a label that must not be looked at. */
static struct problem problem_of(enum dtype dtype, size_t rows, size_t vocabulary, size_t gap, double range) {
    struct problem p = {rows, vocabulary, vocabulary + gap, .scale = 1};
    p.logits = random_values(dtype, rows * p.ld, range);
    p.weights = random_values(FP32, rows, 3);
    p.labels = xmalloc((rows + 1) * sizeof *p.labels);
    p.losses = xcalloc(rows + 1, sizeof(double));
    p.gradient = xcalloc(rows * p.ld + 1, sizeof(double));
    for (size_t r = 0; r < rows; r++) {
        bool ignored = r % 5 == 3;
        p.weights[r] = ignored ? 0 : fabs(p.weights[r]);
        p.labels[r] = ignored ? -100 : (int32_t)random_below(vocabulary);
    }
    return p;
}

static void problem_free(struct problem *p) {
    double *const arrays[] = {p->logits, p->weights, p->losses, p->gradient};
    for (int i = 0; i < 4; i++) free(arrays[i]);
    free(p->labels);
}

/* Fills in losses and gradient; returns Σ losses · scale. */
static double cross_entropy_of(void *context) {
    struct problem *p = context;
    double value = 0;
    for (size_t r = 0; r < p->rows; r++) {
        const double *row = p->logits + r * p->ld;
        double largest = -INFINITY, sum = 0;
        p->losses[r] = 0;
        if (p->weights[r] == 0) continue;
        for (size_t c = 0; c < p->vocabulary; c++) largest = fmax(largest, row[c]);
        for (size_t c = 0; c < p->vocabulary; c++) sum += exp(row[c] - largest);
        p->losses[r] = p->weights[r] * (log(sum) + largest - row[p->labels[r]]);
        value += p->losses[r] * p->scale;
        for (size_t c = 0; c < p->vocabulary; c++) {
            double probability = exp(row[c] - largest) / sum;
            p->gradient[r * p->ld + c] =
                p->weights[r] * p->scale * (probability - (c == (size_t)p->labels[r]));
        }
    }
    return value;
}

static void check_kernel(enum dtype dtype, struct problem *p, float loss_scale, float inverse_positions) {
    struct stream *stream = kernels_stream();
    double scale = loss_scale;
    void *logits = to_device(dtype, p->logits, p->rows * p->ld);
    float *losses = to_device(FP32, NULL, p->rows), *weights = to_device(FP32, p->weights, p->rows);
    int32_t *labels = ids_to_device(p->labels, p->rows);
    float *device_scale = to_device(FP32, &scale, 1);
    cross_entropy(stream, dtype, logits, losses, labels, weights, p->rows, p->vocabulary, p->ld, false, NULL,
                  0);
    check_device("losses without gradient", FP32, losses, p->losses, p->rows, 1e-6);
    check_device("logits left alone", dtype, logits, p->logits, p->rows * p->ld, 0);
    cross_entropy(stream, dtype, logits, losses, labels, weights, p->rows, p->vocabulary, p->ld, true,
                  device_scale, inverse_positions);
    check_device("losses", FP32, losses, p->losses, p->rows, 1e-6);
    check_device("gradient", dtype, logits, p->gradient, p->rows * p->ld, 1e-6);
    double *got = from_device(dtype, logits, p->rows * p->ld);
    for (size_t i = 0; i < p->rows * p->ld; i++)
        if (i % p->ld >= p->vocabulary || p->weights[i / p->ld] == 0) assert_true(got[i] == 0);
    free(got);
    void *const blocks[] = {logits, losses, weights, labels, device_scale};
    for (int i = 0; i < 5; i++) release(blocks[i]);
}

static void test_cross_entropy(void **state) {
    (void)state;
    /* The longest are shared by several blocks on some devices. */
    static const size_t shapes[][3] = {{0, 7, 0},      {1, 1, 0},      {6, 10, 0},        {9, 37, 3},
                                       {5, 1000, 1},   {11, 4096, 8},  {11, 4097, 63},    {3, 50000, 0},
                                       {5, 140001, 7}, {2, 250880, 0}, {2, 100003, 39997}};
    for (int d = 0; d < DTYPES; d++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int range = 1; range <= 30; range += 29) {
                struct problem p = problem_of(dtypes[d], shapes[i][0], shapes[i][1], shapes[i][2], range);
                float loss_scale = dtypes[d] == FP16 ? 1024 : 1, inverse_positions = 1.0f / 7;
                p.scale = (double)loss_scale * inverse_positions;
                cross_entropy_of(&p);
                check_kernel(dtypes[d], &p, loss_scale, inverse_positions);
                problem_free(&p);
            }
}

static void test_finite_differences(void **state) {
    (void)state;
    struct problem p = problem_of(FP32, 6, 23, 2, 3);
    p.scale = 0.125;
    double *gradient = gradient_by_differences(cross_entropy_of, &p, p.logits, p.rows * p.ld);
    cross_entropy_of(&p);
    memcpy(p.gradient, gradient, p.rows * p.ld * sizeof *gradient);
    check_kernel(FP32, &p, 2, 0.0625f);
    free(gradient);
    problem_free(&p);
}

/* A logit that overflowed must show; a column that is −∞ has probability 0. */
static void test_not_finite(void **state) {
    (void)state;
    struct stream *stream = kernels_stream();
    const double rows[4][3] = {{1, INFINITY, 2}, {1, NAN, 2}, {1, -INFINITY, 2}, {-INFINITY, -INFINITY, 2}};
    const double ones[4] = {1, 1, 1, 1};
    for (int d = 0; d < DTYPES; d++) {
        void *logits = to_device(dtypes[d], rows[0], 12);
        float *losses = to_device(FP32, NULL, 4), *weights = to_device(FP32, ones, 4);
        int32_t *labels = ids_to_device((const int32_t[]){2, 2, 2, 2}, 4);
        cross_entropy(stream, dtypes[d], logits, losses, labels, weights, 4, 3, 3, true, weights, 1);
        double *loss = from_device(FP32, losses, 4), *gradient = from_device(dtypes[d], logits, 12);
        for (int i = 0; i < 6; i++) assert_true(isnan(gradient[i]));
        assert_true(isnan(loss[0]) && isnan(loss[1]));
        assert_true(fabs(loss[2] - log(1 + exp(-1))) < 1e-6 && loss[3] == 0);
        assert_true(gradient[7] == 0 && gradient[9] == 0 && gradient[10] == 0 && gradient[11] == 0);
        void *const blocks[] = {logits, losses, weights, labels};
        for (int i = 0; i < 4; i++) release(blocks[i]);
        free(loss);
        free(gradient);
    }
}

/* ---- sums ---- */

static void test_sums(void **state) {
    (void)state;
    struct stream *stream = kernels_stream();
    static const size_t counts[] = {0, 1, 77, 8192, 8193, 16385, 300001, 9000001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        size_t count = counts[i];
        for (int d = 0; d < DTYPES; d++) {
            double *x = random_values(dtypes[d], count, 1), sum = 5, squares = 5, start = 5;
            for (size_t j = 0; j < count; j++) {
                sum += x[j];
                squares += x[j] * x[j];
            }
            void *values = to_device(dtypes[d], x, count), *total = to_device(FP64, &start, 1);
            sum_of_squares(stream, dtypes[d], total, values, count);
            check_device("sum_of_squares", FP64, total, &squares, 1, 1e-13);
            if (dtypes[d] == FP32) {
                copy_to_device(stream, total, &start, sizeof start);
                sum_values(stream, total, values, count);
                check_device("sum_values", FP64, total, &sum, 1, 1e-12);
            }
            release(values);
            release(total);
            free(x);
        }
    }
}

enum { SUMS = 4, ROUNDS = 25 };

/* Adds the sums of the arrays to *total, one after the other, ROUNDS times; with `alone`, waits for each. */
static void add_sums(struct stream *stream, double *total, float *const *arrays, const size_t *counts,
                     bool alone) {
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SUMS; i++) {
            sum_of_squares(stream, FP32, total, arrays[i], counts[i]);
            if (alone) stream_synchronize(stream);
        }
}

/* Sums that follow each other, or run beside another stream's, have the bits that they have alone. */
static void test_sums_of_two_streams(void **state) {
    (void)state;
    static const size_t counts[SUMS] = {300001, 5, 8200, 70000}; /* of many blocks, one and two */
    struct stream *streams[] = {kernels_stream(), stream_open(stream_device(kernels_stream()), "other")};
    float *arrays[SUMS];
    const double one = 1;
    for (int i = 0; i < SUMS; i++) {
        double *x = random_values(FP32, counts[i], 1);
        arrays[i] = to_device(FP32, x, counts[i]);
        free(x);
    }
    double *totals[] = {to_device(FP64, &one, 1), to_device(FP64, &one, 1), to_device(FP64, &one, 1)};
    add_sums(streams[0], totals[2], arrays, counts, true);
    for (int s = 0; s < 2; s++) add_sums(streams[s], totals[s], arrays, counts, false);
    stream_synchronize(streams[1]);
    double *alone = from_device(FP64, totals[2], 1);
    for (int s = 0; s < 2; s++) {
        double *beside = from_device(FP64, totals[s], 1);
        assert_true(*alone > 1 && *beside == *alone);
        free(beside);
        release(totals[s]);
    }
    free(alone);
    release(totals[2]);
    for (int i = 0; i < SUMS; i++) release(arrays[i]);
    stream_close(streams[1]);
}

static double squares_of(enum dtype dtype, double first, double second) {
    const double x[2] = {first, second}, zero = 0;
    void *values = to_device(dtype, x, 2), *total = to_device(FP64, &zero, 1);
    sum_of_squares(kernels_stream(), dtype, total, values, 2);
    double *got = from_device(FP64, total, 1), sum = *got;
    free(got);
    release(values);
    release(total);
    return sum;
}

static void test_squares_of_extremes(void **state) {
    (void)state;
    assert_true(squares_of(FP32, 1e30, 1e30) > 1.9e60 && squares_of(FP32, 1e30, 1e30) < 2.1e60);
    assert_true(isfinite(squares_of(BF16, 3e38, 3e38)));
    assert_true(squares_of(FP16, 65504, 0) == 65504.0 * 65504.0);
    assert_true(squares_of(FP16, 0x1p-24, 0) == 0x1p-48);
    for (int d = 0; d < DTYPES; d++) {
        assert_true(squares_of(dtypes[d], 1, INFINITY) == INFINITY);
        assert_true(squares_of(dtypes[d], -INFINITY, 1) == INFINITY);
        assert_true(isnan(squares_of(dtypes[d], NAN, 1)));
    }
}

/* ---- the same bits ---- */

/* Rows that are shared by several blocks on some devices. */
enum { BITS_ROWS = 8, BITS_COLUMNS = 70000, BITS_COUNT = BITS_ROWS * BITS_COLUMNS };
struct bits {
    float losses[BITS_ROWS], gradient[BITS_COUNT];
    double sum;
};

static void losses(struct stream *stream, void *out) {
    struct bits *bits = out;
    struct problem p = problem_of(FP32, BITS_ROWS, BITS_COLUMNS, 0, 5);
    const double one = 1, zero = 0;
    float *logits = to_device(FP32, p.logits, BITS_COUNT), *values = to_device(FP32, NULL, BITS_ROWS);
    float *weights = to_device(FP32, p.weights, BITS_ROWS), *scale = to_device(FP32, &one, 1);
    double *sum = to_device(FP64, &zero, 1);
    int32_t *labels = ids_to_device(p.labels, BITS_ROWS);
    cross_entropy(stream, FP32, logits, values, labels, weights, BITS_ROWS, BITS_COLUMNS, BITS_COLUMNS, true,
                  scale, 1);
    sum_of_squares(stream, FP32, sum, logits, BITS_COUNT);
    sum_values(stream, sum, logits, BITS_COUNT);
    copy_to_host(stream, bits->losses, values, sizeof bits->losses);
    copy_to_host(stream, bits->gradient, logits, sizeof bits->gradient);
    copy_to_host(stream, &bits->sum, sum, sizeof bits->sum);
    stream_synchronize(stream);
    void *const blocks[] = {logits, values, weights, scale, sum, labels};
    for (int i = 0; i < 6; i++) release(blocks[i]);
    problem_free(&p);
}

static void test_same_bits(void **state) {
    (void)state;
    check_same_bits("losses and sums", losses, sizeof(struct bits), true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cross_entropy),
                                       cmocka_unit_test(test_finite_differences),
                                       cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_sums),
                                       cmocka_unit_test(test_sums_of_two_streams),
                                       cmocka_unit_test(test_squares_of_extremes),
                                       cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
