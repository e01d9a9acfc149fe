/* SQuAD files: both versions, members in any order, limits, and what bad files must say. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/text/squad.h"

static void assert_text(struct squad_text text, const char *expected) {
    if (text.bytes != strlen(expected) || memcmp(text.data, expected, text.bytes) != 0)
        fail_msg("'%.*s' is not '%s'", (int)text.bytes, text.data, expected);
}

static const char small[] = "{\"version\": \"v2.0\", \"data\": [{\"title\": \"T\", \"paragraphs\": ["
                            "{\"qas\": [{\"question\": \"Q0?\", \"id\": \"0\", \"answers\": [{\"text\": "
                            "\"A0\", \"answer_start\": 3}, "
                            "{\"text\": \"other\"}], \"is_impossible\": false}, "
                            "{\"plausible_answers\": [{\"text\": \"no\"}], \"answers\": [], \"question\": "
                            "\"Q\\u00311\"}], \"context\": \"C\\n0\"}, "
                            "{\"context\": \"empty\", \"qas\": []}]}, "
                            "{\"paragraphs\": []}, {\"paragraphs\": [{\"context\": \"C1\", \"qas\": "
                            "[{\"question\": \"\", \"answers\": "
                            "[{\"answer_start\": 0, \"text\": \"\\u0000\"}]}]}]}]}";

static void test_small(void **state) {
    (void)state;
    struct error error;
    struct squad squad;
    if (!squad_parse(&squad, small, strlen(small), "small.json", 0, &error)) fail_msg("%s", error.text);
    assert_int_equal(squad.count, 3);
    assert_text(squad.examples[0].question, "Q0?");
    assert_text(squad.examples[0].context, "C\n0");
    assert_text(squad.examples[0].answer, "A0");
    assert_int_equal(squad.examples[0].answer_count, 2);
    assert_text(squad.examples[0].answers[0], "A0");
    assert_text(squad.examples[0].answers[1], "other");
    assert_int_equal(squad.examples[1].answer_count, 1);
    assert_text(squad.examples[1].answers[0], "No Answer");
    assert_text(squad.examples[1].question, "Q11");
    assert_text(squad.examples[1].answer, "No Answer");
    assert_ptr_equal(squad.examples[0].context.data, squad.examples[1].context.data);
    assert_text(squad.examples[2].question, "");
    assert_text(squad.examples[2].context, "C1");
    assert_int_equal(squad.examples[2].answer.bytes, 1);
    assert_int_equal(squad.examples[2].answer.data[0], 0);
    squad_free(&squad);
    for (int limit = 1; limit < 6; limit++) {
        assert_true(squad_parse(&squad, small, strlen(small), "small.json", limit, &error));
        assert_int_equal(squad.count, limit < 3 ? limit : 3);
        assert_text(squad.examples[0].answer, "A0");
        squad_free(&squad);
    }
}

/* The fixtures' files against jansson's reading of them. */
static void check_file(const char *name) {
    struct error error;
    struct squad squad;
    char *path = source_path(name);
    if (!squad_load(&squad, path, 0, &error)) fail_msg("%s", error.text);
    json_t *root = json_read_file(path, &error), *article, *paragraph, *question;
    size_t a, p, q;
    int i = 0;
    json_array_foreach(json_object_get(root, "data"), a, article)
        json_array_foreach(json_object_get(article, "paragraphs"), p, paragraph)
            json_array_foreach(json_object_get(paragraph, "qas"), q, question) {
        const json_t *answer = json_array_get(json_object_get(question, "answers"), 0);
        assert_true(i < squad.count);
        assert_text(squad.examples[i].question, json_string_value(json_object_get(question, "question")));
        assert_text(squad.examples[i].context, json_string_value(json_object_get(paragraph, "context")));
        assert_text(squad.examples[i].answer,
                    answer ? json_string_value(json_object_get(answer, "text")) : "No Answer");
        i++;
    }
    assert_true(i > 0 && i == squad.count);
    json_decref(root);
    squad_free(&squad);
    free(path);
}

