#include "common/text/order.h"

enum { SIZE = 624, MIDDLE = 397 };

void mersenne_twister_seed(struct mersenne_twister *twister, uint32_t seed) {
    twister->state[0] = seed;
    for (uint32_t i = 1; i < SIZE; i++) {
        uint32_t last = twister->state[i - 1];
        twister->state[i] = 1812433253u * (last ^ last >> 30) + i;
    }
    twister->used = SIZE;
}

/* The next 624 numbers, untempered, from the last 624. */
static void twist(struct mersenne_twister *twister) {
    uint32_t *state = twister->state;
    for (int i = 0; i < SIZE; i++) {
        uint32_t joined = (state[i] & 0x80000000u) | (state[(i + 1) % SIZE] & 0x7fffffffu);
        state[i] = state[(i + MIDDLE) % SIZE] ^ joined >> 1 ^ (joined & 1 ? 0x9908b0dfu : 0);
    }
    twister->used = 0;
}

uint32_t mersenne_twister_next(struct mersenne_twister *twister) {
    if (twister->used == SIZE) twist(twister);
    uint32_t number = twister->state[twister->used++];
    number ^= number >> 11;
    number ^= number << 7 & 0x9d2c5680u;
    number ^= number << 15 & 0xefc60000u;
    return number ^ number >> 18;
}

void shuffled_order(int32_t *order, int count, uint32_t seed, uint32_t epoch) {
    struct mersenne_twister twister;
    mersenne_twister_seed(&twister, seed + epoch);
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = 0; i < count - 1; i++) {
        int other = i + (int)(mersenne_twister_next(&twister) % (uint32_t)(count - i));
        int32_t moved = order[i];
        order[i] = order[other];
        order[other] = moved;
    }
}
