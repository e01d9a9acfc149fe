/*
 * BLOOM's pre-tokenizer: text is cut into pieces, and merges never cross from one piece into the next.
 *
 * Its tokenizer.json says it as a regular expression of the Oniguruma library, PRETOKENIZE_REGEX below, with
 * behaviour "isolated". A bracket inside a class is a nested class there, so it means: an optional space,
 * then one or more characters that are none of
 *
 *     ( ) |   white space   . , ! ? … 。 ， 、 । ۔ ،
 *
 * (PCRE, Python and others read the letters differently.) White space is Unicode's property White_Space.
 * "Isolated": the matches are pieces, and so is each stretch between two matches. As a scanner: a word is a
 * run of other characters with the space right before it, if there is one; a stretch is all between words.
 *
 *   "Hello (big)  world."  →  "Hello"  " ("  "big"  ") "  " world"  "."
 */
#ifndef COMMON_TEXT_PRETOKENIZE_H
#define COMMON_TEXT_PRETOKENIZE_H

#include <stddef.h>

/* The only regex this scanner stands for: a tokenizer.json with another one is refused. */
#define PRETOKENIZE_REGEX " ?[^(\\s|[.,!?…。，、।۔،])]+"

/* The length in bytes, at least 1, of the first piece of `text` (`bytes` > 0 of UTF-8). `text` must be the
 * beginning of a piece: of the text, or where the last piece ended. Bytes that are no valid UTF-8 belong to
 * words. */
size_t pretokenize_next(const char *text, size_t bytes);

#endif
