/* Checkpoint folders with every mistake, sharded ones, and the look-up of a model's name. */
#include "tests/support/check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/json.h"
#include "common/bloom/safetensors.h"
#include "common/bloom/weights.h"
#include "tests/support/temporary.h"

static const struct bloom_config small = {.name = "small",
                                          .vocabulary = 200,
                                          .hidden = 8,
                                          .layers = 2,
                                          .heads = 2,
                                          .head_dim = 4,
                                          .initializer_range = 0.02f};

struct mistakes {
    bool without_prefix;
    const char *only;       /* the one parameter written */
    const char *missing;    /* a parameter left out, by its name with the prefix */
    const char *misshapen;  /* one written as a vector of 3 elements */
    const char *as_integer; /* one written as I32 */
    const char *extra[2];   /* more tensors */
    const char *head;       /* one more tensor of the embedding's shape … */
    bool head_differs;      /* … but for its last value */
};

static float *numbered(size_t count, float first) {
    float *values = xmalloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = first + (float)i;
    return values;
}

/* One tensor of the small model, its values counting up from its number. */
static void put(struct safetensors_writer *writer, size_t index, size_t count) {
    float *values = numbered(count, (float)index);
    assert_true(safetensors_write(writer, index, 0, count, values, NULL));
    free(values);
}

/* Announces the small model's tensors with the mistakes; their sizes into `counts`. Returns their number. */
static size_t announce_small(struct safetensors_writer *writer, const struct layout *layout,
                             const struct mistakes *m, size_t *counts) {
    size_t number = 0;
    for (int u = 0; u <= layout->chunks_begin; u++)
        for (int t = 0; t < layout->units[u].tensors; t++) {
            const struct unit *unit = &layout->units[u];
            const struct tensor *tensor = &unit->tensor[t];
            char name[96];
            tensor_name(unit, t, name);
            if (m->missing && !strcmp(m->missing, name)) continue;
            if (m->only && strcmp(m->only, name) != 0) continue;
            bool bad = m->misshapen && !strcmp(m->misshapen, name), matrix = tensor_is_matrix(unit, t);
            size_t rows = u == layout->chunks_begin ? small.vocabulary : tensor->rows;
            size_t shape[2] = {bad ? 3 : matrix ? rows : tensor->count, tensor->columns};
            enum dtype dtype = m->as_integer && !strcmp(m->as_integer, name) ? INT32 : FP32;
            safetensors_announce(writer, name + (m->without_prefix ? strlen("transformer.") : 0), dtype,
                                 matrix && !bad ? 2 : 1, shape);
            counts[number++] = shape[0] * (matrix && !bad ? shape[1] : 1);
        }
    for (int i = 0; i < 2 && m->extra[i]; i++, counts[number++] = 5)
        safetensors_announce(writer, m->extra[i], FP32, 1, (const size_t[]){5});
    return number;
}

static void write_small(const char *folder, const char *file, const struct mistakes *m) {
    struct layout layout;
    layout_open(&layout, &small, 1);
    char *path = xformat("%s/%s", folder, file);
    struct safetensors_writer *writer = safetensors_writer_open(path);
    size_t counts[64], number = announce_small(writer, &layout, m, counts);
    size_t embedding = small.vocabulary * small.hidden;
    if (m->head)
        safetensors_announce(writer, m->head, FP32, 2, (const size_t[]){small.vocabulary, small.hidden});
    assert_true(safetensors_begin(writer, NULL));
    for (size_t i = 0; i < number; i++) put(writer, i, counts[i]);
    if (m->head) {
        float *values = numbered(embedding, (float)(number - 1)); /* the embedding was the last */
        if (m->head_differs) values[embedding - 1] += 1;
        assert_true(safetensors_write(writer, number, 0, embedding, values, NULL));
        free(values);
    }
    struct error error = {""};
    if (!safetensors_writer_finish(writer, &error)) fail_msg("%s", error.text);
    free(path);
    layout_close(&layout);
}

/* Opens a folder as the small model; false with the error's text. */
static bool opens(const char *folder, struct error *error) {
    struct layout layout;
    layout_open(&layout, &small, 2);
    *error = (struct error){""};
    struct weights *weights = weights_open(folder, &layout, error);
    bool ok = weights != NULL;
    weights_close(weights);
    layout_close(&layout);
    return ok;
}

static void check_mistake(const struct mistakes *mistakes, const char *first, const char *second,
                          const char *third) {
    char *folder = temporary_folder();
    write_small(folder, "model.safetensors", mistakes);
    struct error error;
    if (opens(folder, &error)) fail_msg("accepted, but should be refused for %s", first);
    CHECK_ERROR(&error, folder, "model.safetensors", first, second, third);
    temporary_remove(folder);
}

