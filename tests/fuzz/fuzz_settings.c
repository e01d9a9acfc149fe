/* Any bytes as a file of settings, as a DeepSpeed configuration, as a command line (one argument a line), and
 * as the two JSON files of a checkpoint. Settings that are accepted must come back from their own JSON as
 * they were. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/train/checkpoint_files.h"
#include "common/train/deepspeed_config.h"
#include "common/train/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const struct error *error) {
    if (!error->text[0] || strchr(error->text, '\n')) abort();
}

static void check_round_trip(const struct settings *settings) {
    struct error error = {""};
    struct settings again;
    json_t *object = settings_json(settings);
    settings_default(&again);
    if (!settings_read_json(&again, object, "again", &error)) abort();
    json_t *same = settings_json(&again);
    if (!json_equal(object, same)) abort();
    json_decref(same);
    json_decref(object);
    settings_free(&again);
}

static void read_file(const char *data, size_t size) {
    struct error error = {""};
    struct settings settings;
    settings_default(&settings);
    json_t *object = json_read_bytes(data, size, "fuzz.json", &error);
    if (object && settings_read_json(&settings, object, "fuzz.json", &error)) {
        check_round_trip(&settings);
        if (!settings_check(&settings, &error)) check_error(&error);
    } else {
        check_error(&error);
    }
    json_decref(object);
    settings_free(&settings);
}

static void read_deepspeed(const char *data, size_t size) {
    struct error error = {""};
    struct settings settings;
    settings_default(&settings);
    json_t *object = json_read_bytes(data, size, "fuzz.json", &error);
    bool ok = object && deepspeed_config_apply(&settings, object, "fuzz.json", &error);
    if (ok && settings_fit_world(&settings, 3, &error))
        check_round_trip(&settings);
    else
        check_error(&error);
    json_decref(object);
    settings_free(&settings);
}

static void read_command_line(const char *data, size_t size) {
    enum { MOST = 16 };
    char *text = xmalloc(size + 1), *arguments[MOST], *rest = text;
    memcpy(text, data, size);
    text[size] = '\0';
    int count = 0;
    for (char *line; count < MOST && (line = strsep(&rest, "\n"));) arguments[count++] = line;
    struct error error = {""};
    struct settings settings;
    settings_default(&settings);
    /* --config would read files of this machine. */
    if (!strstr(text, "config")) { /* settings_read_arguments() does not open --deepspeed's */
        if (settings_read_arguments(&settings, count, arguments, &error))
            check_round_trip(&settings);
        else
            check_error(&error);
    }
    settings_free(&settings);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    read_file(text, size);
    read_deepspeed(text, size);
    read_command_line(text, size);
    struct error error = {""};
    json_t *state = checkpoint_parse_state(text, size, "fuzz/state.json", &error);
    if (!state) check_error(&error);
    json_decref(state);
    error = (struct error){""};
    json_t *manifest = manifest_parse(text, size, "fuzz/manifest.json", &error);
    if (!manifest) check_error(&error);
    json_decref(manifest);
    return 0;
}
