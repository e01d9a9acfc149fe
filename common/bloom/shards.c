#include "common/bloom/shards.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

struct shards {
    char *path;      /* of the index, or of the only file */
    json_t *index;   /* the weight_map; NULL where there is only one file */
    json_t *numbers; /* file name → its number in `files`; NULL likewise */
    char *directory;
    struct safetensors **files;
    size_t count;
};

static bool plain_name(const char *name) {
    return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool check_map(json_t *map, const char *path, struct error *error) {
    if (!json_is_object(map))
        return error_set(error, "%s: weight_map: missing or no object {tensor: file}", path);
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file) {
        if (!json_is_string(file) || !plain_name(json_string_value(file)))
            return error_set(error, "%s: weight_map: '%.200s': expected the name of a file in this folder",
                             path, tensor);
    }
    return true;
}

json_t *shards_parse_index(const char *data, size_t size, const char *path, struct error *error) {
    json_t *root = json_read_bytes(data, size, path, error);
    if (!root) return NULL;
    json_t *map = json_object_get(root, "weight_map");
    map = check_map(map, path, error) ? json_incref(map) : NULL;
    json_decref(root);
    return map;
}

static bool add_file(struct shards *shards, const char *path, struct error *error) {
    struct safetensors *file = safetensors_open(path, error);
    if (!file) return false;
    shards->files[shards->count++] = file;
    return true;
}

static bool open_single(struct shards *shards, struct error *error) {
    shards->files = xcalloc(1, sizeof *shards->files);
    return add_file(shards, shards->path, error);
}

/* Opens the file that `tensor` is in, unless that has been done. */
static bool open_shard(struct shards *shards, const char *name, const char *tensor, struct error *error) {
    if (json_object_get(shards->numbers, name)) return true;
    json_object_set_new(shards->numbers, name, json_integer((json_int_t)shards->count));
    char *path = xformat("%s/%s", shards->directory, name);
    bool ok = file_exists(path)
                  ? add_file(shards, path, error)
                  : error_set(error, "%s: missing, but %s names it for tensor '%.200s'; fetch it", path,
                              shards->path, tensor);
    free(path);
    return ok;
}

static bool open_all(struct shards *shards, struct error *error) {
    struct file_map map;
    if (!file_map(&map, shards->path, error)) return false;
    shards->index = shards_parse_index(map.data, map.size, shards->path, error);
    file_unmap(&map);
    if (!shards->index) return false;
    shards->numbers = json_object();
    shards->files = xcalloc(json_object_size(shards->index), sizeof *shards->files);
    const char *tensor;
    json_t *file;
    json_object_foreach(shards->index, tensor, file) {
        if (!open_shard(shards, json_string_value(file), tensor, error)) return false;
    }
    return true;
}

static bool has(const char *directory, const char *name) {
    char *path = xformat("%s/%s", directory, name);
    bool there = file_exists(path);
    free(path);
    return there;
}

static bool nothing_there(const char *directory, struct error *error) {
    if (!directory_exists(directory)) return error_set(error, "%s: no such folder", directory);
    if (has(directory, "pytorch_model.bin") || has(directory, "pytorch_model.bin.index.json"))
        return error_set(
            error,
            "%s: only pytorch_model.bin is here, which is a Python program rather than data; convert it: "
            "python3 -c \"from transformers import AutoModelForCausalLM as M; "
            "M.from_pretrained('%.200s').save_pretrained('CONVERTED')\", and use the folder CONVERTED",
            directory, directory);
    return error_set(
        error, "%s: neither model.safetensors nor model.safetensors.index.json is here; fetch the model",
        directory);
}

struct shards *shards_open(const char *directory, struct error *error) {
    bool single = has(directory, "model.safetensors");
    if (!single && !has(directory, "model.safetensors.index.json")) {
        nothing_there(directory, error);
        return NULL;
    }
    struct shards *shards = xcalloc(1, sizeof *shards);
    shards->directory = xstrdup(directory);
    shards->path = xformat("%s/model.safetensors%s", directory, single ? "" : ".index.json");
    if (single ? open_single(shards, error) : open_all(shards, error)) return shards;
    shards_close(shards);
    return NULL;
}

void shards_close(struct shards *shards) {
    if (!shards) return;
    for (size_t i = 0; i < shards->count; i++) safetensors_close(shards->files[i]);
    free(shards->files);
    json_decref(shards->index);
    json_decref(shards->numbers);
    free(shards->directory);
    free(shards->path);
    free(shards);
}

const struct safetensors_entry *shards_find(const struct shards *shards, const char *name,
                                            const char **file) {
    size_t number = 0;
    if (shards->index) {
        const char *shard = json_string_value(json_object_get(shards->index, name));
        if (!shard) return NULL;
        number = (size_t)json_integer_value(json_object_get(shards->numbers, shard));
    }
    if (file) *file = safetensors_path(shards->files[number]);
    return safetensors_find(shards->files[number], name);
}

const char *shards_path(const struct shards *shards) {
    return shards->path;
}

size_t shards_count(const struct shards *shards) {
    return shards->count;
}

const struct safetensors *shards_file(const struct shards *shards, size_t index) {
    return shards->files[index];
}
