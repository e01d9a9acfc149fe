/*
 * test_tokenizer DIR…   Holds DIR/tokenizer.json against DIR/cases.jsonl: every id and every decoding, and
 * prints load time and tokens a second. Without arguments: the fixtures, and what bad files must say.
 */
#include "tests/support/check.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/utf8.h"
#include "common/text/byte_map.h"
#include "common/text/pretokenize.h"
#include "common/text/tokenizer.h"

/* --------------------------------------------- Hugging Face's answers
 * ---------------------------------------- */

struct cases {
    int count;
    char **texts;
    size_t *bytes;
};

static void check_case(const struct tokenizer *tokenizer, const json_t *line, const char *where) {
    const json_t *text = json_object_get(line, "text"), *expected = json_object_get(line, "ids");
    const json_t *decoded = json_object_get(line, "decoded");
    if (!json_is_string(text) || !json_is_array(expected) || !json_is_string(decoded))
        fail_msg("%s: not a case", where);
    struct ids ids = {0};
    tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), &ids);
    if (ids.count != json_array_size(expected))
        fail_msg("%s: %zu ids, not %zu", where, ids.count, json_array_size(expected));
    for (size_t i = 0; i < ids.count; i++)
        if (ids.data[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s: id %zu is %d, not %lld", where, i, (int)ids.data[i],
                     (long long)json_integer_value(json_array_get(expected, i)));
    size_t bytes;
    char *back = tokenizer_decode(tokenizer, ids.data, ids.count, &bytes);
    if (bytes != json_string_length(decoded) || memcmp(back, json_string_value(decoded), bytes) != 0)
        fail_msg("%s: decoded to '%s'", where, back);
    free(back);
    ids_free(&ids);
}

/* Checks every line of DIR/cases.jsonl and keeps its texts for the timing. */
static struct cases check_cases(const struct tokenizer *tokenizer, const char *path) {
    struct error error;
    struct file_map map;
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    struct cases cases = {0};
    for (size_t at = 0, end; at < map.size; at = end + 1) {
        const char *newline = memchr(map.data + at, '\n', map.size - at);
        end = newline ? (size_t)(newline - map.data) : map.size;
        char *where = xformat("%s:%d", path, cases.count + 1);
        json_t *line = json_read_bytes(map.data + at, end - at, where, &error);
        if (!line) fail_msg("%s", error.text);
        check_case(tokenizer, line, where);
        const json_t *text = json_object_get(line, "text");
        cases.texts = xrealloc(cases.texts, (cases.count + 1ul) * sizeof *cases.texts);
        cases.bytes = xrealloc(cases.bytes, (cases.count + 1ul) * sizeof *cases.bytes);
        cases.bytes[cases.count] = json_string_length(text);
        cases.texts[cases.count] =
            memcpy(xmalloc(json_string_length(text)), json_string_value(text), json_string_length(text));
        cases.count++;
        json_decref(line);
        free(where);
    }
    file_unmap(&map);
    return cases;
}

/* Tokens a second of all threads, over the cases again and again for at least half a second. */
static double measure(const struct tokenizer *tokenizer, const struct cases *cases, int *threads) {
    double start = omp_get_wtime(), seconds;
    long long tokens = 0;
    do {
#pragma omp parallel for reduction(+ : tokens) schedule(dynamic, 16)
        for (int i = 0; i < cases->count; i++) {
            struct ids ids = {0};
            tokenizer_encode(tokenizer, cases->texts[i], cases->bytes[i], &ids);
            tokens += (long long)ids.count;
            ids_free(&ids);
        }
        seconds = omp_get_wtime() - start;
    } while (seconds < 0.5 && tokens > 0);
    *threads = omp_get_max_threads();
    return (double)tokens / seconds;
}

