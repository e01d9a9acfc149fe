/*
 * Attention against its definition, written down plainly in double: outputs, gradients by formula and by
 * finite differences, on random packs of every precision; what must not depend on the rest of the pack, on
 * the number of threads, or on the size of the numbers.
 */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common/device/kernels.h"

/* ---- problems ---- */

enum { MOST_SEQUENCES = 8 };

struct problem {
    enum dtype dtype;
    int heads, dim, count, tokens;
    int32_t starts[MOST_SEQUENCES + 1], keys[MOST_SEQUENCES];
    double *qkv, *d_out; /* [tokens, heads, 3, dim], [tokens, heads, dim]: values that dtype has */
};

/* What attention made of it; each is malloc'd. */
struct result {
    double *out, *d_qkv;
};

static uint64_t random_state = 1;

static uint64_t random_bits(void) { /* splitmix64 */
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int random_below(int n) {
    return (int)(random_bits() % (uint64_t)n);
}

/* Uniform in ±1. */
static double random_value(void) {
    return (double)(random_bits() >> 11) * 0x1p-52 - 1;
}

static double rounded(enum dtype dtype, double value) {
    if (dtype == BF16) return bf16_to_float(bf16_from_float((float)value));
    if (dtype == FP16) return fp16_to_float(fp16_from_float((float)value));
    return (float)value;
}

static size_t width(const struct problem *p) {
    return (size_t)p->heads * (size_t)p->dim;
}

static size_t inputs(const struct problem *p) {
    return (size_t)p->tokens * 3 * width(p);
}

static size_t outputs(const struct problem *p) {
    return (size_t)p->tokens * width(p);
}

/* A problem with sequences of these lengths, of which `keys` rows are no padding (NULL: all), and random
 * values. */
static struct problem problem_of(enum dtype dtype, int heads, int dim, int count, const int *lengths,
                                 const int *keys) {
    struct problem p = {.dtype = dtype, .heads = heads, .dim = dim, .count = count};
    for (int s = 0; s < count; s++) {
        p.starts[s + 1] = p.starts[s] + lengths[s];
        p.keys[s] = keys ? keys[s] : lengths[s];
    }
    p.tokens = p.starts[count];
    p.qkv = xcalloc(inputs(&p) + 1, sizeof *p.qkv);
    p.d_out = xcalloc(outputs(&p) + 1, sizeof *p.d_out);
    for (size_t i = 0; i < inputs(&p); i++) p.qkv[i] = rounded(dtype, 2 * random_value());
    for (size_t i = 0; i < outputs(&p); i++) p.d_out[i] = rounded(dtype, random_value());
    return p;
}

static struct problem random_problem(enum dtype dtype, int heads, int dim, int longest) {
    int lengths[MOST_SEQUENCES], keys[MOST_SEQUENCES], count = 1 + random_below(4);
    for (int s = 0; s < count; s++) {
        lengths[s] = 1 + random_below(longest);
        keys[s] = random_below(3) ? lengths[s] : 1 + random_below(lengths[s]);
    }
    return problem_of(dtype, heads, dim, count, lengths, keys);
}

static void problem_close(struct problem *p) {
    free(p->qkv);
    free(p->d_out);
}

static void result_close(struct result *r) {
    free(r->out);
    free(r->d_qkv);
}

/* ---- on the device ---- */

static struct device *device;
static struct stream *stream;

static void open_device(int threads) {
    struct device_options options = {.world_size = 1, .node_size = 1, .threads = threads, .dtype = FP32};
    device = device_open(&options);
    stream = stream_open(device, "test");
}

static void close_device(void) {
    stream_close(stream);
    device_close(device);
}

/* Device memory that holds values [count] as dtype. NaN tells what a kernel has not written. */
static void *upload(enum dtype dtype, const double *values, size_t count) {
    size_t bytes = count * dtype_size(dtype);
    void *host = xmalloc(bytes + 1), *memory = device_alloc(device, BUFFERS, bytes, "test");
    for (size_t i = 0; i < count; i++) {
        float value = values ? (float)values[i] : NAN;
        if (dtype == BF16)
            ((uint16_t *)host)[i] = bf16_from_float(value);
        else if (dtype == FP16)
            ((uint16_t *)host)[i] = fp16_from_float(value);
        else
            ((float *)host)[i] = value;
    }
    copy_to_device(stream, memory, host, bytes);
    stream_synchronize(stream);
    free(host);
    return memory;
}

static void *upload_ints(const int32_t *values, size_t count) {
    void *memory = device_alloc(device, BUFFERS, count * sizeof *values, "test");
    copy_to_device(stream, memory, values, count * sizeof *values);
    stream_synchronize(stream);
    return memory;
}

/* The reverse, which frees the device memory. */
static double *download(enum dtype dtype, void *memory, size_t count) {
    size_t bytes = count * dtype_size(dtype);
    void *host = xmalloc(bytes + 1);
    double *values = xcalloc(count + 1, sizeof *values);
    copy_to_host(stream, host, memory, bytes);
    stream_synchronize(stream);
    for (size_t i = 0; i < count; i++)
        values[i] = dtype == BF16   ? bf16_to_float(((uint16_t *)host)[i])
                    : dtype == FP16 ? fp16_to_float(((uint16_t *)host)[i])
                                    : ((float *)host)[i];
    device_free(device, memory);
    free(host);
    return values;
}

static struct sequences sequences_of(const struct problem *p) {
    struct sequences sequences = {.count = p->count, .tokens = p->tokens};
    for (int s = 0; s < p->count; s++) {
        int rows = p->starts[s + 1] - p->starts[s];
        if (rows > sequences.longest) sequences.longest = rows;
        for (int i = 0; i < rows; i++) sequences.pairs += i < p->keys[s] ? i + 1 : p->keys[s];
    }
    sequences.starts = upload_ints(p->starts, (size_t)p->count + 1);
    sequences.keys = upload_ints(p->keys, (size_t)p->count);
    return sequences;
}

static struct result attention(const struct problem *p) {
    struct sequences sequences = sequences_of(p);
    size_t heads = (size_t)p->heads, dim = (size_t)p->dim, rows = heads * (size_t)p->tokens;
    void *qkv = upload(p->dtype, p->qkv, inputs(p)), *d_out = upload(p->dtype, p->d_out, outputs(p));
    void *out = upload(p->dtype, NULL, outputs(p)), *d_qkv = upload(p->dtype, NULL, inputs(p));
    float *lse = upload(FP32, NULL, rows), *scratch = upload(FP32, NULL, rows);
    attention_forward(stream, p->dtype, out, lse, qkv, &sequences, heads, dim);
    attention_backward(stream, p->dtype, d_qkv, d_out, qkv, out, lse, scratch, &sequences, heads, dim);
    struct result result = {download(p->dtype, out, outputs(p)), download(p->dtype, d_qkv, inputs(p))};
    void *rest[] = {qkv, d_out, lse, scratch, (void *)sequences.starts, (void *)sequences.keys};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) device_free(device, rest[i]);
    return result;
}

