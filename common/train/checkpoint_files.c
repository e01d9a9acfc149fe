#include "common/train/checkpoint_files.h"

#include <dirent.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/checkpoint.h"
#include "common/train/settings.h"

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

json_t *manifest_parse(const char *data, size_t size, const char *path, struct error *error) {
    json_t *manifest = json_read_bytes(data, size, path, error);
    const json_t *files = json_object_get(manifest, "files");
    if (!manifest) return NULL;
    bool ok = json_is_object(files) && json_object_size(files) > 0;
    const char *name;
    json_t *bytes;
    json_object_foreach((json_t *)(size_t)files, name, bytes) ok =
        ok && json_is_integer(bytes) && !strchr(name, '/'); /* the macro drops const; nothing changes */
    if (ok) return manifest;
    json_decref(manifest);
    error_set(error,
              "%s: files: not a list of files with their sizes; the checkpoint is damaged, use another one",
              path);
    return NULL;
}

static bool check_file(const char *folder, const char *name, json_int_t bytes, struct error *error) {
    char *path = xformat("%s/%s", folder, name);
    struct stat status;
    bool ok = true;
    if (stat(path, &status) != 0)
        ok = error_set(error, "%s: missing; the checkpoint is not whole, use another one", path);
    else if (status.st_size != bytes)
        ok = error_set(error,
                       "%s: has %lld bytes, not the %lld of the manifest; the checkpoint is not whole, use "
                       "another one",
                       path, (long long)status.st_size, (long long)bytes);
    free(path);
    return ok;
}

json_t *manifest_check(const char *folder, struct error *error) {
    char *path = xformat("%s/manifest.json", folder);
    json_t *manifest = NULL;
    struct file_map map;
    if (!directory_exists(folder)) {
        error_set(error, "%s: no such folder; resume_from_checkpoint is a checkpoint's folder, or true",
                  folder);
    } else if (!file_exists(path)) {
        error_set(error, "%s: missing; the folder is no whole checkpoint, use another one", path);
    } else if (file_map(&map, path, error)) {
        manifest = manifest_parse(map.data, map.size, path, error);
        file_unmap(&map);
    }
    free(path);
    const char *name;
    json_t *bytes;
    bool ok = true;
    json_object_foreach(json_object_get(manifest, "files"), name, bytes) ok =
        ok && check_file(folder, name, json_integer_value(bytes), error);
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
        static const char prefix[] = "checkpoint-";
        if (strncmp(entry->d_name, prefix, sizeof prefix - 1) != 0) continue;
        long long update = strtoll(entry->d_name + sizeof prefix - 1, NULL, 10);
        /* "checkpoint-07", "checkpoint-7.part", …: not the name that a whole one has. */
        char own[64];
        snprintf(own, sizeof own, "%s%lld", prefix, update);
        if (update < 0 || strcmp(own, entry->d_name) != 0) continue;
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

/* Renamed first: one that is only half removed must not look like a checkpoint. */
static void remove_checkpoint(const char *output_dir, long long update) {
    struct error error;
    char *path = xformat("%s/checkpoint-%lld", output_dir, update);
    char *part = xformat("%s.old.part", path);
    if (!directory_remove(part, &error)) fail("%s", error.text);
    if (rename(path, part) != 0) fail("%s: cannot be removed: %s", path, strerror(errno));
    if (!directory_remove(part, &error)) fail("%s", error.text);
    free(path);
    free(part);
}

void checkpoint_prune(const char *output_dir, int limit) {
    int count;
    long long *updates = checkpoint_list(output_dir, &count);
    for (int i = 0; limit > 0 && i < count - limit; i++) remove_checkpoint(output_dir, updates[i]);
    free(updates);
}

void checkpoint_remove_after(const char *output_dir, long long update) {
    int count;
    long long *updates = checkpoint_list(output_dir, &count);
    for (int i = 0; i < count; i++)
        if (updates[i] > update) remove_checkpoint(output_dir, updates[i]);
    free(updates);
}

/* state.json as the kit writes it; session.h says what the members are. */
static bool check_state(const json_t *state, const char *path, struct error *error) {
    static const struct {
        const char *key;
        json_int_t minimum, maximum;
    } integers[] = {{"step", 0, SETTINGS_MOST_UPDATES},
                    {"losses", 0, SETTINGS_MOST_UPDATES},
                    {"clean_updates", 0, SETTINGS_MOST_UPDATES},
                    {"applied", 0, SETTINGS_MOST_UPDATES},
                    {"metrics_bytes", 0, LLONG_MAX},
                    {"world_size", 1, INT_MAX},
                    {"examples_per_update", 1, LLONG_MAX},
                    {"train_examples", 1, LLONG_MAX},
                    {"seed", 0, UINT32_MAX}};
    static const char *const strings[] = {"precision", "stage"};
    static const char damaged[] = "the checkpoint is damaged, use another one";
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        const json_t *value = json_object_get(state, integers[i].key);
        json_int_t number = json_integer_value(value);
        if (!json_is_integer(value) || number < integers[i].minimum || number > integers[i].maximum)
            return error_set(error, "%s: %s: missing or not a sensible integer; %s", path, integers[i].key,
                             damaged);
    }
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (!json_is_string(json_object_get(state, strings[i])))
            return error_set(error, "%s: %s: missing or not a string; %s", path, strings[i], damaged);
    /* Where a loss was not finite, the sum of all is null. */
    const json_t *loss = json_object_get(state, "loss_total");
    if (!json_is_number(loss) && !json_is_null(loss))
        return error_set(error, "%s: loss_total: missing or not a number; %s", path, damaged);
    double scale = json_number_value(json_object_get(state, "loss_scale"));
    if (!(scale > 0 && scale <= FLT_MAX))
        return error_set(error, "%s: loss_scale: missing or not a positive number; %s", path, damaged);
    if (json_integer_value(json_object_get(state, "applied")) >
        json_integer_value(json_object_get(state, "step")))
        return error_set(error, "%s: applied: more updates than step counts; %s", path, damaged);
    return true;
}

json_t *checkpoint_parse_state(const char *data, size_t size, const char *path, struct error *error) {
    json_t *state = json_read_bytes(data, size, path, error);
    if (state && check_state(state, path, error)) return state;
    json_decref(state);
    return NULL;
}

json_t *checkpoint_state(const char *folder, struct error *error) {
    json_t *manifest = manifest_check(folder, error), *state = NULL;
    char *path = xformat("%s/state.json", folder);
    struct file_map map;
    if (manifest && file_map(&map, path, error)) {
        state = checkpoint_parse_state(map.data, map.size, path, error);
        file_unmap(&map);
    }
    json_decref(manifest);
    free(path);
    return state;
}

char *checkpoint_last(const char *output_dir) {
    int count;
    long long *updates = checkpoint_list(output_dir, &count);
    char *found = NULL;
    for (int i = count; i-- > 0 && !found;) {
        struct error error;
        char *path = xformat("%s/checkpoint-%lld", output_dir, updates[i]);
        json_t *state = checkpoint_state(path, &error);
        if (state) {
            found = path;
        } else {
            warn("%s is passed over: %s", path, error.text);
            free(path);
        }
        json_decref(state);
    }
    free(updates);
    return found;
}
