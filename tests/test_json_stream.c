/* The streaming JSON reader against jansson: the same texts accepted, the same strings read, and where errors
 * point. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/json_stream.h"

static bool accepts(const char *data, size_t size, struct error *error) {
    struct json_stream stream;
    json_stream_open(&stream, data, size, "some.json", error);
    bool ok = json_stream_skip(&stream) && json_stream_end(&stream);
    assert_int_equal(ok, !stream.failed);
    json_stream_close(&stream);
    return ok;
}

static const char *const good[] = {
    "[]",
    "{}",
    " [ 1 , -2.5e+10 , 0, 0.5, 1E5, -0 ]\n",
    "{\"a\": {\"b\": [true, false, null]}, \"\": \"\"}",
    "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u4e2d\\ud83d\\ude00\"]",
    "[\"\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80 \x7f\"]",
};
static const char *const bad[] = {
    "",
    "[",
    "]",
    "[1",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{\"a\"}",
    "{\"a\":}",
    "{a: 1}",
    "{\"a\": 1,}",
    "{\"a\" 1}",
    "[01]",
    "[-]",
    "[1.]",
    "[.5]",
    "[1e]",
    "[+1]",
    "[tru]",
    "[nulll]",
    "[\"a]",
    "[\"\\x\"]",
    "[\"\\u12\"]",
    "[\"\\u12g4\"]",
    "[\"\\ud83d\"]",
    "[\"\\ude00\"]",
    "[\"\\ud83d\\u0041\"]",
    "[\"\n\"]",
    "[\"\xc3\"]",
    "[\"\xed\xa0\x80\"]",
    "[\"\xc0\xaf\"]",
    "[1] 2",
    "{\"a\": 1",
    "[\"\\",
    "[\"\\u",
    "[\"\xff\"]",
    "[1}",
    "{]",
    "{\"a\": 1]",
    "'a'",
    "[NaN]",
};

static void test_same_as_jansson(void **state) {
    (void)state;
    struct error error;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!accepts(good[i], strlen(good[i]), &error)) fail_msg("'%s': %s", good[i], error.text);
        json_t *tree = json_read_bytes(good[i], strlen(good[i]), "some.json", &error);
        assert_non_null(tree);
        json_decref(tree);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        error.text[0] = '\0';
        if (accepts(bad[i], strlen(bad[i]), &error)) fail_msg("'%s' was accepted", bad[i]);
        CHECK_ERROR(&error, "some.json:");
        assert_null(json_read_bytes(bad[i], strlen(bad[i]), "some.json", NULL));
    }
    /* A good text cut off anywhere is a bad one. */
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        for (size_t bytes = 0; bytes + 1 < strlen(good[i]); bytes++)
            assert_false(accepts(good[i], bytes, &error));
}

static void test_strings(void **state) {
    (void)state;
    struct error error;
    for (size_t i = 4; i < 6; i++) {
        json_t *tree = json_read_bytes(good[i], strlen(good[i]), "some.json", &error);
        struct json_stream stream;
        json_stream_open(&stream, good[i], strlen(good[i]), "some.json", &error);
        struct json_list list = json_stream_begin(&stream, '[');
        const char *text;
        size_t bytes;
        assert_true(json_stream_element(&stream, &list));
        assert_true(json_stream_string(&stream, &text, &bytes));
        assert_int_equal(bytes, json_string_length(json_array_get(tree, 0)));
        assert_memory_equal(text, json_string_value(json_array_get(tree, 0)), bytes);
        assert_false(json_stream_element(&stream, &list));
        assert_true(json_stream_end(&stream));
        json_stream_close(&stream);
        json_decref(tree);
    }
}

static bool integer(const char *text, long long *value, struct error *error) {
    struct json_stream stream;
    json_stream_open(&stream, text, strlen(text), "some.json", error);
    bool ok = json_stream_integer(&stream, value);
    json_stream_close(&stream);
    return ok;
}

static void test_integers(void **state) {
    (void)state;
    struct error error;
    long long value;
    assert_true(integer("0", &value, &error) && value == 0);
    assert_true(integer("-17", &value, &error) && value == -17);
    assert_true(integer("9223372036854775807", &value, &error) && value == INT64_MAX);
    assert_true(integer("-9223372036854775808", &value, &error) && value == INT64_MIN);
    const char *const wrong[] = {"9223372036854775808",
                                 "-9223372036854775809",
                                 "99999999999999999999",
                                 "1.0",
                                 "1e2",
                                 "\"1\"",
                                 "",
                                 "-",
                                 "x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_false(integer(wrong[i], &value, &error));
}

static void test_places(void **state) {
    (void)state;
    struct error error;
    const char *text = "{\n  \"\u00e9\": [1,\n   x]}";
    assert_false(accepts(text, strlen(text), &error));
    CHECK_ERROR(&error, "some.json:3:4: malformed JSON: expected a value");
    text = "{\"\u00e9\u00e9\" 1}";
    assert_false(accepts(text, strlen(text), &error));
    CHECK_ERROR(&error, "some.json:1:7: malformed JSON: expected :");
    assert_false(accepts("[1, 2", 5, &error));
    CHECK_ERROR(&error, "ends too early");
}

static void test_deep(void **state) {
    (void)state;
    struct error error;
    char text[100000];
    memset(text, '[', sizeof text);
    assert_false(accepts(text, sizeof text, &error));
    CHECK_ERROR(&error, "nested too deeply");
    for (size_t i = 0; i < sizeof text; i++) text[i] = "{\"\":"[i % 4];
    assert_false(accepts(text, sizeof text, &error));
    CHECK_ERROR(&error, "nested too deeply");
}

/* The first error stays, and every function after it does nothing. */
static void test_after_an_error(void **state) {
    (void)state;
    struct error error = {""};
    struct json_stream stream;
    json_stream_open(&stream, "[1, 2]", 6, "some.json", &error);
    struct json_list list = json_stream_begin(&stream, '{');
    CHECK_ERROR(&error, "some.json:1:1: expected an object");
    const char *text;
    size_t bytes;
    long long value;
    assert_false(json_stream_member(&stream, &list, &text, &bytes));
    assert_false(json_stream_element(&stream, &list));
    assert_false(json_stream_string(&stream, &text, &bytes));
    assert_false(json_stream_integer(&stream, &value));
    assert_false(json_stream_skip(&stream));
    assert_null(json_stream_tree(&stream));
    assert_false(json_stream_end(&stream));
    assert_false(json_stream_refuse(&stream, "another"));
    CHECK_ERROR(&error, "some.json:1:1: expected an object");
    json_stream_close(&stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_jansson),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_deep),
        cmocka_unit_test(test_after_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
