#include "common/text/pretokenize.h"

#include <stdbool.h>

#include "common/base/utf8.h"

/* Whether a character beyond ASCII separates words: white space or one of the regex's marks. */
static bool separates(uint32_t character) {
    switch (character) {
    case 0x0085: /* next line */
    case 0x00a0: /* no-break space */
    case 0x1680: /* ogham space mark */
    case 0x2028: /* line separator */
    case 0x2029: /* paragraph separator */
    case 0x202f: /* narrow no-break space */
    case 0x205f: /* medium mathematical space */
    case 0x3000: /* ideographic space */
        return true;
    case 0x2026: /* … */
    case 0x3002: /* 。 */
    case 0xff0c: /* ， */
    case 0x3001: /* 、 */
    case 0x0964: /* । */
    case 0x06d4: /* ۔ */
    case 0x060c: /* ، */
        return true;
    default:
        return character >= 0x2000 && character <= 0x200a; /* en quad … hair space */
    }
}

static const bool ascii_separates[128] = {
    ['\t'] = true, ['\n'] = true, ['\v'] = true, ['\f'] = true, ['\r'] = true, [' '] = true, ['!'] = true,
    ['('] = true,  [')'] = true,  [','] = true,  ['.'] = true,  ['?'] = true,  ['|'] = true,
};

/* The length of the separator that `text` begins with, 0 where it begins with a word's character. */
static size_t separator(const char *text, size_t bytes) {
    unsigned char first = (unsigned char)text[0];
    if (first < 0x80) return ascii_separates[first];
    uint32_t character;
    size_t length = utf8_read(text, bytes, &character);
    return separates(character) ? length : 0;
}

size_t pretokenize_next(const char *text, size_t bytes) {
    size_t end = 0, length;
    /* A stretch of separators, up to a space that belongs to the word after it. */
    while (end < bytes && (length = separator(text + end, bytes - end)) > 0) {
        if (text[end] == ' ' && end + 1 < bytes && separator(text + end + 1, bytes - end - 1) == 0) break;
        end += length;
    }
    if (end > 0) return end;
    /* A word. Byte by byte is enough: what follows a character's first byte never looks like a separator's
     * first. */
    for (end = 1; end < bytes && separator(text + end, bytes - end) == 0;) end++;
    return end;
}
