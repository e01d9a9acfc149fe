#include "common/bloom/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"

/* Far above any BLOOM, and low enough that no size computed from them overflows 64 bits. */
enum {
    MOST_HIDDEN = 1 << 20,
    MOST_LAYERS = 1 << 14,
    MOST_VOCABULARY = 1 << 24, /* token ids are 32-bit */
};

/* A config.json while it is read. */
struct source {
    const json_t *object;
    const char *path;
    struct error *error;
};

/* A number that may stand under either of two keys, and must under one. */
static bool get_size(const struct source *s, const char *key, const char *other, long long most,
                     size_t *value) {
    long long first = 0, second = 0;
    if (!json_get_int(s->object, key, 1, most, &first, s->path, s->error)) return false;
    if (other && !json_get_int(s->object, other, 1, most, &second, s->path, s->error)) return false;
    if (first && second && first != second)
        return error_set(s->error, "%s: %s is %lld but %s is %lld: remove the wrong one", s->path, key, first,
                         other, second);
    if (!first && !second)
        return error_set(s->error, "%s: %s%s%s: missing; is this a BLOOM's config.json?", s->path, key,
                         other ? " or " : "", other ? other : "");
    *value = (size_t)(first ? first : second);
    return true;
}

static bool get_shape(const struct source *s, struct bloom_config *config) {
    if (!get_size(s, "vocab_size", NULL, MOST_VOCABULARY, &config->vocabulary) ||
        !get_size(s, "hidden_size", "n_embed", MOST_HIDDEN, &config->hidden) ||
        !get_size(s, "n_layer", "num_hidden_layers", MOST_LAYERS, &config->layers) ||
        !get_size(s, "n_head", "num_attention_heads", MOST_HIDDEN, &config->heads))
        return false;
    if (config->hidden % config->heads != 0)
        return error_set(s->error, "%s: hidden size %zu does not divide evenly among %zu heads", s->path,
                         config->hidden, config->heads);
    config->head_dim = config->hidden / config->heads;
    return true;
}

static bool get_positive(const struct source *s, const char *key, double value, float *out) {
    if (!json_get_double(s->object, key, &value, s->path, s->error)) return false;
    *out = (float)value;
    if (!(*out > 0 && isfinite(*out)))
        return error_set(s->error, "%s: %s: %g is no positive number", s->path, key, value);
    return true;
}

static bool get_token(const struct source *s, const char *key, const struct bloom_config *config, int usual,
                      int *id) {
    long long last = (long long)config->vocabulary - 1;
    long long value = usual < last ? usual : last;
    if (!json_get_int(s->object, key, 0, last, &value, s->path, s->error)) return false;
    *id = (int)value;
    return true;
}

static bool refuse_dropout(const struct source *s, const char *key) {
    double probability = 0;
    if (!json_get_double(s->object, key, &probability, s->path, s->error)) return false;
    if (probability != 0)
        return error_set(
            s->error, "%s: %s: %g, but dropout is not computed here (no released BLOOM has any): set it to 0",
            s->path, key, probability);
    return true;
}

/* What would make the computed model another one than the file describes. */
static bool refuse_others(const struct source *s) {
    const char *type = NULL;
    if (!json_get_string(s->object, "model_type", &type, s->path, s->error)) return false;
    if (!type || strcmp(type, "bloom") != 0)
        return error_set(s->error, "%s: model_type: '%.60s', but only 'bloom' is supported", s->path,
                         type ? type : "");
    bool tied = true;
    if (!json_get_bool(s->object, "tie_word_embeddings", &tied, s->path, s->error)) return false;
    if (!tied)
        return error_set(s->error,
                         "%s: tie_word_embeddings: false, but BLOOM's output head is its word embedding; "
                         "an untied head is not supported",
                         s->path);
    return refuse_dropout(s, "hidden_dropout") && refuse_dropout(s, "attention_dropout");
}

/* The path's part that ends at `end`, after the slash before it. */
static const char *last_part(const char *path, const char *end) {
    while (end > path && end[-1] != '/') end--;
    return end;
}

