/*
 * bench STAGE… [--ranks N,M,…] [--table NAME] [--output FILE] --programs DIR --launcher WORDS [--NAME VALUE
 * …]
 *
 * Runs stage programs on random weights and synthetic text, and says how fast they were: see bench.h. Started
 * by ./workshop bench, whose help explains the options.
 */
#include "common/tools/bench.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/session.h"

enum { MOST_WORLDS = 16, MOST_RANKS = 100000, UPDATES = 20, UPDATES_OF_TEXT = 8 };

struct options {
    struct bench_programs programs;
    json_t *stages;         /* names */
    int ranks[MOST_WORLDS]; /* world sizes */
    int worlds;             /* how many of them; 0: the table decides */
    char *table;            /* NULL: stages x world sizes */
    char *output;           /* NULL: a new one */
    json_t *settings;       /* words of settings, after the defaults */
};

/* ---- arguments ---- */

static void read_ranks(struct options *options, const char *text) {
    const char *at = text;
    for (options->worlds = 0; options->worlds < MOST_WORLDS; at++) {
        char *end;
        errno = 0;
        long ranks = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : 0;
        if (ranks < 1 || ranks > MOST_RANKS || errno || (*end && *end != ','))
            fail("--ranks %s: not numbers of processes, such as 1,2,4", text);
        options->ranks[options->worlds++] = (int)ranks;
        at = end;
        if (!*at) return;
    }
    fail("--ranks %s: more than %d numbers", text, MOST_WORLDS);
}

static bool read_option(struct options *options, const char *name, const char *value) {
    static const char *const names[] = {"--programs", "--launcher", "--ranks", "--table", "--output"};
    int option = 0;
    while (option < 5 && strcmp(name, names[option]) != 0) option++;
    if (option == 5) return false;
    if (!value || !value[0]) fail("%s needs a value: ./workshop bench --help", name);
    if (option == 0) options->programs.folder = xstrdup(value);
    if (option == 1) options->programs.launcher = xstrdup(value);
    if (option == 2) read_ranks(options, value);
    if (option == 3) options->table = xstrdup(value);
    if (option == 4) options->output = xstrdup(value);
    return true;
}

static void read_arguments(struct options *options, int count, char **arguments) {
    int i = 1;
    for (; i < count && strncmp(arguments[i], "--", 2) != 0; i++)
        json_array_append_new(options->stages, json_string(arguments[i]));
    while (i < count) {
        char *name = xstrdup(arguments[i++]), *equals = strchr(name, '=');
        if (!strncmp(name, "--", 2) && equals) *equals = '\0';
        if (!strcmp(name, "--config") || !strcmp(name, "--output_dir"))
            fail("bench takes no %s: give its settings on the command line", name);
        const char *value = equals ? equals + 1 : i < count ? arguments[i] : NULL;
        if (read_option(options, name, value))
            i += !equals;
        else
            json_array_append_new(options->settings, json_string(arguments[i - 1]));
        free(name);
    }
    if (!options->programs.folder) fail("bench needs --programs DIR: start it by ./workshop bench");
    if (!options->programs.launcher) options->programs.launcher = xstrdup("mpirun -n @");
    if (options->table && strcmp(options->table, "scaling") != 0)
        fail("--table %s: there is only the table scaling", options->table);
}

/* All stages that are built, where none is named. */
static void find_stages(struct options *options) {
    const char *folder = options->programs.folder;
    size_t named = json_array_size(options->stages);
    char *pattern = xformat("%s/[0-9][0-9]-*/train", folder);
    glob_t found;
    if (!named && glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            char *path = xstrdup(found.gl_pathv[i] + strlen(folder) + 1);
            *strchr(path, '/') = '\0';
            json_array_append_new(options->stages, json_string(path));
            free(path);
        }
        globfree(&found);
    }
    free(pattern);
    if (!json_array_size(options->stages)) fail("%s: no stage is built there", folder);
    for (size_t i = 0; i < named; i++) {
        const char *stage = json_string_value(json_array_get(options->stages, i));
        char *path = xformat("%s/%s/train", folder, stage);
        if (access(path, X_OK) != 0) fail("no stage '%s' is built in %s", stage, folder);
        free(path);
    }
}

/* ---- runs ---- */

static void add_setting(json_t *words, const char *name, char *value) {
    json_array_append_new(words, json_sprintf("--%s", name));
    json_array_append_new(words, json_string(value));
    free(value);
}

/* What a benchmark sets, before the user does: on a GPU what the peers are measured with, on a CPU something
 * that takes seconds. */
static json_t *default_settings(void) {
    bool gpu = !strcmp(device_backend(), "cuda");
    json_t *words = json_array();
    add_setting(words, "model_name_or_path", xstrdup(gpu ? "random:bloom-560m" : "random:tiny"));
    add_setting(words, "max_seq_length", xformat("%d", gpu ? 512 : 256));
    add_setting(words, "per_device_train_batch_size", xstrdup("4"));
    add_setting(words, "gradient_accumulation_steps", xformat("%d", gpu ? 4 : 2));
    add_setting(words, "max_steps", xformat("%d", SESSION_WARM_UP + UPDATES));
    add_setting(words, "pad_to_max_length", xstrdup("true"));
    add_setting(words, "subset_size", xstrdup("0"));
    add_setting(words, "eval_strategy", xstrdup("no"));
    add_setting(words, "save_strategy", xstrdup("no"));
    add_setting(words, "save_model", xstrdup("false"));
    add_setting(words, "memory_sample_interval", xstrdup("0"));
    add_setting(words, "time_phases", xstrdup("true"));
    add_setting(words, "disable_tqdm", xstrdup("true"));
    return words;
}

