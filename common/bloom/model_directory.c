#include "common/bloom/model_directory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"

/* Copies DIRECTORY/NAME where `source` has it, and takes away what an earlier model left there where it has
 * not. */
static bool copy(const char *source, const char *directory, const char *name, struct error *error) {
    char *from = xformat("%s/%s", source, name), *to = xformat("%s/%s", directory, name);
    bool ok = !file_exists(from) || file_copy(from, to, error);
    free(from);
    free(to);
    return ok;
}

static const char *type_name(enum dtype dtype) {
    switch (dtype) {
    case FP32:
        return "float32";
    case BF16:
        return "bfloat16";
    case FP16:
        return "float16";
    default:
        fail("a model cannot be saved as %s", dtype_name(dtype));
    }
}

/* The double with the fewest decimal digits that is this float: 1e-05 rather than 9.99999974737875e-06. */
static double shortest(float value) {
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) return strtod(text, NULL);
    }
    return (double)value;
}

/* What BloomConfig needs to know of a shape, and nothing that has one value in all BLOOMs. */
static json_t *new_config(const struct bloom_config *config) {
    json_t *root =
        json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:i, s:i, s:i}", "architectures",
                  "BloomForCausalLM", "model_type", "bloom", "vocab_size", (json_int_t)config->vocabulary,
                  "hidden_size", (json_int_t)config->hidden, "n_layer", (json_int_t)config->layers, "n_head",
                  (json_int_t)config->heads, "layer_norm_epsilon", shortest(config->layer_norm_epsilon),
                  "initializer_range", shortest(config->initializer_range),
                  "apply_residual_connection_post_layernorm", config->post_layernorm, "bos_token_id",
                  config->bos, "eos_token_id", config->eos, "pad_token_id", config->pad);
    if (!root) fail("out of host memory while a config.json was written");
    return root;
}

/* Newer releases of Transformers say "dtype" and read "torch_dtype" too; older ones know only the latter. */
static void set_type(json_t *root, enum dtype dtype) {
    bool newer = json_object_get(root, "dtype") != NULL;
    if (newer) json_object_set_new(root, "dtype", json_string(type_name(dtype)));
    if (!newer || json_object_get(root, "torch_dtype"))
        json_object_set_new(root, "torch_dtype", json_string(type_name(dtype)));
}

/* The text of a JSON file, its numbers as people write them where that loses nothing. The caller frees. */
static char *json_text(const json_t *root) {
    const size_t layout = JSON_INDENT(2);
    char *text = json_dumps(root, layout | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;
    if (!json_equal(root, again)) {
        free(text);
        text = json_dumps(root, layout | JSON_REAL_PRECISION(17));
    }
    json_decref(again);
    if (!text) fail("out of host memory while a config.json was written");
    return text;
}

static bool write_config(const char *directory, const char *source, const struct bloom_config *config,
                         enum dtype dtype, struct error *error) {
    json_t *root;
    if (source) {
        char *from = xformat("%s/config.json", source);
        root = json_read_file(from, error);
        free(from);
        if (!root) return false;
    } else {
        root = new_config(config);
    }
    set_type(root, dtype);
    char *body = json_text(root), *text = xformat("%s\n", body);
    char *path = xformat("%s/config.json", directory);
    bool ok = file_write(path, text, strlen(text), error);
    free(path);
    free(text);
    free(body);
    json_decref(root);
    return ok;
}

bool model_directory_write(const char *directory, const struct model_sources *sources,
                           const struct bloom_config *config, enum dtype dtype, struct error *error) {
    static const char *const tokenizer_files[] = {"tokenizer.json", "tokenizer_config.json",
                                                  "special_tokens_map.json"};
    if (!directory_create(directory, error) || !write_config(directory, sources->model, config, dtype, error))
        return false;
    if (sources->model && !copy(sources->model, directory, "generation_config.json", error)) return false;
    for (size_t i = 0; sources->tokenizer && i < sizeof tokenizer_files / sizeof *tokenizer_files; i++)
        if (!copy(sources->tokenizer, directory, tokenizer_files[i], error)) return false;
    return directory_sync(directory, error);
}
