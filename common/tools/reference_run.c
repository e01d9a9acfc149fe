#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/file.h"
#include "common/base/json.h"
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

static json_t *new_results(const char *commit) {
    json_t *results = json_object();
    json_object_set_new(results, "date", today());
    if (commit) json_object_set_new(results, "commit", json_string(commit));
    return results;
}

json_t *reference_take(const char *path, const char *commit, struct error *error) {
    char *inside = directory_exists(path) ? xformat("%s/metrics.jsonl", path) : xstrdup(path);
    FILE *file = fopen(inside, "re");
    json_t *results = new_results(commit), *line;
    json_error_t reason;
    if (file) {
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

/* The command line of a run that writes into that folder; of a plan, which prints. */
static struct program program_of(const json_t *run, const struct reference_programs *programs,
                                 const char *output) {
    const char *backend = json_string_value(json_object_get(run, "backend"));
    const char *stage = json_string_value(json_object_get(run, "stage"));
    const char *settings = json_string_value(json_object_get(run, "settings"));
    int ranks = (int)json_integer_value(json_object_get(run, "ranks"));
    struct program program = {0};
    if (!strcmp(backend, "plan")) {
        program_add(&program, "%s/dry/tools/plan", programs->folder);
        program_add(&program, "%s", stage);
        add_words(&program, "--ranks @ --json --programs", ranks);
        program_add(&program, "%s/dry", programs->folder);
        add_words(&program, settings, ranks);
        return program;
    }
    if (json_is_true(json_object_get(run, "timed"))) add_words(&program, programs->wrapper, ranks);
    if (ranks > 1 && strcmp(backend, "dry") != 0) add_words(&program, programs->launcher, ranks);
    program_add(&program, "%s/%s/%s/train", programs->folder, backend, stage);
    add_words(&program, settings, ranks);
    add_words(&program, "--disable_tqdm true --output_dir", ranks);
    program_add(&program, "%s", output);
    return program;
}

/* ---- a plan ---- */

/* What a rank sends in an update, as a communication event has it of one update. */
static json_t *planned_communication(const json_t *sent) {
    const char *name;
    json_t *bytes, *event = json_object();
    json_object_foreach((json_t *)(size_t)sent, name, bytes) {
        double inside = json_number_value(json_object_get(bytes, "inside_bytes"));
        double across = json_number_value(json_object_get(bytes, "across_bytes"));
        if (!strcmp(name, "total")) continue;
        json_object_set_new(event, name,
                            json_pack("{s:f, s:f, s:f}", "bytes", inside + across, "inside_bytes", inside,
                                      "across_bytes", across));
    }
    json_object_set_new(event, "updates", json_integer(1));
    return event;
}

/* The first row of a plan, as the results of a run. */
static json_t *take_plan(const char *path, const char *commit, struct error *error) {
    json_t *plan = json_read_file(path, error), *results = NULL;
    const json_t *row = json_array_get(json_object_get(plan, "rows"), 0);
    const char *refused = json_string_value(json_object_get(row, "error"));
    if (plan && (!row || refused)) error_set(error, "%s", refused ? refused : "the plan has no row");
    if (row && !refused) {
        double seconds = json_number_value(json_object_get(json_object_get(row, "seconds"), "update"));
        results = new_results(commit);
        json_object_set_new(results, "run",
                            json_pack("{s:O}", "precision", json_object_get(plan, "precision")));
        json_object_set_new(results, "memory",
                            json_pack("{s:O, s:O}", "device", json_object_get(row, "device_memory"), "host",
                                      json_object_get(row, "host_memory")));
        json_object_set_new(results, "communication", planned_communication(json_object_get(row, "sent")));
        json_object_set_new(results, "summary",
                            json_pack("{s:O, s:{s:f}}", "update_samples_per_second",
                                      json_object_get(row, "examples_per_second"), "update_ms", "median",
                                      1e3 * seconds));
    }
    json_decref(plan);
    return results;
}

json_t *reference_make(const json_t *run, const struct reference_programs *programs, struct error *error) {
    const char *temporary = getenv("TMPDIR"), *backend = json_string_value(json_object_get(run, "backend"));
    if (!backend || !json_is_string(json_object_get(run, "stage"))) {
        error_set(error, "has no \"backend\" or no \"stage\"");
        return NULL;
    }
    char *folder = xformat("%s/workshop-reference-XXXXXX", temporary && temporary[0] ? temporary : "/tmp");
    if (!mkdtemp(folder)) fail("%s: no temporary folder: %s", folder, strerror(errno));
    char *output = xformat("%s/run", folder), *printed = xformat("%s/out", folder);
    struct program program = program_of(run, programs, output);
    json_t *results = NULL;
    bool plan = !strcmp(backend, "plan");
    if (program_run(&program, folder, error))
        results = (plan ? take_plan : reference_take)(plan ? printed : output, programs->commit, error);
    if (!strcmp(backend, "dry")) forget_what_was_not_computed(results);
    struct error ignored;
    if (!directory_remove(folder, &ignored)) warn("%s", ignored.text);
    program_free(&program);
    free(printed);
    free(output);
    free(folder);
    return results;
}
