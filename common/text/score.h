/*
 * How good a predicted answer is: exact match and F1, as SQuAD v1.1's evaluation counts them (Rajpurkar et
 * al., arXiv 1606.05250, section 6.1).
 *
 * Both compare texts after normalisation: lower case; ASCII punctuation removed; the words a, an and the
 * removed; every stretch of white space one space, none at the ends. An answer's score is its best against
 * any of the reference answers. F1 is the harmonic mean of precision and recall of the answer's words, as
 * bags.
 *
 *   answer                 reference         normalised                       exact   F1
 *   "The Bracken Hills."   "Bracken Hills"   "bracken hills"                    1     1
 *   "in the hills"         "Bracken Hills"   "in hills" to "bracken hills"      0     1/2
 *
 * Lower case, white space and the borders of words are Unicode's, one character to one. So two letters differ
 * from the evaluation script's: a capital sigma becomes σ also where it ends a word, and the one letter with
 * a lower case of two characters (U+0130) has one. Bytes that are no UTF-8 count as U+FFFD.
 */
#ifndef COMMON_TEXT_SCORE_H
#define COMMON_TEXT_SCORE_H

#include <stddef.h>

#include "common/text/squad.h"

/* The normalised text, NUL-terminated, which the caller frees. A NUL in the text is a character of its word
 * and comes out as U+FFFD. */
char *score_normalize(const char *text, size_t bytes);

/* 0 or 1, and 0 to 1: the best of `count` references (at least 1). */
struct score {
    double exact_match, f1;
};
struct score score_answer(const char *answer, size_t bytes, const struct squad_text *references, int count);

#endif