/* Reads the run's arguments as the program will. */
static void read_settings(struct bench_run *run) {
    struct error error;
    size_t count = json_array_size(run->arguments);
    char **words = xcalloc(count + 1, sizeof *words);
    for (size_t i = 0; i < count; i++)
        words[i] = xstrdup(json_string_value(json_array_get(run->arguments, i)));
    settings_default(&run->settings);
    if (!settings_read_arguments(&run->settings, (int)count, words, &error) ||
        !settings_check(&run->settings, &error))
        fail("%s", error.text);
    if (run->settings.max_steps <= SESSION_WARM_UP)
        fail("--max_steps %lld: the first %d updates warm up: give more", (long long)run->settings.max_steps,
             SESSION_WARM_UP);
    for (size_t i = 0; i < count; i++) free(words[i]);
    free(words);
}

/* accumulation 0: as set. Text of whole updates, so that all have the same size. */
static struct bench_run plan_run(const struct options *options, const char *stage, int ranks,
                                 int accumulation) {
    struct bench_run run = {
        .stage = stage, .ranks = ranks, .arguments = default_settings(), .given = options->settings};
    json_array_extend(run.arguments, options->settings);
    if (accumulation) add_setting(run.arguments, "gradient_accumulation_steps", xformat("%d", accumulation));
    read_settings(&run);
    const struct settings *settings = &run.settings;
    if (strcmp(settings->train_file, "sample") != 0) return run;
    long long examples = UPDATES_OF_TEXT * ranks * settings->per_device_train_batch_size *
                         settings->gradient_accumulation_steps;
    add_setting(run.arguments, "train_file",
                xformat("synthetic:%lldx%lld", examples, (long long)settings->max_seq_length));
    return run;
}

struct plan {
    struct bench_run *runs;
    size_t count;
};

static void add_run(struct plan *plan, struct bench_run run) {
    plan->runs = xrealloc(plan->runs, (plan->count + 1) * sizeof *plan->runs);
    plan->runs[plan->count++] = run;
}

/* The table scaling: world sizes up to what there is. */
static void choose_worlds(struct options *options, const struct bench_machine *machine) {
    bool gpu = !strcmp(device_backend(), "cuda");
    int most = gpu ? machine->devices : machine->cores;
    if (options->worlds) return;
    options->ranks[options->worlds++] = 1;
    for (int ranks = 2; options->table && ranks <= most && ranks <= 8; ranks *= 2)
        options->ranks[options->worlds++] = ranks;
}

/* One rank that makes the updates of each of the table's worlds, to compare their losses with: of the first
 * stage alone, as all give the same. */
static void add_references(const struct options *options, const int *accumulations, int count,
                           struct plan *plan) {
    const char *first = json_string_value(json_array_get(options->stages, 0));
    for (int a = 0; a < count; a++)
        for (int w = 0; w < options->worlds; w++) {
            int together = accumulations[a] * options->ranks[w];
            bool planned = false;
            for (size_t r = 0; r < plan->count; r++) {
                const struct bench_run *run = &plan->runs[r];
                planned |= run->ranks == 1 && run->settings.gradient_accumulation_steps == together;
            }
            if (!planned) add_run(plan, plan_run(options, first, 1, together));
        }
}

static struct plan plan_runs(struct options *options) {
    static const int as_set[] = {0}, both[] = {4, 1};
    const int *accumulations = options->table ? both : as_set;
    int count = options->table ? 2 : 1;
    struct plan plan = {0};
    size_t index;
    json_t *stage;
    for (int a = 0; a < count; a++)
        json_array_foreach(options->stages, index, stage) for (int w = 0; w < options->worlds; w++)
            add_run(&plan, plan_run(options, json_string_value(stage), options->ranks[w], accumulations[a]));
    if (options->table) add_references(options, accumulations, count, &plan);
    return plan;
}

static void free_plan(struct plan *plan) {
    for (size_t i = 0; i < plan->count; i++) {
        json_decref(plan->runs[i].arguments);
        settings_free(&plan->runs[i].settings);
    }
    free(plan->runs);
}

/* ---- the file ---- */

/* runs/bench-<number>.json, a new one; a table's own, which is gone on with. */
static char *default_output(const char *table) {
    struct error error;
    if (!directory_create("runs", &error)) fail("%s", error.text);
    if (table) return xformat("runs/bench-%s.json", table);
    for (int number = 1;; number++) {
        char *path = xformat("runs/bench-%d.json", number);
        if (!file_exists(path)) return path;
        free(path);
    }
}

