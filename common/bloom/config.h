/*
 * A BLOOM's shape, from its config.json or from a published name.
 */
#ifndef COMMON_BLOOM_CONFIG_H
#define COMMON_BLOOM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>

#include "common/base/error.h"

struct bloom_config {
    char name[64]; /* for people: "bloom-560m", "tiny", or the directory's last part */
    size_t vocabulary;
    size_t hidden;
    size_t layers;
    size_t heads;
    size_t head_dim; /* hidden / heads */
    float layer_norm_epsilon;
    float initializer_range;
    bool post_layernorm; /* apply_residual_connection_post_layernorm */
    int bos, eos, pad;   /* token ids */
};

/* Reads a config.json, with the old keys (n_embed, num_attention_heads) or the new (hidden_size, n_head).
 * Refuses what the kit does not compute: dropout, an untied head, another model_type. False with `error` set.
 */
bool bloom_config_read(struct bloom_config *config, const char *path, struct error *error);
/* The same from `size` bytes at `data`; `path` names them in errors, and its folder names the model. */
bool bloom_config_parse(struct bloom_config *config, const char *data, size_t size, const char *path,
                        struct error *error);

/* The shape behind "random:SHAPE": bloom-560m, bloom-1b1, bloom-1b7, bloom-3b, bloom-7b1, bloom. False, with
 * the known names in `error`, for another one. (tiny is the sample's config.json and is read from there.) */
bool bloom_config_published(struct bloom_config *config, const char *shape, struct error *error);

/* Number of parameters, the tied head counted once. */
size_t bloom_parameters(const struct bloom_config *config);

#endif
