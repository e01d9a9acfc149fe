#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/base/program.h"
#include "common/tools/reference.h"

enum { LOSSES_KEPT = 24 };

/* ---- what is kept ---- */

/* A copy without some keys. */
static json_t *without(const json_t *event, const char *const *keys, size_t count) {
    json_t *copy = json_deep_copy(event);
    json_object_del(copy, "event");
    for (size_t i = 0; i < count; i++) json_object_del(copy, keys[i]);
    return copy;
}

static void keep_event(json_t *results, const char *kind, const json_t *event) {
    static const char *const elsewhere[] = {"hosts", "job_id", "settings", "output_dir", "resumed_from"};
    static const char *const last_ones[] = {"run", "memory", "memory_samples", "communication", "summary"};
    if (!strcmp(kind, "step") && json_array_size(json_object_get(results, "losses")) < LOSSES_KEPT) {
        json_array_append(json_object_get(results, "losses"), json_object_get(event, "loss"));
        json_array_append(json_object_get(results, "norms"), json_object_get(event, "grad_norm"));
    }
    if (!strcmp(kind, "eval"))
        json_array_append_new(json_object_get(results, "evals"), without(event, NULL, 0));
    for (size_t i = 0; i < sizeof last_ones / sizeof *last_ones; i++)
        if (!strcmp(kind, last_ones[i]))
            json_object_set_new(results, kind,
                                without(event, elsewhere, sizeof elsewhere / sizeof *elsewhere));
}

/* Today, as YYYY-MM-DD. */
static json_t *today(void) {
    char text[16];
    time_t now = time(NULL);
    struct tm parts;
    if (!gmtime_r(&now, &parts) || !strftime(text, sizeof text, "%Y-%m-%d", &parts)) return json_string("");
    return json_string(text);
}

json_t *reference_take(const char *path, const char *commit, struct error *error) {
    char *inside = directory_exists(path) ? xformat("%s/metrics.jsonl", path) : xstrdup(path);
    FILE *file = fopen(inside, "re");
    json_t *results = json_object(), *line;
    json_error_t reason;
    if (file) {
        json_object_set_new(results, "date", today());
        if (commit) json_object_set_new(results, "commit", json_string(commit));
        json_object_set_new(results, "evals", json_array());
        json_object_set_new(results, "losses", json_array());
        json_object_set_new(results, "norms", json_array());
        while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, &reason))) {
            const char *kind = json_string_value(json_object_get(line, "event"));
            if (kind) keep_event(results, kind, line);
            json_decref(line);
        }
        fclose(file);
    }
    if (!json_object_get(results, "summary")) {
        error_set(error, "%s: %s", inside,
                  file ? "has no summary: the run did not come to its end" : strerror(errno));
        json_decref(results);
        results = NULL;
    }
    free(inside);
    return results;
}

/* Losses and times of the dry backend. */
static void forget_what_was_not_computed(json_t *results) {
    static const char *const keys[] = {"losses", "norms", "evals", "summary", "memory_samples"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) json_object_del(results, keys[i]);
}

/* ---- making a run ---- */

/* The words of a text; @ stands for the number of ranks. */
static void add_words(struct program *program, const char *text, int ranks) {
    char *copy = xstrdup(text ? text : ""), *state;
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state))
        if (strcmp(word, "@") != 0)
            program_add(program, "%s", word);
        else
            program_add(program, "%d", ranks);
    free(copy);
}

/* The command line of a run that writes into that folder. */
static struct program program_of(const json_t *run, const struct reference_programs *programs,
                                 const char *output) {
    const char *backend = json_string_value(json_object_get(run, "backend"));
    int ranks = (int)json_integer_value(json_object_get(run, "ranks"));
    struct program program = {0};
    if (json_is_true(json_object_get(run, "timed"))) add_words(&program, programs->wrapper, ranks);
    if (ranks > 1 && strcmp(backend, "dry") != 0) add_words(&program, programs->launcher, ranks);
    program_add(&program, "%s/%s/%s/train", programs->folder, backend,
                json_string_value(json_object_get(run, "stage")));
    add_words(&program, json_string_value(json_object_get(run, "settings")), ranks);
    add_words(&program, "--disable_tqdm true --output_dir", ranks);
    program_add(&program, "%s", output);
    return program;
}

json_t *reference_make(const json_t *run, const struct reference_programs *programs, struct error *error) {
    const char *temporary = getenv("TMPDIR"), *backend = json_string_value(json_object_get(run, "backend"));
    if (!backend || !json_is_string(json_object_get(run, "stage"))) {
        error_set(error, "has no \"backend\" or no \"stage\"");
        return NULL;
    }
    char *folder = xformat("%s/workshop-reference-XXXXXX", temporary && temporary[0] ? temporary : "/tmp");
    if (!mkdtemp(folder)) fail("%s: no temporary folder: %s", folder, strerror(errno));
    char *output = xformat("%s/run", folder);
    struct program program = program_of(run, programs, output);
    json_t *results = NULL;
    if (program_run(&program, folder, error)) results = reference_take(output, programs->commit, error);
    if (!strcmp(backend, "dry")) forget_what_was_not_computed(results);
    struct error ignored;
    if (!directory_remove(folder, &ignored)) warn("%s", ignored.text);
    program_free(&program);
    free(output);
    free(folder);
    return results;
}