static void check_directory(const char *directory) {
    struct error error;
    char *path = xformat("%s/tokenizer.json", directory), *cases_path = xformat("%s/cases.jsonl", directory);
    double start = omp_get_wtime();
    struct tokenizer *tokenizer = tokenizer_load(path, &error);
    double seconds = omp_get_wtime() - start;
    if (!tokenizer) fail_msg("%s", error.text);
    if (file_exists(cases_path)) {
        struct cases cases = check_cases(tokenizer, cases_path);
        assert_true(cases.count > 0);
        int threads;
        double rate = measure(tokenizer, &cases, &threads);
        printf("%s: %d ids, loaded in %.3f s; %d cases right; %.2f million tokens/s on %d threads\n",
               directory, tokenizer_size(tokenizer), seconds, cases.count, rate / 1e6, threads);
        for (int i = 0; i < cases.count; i++) free(cases.texts[i]);
        free(cases.texts);
        free(cases.bytes);
    } else {
        printf("%s: %d ids, loaded in %.3f s; no cases.jsonl, so only loaded\n", directory,
               tokenizer_size(tokenizer), seconds);
    }
    tokenizer_free(tokenizer);
    free(path);
    free(cases_path);
}

static void test_given(void **state) {
    check_directory(*state);
}

static void test_fixture(void **state) {
    char *directory = source_path(*state);
    check_directory(directory);
    free(directory);
}

/* ------------------------------------------------------- the parts
 * ------------------------------------------- */

static void test_utf8(void **state) {
    (void)state;
    char text[4];
    uint32_t read;
    for (uint32_t character = 0; character < 0x110000; character++) {
        size_t bytes = utf8_write(text, character);
        size_t length = utf8_read(text, bytes, &read);
        if (character >= 0xd800 && character < 0xe000)
            assert_true(read == UTF8_BROKEN && length == 1);
        else
            assert_true(read == character && length == bytes);
        /* Cut short, it is one broken beginning. */
        if (bytes > 1 && read == character)
            assert_true(utf8_read(text, bytes - 1, &read) == bytes - 1 && read == UTF8_BROKEN);
    }
    static const struct {
        const char *text;
        size_t length;
    } broken[] = {{"\x80", 1},     {"\xc0\xaf", 1}, {"\xc1\xbf", 1},     {"\xe0\x9f\xbf", 1},
                  {"\xed\xa0", 1}, {"\xe2\x82", 2}, {"\xf0\x8f\x80", 1}, {"\xf0\x90\x80", 3},
                  {"\xf4\x90", 1}, {"\xf5\x80", 1}, {"\xff", 1},         {"\xe2\x82\x41", 2}};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        assert_int_equal(utf8_read(broken[i].text, strlen(broken[i].text), &read), broken[i].length);
        assert_int_equal(read, UTF8_BROKEN);
    }
}

static void test_byte_map(void **state) {
    (void)state;
    int found = 0;
    for (uint32_t character = 0; character < 0x110000; character++) {
        int byte = byte_map_byte(character);
        if (byte < 0) continue;
        assert_int_equal(byte_map_character((unsigned char)byte), character);
        found++;
    }
    assert_int_equal(found, 256);
    assert_int_equal(byte_map_character(' '), 0x120);
    assert_int_equal(byte_map_character('\n'), 0x10a);
    assert_int_equal(byte_map_character(173), 0x143);
}

/* The characters c for which Hugging Face's pre-tokenizer cuts "a" c "b", found by trying all of Unicode. */
static const uint32_t separators[] = {
    0x9,    0xa,    0xb,    0xc,    0xd,    0x20,   0x21,   0x28,   0x29,   0x2c,   0x2e,   0x3f,   0x7c,
    0x85,   0xa0,   0x60c,  0x6d4,  0x964,  0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
    0x2007, 0x2008, 0x2009, 0x200a, 0x2026, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000, 0x3001, 0x3002, 0xff0c};

static void test_separators(void **state) {
    (void)state;
    size_t next = 0, count = sizeof separators / sizeof *separators;
    for (uint32_t character = 0; character < 0x110000; character++) {
        char text[6] = "a";
        size_t bytes = 1 + utf8_write(text + 1, character);
        text[bytes++] = 'b';
        bool expected = next < count && separators[next] == character;
        if (expected) next++;
        if ((pretokenize_next(text, bytes) < bytes) != expected) fail_msg("U+%04x", character);
    }
    assert_int_equal(next, count);
}

