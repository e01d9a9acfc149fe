#include "common/tools/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/program.h"

enum { LOSSES = 10 };

/* ---- the program ---- */

static void add_launcher(struct program *program, const char *launcher, int ranks) {
    char *copy = xstrdup(launcher), *state;
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        if (strcmp(word, "@") != 0)
            program_add(program, "%s", word);
        else
            program_add(program, "%d", ranks);
    }
    free(copy);
}

static struct program program_of(const struct bench_run *run, const struct bench_programs *programs,
                                 const char *folder) {
    struct program program = {0};
    if (run->ranks > 1) add_launcher(&program, programs->launcher, run->ranks);
    program_add(&program, "%s/%s/train", programs->folder, run->stage);
    size_t index;
    json_t *word;
    json_array_foreach(run->arguments, index, word) program_add(&program, "%s", json_string_value(word));
    program_add(&program, "--output_dir");
    program_add(&program, "%s/run", folder);
    return program;
}

static bool run_program(const struct bench_run *run, const struct bench_programs *programs,
                        const char *folder, struct error *error) {
    struct program program = program_of(run, programs, folder);
    bool good = program_run(&program, folder, error);
    program_free(&program);
    return good;
}

/* ---- what it reported ---- */

/* Reads a file's events: the last of each kind by its name, and the first losses. */
static void add_events(FILE *file, json_t *events) {
    json_t *losses = json_array(), *line;
    json_error_t reason;
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &reason))) {
        const char *kind = json_string_value(json_object_get(line, "event"));
        if (kind && !strcmp(kind, "step") && json_array_size(losses) < LOSSES)
            json_array_append(losses, json_object_get(line, "loss"));
        if (kind) json_object_set(events, kind, line);
        json_decref(line);
    }
    json_object_set_new(events, "losses", losses);
}

/* A run's events; NULL with `error` set where it did not come to its end. */
static json_t *read_events(const char *folder, struct error *error) {
    char *path = xformat("%s/run/metrics.jsonl", folder);
    FILE *file = fopen(path, "re");
    json_t *events = json_object();
    if (file) {
        add_events(file, events);
        fclose(file);
    }
    if (!json_object_get(events, "summary")) {
        error_set(error, "%s has no summary: the run did not come to its end", path);
        json_decref(events);
        events = NULL;
    }
    free(path);
    return events;
}

double bench_number(const json_t *row, const char *path) {
    char keys[256];
    snprintf(keys, sizeof keys, "%s", path);
    char *state;
    for (char *key = strtok_r(keys, ".", &state); key; key = strtok_r(NULL, ".", &state))
        row = json_object_get(row, key);
    return json_number_value(row);
}

static json_t *per_second(const json_t *summary, double examples) {
    static const char *const rates[] = {"median", "lower_quartile", "upper_quartile"};
    static const char *const times[] = {"median", "upper_quartile", "lower_quartile"};
    json_t *object = json_object();
    for (int i = 0; i < 3; i++) {
        double ms = json_number_value(json_object_get(json_object_get(summary, "update_ms"), times[i]));
        json_object_set_new(object, rates[i], ms > 0 ? json_number(1e3 * examples / ms) : json_null());
    }
    return object;
}

static double share_of_peak(const json_t *summary, int ranks, const struct bench_machine *machine) {
    int devices = ranks < machine->devices ? ranks : machine->devices;
    return ranks * bench_number(summary, "model_flops_per_second") / (devices * machine->peak_flops);
}

static json_t *row_of(const struct bench_run *run, const json_t *events,
                      const struct bench_machine *machine) {
    const json_t *ran = json_object_get(events, "run"), *summary = json_object_get(events, "summary");
    const json_t *memory = json_object_get(events, "memory");
    long long micro_batch = run->settings.per_device_train_batch_size;
    long long accumulation = run->settings.gradient_accumulation_steps;
    json_t *row = json_object();
    json_object_set_new(row, "stage", json_string(run->stage));
    json_object_set_new(row, "ranks", json_integer(run->ranks));
    json_object_set(row, "arguments", run->arguments);
    json_object_set(row, "given", run->given);
    json_object_set_new(row, "accumulation", json_integer(accumulation));
    json_object_set_new(row, "micro_batch", json_integer(micro_batch));
    json_object_set(row, "model", json_object_get(ran, "model"));
    json_object_set(row, "precision", json_object_get(ran, "precision"));
    json_object_set_new(row, "examples_per_second",
                        per_second(summary, (double)(run->ranks * micro_batch * accumulation)));
    json_object_set(row, "tokens_per_second", json_object_get(summary, "tokens_per_second"));
    json_object_set_new(row, "share_of_peak", json_number(share_of_peak(summary, run->ranks, machine)));
    json_object_set(row, "update_ms", json_object_get(summary, "update_ms"));
    json_object_set(row, "phase_ms", json_object_get(summary, "phase_ms"));
    if (json_object_get(events, "eval"))
        json_object_set(row, "eval_samples_per_second", json_object_get(summary, "eval_samples_per_second"));
    json_object_set(row, "device_memory", json_object_get(memory, "device"));
    json_object_set(row, "host_memory", json_object_get(memory, "host"));
    json_object_set(row, "communication", json_object_get(events, "communication"));
    json_object_set(row, "losses", json_object_get(events, "losses"));
    json_object_set(row, "settings", json_object_get(ran, "settings"));
    return row;
}

json_t *bench_row(const struct bench_run *run, const struct bench_programs *programs,
                  const struct bench_machine *machine, struct error *error) {
    const char *temporary = getenv("TMPDIR");
    char *folder = xformat("%s/workshop-bench-XXXXXX", temporary && temporary[0] ? temporary : "/tmp");
    if (!mkdtemp(folder)) fail("%s: no temporary folder: %s", folder, strerror(errno));
    json_t *events = NULL, *row = NULL;
    if (run_program(run, programs, folder, error)) events = read_events(folder, error);
    if (events) row = row_of(run, events, machine);
    json_decref(events);
    struct error ignored;
    if (!directory_remove(folder, &ignored)) warn("%s", ignored.text);
    free(folder);
    return row;
}
