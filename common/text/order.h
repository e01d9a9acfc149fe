/*
 * The order in which an epoch visits its examples: the Hugging Face Trainer's, so that a run here sees the
 * same batches as a run there with the same seed. It is torch.randperm on a generator seeded with seed +
 * epoch: a 32-bit Mersenne twister and a Fisher-Yates shuffle.
 */
#ifndef COMMON_TEXT_ORDER_H
#define COMMON_TEXT_ORDER_H

#include <stdint.h>

/* Matsumoto and Nishimura's MT19937 (ACM TOMACS 8(1), 1998). */
struct mersenne_twister {
    uint32_t state[624];
    int used; /* of the 624 numbers in state */
};

void mersenne_twister_seed(struct mersenne_twister *twister, uint32_t seed);
uint32_t mersenne_twister_next(struct mersenne_twister *twister); /* uniform over all 32-bit numbers */

/* Fills order[count] with the numbers 0 … count − 1 in the order of epoch `epoch` (from 0). */
void shuffled_order(int32_t *order, int count, uint32_t seed, uint32_t epoch);

#endif