/* ---- the reference ---- */

/* ALiBi's slopes as its paper's own code gives them: 2^(−8/m) to the powers 1 … m, and recursively for the
 * rest every other one of the next power of two. */
static double slope_of(int head, int heads) {
    int m = 1;
    while (2 * m <= heads) m *= 2;
    double first = pow(2, -8.0 / m);
    return head < m ? pow(first, head + 1) : pow(sqrt(first), 2 * (head - m) + 1);
}

static size_t at(const struct problem *p, int row, int head, int part) {
    return (((size_t)row * (size_t)p->heads + (size_t)head) * 3 + (size_t)part) * (size_t)p->dim;
}

static double dot(const double *a, const double *b, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* Row i of a sequence: its probabilities over keys 0 … the count returned − 1, and its output [dim]. */
static int reference_row(const struct problem *p, int s, int head, int i, double *probabilities,
                         double *out) {
    int keys = i < p->keys[s] ? i + 1 : p->keys[s], start = p->starts[s];
    double largest = -INFINITY, sum = 0;
    for (int k = 0; k < keys; k++) {
        double product = dot(p->qkv + at(p, start + i, head, 0), p->qkv + at(p, start + k, head, 1), p->dim);
        probabilities[k] = product / sqrt(p->dim) + slope_of(head, p->heads) * k;
        largest = fmax(largest, probabilities[k]);
    }
    for (int k = 0; k < keys; k++) sum += probabilities[k] = exp(probabilities[k] - largest);
    for (int d = 0; d < p->dim; d++) out[d] = 0;
    for (int k = 0; k < keys; k++) {
        const double *v = p->qkv + at(p, start + k, head, 2);
        probabilities[k] /= sum;
        for (int d = 0; d < p->dim; d++) out[d] += probabilities[k] * v[d];
    }
    return keys;
}

/* Adds a row's part to the gradients. */
static void reference_row_gradients(const struct problem *p, int s, int head, int i, int keys,
                                    const double *probabilities, const double *out, double *d_qkv) {
    int start = p->starts[s];
    const double *d_out = p->d_out + at(p, start + i, head, 0) / 3, *q = p->qkv + at(p, start + i, head, 0);
    double delta = dot(d_out, out, p->dim), *d_q = d_qkv + at(p, start + i, head, 0);
    for (int n = 0; n < keys; n++) {
        size_t key = at(p, start + n, head, 1), value = at(p, start + n, head, 2);
        double d_score = probabilities[n] * (dot(d_out, p->qkv + value, p->dim) - delta) / sqrt(p->dim);
        for (int d = 0; d < p->dim; d++) {
            d_q[d] += d_score * p->qkv[key + (size_t)d];
            d_qkv[key + (size_t)d] += d_score * q[d];
            d_qkv[value + (size_t)d] += probabilities[n] * d_out[d];
        }
    }
}

/* d_qkv only where `gradients`. */
static struct result reference(const struct problem *p, bool gradients) {
    struct result result = {xcalloc(outputs(p) + 1, sizeof(double)), xcalloc(inputs(p) + 1, sizeof(double))};
    double *probabilities = xcalloc((size_t)p->tokens + 1, sizeof *probabilities);
    for (int s = 0; s < p->count; s++) {
        for (int i = 0; i < p->starts[s + 1] - p->starts[s]; i++) {
            for (int head = 0; head < p->heads; head++) {
                double *out = result.out + at(p, p->starts[s] + i, head, 0) / 3;
                int keys = reference_row(p, s, head, i, probabilities, out);
                if (gradients) reference_row_gradients(p, s, head, i, keys, probabilities, out, result.d_qkv);
            }
        }
    }
    free(probabilities);
    return result;
}

/* ---- comparing ---- */

/* The largest difference over the largest value. */
static double error_of(const double *values, const double *expected, size_t count) {
    double difference = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        if (isnan(values[i])) return INFINITY; /* also what no kernel has written */
        difference = fmax(difference, fabs(values[i] - expected[i]));
        largest = fmax(largest, fabs(expected[i]));
    }
    return largest > 0 ? difference / largest : difference;
}

