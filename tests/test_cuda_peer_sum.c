/*
 * The sum over ranks of the copies between GPUs (peer_copies.h), of parts that all lie in one GPU's memory:
 * the bits that the host's roundings give, and nothing written beside them.
 */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/comm/peer_copies.h"
#include "common/device/cuda/cuda.h"
#include "tests/support/kernel_checks.h"

enum { MOST_RANKS = 5, GUARD = 3 };
/* Blocks of device memory: a part of each rank, and */
enum place { ADDEND = MOST_RANKS, OUT, COPY, PLACES };
enum shift { ALIGNED, ALL_SHIFTED, LAST_PART_SHIFTED, SHIFTS };

struct problem {
    enum dtype dtype;
    double scale; /* of the random values */
    int ranks;
    size_t count;
    bool copy, addend;
    int out; /* the place that becomes the sum: OUT, a rank's part, or the addend */
    enum shift shift;
};

static bool is_used(const struct problem *p, int place) {
    return place < p->ranks || place == p->out || (place == ADDEND && p->addend) ||
           (place == COPY && p->copy);
}

/* Elements of a block before its first: with one, it is not at a multiple of 16 bytes. */
static size_t elements_before(const struct problem *p, int place) {
    return p->shift == ALL_SHIFTED || (p->shift == LAST_PART_SHIFTED && place == p->ranks - 1) ? 1 : 0;
}

static size_t length_of(const struct problem *p, int place) {
    return elements_before(p, place) + p->count + GUARD;
}

/* Element i of the sum, from values [place]. */
static double expected_sum(const struct problem *p, double *const *values, size_t i) {
    double sum = 0;
    for (int r = 0; r < p->ranks; r++) {
        double part = values[r][elements_before(p, r) + i];
        sum = r == 0 ? part : p->dtype == FP64 ? sum + part : (double)((float)sum + (float)part);
    }
    sum = rounded_to(p->dtype, sum);
    if (!p->addend) return sum;
    double addend = values[ADDEND][elements_before(p, ADDEND) + i];
    return p->dtype == FP64 ? addend + sum : rounded_to(p->dtype, (float)addend + (float)sum);
}

static void expect_sums(const struct problem *p, double *const *values) {
    for (size_t i = 0; i < p->count; i++) {
        double sum = expected_sum(p, values, i);
        values[p->out][elements_before(p, p->out) + i] = sum;
        if (p->copy) values[COPY][elements_before(p, COPY) + i] = sum;
    }
}

static void check_bits(const struct problem *p, int place, const void *block, const double *expected) {
    size_t length = length_of(p, place), i = 0;
    double *got = from_device(p->dtype, block, length);
    while (i < length && memcmp(&got[i], &expected[i], sizeof *got) == 0) i++;
    if (i < length)
        fail_msg("%s, %d ranks, %zu elements, out %d, shift %d%s%s: element %zu of place %d is %.17g, not "
                 "%.17g",
                 dtype_name(p->dtype), p->ranks, p->count, p->out, p->shift, p->addend ? ", addend" : "",
                 p->copy ? ", copy" : "", i, place, got[i], expected[i]);
    free(got);
}

static void check_sum(const struct problem *p) {
    double *values[PLACES] = {NULL};
    void *blocks[PLACES] = {NULL}, *at[PLACES] = {NULL};
    for (int place = 0; place < PLACES; place++)
        if (is_used(p, place)) {
            values[place] = random_values(p->dtype, length_of(p, place), p->scale);
            blocks[place] = to_device(p->dtype, values[place], length_of(p, place));
            at[place] = (char *)blocks[place] + elements_before(p, place) * dtype_size(p->dtype);
        }
    peer_sum(cuda_stream(kernels_stream()), p->dtype, at[p->out], at[COPY], p->addend ? at[ADDEND] : NULL,
             (const void *const *)at, p->ranks, p->count);
    expect_sums(p, values);
    for (int place = 0; place < PLACES; place++)
        if (is_used(p, place)) {
            check_bits(p, place, blocks[place], values[place]);
            release(blocks[place]);
            free(values[place]);
        }
}

/* All ways to call it. */
static void check_calls(struct problem p) {
    const int outs[] = {OUT, 0, p.ranks - 1, ADDEND};
    for (int variant = 0; variant < 4 * SHIFTS; variant++) {
        p.copy = variant % 2;
        p.addend = variant / 2 % 2;
        p.shift = (enum shift)(variant / 4);
        for (int i = 0; i < (p.addend ? 4 : 3); i++) {
            p.out = outs[i];
            check_sum(&p);
        }
    }
}

/* Values whose sums overflow in fp16 and are rounded in all types, and such as are subnormal in fp16. */
static void check_dtype(enum dtype dtype) {
    static const size_t counts[] = {0, 1, 7, 4099};
    static const double scales[] = {30000, 1e-6};
    for (int s = 0; s < 2; s++)
        for (int ranks = 2; ranks <= MOST_RANKS; ranks++)
            for (int c = 0; c < 4; c++)
                check_calls(
                    (struct problem){.dtype = dtype, .scale = scales[s], .ranks = ranks, .count = counts[c]});
    check_calls((struct problem){.dtype = dtype, .scale = 30000, .ranks = 3, .count = 100003});
}

static void test_fp32(void **state) {
    (void)state;
    check_dtype(FP32);
}

static void test_bf16(void **state) {
    (void)state;
    check_dtype(BF16);
}

static void test_fp16(void **state) {
    (void)state;
    check_dtype(FP16);
}

static void test_fp64(void **state) {
    (void)state;
    check_dtype(FP64);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fp32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_fp16), cmocka_unit_test(test_fp64)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
