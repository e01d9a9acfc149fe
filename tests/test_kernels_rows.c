/* Looking up, gathering and scattering rows, adding, filling and converting. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

/* ---- rows ---- */

static const size_t shapes[][2] = {{0, 8}, {1, 1}, {5, 3}, {40, 33}, {70, 1030}};
enum { SHAPES = sizeof shapes / sizeof *shapes, TABLE = 100 };

static int32_t *random_ids(size_t n, size_t below) {
    int32_t *ids = xmalloc((n + 1) * sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)random_below(below);
    return ids;
}

static void test_lookup_and_gather(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < SHAPES; i++) {
            enum dtype dtype = dtypes[d];
            size_t n = shapes[i][0], h = shapes[i][1];
            double *table = random_values(dtype, TABLE * h, 1), *expected = xmalloc((n * h + 1) * 8);
            int32_t *ids = random_ids(n, TABLE);
            for (size_t r = 0; r < n; r++)
                memcpy(expected + r * h, table + (size_t)ids[r] * h, h * sizeof *table);
            void *dtable = to_device(dtype, table, TABLE * h), *out = to_device(dtype, NULL, n * h);
            int32_t *dids = ids_to_device(ids, n);
            embedding_lookup(kernels_stream(), dtype, out, dtable, dids, n, h);
            check_device("embedding_lookup", dtype, out, expected, n * h, 0);
            release(out);
            out = to_device(dtype, NULL, n * h);
            gather_rows(kernels_stream(), dtype, out, dtable, dids, n, h);
            check_device("gather_rows", dtype, out, expected, n * h, 0);
            release(dtable);
            release(out);
            release(dids);
            free(table);
            free(expected);
            free(ids);
        }
}

static void test_scatter(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < SHAPES; i++) {
            enum dtype dtype = dtypes[d];
            size_t count = shapes[i][0], h = shapes[i][1], n = 2 * count + 3;
            double *x = random_values(dtype, count * h, 1), *expected = xcalloc(n * h, sizeof *expected);
            int32_t *rows = random_ids(count, 2);
            for (size_t r = 0; r < count; r++) { /* distinct, and in no order */
                rows[r] += 2 * (int32_t)(count - 1 - r);
                memcpy(expected + (size_t)rows[r] * h, x + r * h, h * sizeof *x);
            }
            void *dx = to_device(dtype, x, count * h), *out = to_device(dtype, NULL, n * h);
            int32_t *drows = ids_to_device(rows, count);
            scatter_rows(kernels_stream(), dtype, out, dx, drows, count, n, h);
            check_device("scatter_rows", dtype, out, expected, n * h, 0);
            release(dx);
            release(out);
            release(drows);
            free(x);
            free(expected);
            free(rows);
        }
}

/* Token rows in the order of their ids, stable. */
static int32_t *sorted_by_id(const int32_t *ids, size_t n) {
    int32_t *by_id = xmalloc((n + 1) * sizeof *by_id);
    size_t at = 0;
    for (int32_t id = 0; id < TABLE; id++)
        for (size_t i = 0; i < n; i++)
            if (ids[i] == id) by_id[at++] = (int32_t)i;
    return by_id;
}

/* Rows first … first+rows−1 of the table, where ids are few enough (`distinct`) to come often. */
static void check_embedding_backward(enum dtype dtype, size_t n, size_t h, size_t first, size_t rows,
                                     size_t distinct) {
    double *dx = random_values(dtype, n * h, 1), *dtable = random_values(dtype, rows * h, 4);
    int32_t *ids = random_ids(n, distinct), *by_id = sorted_by_id(ids, n);
    void *table = to_device(dtype, dtable, rows * h), *ddx = to_device(dtype, dx, n * h);
    int32_t *dids = ids_to_device(ids, n), *dby_id = ids_to_device(by_id, n);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < h; c++)
            if ((size_t)ids[i] >= first && (size_t)ids[i] < first + rows)
                dtable[((size_t)ids[i] - first) * h + c] += dx[i * h + c];
    embedding_backward(kernels_stream(), dtype, table, first, rows, ddx, dids, dby_id, n, h);
    check_device("embedding_backward", dtype, table, dtable, rows * h, 1e-6);
    void *const blocks[] = {table, ddx, dids, dby_id};
    for (int i = 0; i < 4; i++) release(blocks[i]);
    free(dx);
    free(dtable);
    free(ids);
    free(by_id);
}

