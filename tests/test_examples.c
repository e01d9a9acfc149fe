/* Examples from SQuAD files, against ids that Hugging Face's tokenizers gave for the same texts, and from
 * generators. */
#include "tests/support/check.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/text/examples.h"
#include "common/text/synthetic.h"
#include "tests/support/temporary.h"

static struct tokenizer *load_tokenizer(const char *run) {
    struct error error;
    char *name = xformat("tests/fixtures/%s/model/tokenizer.json", run), *path = source_path(name);
    struct tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail_msg("%s", error.text);
    free(name);
    free(path);
    return tokenizer;
}

/* h = h · 31 + number modulo 2^32, over each example's length and ids. */
static uint32_t hash_of(const struct examples *examples) {
    uint32_t hash = 0;
    for (int i = 0; i < examples->count; i++) {
        hash = hash * 31 + (uint32_t)examples_length(examples, i);
        for (int t = 0; t < examples_length(examples, i); t++)
            hash = hash * 31 + (uint32_t)examples_tokens(examples, i)[t];
    }
    return hash;
}

/* count, tokens, hash: of a Python program that follows examples.h's first paragraph with tokenizers 0.23 */
static const struct {
    const char *run, *file;
    int max_seq_length, subset_size;
    bool append_eos;
    int count;
    size_t tokens;
    uint32_t hash;
} known[] = {
    {"trainer-short", "train.json", 96, 0, false, 37, 1999, 1806978395u},
    {"trainer-short", "dev.json", 96, 0, true, 9, 741, 2734604802u},
    {"trainer-short", "train.json", 96, 7, true, 7, 353, 425144070u},
    {"trainer-cut", "train.json", 48, 0, false, 50, 2063, 908343328u},
    {"trainer-cut", "dev.json", 48, 0, true, 11, 443, 1417443537u},
    {"trainer-cut", "train.json", 48, 7, true, 7, 277, 3960708436u},
    {"trainer-seed", "train.json", 72, 0, false, 40, 2212, 1844118360u},
    {"trainer-seed", "dev.json", 72, 0, true, 10, 617, 3931119666u},
    {"trainer-seed", "train.json", 72, 7, true, 7, 431, 2176781514u},
};

static void test_files(void **state) {
    (void)state;
    struct error error;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct tokenizer *tokenizer = load_tokenizer(known[i].run);
        char *name = xformat("tests/fixtures/%s/%s", known[i].run, known[i].file), *path = source_path(name);
        struct examples_options options = {.max_seq_length = known[i].max_seq_length,
                                           .vocabulary = tokenizer_size(tokenizer),
                                           .subset_size = known[i].subset_size,
                                           .append_eos = known[i].append_eos,
                                           .eos_id = 2};
        for (int threads = 1; threads <= 4; threads += 3) {
            struct examples examples;
            omp_set_num_threads(threads);
            if (!examples_load(&examples, path, tokenizer, &options, &error)) fail_msg("%s", error.text);
            assert_int_equal(examples.count, known[i].count);
            assert_int_equal(examples.starts[examples.count], known[i].tokens);
            assert_int_equal(hash_of(&examples), known[i].hash);
            examples_free(&examples);
        }
        tokenizer_free(tokenizer);
        free(name);
        free(path);
    }
}

/* More examples than a lot of the parallel tokenizer, so that the joining of lots is tested with many
 * threads. */
static void test_lots(void **state) {
    (void)state;
    struct error error;
    struct tokenizer *tokenizer = load_tokenizer("trainer-short");
    char *folder = temporary_folder(), *path = xformat("%s/many.json", folder), *text = xstrdup("");
    const int count = 643;
    size_t used = 0, room = 0;
    for (int i = 0; i < count; i++) {
        char *one = xformat("%s{\"question\": \"number %d %.*s?\", \"answers\": []}", i ? ", " : "", i,
                            i % 37, "of the many words in here and there, and");
        size_t bytes = strlen(one);
        if (used + bytes >= room) text = xrealloc(text, room = 2 * (used + bytes + 1));
        memcpy(text + used, one, bytes + 1);
        used += bytes;
        free(one);
    }
    char *file = xformat("{\"data\": [{\"paragraphs\": [{\"context\": \"C\", \"qas\": [%s]}]}]}", text);
    temporary_write_text(folder, "many.json", file);
    struct examples_options options = {
        .max_seq_length = 30, .vocabulary = 900, .append_eos = true, .eos_id = 2};
    struct examples first;
    omp_set_num_threads(1);
    assert_true(examples_load(&first, path, tokenizer, &options, &error));
    assert_int_equal(first.count, count);
    for (int threads = 2; threads <= 7; threads++) {
        struct examples again;
        omp_set_num_threads(threads);
        assert_true(examples_load(&again, path, tokenizer, &options, &error));
        assert_int_equal(again.count, count);
        assert_memory_equal(again.starts, first.starts, (count + 1) * sizeof *first.starts);
        assert_memory_equal(again.tokens, first.tokens, first.starts[count] * sizeof *first.tokens);
        examples_free(&again);
    }
    /* Room for </s> is where the text is shorter than max_seq_length. */
    int with_eos = 0, cut = 0;
    for (int i = 0; i < count; i++) {
        int length = examples_length(&first, i);
        assert_true(length >= 2 && length <= 30);
        bool eos = examples_tokens(&first, i)[length - 1] == 2;
        assert_true(eos || length == 30);
        with_eos += eos;
        cut += !eos;
    }
    assert_true(with_eos > 0 && cut > 0);
    examples_free(&first);
    tokenizer_free(tokenizer);
    free(text);
    free(file);
    free(path);
    temporary_remove(folder);
}

