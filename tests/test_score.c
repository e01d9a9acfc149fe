/* Exact match and F1: SQuAD v1.1's normalisation case by case, worked out by hand, and scores. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/score.h"

static const struct {
    const char *text, *normalized;
} cases[] = {
    {"", ""},
    {"Bracken Hills", "bracken hills"},
    {"  The\tBracken \n Hills.  ", "bracken hills"},
    {"a", ""},
    {"An apple a day, the doctor", "apple day doctor"},
    {"The the THE", ""},
    {"anthem theatre banana Ana", "anthem theatre banana ana"}, /* articles are whole words */
    {"the-end", "theend"},                                      /* punctuation goes first, without a space, */
    {"the_a", "thea"},                                          /* the low line, too */
    {"U.S.A.", "usa"},                                          /* and leaves no word a */
    {"a.b", "ab"},
    {"$8,200 (about)", "8200 about"},
    {"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", ""},
    {"d'Arc's", "darcs"},
    {"\xc3\x89"
     "COLE \xc3\xa0 la",
     "\xc3\xa9"
     "cole \xc3\xa0 la"},                                       /* É, à */
    {"\xce\xa3\xce\x91 \xd0\x96", "\xcf\x83\xce\xb1 \xd0\xb6"}, /* ΣΑ Ж */
    {"\xe2\x80\x9cthe\xe2\x80\x9d end",
     "\xe2\x80\x9c \xe2\x80\x9d end"},                    /* “the”: not ASCII, and no letter */
    {"the\xc3\xa9 a\xc3\xb1o", "the\xc3\xa9 a\xc3\xb1o"}, /* theé año: letters beside */
    {"5\xe2\x80\x93"
     "6 km",
     "5\xe2\x80\x93"
     "6 km"}, /* an en dash stays */
    {"one\xc2\xa0two\xe3\x80\x80three\xe2\x80\xaf"
     "4",
     "one two three 4"}, /* spaces of all kinds */
    {"\xe4\xb8\xad\xe6\x96\x87 a \xe5\xad\x97", "\xe4\xb8\xad\xe6\x96\x87 \xe5\xad\x97"},
    {"x\xff"
     "y",
     "x\xef\xbf\xbdy"}, /* no UTF-8 */
};

static void test_normalize(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *normalized = score_normalize(cases[i].text, strlen(cases[i].text));
        if (strcmp(normalized, cases[i].normalized) != 0)
            fail_msg("'%s' became '%s', not '%s'", cases[i].text, normalized, cases[i].normalized);
        free(normalized);
    }
    char *nul = score_normalize("a\0b", 3);
    assert_string_equal(nul, "\xef\xbf\xbd"
                             "b"); /* what stands for the NUL borders the article */
    free(nul);
}

static struct score score(const char *answer, const char *one, const char *other) {
    struct squad_text references[] = {{one, strlen(one)}, {other ? other : "", other ? strlen(other) : 0}};
    return score_answer(answer, strlen(answer), references, other ? 2 : 1);
}

static void check_score(const char *answer, const char *one, const char *other, double exact_match,
                        double f1) {
    struct score got = score(answer, one, other);
    if (got.exact_match != exact_match || fabs(got.f1 - f1) > 1e-12)
        fail_msg("'%s' to '%s': %g and %g, not %g and %g", answer, one, got.exact_match, got.f1, exact_match,
                 f1);
}

static void test_scores(void **state) {
    (void)state;
    check_score(" The Bracken Hills.", "Bracken Hills", NULL, 1, 1);
    check_score("in the hills", "Bracken Hills", NULL, 0, 0.5); /* 1 common of 2 and 2 */
    check_score("hills", "Bracken Hills", NULL, 0, 2.0 / 3);    /* precision 1, recall 1/2 */
    check_score("Hills Bracken", "Bracken Hills", NULL, 0, 1);  /* words are a bag, a text is not */
    check_score("hills hills hills", "hills and hills", NULL, 0, 2.0 / 3); /* 2 common of 3 and 3 */
    check_score("1125", "1126", NULL, 0, 0);
    check_score("", "Thursday", NULL, 0, 0);
    check_score("the", "a", NULL, 1, 0); /* both nothing: the evaluation has no words to count */
    /* The best of the references; each score has its own best. */
    check_score("black slate", "slate", "the black slate", 1, 1);
    check_score("of slate", "black slate", "slate", 0, 2.0 / 3);
    check_score("of black slate", "grey", "black slate", 0, 0.8); /* 2 common of 3 and 2 */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_normalize), cmocka_unit_test(test_scores)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
