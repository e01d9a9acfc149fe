/* What generation adds to the kernels: attention to a cache, by its definition in double, and the largest
 * column. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

/* ---- attention to a cache ---- */

enum { SLOTS = 3, CAPACITY = 150 };

/* Three sequences of these lengths grow in calls of `step` rows each; in one call, a slot's rows come last
 * first where `backwards`. */
struct problem {
    enum dtype dtype;
    size_t heads, dim;
    int step;
    bool backwards;
};
static const int lengths[SLOTS] = {CAPACITY, 1, 70};

/* Everything a sequence ever holds: [SLOTS, CAPACITY, heads, 3, dim]. */
static size_t at(const struct problem *p, int slot, int position, size_t head, size_t part) {
    return ((((size_t)slot * CAPACITY + (size_t)position) * p->heads + head) * 3 + part) * p->dim;
}

static void expect_head(const struct problem *p, const double *all, int slot, int position, size_t head,
                        double *out) {
    double scores[CAPACITY], largest = -INFINITY, sum = 0;
    const double *query = all + at(p, slot, position, head, 0);
    for (int k = 0; k <= position; k++) {
        const double *key = all + at(p, slot, k, head, 1);
        scores[k] = (double)alibi_slope(head, p->heads) * k;
        for (size_t d = 0; d < p->dim; d++) scores[k] += query[d] * key[d] / sqrt((double)p->dim);
        largest = fmax(largest, scores[k]);
    }
    for (size_t d = 0; d < p->dim; d++) out[d] = 0;
    for (int k = 0; k <= position; k++) {
        double weight = exp(scores[k] - largest);
        sum += weight;
        for (size_t d = 0; d < p->dim; d++) out[d] += weight * all[at(p, slot, k, head, 2) + d];
    }
    for (size_t d = 0; d < p->dim; d++) out[d] /= sum;
}

/* The rows of a call: of each slot the next `step` positions that it has. */
static int choose_rows(const struct problem *p, const int *done, int32_t *slots, int32_t *positions) {
    int count = 0;
    for (int s = 0; s < SLOTS; s++) {
        int more = lengths[s] - done[s] < p->step ? lengths[s] - done[s] : p->step;
        for (int i = 0; i < more; i++, count++) {
            slots[count] = s;
            positions[count] = done[s] + (p->backwards ? more - 1 - i : i);
        }
    }
    return count;
}

static void check_call(const struct problem *p, const struct key_value_cache *cache, const double *all,
                       int count, const int32_t *slots, const int32_t *positions) {
    size_t width = p->heads * p->dim, n = (size_t)count;
    double *qkv = xmalloc((n * 3 * width + 1) * sizeof *qkv), *out = xmalloc((n * width + 1) * sizeof *out);
    struct cached_rows rows = {.count = count};
    for (size_t r = 0; r < n; r++) {
        memcpy(qkv + r * 3 * width, all + at(p, slots[r], positions[r], 0, 0), 3 * width * sizeof *qkv);
        rows.keys += positions[r] + 1;
        for (size_t h = 0; h < p->heads; h++)
            expect_head(p, all, slots[r], positions[r], h, out + r * width + h * p->dim);
    }
    void *d_qkv = to_device(p->dtype, qkv, n * 3 * width), *d_out = to_device(p->dtype, NULL, n * width);
    int32_t *d_slots = ids_to_device(slots, n), *d_positions = ids_to_device(positions, n);
    rows.slots = d_slots;
    rows.positions = d_positions;
    attention_cached(kernels_stream(), p->dtype, d_out, cache, d_qkv, &rows, p->heads, p->dim);
    check_device("attention_cached", p->dtype, d_out, out, n * width, 2e-6);
    release(d_qkv);
    release(d_out);
    release(d_slots);
    release(d_positions);
    free(qkv);
    free(out);
}