static void test_mistakes(void **state) {
    (void)state;
    static const char bias[] = "transformer.h.1.mlp.dense_h_to_4h.bias";
    static const char embedding[] = "transformer.word_embeddings.weight";
    check_mistake(&(struct mistakes){.missing = bias}, bias, "'h.1.mlp.dense_h_to_4h.bias'", "missing");
    check_mistake(&(struct mistakes){.missing = embedding}, embedding, "missing", "config.json");
    check_mistake(&(struct mistakes){.missing = "transformer.ln_f.weight"}, "transformer.ln_f.weight",
                  "missing", "");
    check_mistake(&(struct mistakes){.misshapen = bias}, bias, "F32 [3]", "[32]");
    check_mistake(&(struct mistakes){.misshapen = bias, .without_prefix = true}, "'h.1.", "F32 [3]", "[32]");
    check_mistake(&(struct mistakes){.misshapen = embedding}, embedding, "F32 [3]", "[200, 8]");
    check_mistake(&(struct mistakes){.as_integer = bias}, bias, "I32 [32]", "expected F32, F16 or BF16 [32]");
    check_mistake(&(struct mistakes){.head = "lm_head.weight", .head_differs = true}, "lm_head.weight",
                  "differs", "untied");
}

static void check_accepted(const struct mistakes *mistakes) {
    char *folder = temporary_folder();
    write_small(folder, "model.safetensors", mistakes);
    struct error error;
    if (!opens(folder, &error)) fail_msg("%s", error.text);
    temporary_remove(folder);
}

static void test_accepted(void **state) {
    (void)state;
    check_accepted(&(struct mistakes){.head = NULL});
    check_accepted(&(struct mistakes){.without_prefix = true});
    check_accepted(&(struct mistakes){.head = "lm_head.weight"});
    check_accepted(&(struct mistakes){.head = "lm_head.weight", .without_prefix = true});
    /* A vocabulary of another size in config.json is another model. */
    char *folder = temporary_folder();
    write_small(folder, "model.safetensors", &(struct mistakes){.head = NULL});
    struct bloom_config config = small;
    config.vocabulary++;
    struct layout layout;
    layout_open(&layout, &config, 1);
    struct error error = {""};
    assert_null(weights_open(folder, &layout, &error));
    CHECK_ERROR(&error, "word_embeddings.weight", "F32 [200, 8]", "[201, 8]");
    layout_close(&layout);
    temporary_remove(folder);
}

/* What opening the small model with these extra tensors says on standard error. The caller frees. */
static char *warning_of(const struct mistakes *mistakes) {
    char *folder = temporary_folder(), *path = xformat("%s/stderr", folder);
    write_small(folder, "model.safetensors", mistakes);
    int before = dup(STDERR_FILENO), file = open(path, O_RDWR | O_CREAT, 0600);
    dup2(file, STDERR_FILENO);
    struct error error;
    bool ok = opens(folder, &error);
    dup2(before, STDERR_FILENO);
    close(before);
    char text[1024] = "";
    assert_true(pread(file, text, sizeof text - 1, 0) >= 0);
    close(file);
    if (!ok) fail_msg("%s", error.text);
    free(path);
    temporary_remove(folder);
    return xstrdup(text);
}

static void test_other_tensors(void **state) {
    (void)state;
    char *none =
        warning_of(&(struct mistakes){.extra = {"transformer.h.0.attn.bias", "h.1.attn.masked_bias"}});
    assert_string_equal(none, "");
    free(none);
    char *one = warning_of(&(struct mistakes){.extra = {"transformer.h.2.input_layernorm.bias", "more"}});
    assert_non_null(strstr(one, "warning: "));
    assert_non_null(strstr(one, "'more' and 1 more"));
    assert_non_null(strstr(one, "model.safetensors"));
    free(one);
}

/* ---- shards ---- */

/* An index that puts every tensor into a.safetensors, but `other` into `file`. */
static void write_index(const char *folder, const char *other, const char *file) {
    struct layout layout;
    layout_open(&layout, &small, 1);
    json_t *map = json_object();
    for (int u = 0; u <= layout.chunks_begin; u++)
        for (int t = 0; t < layout.units[u].tensors; t++) {
            char name[96];
            tensor_name(&layout.units[u], t, name);
            bool is_other = !strcmp(name, other);
            if (!is_other || file)
                json_object_set_new(map, name, json_string(is_other ? file : "a.safetensors"));
        }
    json_t *root = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    char *text = json_dumps(root, 0);
    temporary_write_text(folder, "model.safetensors.index.json", text);
    free(text);
    json_decref(root);
    layout_close(&layout);
}

static void test_shards(void **state) {
    (void)state;
    static const char name[] = "transformer.ln_f.bias";
    char *folder = temporary_folder();
    struct error error;
    write_small(folder, "a.safetensors", &(struct mistakes){.missing = name});
    write_small(folder, "b.safetensors", &(struct mistakes){.only = name});
    write_index(folder, name, "b.safetensors");
    if (!opens(folder, &error)) fail_msg("%s", error.text);
    write_index(folder, name, "a.safetensors"); /* which has it not */
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, "a.safetensors", name, "missing");
    write_index(folder, name, NULL); /* no file for it */
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, "model.safetensors.index.json", name, "missing");
    write_index(folder, name, "c.safetensors"); /* no such file */
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, "c.safetensors", name, "model.safetensors.index.json");
    temporary_write_text(folder, "c.safetensors", "version https://git-lfs.github.com/spec/v1");
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, "c.safetensors", "no safetensors file");
    temporary_remove(folder);
}

