#include "tests/support/training.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "tests/support/check.h"
#include "tests/support/command.h"

json_t *training_events(const char *output_dir) {
    char *path = xformat("%s/metrics.jsonl", output_dir);
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("%s: not there", path);
    json_t *events = json_array();
    json_error_t reason;
    json_t *line;
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &reason))) json_array_append_new(events, line);
    if (!feof(file)) fail_msg("%s:%d: %s", path, reason.line, reason.text);
    fclose(file);
    free(path);
    return events;
}

struct training training_run(const char *stage, int ranks, const char *settings, ...) {
    va_list arguments;
    va_start(arguments, settings);
    char text[4096];
    vsnprintf(text, sizeof text, settings, arguments);
    va_end(arguments);
    char folder[] = "/tmp/workshop-run-XXXXXX";
    if (!mkdtemp(folder)) fail_msg("no temporary folder");
    char mpirun[128] = "";
    if (ranks > 1) snprintf(mpirun, sizeof mpirun, COMMAND_MPIRUN, ranks);
    struct command_result result = command_run(300, "%s%s/%s/train --output_dir %s/run %s %s", mpirun,
                                               BUILD_DIR, stage, folder, text, command_sharing(ranks));
    if (result.exit_code != 0 || result.timed_out)
        fail_msg("%s on %d ranks, %s: exit code %d%s: %s", stage, ranks, text, result.exit_code,
                 result.timed_out ? " after the time limit" : "", result.err);
    command_free(&result);
    struct training training = {.output_dir = xformat("%s/run", folder)};
    training.events = training_events(training.output_dir);
    return training;
}

#define DRY BUILD_DIR "/../dry/%s/train"

bool training_is_brief(void) {
#ifdef WORKSHOP_SANITIZE
    return true;
#else
    return false;
#endif
}

bool training_has_dry(void) {
    char *program = xformat(DRY, "01-baseline");
    bool found = file_exists(program);
    if (!found) print_message("%s is not built: nothing to compare with\n", program);
    free(program);
    return found;
}

struct training training_run_dry(const char *stage, int rank, int ranks, const char *settings) {
    char folder[] = "/tmp/workshop-run-XXXXXX";
    if (!mkdtemp(folder)) fail_msg("no temporary folder");
    struct command_result result =
        command_run(120, DRY " --output_dir %s/run --dry_rank %d --dry_world_size %d %s", stage, folder, rank,
                    ranks, settings);
    if (result.exit_code != 0) fail_msg("dry %s %s: %s", stage, settings, result.err);
    command_free(&result);
    struct training training = {.output_dir = xformat("%s/run", folder)};
    training.events = training_events(training.output_dir);
    return training;
}

void training_free(struct training *training) {
    struct error error;
    char *folder = xstrdup(training->output_dir);
    *strrchr(folder, '/') = '\0';
    if (!directory_remove(folder, &error)) fail_msg("%s", error.text);
    free(folder);
    free(training->output_dir);
    json_decref(training->events);
}

const json_t *training_event(const struct training *training, const char *event, long long step) {
    size_t index;
    json_t *line;
    json_array_foreach(training->events, index, line) {
        if (strcmp(json_string_value(json_object_get(line, "event")), event) != 0) continue;
        if (step < 0 || json_integer_value(json_object_get(line, "step")) == step) return line;
    }
    fail_msg("%s: no event %s of step %lld", training->output_dir, event, step);
    return NULL;
}

int training_count(const struct training *training, const char *event) {
    int count = 0;
    size_t index;
    json_t *line;
    json_array_foreach(training->events, index, line) count +=
        !strcmp(json_string_value(json_object_get(line, "event")), event);
    return count;
}

double training_number(const json_t *event, const char *path) {
    char keys[256];
    snprintf(keys, sizeof keys, "%s", path);
    const json_t *value = event;
    for (char *state, *key = strtok_r(keys, ".", &state); key; key = strtok_r(NULL, ".", &state))
        value = json_object_get(value, key);
    if (!json_is_number(value)) fail_msg("%s: no number in %s", path, json_dumps(event, 0));
    return json_number_value(value);
}

char *training_settings(const json_t *trainer) {
    char *text = xstrdup("");
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(trainer, "settings"), name, value) {
        char *number =
            json_is_string(value) ? xstrdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);
        char *longer = xformat("%s --%s %s", text, name, number);
        free(number);
        free(text);
        text = longer;
    }
    return text;
}

double training_difference(const struct training *a, const struct training *b, int steps) {
    double worst = 0;
    for (int step = 1; step <= steps; step++) {
        double x = training_number(training_event(a, "step", step), "loss");
        double y = training_number(training_event(b, "step", step), "loss");
        worst = fmax(worst, fabs(x / y - 1));
    }
    return worst;
}
