/*
 * The byte-to-unicode map of GPT-2 and all byte-level tokenizers since: a tokenizer.json spells tokens, which
 * are byte strings, as text, so each of the 256 bytes stands for one visible character. Printable Latin-1
 * bytes stand for themselves; the other 68, in order, for U+0100 … U+0143: a space is "Ġ", a newline "Ċ".
 */
#ifndef COMMON_TEXT_BYTE_MAP_H
#define COMMON_TEXT_BYTE_MAP_H

#include <stdint.h>

uint32_t byte_map_character(unsigned char byte);
int byte_map_byte(uint32_t character); /* −1 where the character stands for no byte */

#endif
