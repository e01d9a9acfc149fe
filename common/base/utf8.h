/*
 * UTF-8: one character at a time, strictly (RFC 3629: no overlong forms, no surrogates, nothing above
 * U+10FFFF).
 */
#ifndef COMMON_BASE_UTF8_H
#define COMMON_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define UTF8_BROKEN UINT32_MAX

/* Reads the character at `text` (of `bytes` > 0 bytes) into *character and returns its length, 1 to 4 bytes.
 * Where there is none, *character is UTF8_BROKEN and the length that of the longest beginning of a character
 * that is there, or 1: what one U+FFFD replaces (Unicode 15, 3.9, "maximal subparts"). */
size_t utf8_read(const char *text, size_t bytes, uint32_t *character);

/* Writes a character (below 0x110000) to `text`, which has room for 4 bytes; returns its length. */
size_t utf8_write(char *text, uint32_t character);

#endif
