#include "common/text/byte_map.h"

/* The bytes that do not stand for themselves are three runs: 0–32, 127–160 and 173. */
enum { RUN1 = 33, RUN2_FIRST = 127, RUN2 = 34, RUN3_FIRST = 173, MOVED = 256 };

uint32_t byte_map_character(unsigned char byte) {
    if (byte < RUN1) return MOVED + byte;
    if (byte >= RUN2_FIRST && byte < RUN2_FIRST + RUN2) return MOVED + RUN1 + (byte - RUN2_FIRST);
    if (byte == RUN3_FIRST) return MOVED + RUN1 + RUN2;
    return byte;
}

int byte_map_byte(uint32_t character) {
    if (character > MOVED + RUN1 + RUN2) return -1;
    int value = (int)character;
    if (value >= MOVED + RUN1 + RUN2) return RUN3_FIRST;
    if (value >= MOVED + RUN1) return RUN2_FIRST + value - MOVED - RUN1;
    if (value >= MOVED) return value - MOVED;
    return byte_map_character((unsigned char)value) == character ? value : -1;
}
