/* config.json in both styles, what is refused, published shapes, and the files beside the weights. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/bloom/config.h"
#include "common/bloom/model_directory.h"
#include "tests/support/temporary.h"

static struct bloom_config parse(const char *text) {
    struct bloom_config config;
    struct error error = {""};
    if (!bloom_config_parse(&config, text, strlen(text), "some/where/config.json", &error))
        fail_msg("%s", error.text);
    return config;
}

static void test_new_keys(void **state) {
    (void)state;
    struct bloom_config config = parse(
        "{\"model_type\": \"bloom\", \"vocab_size\": 640, \"hidden_size\": 96, \"n_layer\": 3, \"n_head\": 6,"
        " \"layer_norm_epsilon\": 1e-6, \"initializer_range\": 0.5, \"bos_token_id\": 7, \"eos_token_id\": 8,"
        " \"pad_token_id\": 9, \"apply_residual_connection_post_layernorm\": true, \"hidden_dropout\": 0.0,"
        " \"n_inner\": null, \"anything\": {\"else\": []}}");
    assert_string_equal(config.name, "where");
    assert_int_equal(config.vocabulary, 640);
    assert_int_equal(config.hidden, 96);
    assert_int_equal(config.layers, 3);
    assert_int_equal(config.heads, 6);
    assert_int_equal(config.head_dim, 16);
    assert_true(config.layer_norm_epsilon == 1e-6f && config.initializer_range == 0.5f);
    assert_true(config.post_layernorm);
    assert_int_equal(config.bos, 7);
    assert_int_equal(config.eos, 8);
    assert_int_equal(config.pad, 9);
}

static void test_old_keys_and_defaults(void **state) {
    (void)state;
    struct bloom_config config = parse("{\"model_type\": \"bloom\", \"vocab_size\": 640, \"n_embed\": 48,"
                                       " \"num_hidden_layers\": 2, \"num_attention_heads\": 3}");
    assert_int_equal(config.hidden, 48);
    assert_int_equal(config.layers, 2);
    assert_int_equal(config.heads, 3);
    assert_true(config.layer_norm_epsilon == 1e-5f && config.initializer_range == 0.02f);
    assert_false(config.post_layernorm);
    assert_int_equal(config.bos, 1);
    assert_int_equal(config.eos, 2);
    assert_int_equal(config.pad, 3);
}

static void test_names(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"config.json", "model"},
        {"/config.json", "model"},
        {"tiny/config.json", "tiny"},
        {"/a/b/bloom-560m/config.json", "bloom-560m"},
        {"/hub/models--bigscience--bloom-560m/snapshots/ac2ae5fab2ce/config.json", "bloom-560m"},
        {"models--bigscience--bloom/snapshots/ac2ae5fab2ce/config.json", "bloom"},
        {"/snapshots/abc/config.json", "abc"},
        {"/0123456789012345678901234567890123456789012345678901234567890123456789/config.json",
         "012345678901234567890123456789012345678901234567890123456789012"},
    };
    static const char text[] =
        "{\"model_type\": \"bloom\", \"vocab_size\": 640, \"hidden_size\": 48, \"n_layer\": 1,"
        " \"n_head\": 3}";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bloom_config config;
        assert_true(bloom_config_parse(&config, text, sizeof text - 1, cases[i][0], NULL));
        assert_string_equal(config.name, cases[i][1]);
    }
}

/* A good config with `more` put in front, so that a key in both is a duplicate; `from` is replaced by `to`.
 */
