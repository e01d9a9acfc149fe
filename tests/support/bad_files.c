#include "tests/support/bad_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

/* ---- changing files ---- */

static void shell(const char *command) {
    struct command_result result = command_run(60, "%s", command);
    if (result.exit_code != 0) fail_msg("%s: %s", command, result.err);
    command_free(&result);
}

/* A copy of FOLDER/FROM; the caller frees its path. */
static char *copy(const char *folder, const char *from, const char *to) {
    char *command = xformat("mkdir -p $(dirname %1$s/%3$s) && cp -r %1$s/%2$s %1$s/%3$s", folder, from, to);
    shell(command);
    free(command);
    return xformat("%s/%s", folder, to);
}

static char *model(const char *folder, const char *name) {
    char *to = xformat("models/%s", name), *path = copy(folder, "good/model", to);
    free(to);
    return path;
}

/* Replaces the first `old` in DIRECTORY/NAME. */
static void replace(const char *directory, const char *name, const char *old, const char *new) {
    struct error error;
    struct file_map map;
    char *path = xformat("%s/%s", directory, name);
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    char *found = memmem(map.data, map.size, old, strlen(old));
    if (!found) fail_msg("%s has no '%s' to replace", path, old);
    size_t before = (size_t)(found - map.data), after = map.size - before - strlen(old);
    char *changed = xmalloc(before + strlen(new) + after);
    memcpy(changed, map.data, before);
    memcpy(changed + before, new, strlen(new));
    memcpy(changed + before + strlen(new), found + strlen(old), after);
    temporary_write(directory, name, changed, before + strlen(new) + after);
    free(changed);
    file_unmap(&map);
    free(path);
}

/* Leaves `part` of a file's bytes. */
static void cut(const char *directory, const char *name, double part) {
    char *path = xformat("%s/%s", directory, name);
    struct stat status;
    if (stat(path, &status) != 0 || truncate(path, (off_t)(part * (double)status.st_size)) != 0)
        fail_msg("%s cannot be cut", path);
    free(path);
}

static void take_away(const char *directory, const char *name) {
    char *path = xformat("%s/%s", directory, name);
    if (unlink(path) != 0) fail_msg("%s cannot be removed", path);
    free(path);
}

/* ---- models ---- */

/* A model with one text in one file replaced. */
static void changed_model(const char *folder, const char *name, const char *file, const char *old,
                          const char *new) {
    char *path = model(folder, name);
    replace(path, file, old, new);
    free(path);
}

static void cut_model(const char *folder, const char *name, const char *file, double part) {
    char *path = model(folder, name);
    if (part < 0)
        take_away(path, file);
    else
        cut(path, file, part);
    free(path);
}

static void make_models(const char *folder) {
    static const char config[] = "config.json", weights[] = "model.safetensors", text[] = "tokenizer.json";
    cut_model(folder, "no-config", config, -1);
    cut_model(folder, "cut-config", config, 0.5);
    changed_model(folder, "malformed-config", config, "\"n_head\": 4,", "\"n_head\": 4");
    changed_model(folder, "other-type", config, "\"bloom\"", "\"gpt2\"");
    changed_model(folder, "uneven-heads", config, "\"n_head\": 4", "\"n_head\": 5");
    changed_model(folder, "text-for-number", config, "\"n_layer\": 2", "\"n_layer\": \"two\"");
    changed_model(folder, "no-layers", config, "\"n_layer\": 2", "\"n_layer\": -2");
    changed_model(folder, "no-vocabulary", config, "\"vocab_size\": 906", "\"unused\": 906");
    changed_model(folder, "dropout", config, "\"hidden_dropout\": 0.0", "\"hidden_dropout\": 0.1");
    changed_model(folder, "another-layer", config, "\"n_layer\": 2", "\"n_layer\": 3");

    cut_model(folder, "no-weights", weights, -1);
    cut_model(folder, "cut-weights", weights, 0.7);
    cut_model(folder, "cut-header", weights, 0.001);
    cut_model(folder, "empty-weights", weights, 0);
    changed_model(folder, "malformed-header", weights, "{\"__metadata__\":{", "{\"__metadata__\":[");
    changed_model(folder, "wrong-shape", weights, "\"shape\":[906,64]", "\"shape\":[64,906]");
    changed_model(folder, "wrong-type", weights, "ln_f.bias\":{\"dtype\":\"F32\"",
                  "ln_f.bias\":{\"dtype\":\"I32\"");
    changed_model(folder, "absent-tensor", weights, "transformer.ln_f.bias", "transformer.ln_f.bios");
    changed_model(folder, "overlapping", weights, "\"data_offsets\":[256,512]", "\"data_offsets\":[255,511]");
    char *path = model(folder, "long-header");
    char *file = xformat("%s/%s", path, weights);
    FILE *opened = fopen(file, "r+e");
    assert_non_null(opened);
    assert_int_equal(fwrite("\xff\xff\xff\xff\xff\xff\xff\x7f", 1, 8, opened), 8);
    fclose(opened);
    free(file);
    free(path);

    cut_model(folder, "no-tokenizer", text, -1);
    cut_model(folder, "cut-tokenizer", text, 0.5);
    changed_model(folder, "malformed-tokenizer", text, "\"truncation\": null,", "\"truncation\": nil,");
    changed_model(folder, "other-tokenizer", text, "\"BPE\"", "\"Unigram\"");
    path = model(folder, "larger-tokenizer");
    char *command = xformat("cp %s/common/sample/tokenizer.json %s", SOURCE_DIR, path);
    shell(command);
    free(command);
    free(path);
}

