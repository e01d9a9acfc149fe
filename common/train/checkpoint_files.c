#include "common/train/checkpoint_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/checkpoint.h"

bool manifest_write(const char *folder, struct error *error) {
    DIR *entries = opendir(folder);
    if (!entries) return error_set(error, "%s: cannot be opened: %s", folder, strerror(errno));
    json_t *files = json_object();
    for (struct dirent *entry; (entry = readdir(entries));) {
        char *path = xformat("%s/%s", folder, entry->d_name);
        struct stat status;
        if (stat(path, &status) == 0 && S_ISREG(status.st_mode))
            json_object_set_new(files, entry->d_name, json_integer(status.st_size));
        free(path);
    }
    closedir(entries);
    json_t *manifest = json_pack("{s:o}", "files", files);
    char *text = json_dumps(manifest, JSON_INDENT(1) | JSON_SORT_KEYS);
    char *path = xformat("%s/manifest.json", folder);
    bool ok = file_write(path, text, strlen(text), error) && directory_sync(folder, error);
    free(path);
    free(text);
    json_decref(manifest);
    return ok;
}

json_t *manifest_check(const char *folder, struct error *error) {
    char *path = xformat("%s/manifest.json", folder);
    json_t *manifest = json_read_file(path, error);
    json_t *files = json_object_get(manifest, "files");
    bool ok = manifest && (json_is_object(files) ||
                           error_set(error, "%s: files: missing; the checkpoint is damaged", path));
    const char *name;
    json_t *size;
    json_object_foreach(files, name, size) {
        char *file = xformat("%s/%s", folder, name);
        struct stat status;
        if (ok && stat(file, &status) != 0)
            ok = error_set(error, "%s: missing; the checkpoint is not whole, use another one", file);
        else if (ok && (!json_is_integer(size) || status.st_size != json_integer_value(size)))
            ok = error_set(error,
                           "%s: has %lld bytes, not those of the manifest; the checkpoint is not whole, use "
                           "another one",
                           file, (long long)status.st_size);
        free(file);
    }
    free(path);
    if (ok) return manifest;
    json_decref(manifest);
    return NULL;
}

static int ascending(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

long long *checkpoint_list(const char *output_dir, int *count) {
    long long *updates = NULL;
    *count = 0;
    DIR *entries = opendir(output_dir);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        long long update;
        int used = 0;
        if (sscanf(entry->d_name, "checkpoint-%lld%n", &update, &used) != 1 || entry->d_name[used]) continue;
        updates = xrealloc(updates, (size_t)(*count + 1) * sizeof *updates);
        updates[(*count)++] = update;
    }
    if (entries) closedir(entries);
    if (updates) qsort(updates, (size_t)*count, sizeof *updates, ascending);
    return updates;
}

void checkpoint_clean(const char *output_dir) {
    DIR *entries = opendir(output_dir);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, "checkpoint-", 11) != 0 || length < 5 ||
            strcmp(entry->d_name + length - 5, ".part") != 0)
            continue;
        struct error error;
        char *path = xformat("%s/%s", output_dir, entry->d_name);
        if (!directory_remove(path, &error)) fail("%s", error.text);
        free(path);
    }
    if (entries) closedir(entries);
}

void checkpoint_prune(const char *output_dir, int limit) {
    int count;
    long long *updates = checkpoint_list(output_dir, &count);
    for (int i = 0; limit > 0 && i < count - limit; i++) {
        /* Renamed first: one that is only half removed must not look like a checkpoint. */
        struct error error;
        char *path = xformat("%s/checkpoint-%lld", output_dir, updates[i]);
        char *part = xformat("%s.old.part", path);
        if (rename(path, part) != 0) fail("%s: cannot be removed: %s", path, strerror(errno));
        if (!directory_remove(part, &error)) fail("%s", error.text);
        free(path);
        free(part);
    }
    free(updates);
}

char *checkpoint_last(const char *output_dir) {
    int count;
    long long *updates = checkpoint_list(output_dir, &count);
    char *found = NULL;
    checkpoint_clean(output_dir);
    for (int i = count; i-- > 0 && !found;) {
        struct error error;
        char *path = xformat("%s/checkpoint-%lld", output_dir, updates[i]);
        json_t *manifest = manifest_check(path, &error);
        if (manifest) {
            found = path;
        } else {
            warn("%s is passed over: %s", path, error.text);
            free(path);
        }
        json_decref(manifest);
    }
    free(updates);
    return found;
}

/* A member of state.json that the kit wrote. */
static bool has(const json_t *state, const char *key, bool number, const char *path, struct error *error) {
    const json_t *value = json_object_get(state, key);
    if (number ? json_is_number(value) : json_is_string(value)) return true;
    return error_set(error, "%s: %s: missing; the checkpoint is damaged, use another one", path, key);
}

json_t *checkpoint_state(const char *folder, struct error *error) {
    json_t *manifest = manifest_check(folder, error);
    if (!manifest) return NULL;
    json_decref(manifest);
    char *path = xformat("%s/state.json", folder);
    json_t *state = json_read_file(path, error);
    static const char *const numbers[] = {"step",          "loss_total", "losses",        "loss_scale",
                                          "clean_updates", "applied",    "metrics_bytes", "world_size"};
    bool ok = state != NULL;
    for (size_t i = 0; ok && i < sizeof numbers / sizeof *numbers; i++)
        ok = has(state, numbers[i], true, path, error);
    ok = ok && has(state, "precision", false, path, error) && has(state, "stage", false, path, error);
    free(path);
    if (ok) return state;
    json_decref(state);
    return NULL;
}