static double tolerance(enum dtype dtype) {
    return dtype == FP32 ? 2e-6 : dtype == FP16 ? 2e-3 : 1.5e-2;
}

static void check_problem(struct problem *p, double allowed) {
    struct result result = attention(p), expected = reference(p, true);
    double out = error_of(result.out, expected.out, outputs(p));
    double d_qkv = error_of(result.d_qkv, expected.d_qkv, inputs(p));
    if (!(out <= allowed && d_qkv <= allowed))
        fail_msg("%s, %d heads of %d, %d tokens: out is off by %.2g, gradients by %.2g of the largest",
                 dtype_name(p->dtype), p->heads, p->dim, p->tokens, out, d_qkv);
    result_close(&expected);
    result_close(&result);
    problem_close(p);
}

static bool same(const double *a, const double *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* ---- tests ---- */

static void random_packs_match_the_definition(void **state) {
    (void)state;
    const int dims[] = {1, 4, 7, 8, 10, 16, 32, 48, 64, 80, 96, 128, 200};
    const int heads[] = {1, 2, 3, 5, 6};
    for (enum dtype dtype = FP32; dtype <= FP16; dtype++) {
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            int count = heads[random_below(dims[i] > 64 ? 3 : 5)];
            struct problem p = random_problem(dtype, count, dims[i], 200);
            check_problem(&p, tolerance(dtype));
        }
    }
}

/* Tiles end at multiples of 16 and 64. */
static void lengths_around_tiles_match_the_definition(void **state) {
    (void)state;
    const int lengths[] = {1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 79, 80, 127, 128, 129, 192};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct problem p = problem_of(FP32, 2, 16, 1, &lengths[i], NULL);
        check_problem(&p, tolerance(FP32));
        for (size_t k = 0; k < i; k++) {
            p = problem_of(FP32, 1, 20, 1, &lengths[i], &lengths[k]);
            check_problem(&p, tolerance(FP32));
        }
    }
}