static void test_bad_index(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"", "malformed JSON"},
        {"[]", "weight_map"},
        {"{}", "weight_map"},
        {"{\"weight_map\": []}", "weight_map"},
        {"{\"weight_map\": {\"a\": 7}}", "'a': expected the name of a file"},
        {"{\"weight_map\": {\"a\": \"\"}}", "'a': expected the name of a file"},
        {"{\"weight_map\": {\"a\": \"../b.safetensors\"}}", "'a': expected the name of a file"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "'a': expected the name of a file"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "'a': expected the name of a file"},
        {"{\"weight_map\": {\"a\": \"b\", \"a\": \"b\"}}", "duplicate"},
        {"{\"weight_map\": {}}", "missing"},
    };
    char *folder = temporary_folder();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error error;
        temporary_write_text(folder, "model.safetensors.index.json", bad[i][0]);
        assert_false(opens(folder, &error));
        CHECK_ERROR(&error, folder, "model.safetensors.index.json", bad[i][1]);
    }
    temporary_remove(folder);
}

static void test_no_weights(void **state) {
    (void)state;
    char *folder = temporary_folder();
    struct error error;
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, folder, "model.safetensors.index.json");
    temporary_write_text(folder, "pytorch_model.bin", "PK");
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, folder, "pytorch_model.bin", "save_pretrained");
    temporary_write_text(folder, "model.safetensors", "PK");
    assert_false(opens(folder, &error));
    CHECK_ERROR(&error, folder, "model.safetensors: 2 bytes");
    assert_false(opens("no/such/folder", &error));
    CHECK_ERROR(&error, "no/such/folder: no such folder");
    temporary_remove(folder);
}

/* ---- finding a model ---- */

static void check_found(const char *name, const char *folder, const char *below) {
    struct error error = {""};
    char *found = weights_find(name, &error), *expected = xformat("%s%s", folder, below);
    if (!found) fail_msg("%s", error.text);
    assert_string_equal(found, expected);
    free(found);
    free(expected);
}

static void check_not_found(const char *name, const char *first, const char *second) {
    struct error error = {""};
    assert_null(weights_find(name, &error));
    CHECK_ERROR(&error, first, second);
}

static void fill_cache(const char *hub, const char *model, const char *commit, const char *config) {
    char *path = xformat("%s/refs/main", model);
    temporary_write_text(hub, path, commit);
    free(path);
    path = xformat("%s/snapshots/0123abc/%s", model, config);
    temporary_write_text(hub, path, "{}");
    free(path);
}

static void test_find(void **state) {
    (void)state;
    char *root = temporary_folder();
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    setenv("HOME", root, 1);
    char *standard = xformat("%s/.cache/huggingface/hub", root), *home = xformat("%s/home", root);
    char *home_hub = xformat("%s/hub", home), *cache = xformat("%s/cache", root);
    fill_cache(standard, "models--org--in-home", "0123abc", "config.json");
    fill_cache(home_hub, "models--org--in-HF_HOME", "0123abc\n", "config.json");
    fill_cache(cache, "models--org--in.cache", "0123abc", "config.json");
    fill_cache(cache, "models--org--partial", "0123abc", "tokenizer.json");
    fill_cache(cache, "models--org--hostile", "../../..", "config.json");
    static const char snapshot[] = "/snapshots/0123abc";

    check_found("org/in-home", standard, "/models--org--in-home/snapshots/0123abc");
    check_not_found("org/in-HF_HOME", standard, "./workshop fetch org/in-HF_HOME");
    setenv("HF_HOME", home, 1);
    check_found("org/in-HF_HOME", home_hub, "/models--org--in-HF_HOME/snapshots/0123abc");
    check_not_found("org/in-home", home_hub, "./workshop fetch org/in-home");
    setenv("HF_HUB_CACHE", cache, 1);
    check_found("org/in.cache", cache, "/models--org--in.cache/snapshots/0123abc");
    check_not_found("org/in-HF_HOME", cache, "./workshop fetch org/in-HF_HOME");
    check_not_found("org/partial", snapshot, "not whole");
    check_not_found("org/hostile", "org/hostile", "./workshop fetch");

    /* A folder comes first. */
    char *folder = xformat("%s/models--org--in.cache%s", cache, snapshot);
    check_found(folder, folder, "");
    check_not_found(cache, cache, "no config.json");
    check_not_found("no-such-model", "no-such-model", "no such folder");
    check_not_found("../org/in.cache", "../org/in.cache", "no such folder");
    check_not_found("", "", "no such folder");
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    free(folder);
    free(cache);
    free(home_hub);
    free(home);
    free(standard);
    temporary_remove(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),      cmocka_unit_test(test_accepted),
        cmocka_unit_test(test_other_tensors), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bad_index),     cmocka_unit_test(test_no_weights),
        cmocka_unit_test(test_find),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
