/* Any bytes as a config.json, whose layout must then be sound, and as the index of a sharded checkpoint. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"
#include "common/bloom/shards.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layout(const struct bloom_config *config) {
    size_t block = 12 * config->hidden + 13;
    if (config->layers > 1000 || config->vocabulary / block > 1000)
        return; /* many units take long, no more */
    for (int world_size = 1; world_size <= 3; world_size++) {
        struct layout layout;
        layout_open(&layout, config, world_size);
        if (layout.parameters != bloom_parameters(config) || layout.padded < layout.parameters) abort();
        layout_close(&layout);
    }
}

static void check_error(const struct error *error) {
    if (!error->text[0] || strchr(error->text, '\n')) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {""};
    struct bloom_config config;
    if (bloom_config_parse(&config, (const char *)data, size, "fuzz/config.json", &error))
        check_layout(&config);
    else
        check_error(&error);

    error = (struct error){""};
    json_t *map = shards_parse_index((const char *)data, size, "fuzz.index.json", &error);
    if (!map) check_error(&error);
    json_decref(map);
    return 0;
}
