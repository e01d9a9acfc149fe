#include "tests/support/run_files.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/checkpoint.h"
#include "common/train/checkpoint_files.h"
#include "tests/support/check.h"

/* ---- events ---- */

json_t *run_events(const char *output_dir, const char *event) {
    struct error error;
    struct file_map map;
    char *path = xformat("%s/metrics.jsonl", output_dir);
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    json_t *events = json_array();
    for (size_t at = 0; at < map.size;) {
        const char *end = memchr(map.data + at, '\n', map.size - at);
        if (!end) fail_msg("%s: its last line is not whole", path);
        size_t length = (size_t)(end - map.data) - at;
        json_t *line = json_read_bytes(map.data + at, length, path, &error);
        if (!line) fail_msg("%s", error.text);
        const char *kind = json_string_value(json_object_get(line, "event"));
        json_object_del(line, "eval_runtime");
        json_object_del(line, "eval_samples_per_second");
        if (kind && !strcmp(kind, event)) json_array_append(events, line);
        json_decref(line);
        at += length + 1;
    }
    file_unmap(&map);
    free(path);
    return events;
}

static void check_same_events(const char *output_dir, const char *other, const char *event) {
    json_t *ours = run_events(output_dir, event), *theirs = run_events(other, event);
    size_t count = json_array_size(ours);
    if (count != json_array_size(theirs))
        fail_msg("%s has %zu %s events, %s has %zu", output_dir, count, event, other,
                 json_array_size(theirs));
    for (size_t i = 0; i < count; i++) {
        const json_t *mine = json_array_get(ours, i), *its = json_array_get(theirs, i);
        if (json_equal(mine, its)) continue;
        char *left = json_dumps(mine, JSON_COMPACT | JSON_REAL_PRECISION(17));
        char *right = json_dumps(its, JSON_COMPACT | JSON_REAL_PRECISION(17));
        fail_msg("%s: %s\n%s: %s", output_dir, left, other, right);
    }
    json_decref(ours);
    json_decref(theirs);
}

static void check_similar_events(const char *output_dir, const char *other, const char *event,
                                 const char *number, double tolerance) {
    json_t *ours = run_events(output_dir, event), *theirs = run_events(other, event);
    assert_int_equal(json_array_size(ours), json_array_size(theirs));
    assert_true(json_array_size(ours) > 0);
    for (size_t i = 0; i < json_array_size(ours); i++) {
        const json_t *mine = json_array_get(ours, i), *its = json_array_get(theirs, i);
        assert_int_equal(json_integer_value(json_object_get(mine, "step")),
                         json_integer_value(json_object_get(its, "step")));
        double x = json_number_value(json_object_get(mine, number));
        double y = json_number_value(json_object_get(its, number));
        if (!(fabs(x - y) <= tolerance * fabs(y)))
            fail_msg("%s number %zu: %.17g in %s, %.17g in %s", number, i, x, output_dir, y, other);
    }
    json_decref(ours);
    json_decref(theirs);
}

void check_similar_runs(const char *output_dir, const char *other, double tolerance) {
    check_similar_events(output_dir, other, "step", "loss", tolerance);
    check_similar_events(output_dir, other, "eval", "eval_loss", tolerance);
    check_similar_events(output_dir, other, "summary", "train_loss", tolerance);
}

/* ---- files ---- */

static void check_same_file(const char *folder, const char *other, const char *name) {
    struct error error;
    struct file_map map[2];
    const char *folders[] = {folder, other};
    for (int i = 0; i < 2; i++) {
        char *path = xformat("%s/%s", folders[i], name);
        if (!file_map(&map[i], path, &error)) fail_msg("%s", error.text);
        free(path);
    }
    if (map[0].size != map[1].size || memcmp(map[0].data, map[1].data, map[0].size) != 0)
        fail_msg("%s differs between %s and %s", name, folder, other);
    file_unmap(&map[0]);
    file_unmap(&map[1]);
}

static char *last_checkpoint(const char *output_dir) {
    int count, last = check_checkpoints(output_dir, &count);
    return xformat("%s/checkpoint-%d", output_dir, last);
}

void check_same_runs(const char *output_dir, const char *other) {
    check_same_events(output_dir, other, "step");
    check_same_events(output_dir, other, "eval");
    check_similar_events(output_dir, other, "summary", "train_loss", 0);
    check_same_file(output_dir, other, "model.safetensors");
    char *folder = last_checkpoint(output_dir), *others = last_checkpoint(other);
    check_same_file(folder, others, "model.safetensors");
    struct error error;
    json_t *manifest = manifest_check(folder, &error);
    if (!manifest) fail_msg("%s", error.text);
    const char *name;
    json_t *bytes;
    int compared = 0;
    json_object_foreach(json_object_get(manifest, "files"), name, bytes) {
        if (strncmp(name, "optimizer-", 10) != 0) continue;
        check_same_file(folder, others, name);
        compared++;
    }
    assert_true(compared > 0);
    json_decref(manifest);
    free(folder);
    free(others);
}

int check_checkpoints(const char *output_dir, int *count) {
    int last = -1;
    long long *updates = checkpoint_list(output_dir, count);
    for (int i = 0; i < *count; i++) {
        struct error error;
        char *folder = xformat("%s/checkpoint-%lld", output_dir, updates[i]);
        json_t *state = checkpoint_state(folder, &error);
        if (!state) fail_msg("%s", error.text);
        assert_int_equal(json_integer_value(json_object_get(state, "step")), updates[i]);
        last = (int)updates[i];
        json_decref(state);
        free(folder);
    }
    free(updates);
    return last;
}

bool has_unfinished_checkpoint(const char *output_dir) {
    bool found = false;
    DIR *folder = opendir(output_dir);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        found = found || (!strncmp(entry->d_name, "checkpoint-", 11) && strstr(entry->d_name, ".part"));
    if (folder) closedir(folder);
    return found;
}
