/*
 * Generation with a key-value cache beside the forward pass without one: logits at every position, whether
 * the text comes at once, in pieces or token by token, alone or with others; greedy texts beside
 * Transformers'; where generation ends.
 */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/bloom/generate.h"
#include "tests/support/whole_model.h"

enum { TEXTS = 3, TEXT = 37 }; /* tokens of a text at most */

static const char *const directories[] = {"tests/fixtures/tiny", "tests/fixtures/odd-heads",
                                          "tests/fixtures/post-ln"};

/* ---- a model and its generator ---- */

static struct whole_model model;

static const void *use(void *self, int unit) {
    struct whole_model *w = self;
    return w->model.parameters[unit];
}

static void release(void *self, int unit) {
    (void)self, (void)unit;
}

/* A model with random weights says its last token again and again. With the final layer norm's weight negated
 * it says what is least like it, which is another token nearly every time. */
static void negate_final_norm(void) {
    size_t size = dtype_size(model.dtype), bytes = model.layout.config.hidden * size;
    void *weight = model_tensor(&model.model, model.model.parameters, model.layout.final_norm, NORM_WEIGHT);
    unsigned char *host = xmalloc(bytes);
    copy_to_host(model.stream, host, weight, bytes);
    stream_synchronize(model.stream);
    for (size_t last = size - 1; last < bytes; last += size) host[last] ^= 0x80; /* the sign's byte */
    copy_to_device(model.stream, weight, host, bytes);
    stream_synchronize(model.stream);
    free(host);
}

static void open_model(const char *directory, enum dtype dtype) {
    char *path = source_path(directory);
    struct pack_size capacity = {TEXT, 1, TEXT};
    whole_model_open(&model, path, NULL, dtype, capacity, false, NULL, 0, 1);
    negate_final_norm();
    free(path);
}

static struct generator *open_generator(int sequences, int window, int rows) {
    struct unit_source source = {.self = &model, .use = use, .release = release};
    return generator_open(model.device, model.stream, &source,
                          &(struct generator_options){.layout = &model.layout,
                                                      .dtype = model.dtype,
                                                      .sequences = sequences,
                                                      .window = window,
                                                      .rows = rows});
}

/* Rows of logits on the device as fp32, which the caller frees: [rows, vocabulary]. */
static float *download(const void *logits, int rows) {
    size_t ld = model.layout.padded_vocabulary, vocabulary = model.layout.config.vocabulary;
    size_t size = dtype_size(model.dtype);
    char *host = xmalloc((size_t)rows * ld * size);
    copy_to_host(model.stream, host, logits, (size_t)rows * ld * size);
    stream_synchronize(model.stream);
    float *values = xmalloc((size_t)rows * vocabulary * sizeof *values);
    for (size_t r = 0; r < (size_t)rows; r++) {
        const void *from = host + r * ld * size;
        float *to = values + r * vocabulary;
        if (model.dtype == FP32) memcpy(to, from, vocabulary * sizeof *to);
        if (model.dtype == BF16) bf16_to_floats(to, from, vocabulary);
        if (model.dtype == FP16) fp16_to_floats(to, from, vocabulary);
    }
    free(host);
    return values;
}

/* Logits after every token of a text, by the forward pass of training. */
static float *plain_logits(const int32_t *ids, int count) {
    struct pack pack;
    struct pack_layout layout = {.max_seq_length = TEXT, .pad_to_max_length = true, .pad_id = 3, .eos_id = 2};
    pack_open(&pack, (struct pack_size){TEXT, 1, TEXT});
    pack_add(&pack, &layout, ids, count, 0);
    pack_finish(&pack);
    whole_model_forward(&model, &pack);
    pack_close(&pack);
    return download(model.model.activations.logits, count);
}

static int32_t *random_text(int count, uint64_t seed) {
    int32_t *ids = xmalloc((size_t)count * sizeof *ids);
    for (int i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)(4 + (seed >> 33) % (model.layout.config.vocabulary - 4));
    }
    return ids;
}

static int argmax(const float *row) {
    int best = 0;
    for (int i = 1; i < (int)model.layout.config.vocabulary; i++)
        if (row[i] > row[best]) best = i;
    return best;
}

/* ---- logits ---- */

static double bound_of(enum dtype dtype) {
    return dtype == FP32 ? 1e-4 : dtype == BF16 ? 4e-2 : 1e-2;
}

/* got [vocabulary] beside expected, to `bound_of` the row's largest value. */
static void check_logits(const char *what, int position, const float *got, const float *expected) {
    double largest = 0, worst = 0;
    for (size_t i = 0; i < model.layout.config.vocabulary; i++) {
        largest = fmax(largest, fabs((double)expected[i]));
        worst = fmax(worst, fabs((double)got[i] - (double)expected[i]));
    }
    if (!(worst <= bound_of(model.dtype) * largest))
        fail_msg("%s, %s: logits at position %d are %g off, of %g", what, dtype_name(model.dtype), position,
                 worst, largest);
}