static void check_refused(const char *from, const char *to, const char *says) {
    const char *good = "{\"model_type\": \"bloom\", \"vocab_size\": 640, \"hidden_size\": 48, \"n_layer\": "
                       "2, \"n_head\": 3}";
    const char *at = strstr(good, from);
    assert_non_null(at);
    char *text = xformat("%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    struct bloom_config config;
    struct error error = {""};
    assert_false(bloom_config_parse(&config, text, strlen(text), "dir/config.json", &error));
    CHECK_ERROR(&error, "dir/config.json", says);
    free(text);
}

static void test_refused(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\"bloom\"", "\"gpt2\"", "model_type"},
        {"\"model_type\": \"bloom\", ", "", "model_type"},
        {"\"bloom\"", "7", "model_type"},
        {"640", "0", "vocab_size"},
        {"640", "-3", "vocab_size"},
        {"640", "640.5", "vocab_size"},
        {"640", "\"640\"", "vocab_size"},
        {"640", "99999999999", "vocab_size"},
        {"640", "999999999999999999999999", "config.json:1:"},
        {"\"vocab_size\": 640, ", "", "vocab_size: missing"},
        {"\"hidden_size\": 48, ", "", "hidden_size or n_embed: missing"},
        {"\"n_layer\": 2, ", "", "n_layer or num_hidden_layers: missing"},
        {"\"n_head\": 3", "\"n_heads\": 3", "n_head or num_attention_heads: missing"},
        {"\"n_head\": 3", "\"n_head\": 5", "48 does not divide evenly among 5 heads"},
        {"\"n_layer\": 2", "\"n_layer\": 100000000", "n_layer"},
        {"\"hidden_size\": 48", "\"hidden_size\": 4800000000", "hidden_size"},
        {"\"n_head\": 3", "\"n_head\": 3, \"n_embed\": 96", "n_embed is 96"},
        {"\"n_head\": 3", "\"n_head\": 3, \"hidden_dropout\": 0.1", "hidden_dropout: 0.1"},
        {"\"n_head\": 3", "\"n_head\": 3, \"attention_dropout\": 0.1", "attention_dropout: 0.1"},
        {"\"n_head\": 3", "\"n_head\": 3, \"tie_word_embeddings\": false", "tie_word_embeddings"},
        {"\"n_head\": 3", "\"n_head\": 3, \"bos_token_id\": 640", "bos_token_id"},
        {"\"n_head\": 3", "\"n_head\": 3, \"eos_token_id\": [2]", "eos_token_id"},
        {"\"n_head\": 3", "\"n_head\": 3, \"pad_token_id\": -1", "pad_token_id"},
        {"\"n_head\": 3", "\"n_head\": 3, \"layer_norm_epsilon\": 0", "layer_norm_epsilon"},
        {"\"n_head\": 3", "\"n_head\": 3, \"layer_norm_epsilon\": 1e300", "layer_norm_epsilon"},
        {"\"n_head\": 3", "\"n_head\": 3, \"initializer_range\": -0.02", "initializer_range"},
        {"\"n_head\": 3", "\"n_head\": 3, \"initializer_range\": \"0.02\"", "initializer_range"},
        {"\"n_head\": 3", "\"n_head\": 3, \"apply_residual_connection_post_layernorm\": 1", "post_layernorm"},
        {"\"n_head\": 3", "\"n_head\": 3, \"n_head\": 3", "duplicate"},
        {"\"n_head\": 3", "\"n_head\": 3,", "dir/config.json:1:"},
        {"\"n_head\": 3}", "\"n_head\": 3", "dir/config.json:1:"},
        {"\"n_head\": 3}", "\"n_head\": 3} x", "dir/config.json:1:"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i][0], cases[i][1], cases[i][2]);
}

static void test_no_object(void **state) {
    (void)state;
    static const char *const cases[] = {"",          "[]", "7",        "null",
                                        "\"bloom\"", "{",  "\xff\xfe", "{\"a\": \"\xff\"}"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bloom_config config;
        struct error error = {""};
        assert_false(bloom_config_parse(&config, cases[i], strlen(cases[i]), "c.json", &error));
        CHECK_ERROR(&error, "c.json");
    }
    struct bloom_config config;
    struct error error = {""};
    assert_false(bloom_config_read(&config, "no/such/config.json", &error));
    CHECK_ERROR(&error, "no/such/config.json", "No such file");
}

static void test_published(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t hidden, layers, heads, head_dim, parameters;
    } table[] = {
        {"bloom-560m", 1024, 24, 16, 64, 559214592},  {"bloom-1b1", 1536, 24, 16, 96, 1065314304},
        {"bloom-1b7", 2048, 24, 16, 128, 1722408960}, {"bloom-3b", 2560, 30, 32, 80, 3002557440},
        {"bloom-7b1", 4096, 30, 32, 128, 7069016064}, {"bloom", 14336, 70, 112, 128, 176247271424},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct bloom_config config;
        assert_true(bloom_config_published(&config, table[i].name, NULL));
        assert_string_equal(config.name, table[i].name);
        assert_int_equal(config.vocabulary, 250880);
        assert_int_equal(config.hidden, table[i].hidden);
        assert_int_equal(config.layers, table[i].layers);
        assert_int_equal(config.heads, table[i].heads);
        assert_int_equal(config.head_dim, table[i].head_dim);
        assert_int_equal(bloom_parameters(&config), table[i].parameters);
        assert_false(config.post_layernorm);
    }
    struct bloom_config config;
    struct error error = {""};
    assert_false(bloom_config_published(&config, "bloom-2b", &error));
    CHECK_ERROR(&error, "random:bloom-2b", "bloom-1b7", "bloom-7b1", "tiny");
}

/* ---- model_directory.h ---- */

static json_t *read_json(const char *folder, const char *name) {
    char *path = xformat("%s/%s", folder, name);
    struct error error = {""};
    json_t *root = json_read_file(path, &error);
    if (!root) fail_msg("%s", error.text);
    free(path);
    return root;
}

