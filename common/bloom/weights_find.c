#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/bloom/weights.h"

/* An environment variable that is set and not empty, or NULL. */
static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The Hugging Face cache's folder, as huggingface_hub finds it. The caller frees; NULL without a home. */
static char *cache_root(void) {
    const char *cache = variable("HF_HUB_CACHE"), *older = variable("HUGGINGFACE_HUB_CACHE");
    if (cache || older) return xstrdup(cache ? cache : older);
    if (variable("HF_HOME")) return xformat("%s/hub", variable("HF_HOME"));
    if (variable("XDG_CACHE_HOME")) return xformat("%s/huggingface/hub", variable("XDG_CACHE_HOME"));
    return variable("HOME") ? xformat("%s/.cache/huggingface/hub", variable("HOME")) : NULL;
}

/* "ORG/NAME" of letters, digits, '-', '_' and '.'. */
static bool is_model_name(const char *name) {
    int slashes = 0;
    for (const char *c = name; *c; c++) {
        bool begins = c == name || c[-1] == '/';
        if (*c == '/')
            slashes++;
        else if (!isalnum((unsigned char)*c) && (begins || !strchr("-_.", *c)))
            return false;
        if (*c == '/' && begins) return false;
    }
    return slashes == 1 && name[strlen(name) - 1] != '/';
}

static bool has_config(const char *directory) {
    char *path = xformat("%s/config.json", directory);
    bool there = file_exists(path);
    free(path);
    return there;
}

/* The commit that refs/main holds: a plain word; NULL where there is none. The caller frees. */
static char *main_commit(const char *model) {
    char *path = xformat("%s/refs/main", model);
    struct file_map map;
    bool there = file_map(&map, path, NULL);
    free(path);
    if (!there) return NULL;
    size_t length = 0;
    while (length < map.size && isalnum((unsigned char)map.data[length])) length++;
    char *commit = length ? xformat("%.*s", (int)(length < 128 ? length : 128), map.data) : NULL;
    file_unmap(&map);
    return commit;
}

/* models--ORG--NAME under the cache's root. The caller frees. */
static char *model_folder(const char *root, const char *name) {
    const char *slash = strchr(name, '/');
    return xformat("%s/models--%.*s--%s", root, (int)(slash - name), name, slash + 1);
}

static char *find_in_cache(const char *name, struct error *error) {
    char *root = cache_root();
    char *model = root ? model_folder(root, name) : NULL;
    char *commit = model ? main_commit(model) : NULL;
    char *snapshot = commit ? xformat("%s/snapshots/%s", model, commit) : NULL;
    if (snapshot && !has_config(snapshot)) {
        error_set(error,
                  "%s: no config.json, so the download is not whole; fetch it again: ./workshop fetch %s",
                  snapshot, name);
        free(snapshot);
        snapshot = NULL;
    } else if (!snapshot) {
        error_set(error,
                  "%s: neither a folder nor in the Hugging Face cache (%s); fetch it: ./workshop fetch %s",
                  name, root ? root : "HF_HOME is not set", name);
    }
    free(commit);
    free(model);
    free(root);
    return snapshot;
}

char *weights_find(const char *name, struct error *error) {
    if (has_config(name)) return xstrdup(name);
    if (directory_exists(name)) {
        error_set(error, "%s: no config.json in this folder; name one that holds a model", name);
        return NULL;
    }
    if (is_model_name(name)) return find_in_cache(name, error);
    error_set(error, "%.300s: no such folder, and no name like bigscience/bloom-560m or random:bloom-560m",
              name);
    return NULL;
}