/* Lines as they stand: LF and CR LF, blank lines left out, a last line without an end. */
static void test_lines(void **state) {
    (void)state;
    struct error error;
    struct tokenizer *tokenizer = load_tokenizer("trainer-short");
    char *folder = temporary_folder(), *path = xformat("%s/some.txt", folder);
    const char *const lines[] = {"Who reads on?", "In the town there is a river.",
                                 " The last, without an end"};
    char *file = xformat("%s\n\n \t\n%s\r\n\r\n%s", lines[0], lines[1], lines[2]);
    temporary_write_text(folder, "some.txt", file);
    struct examples_options options = {
        .max_seq_length = 64, .vocabulary = 900, .append_eos = true, .eos_id = 2};
    struct examples examples;
    if (!examples_load(&examples, path, tokenizer, &options, &error)) fail_msg("%s", error.text);
    assert_int_equal(examples.count, 3);
    for (int i = 0; i < 3; i++) {
        struct ids ids = {0};
        tokenizer_encode(tokenizer, lines[i], strlen(lines[i]), &ids);
        assert_int_equal(examples_length(&examples, i), ids.count + 1);
        assert_memory_equal(examples_tokens(&examples, i), ids.data, ids.count * sizeof *ids.data);
        assert_int_equal(examples_tokens(&examples, i)[ids.count], 2);
        ids_free(&ids);
    }
    examples_free(&examples);
    options.subset_size = 2;
    options.max_seq_length = 3;
    assert_true(examples_load(&examples, path, tokenizer, &options, &error));
    assert_int_equal(examples.count, 2);
    assert_int_equal(examples_length(&examples, 1), 3);
    examples_free(&examples);
    tokenizer_free(tokenizer);
    free(file);
    free(path);
    temporary_remove(folder);
}

static struct examples generate(const char *source, uint64_t seed) {
    struct error error;
    struct examples examples;
    struct examples_options options = {.max_seq_length = 512,
                                       .vocabulary = 1000,
                                       .seed = seed,
                                       .subset_size = 3,
                                       .append_eos = true,
                                       .eos_id = 2};
    if (!examples_load(&examples, source, NULL, &options, &error)) fail_msg("%s", error.text);
    return examples;
}

static void test_equal_lengths(void **state) {
    (void)state;
    assert_true(examples_are_synthetic("synthetic:2x3"));
    assert_false(examples_are_synthetic("synthetic.json"));
    struct examples one = generate("synthetic:200x256", 1), two = generate("synthetic:200x256", 1);
    struct examples other = generate("synthetic:200x256", 2);
    assert_int_equal(one.count, 200);
    long long counts[1000] = {0};
    for (int i = 0; i < one.count; i++) {
        assert_int_equal(examples_length(&one, i), 256);
        for (int t = 0; t < 256; t++) {
            int32_t id = examples_tokens(&one, i)[t];
            assert_in_range(id, SYNTHETIC_FIRST_ID, 999);
            counts[id]++;
        }
    }
    /* Uniform: 51 of each expected, standard deviation 7. */
    for (int id = SYNTHETIC_FIRST_ID; id < 1000; id++) assert_in_range(counts[id], 15, 95);
    assert_memory_equal(one.tokens, two.tokens, one.starts[200] * sizeof *one.tokens);
    assert_memory_not_equal(one.tokens, other.tokens, one.starts[200] * sizeof *one.tokens);
    /* The same on every machine and in every version: runs are compared across both. */
    assert_int_equal(one.tokens[0], 694);
    assert_int_equal(hash_of(&one), 2772868352u);
    examples_free(&one);
    examples_free(&two);
    examples_free(&other);
}