static void test_pieces(void **state) {
    (void)state;
    static const char *const texts[][8] = {{"Hello", " (", "big", ") ", " world", "."},
                                           {" a"},
                                           {"  ", " a"},
                                           {" \n", "a"},
                                           {"\n", " a"},
                                           {" "},
                                           {"a", "   "},
                                           {"a", " ", " b"},
                                           {"a", ".", " b"},
                                           {"[x]", "|", "y"},
                                           {"a", "\u3000 ", " \u00e9"},
                                           {"\xe2\x80", " \x80"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[64] = "";
        for (int p = 0; p < 8 && texts[i][p]; p++) strcat(text, texts[i][p]);
        size_t at = 0, bytes = strlen(text);
        for (int p = 0; p < 8 && texts[i][p]; p++) {
            size_t length = pretokenize_next(text + at, bytes - at);
            if (length != strlen(texts[i][p])) fail_msg("'%s': piece %d has %zu bytes", text, p, length);
            at += length;
        }
        assert_int_equal(at, bytes);
    }
}

/* ---------------------------------------------------- odd texts
 * ---------------------------------------------- */

static struct tokenizer *load_fixture(const char *directory) {
    struct error error;
    char *folder = source_path(directory), *path = xformat("%s/tokenizer.json", folder);
    struct tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail_msg("%s", error.text);
    free(folder);
    free(path);
    return tokenizer;
}

static void test_ids(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load_fixture("tests/fixtures/tokenizer");
    assert_int_equal(tokenizer_size(tokenizer), 12000);
    assert_int_equal(tokenizer_id(tokenizer, "<unk>"), 0);
    assert_int_equal(tokenizer_id(tokenizer, "</s>"), 2);
    assert_int_equal(tokenizer_id(tokenizer, "no such token"), -1);
    assert_int_equal(tokenizer_id(tokenizer, ""), -1);
    /* Ids that are no token are skipped, as Hugging Face's library does. */
    int32_t ids[] = {-1, 2, 12000, INT32_MAX, 3};
    size_t bytes;
    char *text = tokenizer_decode(tokenizer, ids, 5, &bytes);
    assert_string_equal(text, "</s><pad>");
    assert_int_equal(bytes, 9);
    free(text);
    text = tokenizer_decode(tokenizer, NULL, 0, &bytes);
    assert_string_equal(text, "");
    free(text);
    tokenizer_free(tokenizer);
}

/* Bytes that are no UTF-8, and pieces long enough that a merge in quadratic time would take minutes. */
static void test_long_and_broken(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load_fixture("tests/fixtures/tokenizer");
    struct ids ids = {0};
    const size_t bytes = 1 << 20;
    char *text = xmalloc(bytes), *all_bytes = xmalloc(256);
    for (int i = 0; i < 256; i++) all_bytes[i] = (char)i;
    tokenizer_encode(tokenizer, all_bytes, 256, &ids);
    assert_true(ids.count > 128 && ids.count <= 256);
    ids.count = 0;
    const char *const fills[] = {"a", "ab", "in the", "\xff", "\xe4\xb8\xad", " "};
    for (size_t f = 0; f < sizeof fills / sizeof *fills; f++) {
        for (size_t i = 0; i < bytes; i++) text[i] = fills[f][i % strlen(fills[f])];
        double start = omp_get_wtime();
        ids.count = 0;
        tokenizer_encode(tokenizer, text, bytes, &ids);
        if (omp_get_wtime() - start > 20) fail_msg("a megabyte of '%s' takes too long", fills[f]);
        size_t decoded;
        char *back = tokenizer_decode(tokenizer, ids.data, ids.count, &decoded);
        if (f == 3) /* one U+FFFD a byte */
            assert_int_equal(decoded, 3 * bytes);
        else if (f != 4) /* not cut inside a character */
            assert_true(decoded == bytes && !memcmp(back, text, bytes));
        free(back);
    }
    tokenizer_encode(tokenizer, NULL, 0, &ids);
    free(text);
    free(all_bytes);
    ids_free(&ids);
    tokenizer_free(tokenizer);
}

/* More distinct words than a cache holds: what it gives before and after it is emptied must be the same. */
static void test_cache(void **state) {
    (void)state;
    struct tokenizer *tokenizer = load_fixture("tests/fixtures/tokenizer");
    struct ids first = {0}, second = {0};
    char word[32];
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 300000; i++)
            tokenizer_encode(tokenizer, word, (size_t)snprintf(word, sizeof word, " w%dth", i),
                             pass ? &second : &first);
    assert_int_equal(first.count, second.count);
    assert_memory_equal(first.data, second.data, first.count * sizeof *first.data);
    ids_free(&first);
    ids_free(&second);
    tokenizer_free(tokenizer);
}