static void test_embedding_backward(void **state) {
    (void)state;
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < SHAPES; i++) {
            size_t n = shapes[i][0], h = shapes[i][1];
            check_embedding_backward(dtypes[d], n, h, 0, TABLE, TABLE);
            check_embedding_backward(dtypes[d], n, h, 0, TABLE, 3);
            check_embedding_backward(dtypes[d], n, h, 20, 37, TABLE);
            check_embedding_backward(dtypes[d], n, h, 90, 10, 20); /* no id falls into it */
            check_embedding_backward(dtypes[d], n, h, 1, 1, 3);
            check_embedding_backward(dtypes[d], n, h, 5, 0, TABLE);
        }
}

/* ---- converting ---- */

static void test_convert(void **state) {
    (void)state;
    enum { COUNT = 40001 };
    static const double scales[] = {1, 1e-6, 7e4, 1e-40};
    for (int from = 0; from < DTYPES; from++)
        for (int to = 0; to < DTYPES; to++)
            for (int s = 0; s < 4; s++) {
                double *x = random_values(dtypes[from], COUNT, scales[s]);
                x[1] = INFINITY;
                x[2] = -INFINITY;
                x[3] = -0.0;
                void *in = to_device(dtypes[from], x, COUNT), *out = to_device(dtypes[to], NULL, COUNT);
                convert(kernels_stream(), dtypes[to], out, dtypes[from], in, COUNT);
                double *got = from_device(dtypes[to], out, COUNT);
                for (int i = 0; i < COUNT; i++) {
                    double expected = rounded_to(dtypes[to], x[i]);
                    if (got[i] != expected || !signbit(got[i]) != !signbit(expected))
                        fail_msg("%a from %s to %s is %a, not %a", x[i], dtype_name(dtypes[from]),
                                 dtype_name(dtypes[to]), got[i], expected);
                }
                release(in);
                release(out);
                free(x);
                free(got);
            }
}

static void test_convert_nan(void **state) {
    (void)state;
    /* NaNs of every kind of payload, some of which a rounding would carry to infinity. */
    const uint32_t bits[] = {0x7f800001, 0x7fffffff, 0x7fc00000, 0xffffffff, 0x7f80ffff, 0xff801fff};
    float values[6];
    memcpy(values, bits, sizeof bits);
    float *in = to_device(FP32, NULL, 6);
    copy_to_device(kernels_stream(), in, values, sizeof values);
    for (int to = 0; to < DTYPES; to++) {
        void *out = to_device(dtypes[to], NULL, 6);
        convert(kernels_stream(), dtypes[to], out, FP32, in, 6);
        double *got = from_device(dtypes[to], out, 6);
        for (int i = 0; i < 6; i++) assert_true(isnan(got[i]));
        free(got);
        release(out);
    }
    release(in);
}

/* ---- adding ---- */

static void check_add(enum dtype dtype, size_t count, size_t begin) {
    double *x = random_values(dtype, begin + count, 1), *y = random_values(dtype, begin + count, 30);
    if (count > 2) y[begin + 1] = INFINITY; /* an overflow must not get lost */
    void *in = to_device(dtype, x, begin + count), *out = to_device(dtype, y, begin + count);
    size_t offset = begin * dtype_size(dtype);
    add_elements(kernels_stream(), dtype, (char *)out + offset, (const char *)in + offset, count);
    double *got = from_device(dtype, out, begin + count);
    for (size_t i = 0; i < begin + count; i++) {
        double expected = i < begin ? y[i] : rounded_to(dtype, (double)((float)y[i] + (float)x[i]));
        if (got[i] != expected)
            fail_msg("%s, element %zu of %zu: %a + %a is %a, not %a", dtype_name(dtype), i, count, y[i], x[i],
                     got[i], expected);
    }
    release(in);
    release(out);
    free(x);
    free(y);
    free(got);
}

static void test_add(void **state) {
    (void)state;
    static const size_t counts[] = {0, 1, 7, 8, 1000, 40001};
    for (int d = 0; d < DTYPES; d++)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            check_add(dtypes[d], counts[c], 0);
            check_add(dtypes[d], counts[c], 8);
            check_add(dtypes[d], counts[c], 3); /* not aligned */
        }
}

/* ---- filling ---- */

static void test_fill_value(void **state) {
    (void)state;
    const size_t counts[] = {0, 1, 16384, 50001};
    for (int i = 0; i < 4; i++) {
        float *out = to_device(FP32, NULL, counts[i] + 1);
        fill_value(kernels_stream(), out, -1.5f, counts[i]);
        double *got = from_device(FP32, out, counts[i] + 1);
        for (size_t j = 0; j < counts[i]; j++) assert_true(got[j] == -1.5);
        assert_true(got[counts[i]] == UNTOUCHED);
        free(got);
        release(out);
    }
}