static void test_fixtures(void **state) {
    (void)state;
    check_file("tests/fixtures/trainer-short/train.json");
    check_file("tests/fixtures/trainer-short/dev.json");
    check_file("tests/fixtures/trainer-cut/train.json");
    check_file("tests/fixtures/trainer-cut/dev.json");
    check_file("tests/fixtures/trainer-seed/train.json");
    check_file("tests/fixtures/trainer-seed/dev.json");
}

static const struct {
    const char *from, *to, *says; /* in `small` */
} changes[] = {
    {"\"data\": [", "\"date\": [", "small.json:1:1: data: is missing"},
    {"\"data\": [", "\"data\": 1, \"x\": [", "data: expected a list"},
    {"\"data\": [", "\"data\": [1, ", "data[0]: expected an object"},
    {"\"data\": [", "\"data\": [], \"data\": [", "data: is there twice"},
    {"{\"paragraphs\": []}", "{}", "data[1].paragraphs: is missing"},
    {"{\"paragraphs\": []}", "{\"paragraphs\": {}}", "data[1].paragraphs: expected a list"},
    {"{\"paragraphs\": []}", "{\"paragraphs\": [\"\"]}", "data[1].paragraphs[0]: expected an object"},
    {"\"context\": \"empty\"", "\"context\": null", "data[0].paragraphs[1].context: expected a string"},
    {"\"context\": \"empty\", ", "", "data[0].paragraphs[1].context: is missing"},
    {"\"qas\": []", "\"qas\": \"\"", "data[0].paragraphs[1].qas: expected a list"},
    {"\"qas\": []", "\"qas\": [[]]", "data[0].paragraphs[1].qas[0]: expected an object"},
    {"\"question\": \"Q\\u00311\"", "\"question\": 4",
     "data[0].paragraphs[0].qas[1].question: expected a string"},
    {", \"question\": \"Q\\u00311\"", "", "data[0].paragraphs[0].qas[1].question: is missing"},
    {"\"answers\": [], ", "", "data[0].paragraphs[0].qas[1].answers: is missing"},
    {"\"answers\": [], ", "\"answers\": {}, ", "data[0].paragraphs[0].qas[1].answers: expected a list"},
    {"\"answers\": [], ", "\"answers\": [\"a\"], ", "qas[1].answers[0]: expected an object"},
    {"\"text\": \"A0\"", "\"text\": false", "qas[0].answers[0].text: expected a string"},
    {"\"text\": \"A0\"", "\"txt\": false", "qas[0].answers[0].text: is missing"},
    {"\"text\": \"other\"", "\"text\": 7", "qas[0].answers[1].text: expected a string"},
    {"\"data\": [", "\"data\": [[", "small.json:1:"},
    {"C\\n0", "C\n0", "small.json:1:"},
};

static void test_bad(void **state) {
    (void)state;
    struct error error;
    struct squad squad;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const char *found = strstr(small, changes[i].from);
        if (!found) fail_msg("'%s' is not in the text", changes[i].from);
        char *changed =
            xformat("%.*s%s%s", (int)(found - small), small, changes[i].to, found + strlen(changes[i].from));
        error.text[0] = '\0';
        if (squad_parse(&squad, changed, strlen(changed), "small.json", 0, &error))
            fail_msg("'%s' was accepted", changes[i].to);
        CHECK_ERROR(&error, "small.json:1:", changes[i].says);
        assert_null(squad.examples);
        free(changed);
    }
    /* Cut off anywhere, also behind the questions that are wanted. */
    for (size_t bytes = 0; bytes < strlen(small); bytes++)
        assert_false(squad_parse(&squad, small, bytes, "small.json", 1, &error));
    assert_false(squad_load(&squad, "/nonexistent/train.json", 0, &error));
    CHECK_ERROR(&error, "/nonexistent/train.json");
    assert_false(squad_load(&squad, "/", 0, &error));
    CHECK_ERROR(&error, "not a regular file");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_small), cmocka_unit_test(test_fixtures),
                                       cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