static void make_shards(const char *folder) {
    static const char index[] = "model.safetensors.index.json";
    char *path = copy(folder, "good/sharded", "models/no-shard");
    take_away(path, "model-00003-of-00004.safetensors");
    free(path);
    path = copy(folder, "good/sharded", "models/malformed-index");
    replace(path, index, "\"weight_map\": {", "\"weight_map\": [");
    free(path);
    path = copy(folder, "good/sharded", "models/wrong-shard");
    replace(path, index, "input_layernorm.bias\": \"model-00001", "input_layernorm.bias\": \"model-00003");
    free(path);
    path = copy(folder, "good/sharded", "models/escaping-shard");
    replace(path, index, "\"model-00001-of-00004.safetensors\"", "\"../../good/model/model.safetensors\"");
    free(path);
}

/* ---- text and settings ---- */

static void make_text(const char *folder) {
    static const char *const texts[][2] = {
        {"empty", ""},
        {"no-data", "{\"version\": \"1.1\"}"},
        {"array", "[1, 2, 3]"},
        {"no-questions", "{\"version\": \"1.1\", \"data\": []}"},
        {"no-answers",
         "{\"data\": [{\"paragraphs\": [{\"context\": \"c\", \"qas\": [{\"question\": \"q\"}]}]}]}"},
        {"number-for-context", "{\"data\": [{\"paragraphs\": [{\"context\": 7, \"qas\": []}]}]}"},
        {"not-utf8", "{\"data\": [{\"paragraphs\": [{\"context\": \"\xff\xfe\", \"qas\": []}]}]}"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *name = xformat("text/%s.json", texts[i][0]);
        temporary_write_text(folder, name, texts[i][1]);
        free(name);
    }
    char *text = xformat("%s/text", folder);
    free(copy(folder, "good/train.json", "text/cut.json"));
    cut(text, "cut.json", 0.6);
    free(copy(folder, "good/train.json", "text/malformed.json"));
    replace(text, "malformed.json", "\"qas\": [", "\n \"qas\": {");
    free(text);
}

static void make_settings(const char *folder) {
    static const char *const files[][2] = {
        {"unknown", "{\"max_steps\": 2, \"learning_rat\": 1e-3}"},
        {"malformed", "{\n  \"max_steps\": 2,\n  \"seed\" 3\n}"},
        {"array", "[\"max_steps\", 2]"},
        {"wrong-type", "{\"max_steps\": \"2\"}"},
        {"real-for-integer", "{\"max_steps\": 2.5}"},
        {"twice", "{\"max_steps\": 2, \"max_steps\": 3}"},
        {"out-of-bounds", "{\"warmup_ratio\": 1.5}"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *name = xformat("settings/%s.json", files[i][0]);
        temporary_write_text(folder, name, files[i][1]);
        free(name);
    }
}

void bad_files_make(const char *folder) {
    char *command = xformat("mkdir -p %1$s/good && cp -r %2$s/trainer-short/* %2$s/sharded %1$s/good", folder,
                            SOURCE_DIR "/tests/fixtures");
    shell(command);
    free(command);
    make_models(folder);
    make_shards(folder);
    make_text(folder);
    make_settings(folder);
    temporary_write_text(folder, "file", "a regular file");
}

/* ---- checkpoints ---- */

static char *saved(const char *folder, const char *name) {
    char *to = xformat("runs/%s", name), *run = copy(folder, "saved", to);
    char *path = xformat("%s/checkpoint-2", run);
    free(run);
    free(to);
    return path;
}

static void changed_state(const char *folder, const char *name, const char *old, const char *new) {
    char *path = saved(folder, name);
    replace(path, "state.json", old, new); /* of the same length: the manifest must not notice first */
    free(path);
}

void bad_checkpoints_make(const char *folder) {
    static const char optimizer[] = "optimizer-00000-of-00001.safetensors";
    char *path = saved(folder, "no-manifest");
    take_away(path, "manifest.json");
    free(path);
    path = saved(folder, "malformed-manifest");
    replace(path, "manifest.json", "\"files\": {", "\"files\": [");
    free(path);
    path = saved(folder, "empty-manifest");
    temporary_write_text(path, "manifest.json", "{\"files\": {}}");
    free(path);
    path = saved(folder, "cut-optimizer");
    cut(path, optimizer, 0.9);
    free(path);
    path = saved(folder, "no-state");
    take_away(path, "state.json");
    free(path);
    path = saved(folder, "wrong-pieces");
    replace(path, optimizer, "block.0.0.m", "block.0.0.q");
    free(path);
    path = saved(folder, "missing-pieces");
    replace(path, optimizer, "block.1.0.m", "block.7.0.m");
    free(path);
    changed_state(folder, "malformed-state", "{\n", "[\n");
    changed_state(folder, "wrong-step", "\"step\": 2", "\"step\":-2");
    changed_state(folder, "text-for-step", "\"step\": 2,", "\"step\":\"\",");
    changed_state(folder, "no-losses", "\"losses\"", "\"lasses\"");
    changed_state(folder, "applied-too-many", "\"applied\": 2", "\"applied\": 9");
}
