#include "common/text/score.h"

#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wctype.h>

#include "common/base/error.h"
#include "common/base/utf8.h"

/* ---- characters ---- */

enum { REPLACEMENT = 0xfffd };

/* Of ASCII: Python's string.punctuation, with which the evaluation is defined. */
static bool is_punctuation(uint32_t c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

/* Unicode's white space, and the four separators of ASCII. The C library leaves out the spaces at which a
 * line must not break. */
static bool is_space(uint32_t c, locale_t locale) {
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x2007 || c == 0x202f || iswspace_l((wint_t)c, locale);
}

/* What a word is made of for the articles' borders. */
static bool is_word(uint32_t c, locale_t locale) {
    return c < 0x80 ? (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') : iswalnum_l((wint_t)c, locale) != 0;
}

/* ---- normalising ---- */

/* Reads UTF-8 into characters: lower case, without punctuation. Returns how many. */
static size_t read_characters(uint32_t *to, const char *text, size_t bytes, locale_t locale) {
    size_t count = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t c;
        at += utf8_read(text + at, bytes - at, &c);
        if (c == UTF8_BROKEN || c == 0) c = REPLACEMENT;
        c = (uint32_t)towlower_l((wint_t)c, locale);
        if (!is_punctuation(c)) to[count++] = c;
    }
    return count;
}

/* The length of the article that stands at `at`, a word of its own; 0 where there is none. */
static size_t article(const uint32_t *text, size_t count, size_t at, locale_t locale) {
    static const char *const articles[] = {"a", "an", "the"};
    if (at > 0 && is_word(text[at - 1], locale)) return 0;
    for (size_t i = 0; i < sizeof articles / sizeof *articles; i++) {
        size_t length = strlen(articles[i]), same = 0;
        while (same < length && at + same < count && text[at + same] == (unsigned char)articles[i][same])
            same++;
        if (same == length && (at + length == count || !is_word(text[at + length], locale))) return length;
    }
    return 0;
}

/* An article counts as a space. */
static char *write_words(const uint32_t *text, size_t count, locale_t locale) {
    char *out = xmalloc(4 * count + 1);
    size_t bytes = 0;
    bool space = false; /* one is due before the next character */
    for (size_t at = 0; at < count;) {
        size_t skip = article(text, count, at, locale);
        if (!skip && !is_space(text[at], locale)) {
            if (space && bytes) out[bytes++] = ' ';
            bytes += utf8_write(out + bytes, text[at++]);
            space = false;
        } else {
            at += skip ? skip : 1;
            space = true;
        }
    }
    out[bytes] = '\0';
    return out;
}

/* Unicode's character classes whatever language the user's shell speaks. */
static locale_t open_locale(void) {
    locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!locale) locale = newlocale(LC_CTYPE_MASK, "en_US.UTF-8", (locale_t)0);
    if (!locale)
        fail("this machine has neither the locale C.UTF-8 nor en_US.UTF-8, which comparing answers needs; "
             "install one (Debian: package locales), or unset predict_with_generate");
    return locale;
}

char *score_normalize(const char *text, size_t bytes) {
    locale_t locale = open_locale();
    uint32_t *characters = xmalloc((bytes + 1) * sizeof *characters);
    size_t count = read_characters(characters, text, bytes, locale);
    char *normalized = write_words(characters, count, locale);
    free(characters);
    freelocale(locale);
    return normalized;
}

/* ---- comparing ---- */

struct words {
    char *text; /* each word NUL-terminated */
    char **words;
    size_t count;
};

static int compare_words(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The words of a normalised text, sorted. */
static struct words words_of(const char *normalized) {
    struct words w = {.text = xstrdup(normalized)};
    w.words = xmalloc((strlen(normalized) / 2 + 1) * sizeof *w.words);
    char *rest = NULL;
    for (char *word = strtok_r(w.text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        w.words[w.count++] = word;
    qsort(w.words, w.count, sizeof *w.words, compare_words);
    return w;
}

static void words_free(struct words *words) {
    free(words->text);
    free(words->words);
}

/* Words that both have, as often as both have them. */
static size_t common_words(const struct words *a, const struct words *b) {
    size_t common = 0;
    for (size_t i = 0, j = 0; i < a->count && j < b->count;) {
        int order = strcmp(a->words[i], b->words[j]);
        common += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return common;
}

static double f1_of(const char *answer, const char *reference) {
    struct words a = words_of(answer), b = words_of(reference);
    size_t common = common_words(&a, &b);
    double f1 = common ? 2.0 * (double)common / (double)(a.count + b.count) : 0;
    words_free(&a);
    words_free(&b);
    return f1;
}

struct score score_answer(const char *answer, size_t bytes, const struct squad_text *references, int count) {
    struct score best = {0, 0};
    char *mine = score_normalize(answer, bytes);
    for (int i = 0; i < count; i++) {
        char *reference = score_normalize(references[i].data, references[i].bytes);
        double f1 = f1_of(mine, reference);
        if (!strcmp(mine, reference)) best.exact_match = 1;
        if (f1 > best.f1) best.f1 = f1;
        free(reference);
    }
    free(mine);
    return best;
}