static void test_random_lengths(void **state) {
    (void)state;
    struct examples examples = generate("synthetic:20000x190-500", 5);
    assert_int_equal(examples.count, 20000);
    double sum = 0, squares = 0;
    for (int i = 0; i < examples.count; i++) {
        int length = examples_length(&examples, i);
        assert_in_range(length, 16, 500);
        sum += length;
        squares += (double)length * length;
    }
    double mean = sum / 20000, deviation = squares / 20000 - mean * mean;
    assert_true(mean > 188 && mean < 192);
    assert_true(deviation > 61 * 61 && deviation < 66 * 66); /* 190 / 3 = 63.3 */
    assert_int_equal(hash_of(&examples), 3237978496u);
    examples_free(&examples);
    examples = generate("synthetic:1000x4-8", 5);
    for (int i = 0; i < examples.count; i++) assert_in_range(examples_length(&examples, i), 4, 8);
    examples_free(&examples);
}

static void check_bad(const char *source, const struct examples_options *options,
                      const struct tokenizer *tokenizer, const char *says) {
    struct error error = {""};
    struct examples examples;
    if (examples_load(&examples, source, tokenizer, options, &error)) fail_msg("'%s' was accepted", source);
    CHECK_ERROR(&error, says);
    assert_null(examples.tokens);
    assert_null(examples.starts);
}

static void test_bad(void **state) {
    (void)state;
    struct examples_options options = {.max_seq_length = 64, .vocabulary = 900};
    const char *const wrong[] = {"synthetic:",
                                 "synthetic:5",
                                 "synthetic:x5",
                                 "synthetic:0x5",
                                 "synthetic:5x",
                                 "synthetic:5x1",
                                 "synthetic:5x-7",
                                 "synthetic:5x8-",
                                 "synthetic:5x8-7",
                                 "synthetic:5x8-9-10",
                                 "synthetic:5x8 ",
                                 "synthetic: 5x8",
                                 "synthetic:-5x8",
                                 "synthetic:5X8",
                                 "synthetic:5x8.5",
                                 "synthetic:20000000x8",
                                 "synthetic:99999999999999999999x8",
                                 "synthetic:5x9999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        check_bad(wrong[i], &options, NULL, "expected synthetic:COUNTxLENGTH");
    check_bad("synthetic:5x65", &options, NULL, "max_seq_length 64");
    check_bad("synthetic:5x20-65", &options, NULL, "max_seq_length 64");
    options.vocabulary = 4;
    check_bad("synthetic:5x8", &options, NULL, "vocabulary of 4");
    options.vocabulary = 900;

    struct tokenizer *tokenizer = load_tokenizer("trainer-short");
    char *path = source_path("tests/fixtures/trainer-short/train.json");
    check_bad(path, &options, NULL, "tokenizer.json");
    check_bad("/nonexistent.json", &options, tokenizer, "/nonexistent.json");
    options.vocabulary = 600;
    check_bad(path, &options, tokenizer, "the model's vocabulary has only 600");
    options.vocabulary = 900;
    options.append_eos = true;
    options.eos_id = 900;
    check_bad(path, &options, tokenizer, "token id 900");
    options.max_seq_length = 1;
    check_bad(path, &options, tokenizer, "max_seq_length 1");
    options.max_seq_length = 64;
    char *folder = temporary_folder(), *empty = xformat("%s/empty.json", folder);
    temporary_write_text(folder, "empty.json", "{\"data\": []}");
    check_bad(empty, &options, tokenizer, "no example left");
    temporary_write_text(folder, "empty.json", "");
    check_bad(empty, &options, tokenizer, "empty.json:1:1: malformed JSON");
    free(empty);
    empty = xformat("%s/empty.txt", folder);
    check_bad(empty, &options, tokenizer, "empty.txt");
    temporary_write_text(folder, "empty.txt", "\n \n");
    check_bad(empty, &options, tokenizer, "no example left: the file has no text");
    temporary_write_text(folder, "empty.txt", "two of them\na\n");
    options.append_eos = false;
    check_bad(empty, &options, tokenizer, "text 2 is a single token");
    temporary_remove(folder);
    free(empty);
    free(path);
    tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),          cmocka_unit_test(test_lots),
        cmocka_unit_test(test_lines),          cmocka_unit_test(test_equal_lengths),
        cmocka_unit_test(test_random_lengths), cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