/* Texts of several lengths go through the generator in passes of `step` tokens each, and the logits after
 * each pass are those of the whole text at once. */
static void check_steps(const char *what, int step) {
    int lengths[TEXTS] = {TEXT, 5, 18}, done[TEXTS] = {0};
    int32_t *texts[TEXTS], ids[TEXTS * TEXT], slots[TEXTS * TEXT], positions[TEXTS * TEXT], last[TEXTS],
        next[TEXTS];
    float *expected[TEXTS];
    for (int t = 0; t < TEXTS; t++) {
        texts[t] = random_text(lengths[t], (uint64_t)t + 1);
        expected[t] = plain_logits(texts[t], lengths[t]);
    }
    struct generator *generator = open_generator(TEXTS, TEXT, TEXTS * TEXT);
    for (;;) {
        struct generator_rows rows = {.ids = ids, .slots = slots, .positions = positions, .last = last};
        int asked[TEXTS];
        for (int t = TEXTS; t-- > 0;) { /* not in the order of the slots */
            for (int i = 0; i < step && done[t] < lengths[t]; i++, rows.count++) {
                ids[rows.count] = texts[t][done[t]];
                slots[rows.count] = t;
                positions[rows.count] = done[t]++;
                if (i + 1 < step && done[t] < lengths[t]) continue;
                asked[rows.last_count] = t;
                last[rows.last_count++] = rows.count;
            }
        }
        if (!rows.count) break;
        generator_pass(generator, &rows, next);
        float *got = download(generator_logits(generator), rows.last_count);
        for (int i = 0; i < rows.last_count; i++) {
            size_t vocabulary = model.layout.config.vocabulary;
            const float *row = got + (size_t)i * vocabulary;
            int t = asked[i], position = done[t] - 1;
            check_logits(what, position, row, expected[t] + (size_t)position * vocabulary);
            assert_int_equal(next[i], argmax(row));
        }
        free(got);
    }
    generator_close(generator);
    for (int t = 0; t < TEXTS; t++) {
        free(texts[t]);
        free(expected[t]);
    }
}

static void test_logits(void **state) {
    (void)state;
    static const enum dtype dtypes[] = {FP32, BF16, FP16};
    for (size_t d = 0; d < sizeof directories / sizeof *directories; d++)
        for (size_t t = 0; t < 3; t++) {
            open_model(directories[d], dtypes[t]);
            check_steps(directories[d], 1);
            check_steps(directories[d], 7);
            check_steps(directories[d], TEXT);
            whole_model_close(&model);
        }
}

/* ---- whole texts ---- */

/* The greedy text without a cache: a forward pass over all of it for each token. */
static void check_greedy(const struct generation *text, int32_t eos, int most, int window) {
    int32_t ids[TEXT];
    int count = text->prompt_tokens;
    memcpy(ids, text->prompt, (size_t)count * sizeof *ids);
    for (size_t i = 0;; i++) {
        float *logits = plain_logits(ids, count);
        int next = argmax(logits + (size_t)(count - 1) * model.layout.config.vocabulary);
        free(logits);
        if (next == eos) {
            assert_true(text->ended);
            assert_int_equal(text->tokens.count, i);
            return;
        }
        assert_true(i < text->tokens.count);
        assert_int_equal(text->tokens.data[i], next);
        ids[count++] = next;
        if ((int)i + 1 == most || count == window) {
            assert_false(text->ended);
            assert_int_equal(text->tokens.count, i + 1);
            return;
        }
    }
}

/* Three texts, one of which nearly fills the window, in passes of at most `rows` rows. */
static void check_generate(int rows, int32_t eos, int most) {
    int lengths[TEXTS] = {3, TEXT - 4, 11};
    struct generation texts[TEXTS] = {0};
    for (int t = 0; t < TEXTS; t++)
        texts[t] = (struct generation){.prompt = random_text(lengths[t], 7u + (uint64_t)t),
                                       .prompt_tokens = lengths[t]};
    struct generator *generator = open_generator(TEXTS, TEXT, rows);
    generate(generator, texts, TEXTS, &(struct generation_rule){.max_new_tokens = most, .eos = eos});
    for (int t = 0; t < TEXTS; t++) {
        check_greedy(&texts[t], eos, most, TEXT);
        ids_free(&texts[t].tokens);
        free((void *)(size_t)texts[t].prompt);
    }
    generator_close(generator);
}