static bool has(const char *folder, const char *name) {
    char *path = xformat("%s/%s", folder, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

static void check_type(const char *text, enum dtype dtype, const char *dtype_key,
                       const char *torch_dtype_key) {
    char *from = temporary_folder(), *to = temporary_folder();
    temporary_write_text(from, "config.json", text);
    struct error error = {""};
    if (!model_directory_write(to, &(struct model_sources){.model = from}, NULL, dtype, &error))
        fail_msg("%s", error.text);
    json_t *before = read_json(from, "config.json"), *after = read_json(to, "config.json");
    const char *written = json_string_value(json_object_get(after, "dtype"));
    assert_true(dtype_key ? written && !strcmp(written, dtype_key) : !written);
    written = json_string_value(json_object_get(after, "torch_dtype"));
    assert_true(torch_dtype_key ? written && !strcmp(written, torch_dtype_key) : !written);
    /* All else as it was. */
    json_object_del(before, "dtype"), json_object_del(after, "dtype");
    json_object_del(before, "torch_dtype"), json_object_del(after, "torch_dtype");
    assert_true(json_equal(before, after));
    json_decref(before);
    json_decref(after);
    temporary_remove(from);
    temporary_remove(to);
}

static void test_directory_keeps_config(void **state) {
    (void)state;
    check_type("{\"n_embed\": 48, \"e\": 1e-05, \"f\": 0.1, \"g\": [1, null, true]}", FP32, NULL, "float32");
    check_type("{\"dtype\": \"float32\", \"long\": 0.12345678901234567}", BF16, "bfloat16", NULL);
    check_type("{\"torch_dtype\": \"float32\"}", FP16, NULL, "float16");
    check_type("{\"dtype\": \"float32\", \"torch_dtype\": \"float32\"}", FP16, "float16", "float16");
}

static void test_directory_numbers(void **state) {
    (void)state;
    char *from = temporary_folder(), *to = temporary_folder();
    temporary_write_text(from, "config.json", "{\"layer_norm_epsilon\": 1e-05, \"initializer_range\": 0.02}");
    assert_true(model_directory_write(to, &(struct model_sources){.model = from}, NULL, FP32, NULL));
    struct file_map map;
    char *path = xformat("%s/config.json", to);
    assert_true(file_map(&map, path, NULL));
    const char expected[] = "{\n  \"layer_norm_epsilon\": 1e-5,\n  \"initializer_range\": 0.02,\n"
                            "  \"torch_dtype\": \"float32\"\n}\n";
    assert_int_equal(map.size, strlen(expected));
    assert_memory_equal(map.data, expected, map.size);
    file_unmap(&map);
    free(path);
    temporary_remove(from);
    temporary_remove(to);
}

static void test_directory_files(void **state) {
    (void)state;
    char *model = temporary_folder(), *tokenizer = temporary_folder(), *to = temporary_folder();
    temporary_write_text(model, "config.json", "{}");
    temporary_write_text(model, "generation_config.json", "{\"g\": 1}");
    temporary_write_text(model, "tokenizer.json", "{\"wrong\": 1}");
    temporary_write_text(model, "README.md", "not copied");
    temporary_write_text(tokenizer, "tokenizer.json", "{\"t\": 1}");
    temporary_write_text(tokenizer, "special_tokens_map.json", "{\"s\": 1}");
    char *deep = xformat("%s/new/folder", to);
    struct error error = {""};
    struct model_sources sources = {model, tokenizer};
    if (!model_directory_write(deep, &sources, NULL, FP32, &error)) fail_msg("%s", error.text);
    static const char *const copied[][2] = {
        {"generation_config.json", "g"}, {"tokenizer.json", "t"}, {"special_tokens_map.json", "s"}};
    for (size_t i = 0; i < 3; i++) {
        json_t *root = read_json(deep, copied[i][0]);
        assert_int_equal(json_integer_value(json_object_get(root, copied[i][1])), 1);
        json_decref(root);
    }
    assert_false(has(deep, "tokenizer_config.json") || has(deep, "README.md"));

    char *blocked = xformat("%s/config.json/below", deep);
    assert_false(model_directory_write(blocked, &sources, NULL, FP32, &error));
    CHECK_ERROR(&error, deep, "folder cannot be created");
    free(blocked);
    free(deep);
    temporary_remove(model);
    temporary_remove(tokenizer);
    temporary_remove(to);
}

static void test_directory_of_random_model(void **state) {
    (void)state;
    char *to = temporary_folder();
    struct bloom_config config, again;
    assert_true(bloom_config_published(&config, "bloom-3b", NULL));
    config.post_layernorm = true;
    struct error error = {""};
    if (!model_directory_write(to, &(struct model_sources){NULL, NULL}, &config, FP16, &error))
        fail_msg("%s", error.text);
    char *path = xformat("%s/config.json", to);
    assert_true(bloom_config_read(&again, path, &error));
    memcpy(again.name, config.name, sizeof again.name);
    assert_memory_equal(&again, &config, sizeof config);
    json_t *root = read_json(to, "config.json");
    assert_true(json_real_value(json_object_get(root, "layer_norm_epsilon")) == 1e-5);
    assert_string_equal(json_string_value(json_object_get(root, "torch_dtype")), "float16");
    json_decref(root);
    free(path);
    temporary_remove(to);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_keys),
        cmocka_unit_test(test_old_keys_and_defaults),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_object),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_directory_keeps_config),
        cmocka_unit_test(test_directory_numbers),
        cmocka_unit_test(test_directory_files),
        cmocka_unit_test(test_directory_of_random_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