static void check_problem(const struct problem *p) {
    size_t width = p->heads * p->dim;
    double *all = random_values(p->dtype, SLOTS * CAPACITY * 3 * width, 2);
    struct key_value_cache cache = {.keys = to_device(p->dtype, NULL, SLOTS * CAPACITY * width),
                                    .values = to_device(p->dtype, NULL, SLOTS * CAPACITY * width),
                                    .capacity = CAPACITY};
    int32_t slots[SLOTS * CAPACITY], positions[SLOTS * CAPACITY];
    int done[SLOTS] = {0};
    check_call(p, &cache, all, 0, slots, positions);
    for (int count; (count = choose_rows(p, done, slots, positions)) > 0;) {
        check_call(p, &cache, all, count, slots, positions);
        for (int r = 0; r < count; r++) done[slots[r]]++;
    }
    release(cache.keys);
    release(cache.values);
    free(all);
}

static void test_attention(void **state) {
    (void)state;
    static const struct { size_t heads, dim; } shapes[] = {{4, 16}, {6, 5}, {1, 64}, {3, 130}};
    static const int steps[] = {1, 40, CAPACITY};
    for (int d = 0; d < DTYPES; d++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
                if (d && steps[i] == 1 && s) continue; /* these take longest */
                check_problem(&(struct problem){dtypes[d], shapes[s].heads, shapes[s].dim, steps[i],
                                                .backwards = steps[i] == 40});
            }
}

/* ---- the largest column ---- */

static void check_largest(enum dtype dtype, const double *logits, size_t rows, size_t vocabulary, size_t ld,
                          const int32_t *expected) {
    void *device = to_device(dtype, logits, rows * ld);
    int32_t *found = ids_to_device(expected, rows), *host = xcalloc(rows, sizeof *host);
    largest_column(kernels_stream(), dtype, found, device, rows, vocabulary, ld);
    copy_to_host(kernels_stream(), host, found, rows * sizeof *host);
    stream_synchronize(kernels_stream());
    for (size_t r = 0; r < rows; r++)
        if (host[r] != expected[r])
            fail_msg("%s: row %zu of %zu columns: %d, not %d", dtype_name(dtype), r, vocabulary, (int)host[r],
                     (int)expected[r]);
    release(device);
    release(found);
    free(host);
}

/* Random rows, with columns behind the vocabulary that are larger, and in every other row equals. */
static void test_largest(void **state) {
    (void)state;
    static const size_t widths[] = {1, 7, 640, 5001};
    for (int d = 0; d < DTYPES; d++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            enum { ROWS = 12 };
            size_t vocabulary = widths[w], ld = vocabulary + 3;
            double *logits = random_values(dtypes[d], ROWS * ld, 1);
            int32_t expected[ROWS];
            for (size_t r = 0; r < ROWS; r++) {
                double *row = logits + r * ld;
                for (size_t c = vocabulary; c < ld; c++) row[c] = 100;
                if (r % 2) row[random_below(vocabulary)] = row[random_below(vocabulary)] = 2;
                expected[r] = 0;
                for (size_t c = 1; c < vocabulary; c++)
                    if (row[c] > row[expected[r]]) expected[r] = (int32_t)c;
            }
            check_largest(dtypes[d], logits, ROWS, vocabulary, ld, expected);
            check_largest(dtypes[d], logits, 0, vocabulary, ld, expected);
            free(logits);
        }
}

/* NaNs are passed over, infinities are not; a row of nothing but NaNs has 0. */
static void test_odd_values(void **state) {
    (void)state;
    const double logits[] = {NAN, 1,    NAN, 2,   -INFINITY, -INFINITY, -INFINITY, -INFINITY,
                             NAN, NAN,  NAN, NAN, NAN,       NAN,       -INFINITY, NAN,
                             0.0, -0.0, 0.0, -1,  3,         INFINITY,  INFINITY,  4};
    const int32_t expected[] = {3, 0, 0, 2, 0, 1};
    for (int d = 0; d < DTYPES; d++) check_largest(dtypes[d], logits, 6, 4, 4, expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_odd_values),
    };
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