static void test_greedy(void **state) {
    (void)state;
    for (size_t d = 0; d < sizeof directories / sizeof *directories; d++) {
        open_model(directories[d], FP32);
        check_generate(TEXTS * TEXT, -1, 9);
        check_generate(8, -1, 9);
        check_generate(1, -1, 3);
        whole_model_close(&model);
    }
}

/* Whatever token comes third is taken for </s>: that text has two. */
static void test_end_of_text(void **state) {
    (void)state;
    open_model(directories[0], FP32);
    int32_t *prompt = random_text(6, 5), *ids = NULL;
    struct generator *generator = open_generator(1, TEXT, TEXT);
    for (int pass = 0; pass < 2; pass++) {
        struct generation text = {.prompt = prompt, .prompt_tokens = 6};
        generate(generator, &text, 1,
                 &(struct generation_rule){.max_new_tokens = 12, .eos = pass ? ids[11] : -1});
        if (pass) {
            size_t first = 0;
            while (ids[first] != ids[11]) first++;
            assert_true(text.ended);
            assert_int_equal(text.tokens.count, first);
            assert_true(!first || !memcmp(text.tokens.data, ids, first * sizeof *ids));
            ids_free(&text.tokens);
        } else {
            assert_false(text.ended);
            assert_int_equal(text.tokens.count, 12);
            ids = text.tokens.data;
        }
    }
    free(ids);
    free(prompt);
    generator_close(generator);
    whole_model_close(&model);
}

struct told {
    int count;
    int32_t tokens[64];
};

static void tell(void *self, int text, int32_t token) {
    struct told *told = self;
    assert_int_equal(text, 0);
    told->tokens[told->count++] = token;
}

/* tests/fixtures/…/generation.json: Transformers' own greedy texts, with the same weight negated. */
static void test_transformers(void **state) {
    (void)state;
    for (size_t d = 0; d < sizeof directories / sizeof *directories; d++) {
        struct error error;
        char *name = xformat("%s/generation.json", directories[d]), *path = source_path(name);
        json_t *file = json_read_file(path, &error), *one;
        if (!file) fail_msg("%s", error.text);
        int most = (int)json_integer_value(json_object_get(file, "max_new_tokens"));
        int32_t eos = (int32_t)json_integer_value(json_object_get(file, "eos"));
        open_model(directories[d], FP32);
        size_t index;
        json_array_foreach(json_object_get(file, "cases"), index, one) {
            const json_t *prompt = json_object_get(one, "prompt"), *tokens = json_object_get(one, "tokens");
            int32_t ids[64];
            struct told told = {0};
            struct generation text = {.prompt = ids, .prompt_tokens = (int)json_array_size(prompt)};
            for (int i = 0; i < text.prompt_tokens; i++)
                ids[i] = (int32_t)json_integer_value(json_array_get(prompt, (size_t)i));
            struct generator *generator = open_generator(1, text.prompt_tokens + most, 64);
            generate(
                generator, &text, 1,
                &(struct generation_rule){.max_new_tokens = most, .eos = eos, .told = tell, .self = &told});
            if (text.ended) ids_append(&text.tokens, &eos, 1); /* which Transformers keeps */
            assert_int_equal(text.tokens.count, json_array_size(tokens));
            assert_int_equal(told.count + text.ended, json_array_size(tokens));
            for (size_t i = 0; i < text.tokens.count; i++) {
                int expected = (int)json_integer_value(json_array_get(tokens, i));
                if (text.tokens.data[i] != expected)
                    fail_msg("%s, case %zu: token %zu is %d, Transformers' is %d", path, index, i,
                             (int)text.tokens.data[i], expected);
                if ((int)i < told.count) assert_int_equal(told.tokens[i], expected);
            }
            ids_free(&text.tokens);
            generator_close(generator);
        }
        whole_model_close(&model);
        json_decref(file);
        free(name);
        free(path);
    }
}

/* Nothing to do is fine; a prompt that fills the window is not. */
static void test_limits(void **state) {
    (void)state;
    open_model(directories[0], FP32);
    struct generator *generator = open_generator(2, TEXT, TEXT);
    struct generation_rule rule = {.max_new_tokens = 4, .eos = -1};
    generate(generator, NULL, 0, &rule);
    int32_t *prompt = random_text(TEXT, 9);
    struct generation text = {.prompt = prompt, .prompt_tokens = TEXT - 1};
    generate(generator, &text, 1, &rule);
    assert_int_equal(text.tokens.count, 1); /* then the window is full */
    ids_free(&text.tokens);
    rule.max_new_tokens = 0;
    generate(generator, &text, 1, &rule);
    assert_int_equal(text.tokens.count, 0);
    free(prompt);
    generator_close(generator);
    whole_model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),      cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_end_of_text), cmocka_unit_test(test_transformers),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