/* The model's name from where its config.json is: the folder, but for a snapshot in the Hugging Face cache
 * (models--ORG--NAME/snapshots/COMMIT), whose folder is a hash, NAME. */
static void name_from_path(char *name, size_t size, const char *path) {
    const char *file = last_part(path, path + strlen(path));
    const char *end = file > path ? file - 1 : path;
    const char *begin = last_part(path, end);
    static const char snapshots[] = "/snapshots/", models[] = "models--";
    size_t length = sizeof snapshots - 1;
    if ((size_t)(begin - path) > length && !strncmp(begin - length, snapshots, length)) {
        const char *model_end = begin - length, *model = last_part(path, model_end);
        if (!strncmp(model, models, sizeof models - 1)) {
            begin = model + sizeof models - 1;
            end = model_end;
            for (const char *c = begin; c + 2 < end; c++)
                if (c[0] == '-' && c[1] == '-') begin = c + 2;
        }
    }
    if (begin == end) begin = "model", end = begin + strlen(begin);
    snprintf(name, size, "%.*s", (int)(end - begin < 1000 ? end - begin : 1000), begin);
}

static bool read_object(const struct source *s, struct bloom_config *config) {
    if (!json_is_object(s->object)) return error_set(s->error, "%s: expected an object {…}", s->path);
    *config = (struct bloom_config){.post_layernorm = false};
    name_from_path(config->name, sizeof config->name, s->path);
    return refuse_others(s) && get_shape(s, config) &&
           get_positive(s, "layer_norm_epsilon", 1e-5, &config->layer_norm_epsilon) &&
           get_positive(s, "initializer_range", 0.02, &config->initializer_range) &&
           json_get_bool(s->object, "apply_residual_connection_post_layernorm", &config->post_layernorm,
                         s->path, s->error) &&
           get_token(s, "bos_token_id", config, 1, &config->bos) &&
           get_token(s, "eos_token_id", config, 2, &config->eos) &&
           get_token(s, "pad_token_id", config, 3, &config->pad);
}

bool bloom_config_parse(struct bloom_config *config, const char *data, size_t size, const char *path,
                        struct error *error) {
    json_t *root = json_read_bytes(data, size, path, error);
    if (!root) return false;
    struct source source = {root, path, error};
    bool ok = read_object(&source, config);
    json_decref(root);
    return ok;
}

bool bloom_config_read(struct bloom_config *config, const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return false;
    bool ok = bloom_config_parse(config, map.data, map.size, path, error);
    file_unmap(&map);
    return ok;
}

/* The BLOOM paper (arXiv 2211.05100), table 3. */
static const struct {
    const char *name;
    size_t hidden, layers, heads;
} published[] = {
    {"bloom-560m", 1024, 24, 16}, {"bloom-1b1", 1536, 24, 16}, {"bloom-1b7", 2048, 24, 16},
    {"bloom-3b", 2560, 30, 32},   {"bloom-7b1", 4096, 30, 32}, {"bloom", 14336, 70, 112},
};

bool bloom_config_published(struct bloom_config *config, const char *shape, struct error *error) {
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        if (strcmp(shape, published[i].name) != 0) continue;
        *config = (struct bloom_config){
            .vocabulary = 250880,
            .hidden = published[i].hidden,
            .layers = published[i].layers,
            .heads = published[i].heads,
            .head_dim = published[i].hidden / published[i].heads,
            .layer_norm_epsilon = 1e-5f,
            .initializer_range = 0.02f,
            .bos = 1,
            .eos = 2,
            .pad = 3,
        };
        snprintf(config->name, sizeof config->name, "%s", shape);
        return true;
    }
    return error_set(
        error,
        "random:%.60s: no such shape; there are tiny, bloom-560m, bloom-1b1, bloom-1b7, bloom-3b, "
        "bloom-7b1 and bloom",
        shape);
}

size_t bloom_parameters(const struct bloom_config *config) {
    size_t h = config->hidden;
    size_t block =
        12 * h * h + 13 * h; /* 3h² + h² + 4h² + 4h² matrices; 3h + h + 4h + h biases, two layer norms */
    return config->vocabulary * h + 2 * h + config->layers * block + 2 * h;
}