static uint64_t mix(uint64_t z) { /* of SplitMix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Element `index` as fill.c describes it, with the C library's functions in double precision. */
static double normal_value(uint64_t seed, uint64_t tensor, uint64_t index) {
    const uint64_t gamma = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t draw = mix(mix(mix(seed + gamma) + tensor * gamma) + (index + 1) * gamma);
    double uniform = ((double)(draw >> 32) + 0.5) * 0x1p-32, turn = (double)(int32_t)(uint32_t)draw * 0x1p-32;
    return sqrt(-2 * log(uniform)) * cos(2 * acos(-1) * turn);
}

static double *normals(uint64_t seed, uint64_t tensor, size_t first, size_t count, float deviation) {
    float *out = to_device(FP32, NULL, count);
    fill_normal(kernels_stream(), out, seed, tensor, first, count, deviation);
    double *values = from_device(FP32, out, count);
    release(out);
    return values;
}

static void test_fill_normal(void **state) {
    (void)state;
    enum { COUNT = 200000 };
    double *got = normals(42, 7, 0, COUNT, 0.02f), *expected = xmalloc(COUNT * sizeof *expected);
    double moments[5] = {0};
    for (size_t i = 0; i < COUNT; i++) {
        expected[i] = 0.02 * normal_value(42, 7, i);
        for (int power = 1; power <= 4; power++) moments[power] += pow(got[i] / 0.02, power) / COUNT;
    }
    check_values("fill_normal", FP32, got, expected, COUNT, 1e-6);
    /* Within five standard errors of the normal distribution's 0, 1, 0, 3. */
    const double normal[] = {0, 0, 1, 0, 3}, variance[] = {0, 1, 2, 15, 96};
    for (int power = 1; power <= 4; power++)
        assert_true(fabs(moments[power] - normal[power]) < 5 * sqrt(variance[power] / COUNT));

    static const size_t cuts[][2] = {{0, 1}, {1, 5}, {777, 30000}, {16383, 2}, {COUNT - 1, 1}, {5, 0}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        double *part = normals(42, 7, cuts[i][0], cuts[i][1], 0.02f);
        assert_memory_equal(part, got + cuts[i][0], cuts[i][1] * sizeof *part);
        free(part);
    }
    free(got);
    free(expected);
}

/* Neighbouring seeds and tensors have nothing to do with each other, nor has one element with the next. */
static void test_fill_normal_independence(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    double *one = normals(1, 0, 0, COUNT, 1), *seed = normals(2, 0, 0, COUNT, 1);
    double *tensor = normals(1, 1, 0, COUNT, 1), with_seed = 0, with_tensor = 0, with_next = 0;
    for (size_t i = 0; i < COUNT; i++) {
        with_seed += one[i] * seed[i] / COUNT;
        with_tensor += one[i] * tensor[i] / COUNT;
        with_next += one[i] * one[(i + 1) % COUNT] / COUNT;
    }
    double bound = 5 / sqrt(COUNT);
    assert_true(fabs(with_seed) < bound && fabs(with_tensor) < bound && fabs(with_next) < bound);
    free(one);
    free(seed);
    free(tensor);
}

/* ---- the same bits ---- */

enum { BITS_ROWS = 200, BITS_H = 300, BITS_COUNT = BITS_ROWS * BITS_H };

static void rows_and_values(struct stream *stream, void *out) {
    double *dx = random_values(FP32, BITS_COUNT, 1);
    int32_t *ids = random_ids(BITS_ROWS, 9), *by_id = sorted_by_id(ids, BITS_ROWS);
    float *table = to_device(FP32, NULL, BITS_COUNT), *ddx = to_device(FP32, dx, BITS_COUNT);
    int32_t *dids = ids_to_device(ids, BITS_ROWS), *dby_id = ids_to_device(by_id, BITS_ROWS);
    fill_normal(stream, table, 5, 6, 7, BITS_COUNT, 1);
    embedding_backward(stream, FP32, table, 0, BITS_ROWS, ddx, dids, dby_id, BITS_ROWS, BITS_H);
    copy_to_host(stream, out, table, BITS_COUNT * sizeof(float));
    stream_synchronize(stream);
    void *const blocks[] = {table, ddx, dids, dby_id};
    for (int i = 0; i < 4; i++) release(blocks[i]);
    free(dx);
    free(ids);
    free(by_id);
}

static void test_same_bits(void **state) {
    (void)state;
    check_same_bits("rows and values", rows_and_values, BITS_COUNT * sizeof(float), true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lookup_and_gather),
                                       cmocka_unit_test(test_scatter),
                                       cmocka_unit_test(test_embedding_backward),
                                       cmocka_unit_test(test_convert),
                                       cmocka_unit_test(test_convert_nan),
                                       cmocka_unit_test(test_add),
                                       cmocka_unit_test(test_fill_value),
                                       cmocka_unit_test(test_fill_normal),
                                       cmocka_unit_test(test_fill_normal_independence),
                                       cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