static void slopes_match_the_paper(void **state) {
    (void)state;
    for (int heads = 1; heads <= 130; heads++) {
        for (int head = 0; head < heads; head++) {
            double expected = slope_of(head, heads);
            double error = fabs((double)alibi_slope((size_t)head, (size_t)heads) - expected);
            if (error > 1e-7 * expected) fail_msg("slope of head %d of %d is off by %g", head, heads, error);
        }
    }
}

/* Σ d_out ∘ out, by the reference's forward alone. */
static double objective(const struct problem *p) {
    struct result result = reference(p, false);
    double sum = 0;
    for (size_t i = 0; i < outputs(p); i++) sum += p->d_out[i] * result.out[i];
    result_close(&result);
    return sum;
}

static void backward_matches_finite_differences(void **state) {
    (void)state;
    const double step = 1e-5;
    for (int round = 0; round < 6; round++) {
        struct problem p = random_problem(FP32, 1 + random_below(3), 3 + random_below(10), 30);
        struct result result = attention(&p);
        double largest = 0;
        for (size_t i = 0; i < inputs(&p); i++) largest = fmax(largest, fabs(result.d_qkv[i]));
        for (int n = 0; n < 150; n++) {
            size_t i = (size_t)random_below((int)inputs(&p));
            double value = p.qkv[i];
            p.qkv[i] = value + step;
            double above = objective(&p);
            p.qkv[i] = value - step;
            double difference = (above - objective(&p)) / (2 * step) - result.d_qkv[i];
            p.qkv[i] = value;
            if (!(fabs(difference) <= 2e-6 * largest))
                fail_msg("gradient %zu, %g, is off by %g", i, result.d_qkv[i], difference);
        }
        result_close(&result);
        problem_close(&p);
    }
}

/* A sequence's bits are what they are when it is alone, whatever the others hold: even infinities. */
static void sequences_do_not_see_each_other(void **state) {
    (void)state;
    const int lengths[] = {70, 129, 40}, keys[] = {70, 100, 40};
    for (enum dtype dtype = FP32; dtype <= FP16; dtype++) {
        struct problem p = problem_of(dtype, 3, 24, 3, lengths, keys);
        struct problem alone = problem_of(dtype, 3, 24, 1, lengths + 1, keys + 1);
        size_t first = 70 * width(&p), count = 129 * width(&p);
        memcpy(alone.qkv, p.qkv + 3 * first, 3 * count * sizeof(double));
        memcpy(alone.d_out, p.d_out + first, count * sizeof(double));
        struct result expected = attention(&alone);
        for (int round = 0; round < 2; round++) {
            struct result result = attention(&p);
            assert_true(same(result.out + first, expected.out, count));
            assert_true(same(result.d_qkv + 3 * first, expected.d_qkv, 3 * count));
            result_close(&result);
            for (size_t i = 0; i < inputs(&p); i++)
                if (i < 3 * first || i >= 3 * (first + count)) p.qkv[i] = i % 2 ? INFINITY : NAN;
        }
        result_close(&expected);
        problem_close(&alone);
        problem_close(&p);
    }
}

/* Nothing a row gives depends on later rows; nothing at all depends on padding rows' keys and values. */
static void rows_do_not_see_later_rows_or_padding(void **state) {
    (void)state;
    const int length = 150, keys = 100;
    struct problem p = problem_of(FP32, 2, 16, 1, &length, &keys);
    struct result before = attention(&p);
    size_t row = 3 * width(&p);
    for (size_t i = 100 * row; i < 150 * row; i++)
        if (i / 16 % 3 != 0) p.qkv[i] = random_value(); /* keys and values of padding */
    struct result after = attention(&p);
    assert_true(same(before.out, after.out, outputs(&p)));
    assert_true(same(before.d_qkv, after.d_qkv, inputs(&p)));
    for (size_t i = 100 * row; i < 150 * row; i++)
        if (i / 16 % 3 != 0) assert_true(after.d_qkv[i] == 0);
    result_close(&after);
    for (size_t i = 90 * row; i < 100 * row; i++) p.qkv[i] = random_value();
    after = attention(&p);
    assert_true(same(before.out, after.out, 90 * width(&p)));
    assert_false(same(before.out + 90 * width(&p), after.out + 90 * width(&p), width(&p)));
    result_close(&after);
    result_close(&before);
    problem_close(&p);
}

/* The number of heads decides, with the number of threads, how the backward is cut into tasks: all cuts give
 * one result. */