/* ---------------------------------------------------- bad files
 * ---------------------------------------------- */

struct change {
    const char *from, *to; /* in tests/fixtures/trainer-cut/model/tokenizer.json */
    const char *says;      /* NULL: the file is fine all the same */
};

static const struct change changes[] = {
    {"\"version\": \"1.0\"", "\"version\": \"2.0\"", "version"},
    {"\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}", "normalizer"},
    {"[.,!?", "[.,!", "pretokenizers[0].pattern"},
    {"\"Regex\": ", "\"String\": ", "pretokenizers[0].pattern"},
    {"\"Isolated\"", "\"Removed\"", "pretokenizers[0].behavior"},
    {"\"invert\": false", "\"invert\": true", "pretokenizers[0].invert"},
    {"\"Split\"", "\"Digits\"", "pretokenizers[0].type"},
    {"\"add_prefix_space\": false", "\"add_prefix_space\": true", "add_prefix_space"},
    {"\"trim_offsets\": true, \"use_regex\": false", "\"trim_offsets\": true, \"use_regex\": true",
     "use_regex"},
    {"\"trim_offsets\": true, \"use_regex\": false", "\"trim_offsets\": true", "use_regex"},
    {"\"type\": \"Sequence\"", "\"type\": \"Whitespace\"", "pre_tokenizer"},
    {"\"post_processor\": {\"type\": \"ByteLevel\"", "\"post_processor\": {\"type\": \"TemplateProcessing\"",
     "post_processor"},
    {"\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"Metaspace\"", "decoder"},
    {"\"type\": \"BPE\"", "\"type\": \"Unigram\"", "model.type"},
    {"\"type\": \"BPE\", ", "", NULL},
    {"\"dropout\": null", "\"dropout\": 0.1", "model.dropout"},
    {"\"dropout\": null", "\"dropout\": 0.0", NULL},
    {"\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"",
     "continuing_subword_prefix"},
    {"\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"\"", NULL},
    {"\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "end_of_word_suffix"},
    {"\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback"},
    {"\"ignore_merges\": false", "\"ignore_merges\": true", "ignore_merges"},
    {"\"ignore_merges\": false, ", "", NULL},
    {"\"vocab\": {", "\"vocab\": {\"!\": 5, ", "'!' is there twice"},
    {"\"!\": 4", "\"!\": 5", "both have id 5"},
    {"\"!\": 4", "\"!\": -1", "model.vocab: '!'"},
    {"\"!\": 4", "\"!\": 4.0", "tokenizer.json:1:1315: expected an integer"},
    {"\"!\": 4", "\"!\": 99999999999", "model.vocab: '!'"},
    {"\"!\": 4", "\"!!!\": 4", "byte 0x21"},
    {"\"vocab\": {", "\"vocab\": 3, \"words\": {", "model.vocab"},
    {"\"merges\": [", "\"merges\": {}, \"rules\": [", "model.merges"},
    {"\"merges\": [", "\"merges\": [\"a\", ", "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [\"a b c\", ", "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [[\"h\", \"e\", \"\"], ", "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [[\"h\", 1], ", "model.merges[0]"},
    {"\"merges\": [", "\"merges\": [[\"zzz\", \"e\"], ", "'zzz' is not in model.vocab"},
    {"\"merges\": [", "\"merges\": [[\"h\", \"zzz\"], ", "'zzz' is not in model.vocab"},
    {"\"merges\": [", "\"merges\": [[\"~\", \"~\"], ", "'~~' is not in model.vocab"},
    {"\"merges\": [", "\"merges\": [\"#version: 0.2\", ", NULL},
    {"\"model\": {", "\"model\": 1, \"other\": {", "model"},
    {"\"single_word\": false", "\"single_word\": true", "added_tokens[0].single_word"},
    {"\"lstrip\": false", "\"lstrip\": true", "added_tokens[0].lstrip"},
    {"\"rstrip\": false", "\"rstrip\": true", "added_tokens[0].rstrip"},
    {"\"normalized\": false", "\"normalized\": 1", "added_tokens[0].normalized"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": 0, \"content\": \"\"", "added_tokens[0].content"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": 0", "added_tokens[0].content"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": \"0\", \"content\": \"<unk>\"", "added_tokens[0].id"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": 7, \"content\": \"<unk>\"", "added_tokens[0].id"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": 7, \"content\": \"<new>\"", "added_tokens[0].id"},
    {"\"id\": 0, \"content\": \"<unk>\"", "\"id\": 900, \"content\": \"<new>\"", NULL},
    {"\"added_tokens\": [", "\"added_tokens\": 1, \"others\": [", "added_tokens"},
    {"\"version\"", "\"version", "tokenizer.json:1:"},
    {"\"version\"", "\"model\": {}, \"version\"", "model is there twice"},
    {"\"version\"", "\"decoder\": {}, \"version\"", "decoder is there twice"},
    {"\"vocab\": {", "\"vocab\": {}, \"vocab\": {", "model.vocab is there twice"},
    {"\"merges\": [", "\"merge\": [", "model.merges is missing"},
    {"\"model\": {", "\"modle\": {", "model is missing"},
};

static void test_bad_files(void **state) {
    (void)state;
    struct error error = {""};
    struct file_map map;
    char *path = source_path("tests/fixtures/trainer-cut/model/tokenizer.json");
    assert_true(file_map(&map, path, &error));
    char *text = xmalloc(map.size + 1);
    memcpy(text, map.data, map.size);
    text[map.size] = '\0';
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const struct change *change = &changes[i];
        const char *found = strstr(text, change->from);
        if (!found) fail_msg("'%s' is not in the file", change->from);
        char *changed =
            xformat("%.*s%s%s", (int)(found - text), text, change->to, found + strlen(change->from));
        error.text[0] = '\0';
        struct tokenizer *tokenizer = tokenizer_parse(changed, strlen(changed), "tokenizer.json", &error);
        if ((tokenizer == NULL) != (change->says != NULL))
            fail_msg("'%s' instead of '%s': %s", change->to, change->from, error.text);
        if (!tokenizer) CHECK_ERROR(&error, "tokenizer.json:", change->says);
        tokenizer_free(tokenizer);
        free(changed);
    }
    /* Cut off anywhere, it is an error and nothing worse. */
    for (size_t bytes = 0; bytes < map.size - 2; bytes += 997)
        assert_null(tokenizer_parse(text, bytes, "tokenizer.json", &error));
    assert_null(tokenizer_parse("[]", 2, "tokenizer.json", &error));
    assert_null(tokenizer_load("/nonexistent/tokenizer.json", &error));
    CHECK_ERROR(&error, "/nonexistent/tokenizer.json", "No such file");
    free(text);
    file_unmap(&map);
    free(path);
}

int main(int count, char **arguments) {
    if (count > 1) {
        struct CMUnitTest *given = xcalloc((unsigned long)count, sizeof *given);
        for (int i = 1; i < count; i++)
            given[i - 1] = (struct CMUnitTest){arguments[i], test_given, NULL, NULL, arguments[i]};
        int failed = _cmocka_run_group_tests("tokenizer", given, (size_t)count - 1, NULL, NULL);
        free(given);
        return failed;
    }
    const struct CMUnitTest tests[] = {
        {"tokenizer", test_fixture, NULL, NULL, "tests/fixtures/tokenizer"},
        {"tokenizer-added", test_fixture, NULL, NULL, "tests/fixtures/tokenizer-added"},
        {"trainer-short", test_fixture, NULL, NULL, "tests/fixtures/trainer-short/model"},
        {"trainer-cut", test_fixture, NULL, NULL, "tests/fixtures/trainer-cut/model"},
        {"trainer-seed", test_fixture, NULL, NULL, "tests/fixtures/trainer-seed/model"},
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_byte_map),
        cmocka_unit_test(test_separators),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_long_and_broken),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
