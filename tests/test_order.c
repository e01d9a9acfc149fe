/* The shuffled order, against published values of MT19937 and permutations that PyTorch gave. */
#include "tests/support/check.h"

#include <stdlib.h>

#include "common/text/order.h"

/* Outputs 1 to 5 and 10,000 for seed 5489, as the C++ standard (26.6.6, "mt19937") and Matsumoto's own
 * mt19937ar.out give them. */
static void test_twister(void **state) {
    (void)state;
    static const uint32_t first[] = {3499211612u, 581869302u, 3890346734u, 3586334585u, 545404204u};
    struct mersenne_twister twister;
    mersenne_twister_seed(&twister, 5489);
    uint32_t number = 0;
    for (int i = 0; i < 10000; i++) {
        number = mersenne_twister_next(&twister);
        if (i < 5) assert_int_equal(number, first[i]);
    }
    assert_int_equal(number, 4123659995u);
}

/* torch.randperm(count, generator=torch.Generator().manual_seed(seed)), PyTorch 2.15 */
static void test_small(void **state) {
    (void)state;
    static const struct {
        uint32_t seed, epoch;
        int count;
        int32_t order[25];
    } known[] = {
        {7, 0, 1, {0}},
        {42, 0, 10, {2, 6, 1, 8, 4, 5, 0, 9, 3, 7}},
        /* accelerate's SeedableRandomSampler(data_seed=42) after set_epoch(1) */
        {42, 1, 10, {8, 4, 9, 0, 5, 1, 6, 7, 2, 3}},
        {2147483653u, 0, 25, {7,  8, 5,  24, 4,  19, 17, 21, 0,  6, 2,  16, 23,
                              22, 1, 11, 13, 18, 14, 10, 12, 15, 9, 20, 3}},
        {4294967295u, 0, 12, {3, 1, 8, 9, 2, 6, 10, 11, 0, 5, 7, 4}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int32_t order[25];
        shuffled_order(order, known[i].count, known[i].seed, known[i].epoch);
        assert_memory_equal(order, known[i].order, (size_t)known[i].count * sizeof *order);
    }
    shuffled_order(NULL, 0, 1, 0);
}

/* Larger ones by h = h * 31 + element modulo 2^32 over all elements. */
static void test_large(void **state) {
    (void)state;
    static const struct {
        int count;
        uint32_t seed, hash;
    } known[] = {{500, 42, 1789975592u},
                 {88000, 43, 3707970430u},
                 {30000, 0, 1931052044u},
                 {20001, 123, 1602365660u},
                 {1000003, 5, 1081243625u}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int32_t *order = xmalloc((size_t)known[i].count * sizeof *order);
        shuffled_order(order, known[i].count, known[i].seed, 0);
        uint32_t hash = 0;
        for (int e = 0; e < known[i].count; e++) hash = hash * 31 + (uint32_t)order[e];
        assert_int_equal(hash, known[i].hash);
        free(order);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_twister), cmocka_unit_test(test_small),
                                       cmocka_unit_test(test_large)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
