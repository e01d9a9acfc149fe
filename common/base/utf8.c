#include "common/base/utf8.h"

/* Length of the character that `first` begins, and the range its second byte must be in; 0: begins none.
 * The narrowed ranges exclude overlong forms (E0, F0), surrogates (ED) and what is above U+10FFFF (F4). */
static size_t expect(unsigned char first, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (first < 0x80) return 1;
    if (first < 0xc2) return 0;
    if (first < 0xe0) return 2;
    if (first == 0xe0) *low = 0xa0;
    if (first == 0xed) *high = 0x9f;
    if (first < 0xf0) return 3;
    if (first == 0xf0) *low = 0x90;
    if (first == 0xf4) *high = 0x8f;
    return first < 0xf5 ? 4 : 0;
}

size_t utf8_read(const char *text, size_t bytes, uint32_t *character) {
    const unsigned char *from = (const unsigned char *)text;
    unsigned char low, high;
    size_t length = expect(from[0], &low, &high);
    *character = UTF8_BROKEN;
    if (length == 0) return 1;
    if (length == 1) {
        *character = from[0];
        return 1;
    }
    uint32_t value = from[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (i == bytes || from[i] < low || from[i] > high) return i;
        value = value << 6 | (from[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *character = value;
    return length;
}

size_t utf8_write(char *text, uint32_t character) {
    unsigned char *to = (unsigned char *)text;
    if (character < 0x80) {
        to[0] = (unsigned char)character;
        return 1;
    }
    size_t length = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--) {
        to[i] = (unsigned char)(0x80 | (character & 0x3f));
        character >>= 6;
    }
    to[0] = (unsigned char)((0xf00u >> length & 0xff) | character);
    return length;
}