/* What the file holds already, if it is of this machine. */
static json_t *open_document(const char *path, const struct bench_machine *machine) {
    struct error error;
    if (!file_exists(path)) {
        json_t *document = json_object();
        json_object_set_new(document, "device", json_string(machine->device));
        json_object_set_new(document, "backend", json_string(device_backend()));
        json_object_set_new(document, "devices", json_integer(machine->devices));
        json_object_set_new(document, "peaks", json_object());
        json_object_set_new(document, "rows", json_array());
        return document;
    }
    json_t *document = json_read_file(path, &error);
    if (!document) fail("%s", error.text);
    const char *device = json_string_value(json_object_get(document, "device"));
    if (!json_is_array(json_object_get(document, "rows")) ||
        !json_is_object(json_object_get(document, "peaks")))
        fail("%s: was not written by bench: choose another --output", path);
    if (!device || strcmp(device, machine->device) != 0)
        fail("%s: was measured on %s, this is %s: choose another --output", path, device ? device : "?",
             machine->device);
    return document;
}

static void write_document(const char *path, json_t *document) {
    struct error error;
    size_t index;
    json_t *row, *rows = json_object_get(document, "rows");
    json_array_foreach(rows, index, row) {
        double ratio = bench_ratio(rows, row);
        json_object_set_new(row, "ratio_to_one_rank", ratio > 0 ? json_number(ratio) : json_null());
        double off = bench_losses_off(rows, row);
        json_object_set_new(row, "losses_off", off >= 0 ? json_number(off) : json_null());
    }
    char *text = json_dumps(document, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!text) fail("%s: the results cannot be written as JSON; please report this", path);
    if (!file_write(path, text, strlen(text), &error)) fail("%s", error.text);
    free(text);
}

static json_t *find_row(const json_t *document, const struct bench_run *run) {
    size_t index;
    json_t *row;
    json_array_foreach(json_object_get(document, "rows"), index, row) {
        const char *stage = json_string_value(json_object_get(row, "stage"));
        if (stage && !strcmp(stage, run->stage) &&
            json_equal(json_object_get(row, "arguments"), run->arguments) &&
            json_integer_value(json_object_get(row, "ranks")) == run->ranks)
            return row;
    }
    return NULL;
}

/* ---- all of it ---- */

/* The row of a run: the file's, or a new one, which is written there. NULL where the run fails. Borrowed. */
static json_t *make_row(const struct options *options, const struct plan *plan, size_t number,
                        const struct bench_machine *machine, json_t *document) {
    const struct bench_run *run = &plan->runs[number];
    struct error error;
    json_t *row = find_row(document, run);
    fprintf(stderr, "[%zu of %zu] %s on %d rank%s, accumulation %lld: ", number + 1, plan->count, run->stage,
            run->ranks, run->ranks == 1 ? "" : "s", (long long)run->settings.gradient_accumulation_steps);
    if (row) {
        fprintf(stderr, "in %s already\n", options->output);
        return row;
    }
    row = bench_row(run, &options->programs, machine, &error);
    if (!row) {
        fprintf(stderr, "failed\nerror: %s on %d rank%s: %s\n", run->stage, run->ranks,
                run->ranks == 1 ? "" : "s", error.text);
        return NULL;
    }
    fprintf(stderr, "%.2f examples/s\n", bench_number(row, "examples_per_second.median"));
    json_array_append_new(json_object_get(document, "rows"), row);
    write_document(options->output, document);
    return row;
}

/* How many runs failed. */
static int make_table(struct options *options, const struct bench_machine *machine, const struct plan *plan) {
    const char *precision = dtype_name(settings_dtype(&plan->runs[0].settings));
    json_t *document = open_document(options->output, machine), *rows = json_array();
    json_object_set_new(json_object_get(document, "peaks"), precision, json_number(machine->peak_flops));
    int failed = 0;
    for (size_t i = 0; i < plan->count; i++) {
        json_t *row = make_row(options, plan, i, machine, document);
        if (row) json_array_append(rows, row);
        failed += !row;
    }
    bench_print(rows, json_object_get(document, "rows"), machine);
    if (json_array_size(rows)) printf("\nwritten to %s\n", options->output);
    json_decref(rows);
    json_decref(document);
    return failed;
}

int main(int argc, char **argv) {
    struct options options = {.stages = json_array(), .settings = json_array()};
    struct bench_machine machine = {.devices = 0};
    read_arguments(&options, argc, argv);
    if (!device_computes()) fail("the dry backend computes nothing: there is nothing to measure");
    find_stages(&options);
    struct bench_run first = plan_run(&options, "", 1, 0); /* wrong settings are told before anything runs */
    if (!bench_measure(&machine, settings_dtype(&first.settings))) return 1;
    json_decref(first.arguments);
    settings_free(&first.settings);
    choose_worlds(&options, &machine);
    struct plan plan = plan_runs(&options);
    if (!options.output) options.output = default_output(options.table);
    int failed = make_table(&options, &machine, &plan);
    free_plan(&plan);
    json_decref(options.stages);
    json_decref(options.settings);
    free(options.table);
    free(options.output);
    free(options.programs.folder);
    free(options.programs.launcher);
    return failed ? 1 : 0;
}