static void bits_do_not_depend_on_threads_or_time(void **state) {
    (void)state;
    const int lengths[] = {150, 70}, keys[] = {120, 70}, heads[] = {1, 2, 3, 5, 9};
    for (enum dtype dtype = FP32; dtype <= FP16; dtype++) {
        for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
            struct problem p = problem_of(dtype, heads[i], 24, 2, lengths, keys);
            struct result first = attention(&p);
            for (int threads = 1; threads <= 3; threads++) {
                close_device();
                open_device(threads);
                struct result again = attention(&p);
                assert_true(same(first.out, again.out, outputs(&p)));
                assert_true(same(first.d_qkv, again.d_qkv, inputs(&p)));
                result_close(&again);
            }
            close_device();
            open_device(0);
            result_close(&first);
            problem_close(&p);
        }
    }
}

/* Scores of thousands. q and k are small integers and dim and heads powers of two, so that scores are exact
 * in fp32. */
static void large_scores_do_not_overflow(void **state) {
    (void)state;
    const int lengths[] = {130, 90};
    for (enum dtype dtype = FP32; dtype <= FP16; dtype++) {
        struct problem p = problem_of(dtype, 8, 64, 2, lengths, NULL);
        for (size_t i = 0; i < inputs(&p); i++)
            if (i / 64 % 3 != 2) p.qkv[i] = random_below(129) - 64;
        /* Two equal keys for every row, so that the gradients are not all zero. */
        size_t row = 3 * width(&p);
        for (size_t i = row; i < inputs(&p); i++)
            if (i / 64 % 3 == 1 && i / row % 2 == 1) p.qkv[i] = p.qkv[i - row];
        check_problem(&p, fmax(tolerance(dtype), 3e-4));
    }
}

/* fp16 training finds an overflow by the gradients' not being finite: nothing may swallow it. */
static void what_is_not_finite_stays_so(void **state) {
    (void)state;
    const double values[] = {NAN, INFINITY, -INFINITY};
    const int length = 100;
    for (enum dtype dtype = FP32; dtype <= FP16; dtype++) {
        for (int i = 0; i < 9; i++) {
            struct problem p = problem_of(dtype, 2, 16, 1, &length, NULL);
            int part = i / 3, row = 40;
            p.qkv[at(&p, row, 1, part) + 3] = values[i % 3];
            struct result result = attention(&p);
            bool finite = true;
            for (size_t n = 0; n < inputs(&p); n++) finite = finite && isfinite(result.d_qkv[n]);
            assert_false(finite);
            for (int before = 0; before < row - row % 64; before++) /* tiles before it are untouched */
                assert_true(isfinite(result.out[at(&p, before, 1, 0) / 3]));
            result_close(&result);
            problem_close(&p);
        }
    }
}

static void a_long_sequence_matches_the_definition(void **state) {
    (void)state;
    const int length = 2048, keys = 2000;
    struct problem p = problem_of(FP32, 1, 32, 1, &length, &keys);
    check_problem(&p, 3e-6);
}

/* A matrix of 8192 × 8192 scores would take 256 MiB. */
static void memory_does_not_grow_with_the_square(void **state) {
    (void)state;
    const int length = 8192;
    struct problem p = problem_of(FP32, 1, 8, 1, &length, NULL);
    struct rusage before, after;
    assert_int_equal(getrusage(RUSAGE_SELF, &before), 0);
    struct result result = attention(&p);
    assert_int_equal(getrusage(RUSAGE_SELF, &after), 0);
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 << 10); /* KiB */
    result_close(&result);
    problem_close(&p);
}

static void no_rows_are_fine(void **state) {
    (void)state;
    struct problem p = problem_of(FP32, 4, 16, 0, NULL, NULL);
    struct result result = attention(&p);
    result_close(&result);
    problem_close(&p);
}

static int set_up(void **state) {
    (void)state;
    open_device(0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    close_device();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slopes_match_the_paper),
        cmocka_unit_test(no_rows_are_fine),
        cmocka_unit_test(lengths_around_tiles_match_the_definition),
        cmocka_unit_test(random_packs_match_the_definition),
        cmocka_unit_test(backward_matches_finite_differences),
        cmocka_unit_test(sequences_do_not_see_each_other),
        cmocka_unit_test(rows_do_not_see_later_rows_or_padding),
        cmocka_unit_test(bits_do_not_depend_on_threads_or_time),
        cmocka_unit_test(large_scores_do_not_overflow),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(a_long_sequence_matches_the_definition),
        cmocka_unit_test(memory_does_not_grow_with_the_square),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
