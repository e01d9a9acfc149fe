/*
 * What a row needs: its stage program is played on the dry backend, which books every block and counts every
 * byte.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/program.h"
#include "common/device/ledger.h"
#include "common/tools/plan.h"
#include "common/train/run_metrics.h"

/* More ranks than that are not all played: the first and the last then stand for them. */
enum { MOST_PLAYED = 8 };

static void add_words(struct program *program, const char *words) {
    char *copy = xstrdup(words), *state;
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state))
        program_add(program, "%s", word);
    free(copy);
}

static void add_settings(struct program *program, const json_t *words) {
    size_t index;
    json_t *word;
    json_array_foreach((json_t *)(size_t)words, index, word)
        program_add(program, "%s", json_string_value(word));
}

/* Runs the program and reads what it reported. Frees the program. */
static bool play(struct program *program, const struct plan_options *options, struct run_metrics *metrics,
                 struct error *error) {
    program_add(program, "--output_dir");
    program_add(program, "%s/run", options->folder);
    add_words(program,
              "--overwrite_output_dir true --disable_tqdm true --save_strategy no --save_model false "
              "--memory_sample_interval 0");
    bool good = program_run(program, options->folder, error);
    program_free(program);
    char *run = xformat("%s/run", options->folder);
    good = good && run_metrics_read(metrics, run, error);
    free(run);
    if (!good || run_metrics_is_dry(metrics)) return good;
    run_metrics_free(metrics);
    return error_set(error, "%s: these programs are not of the dry backend", options->programs);
}

static struct program program_of(const struct plan_options *options, const struct plan_case *row, int rank) {
    struct program program = {0};
    program_add(&program, "%s/%s/train", options->programs, row->stage);
    add_words(&program, row->settings);
    add_settings(&program, options->settings); /* the user's win */
    add_words(&program, "--dry_device");
    program_add(&program, "%s", options->device);
    add_words(&program, "--dry_world_size");
    program_add(&program, "%d", row->ranks);
    add_words(&program, "--dry_node_size");
    program_add(&program, "%d", row->ranks / row->nodes);
    add_words(&program, "--dry_rank");
    program_add(&program, "%d", rank);
    return program;
}

/* ---- what is counted ---- */

/* Of each number of a memory event, the larger one. */
static void keep_largest(json_t *kept, const json_t *event) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(size_t)event, key, value) {
        json_t *mine = json_object_get(kept, key);
        if (json_is_object(value) && mine)
            keep_largest(mine, value);
        else if (!mine || (json_is_number(value) && json_number_value(value) > json_number_value(mine)))
            json_object_set(kept, key, value);
    }
}

/* Work of a run, update by update: [[FLOP of products, bytes of kernels, bytes of copies], …]. */
static json_t *work_of_updates(const struct run_metrics *metrics) {
    return json_object_get(metrics->summary, "update_work");
}

/* Keeps of each update the rank's that has more products. */
static void keep_slowest(json_t *kept, const json_t *work) {
    for (size_t u = 0; u < json_array_size(kept); u++) {
        json_t *mine = json_array_get(json_array_get(kept, u), 0), *other = json_array_get(work, u);
        if (json_number_value(json_array_get(other, 0)) > json_number_value(mine))
            json_array_set(kept, u, other);
    }
}

/* The mean of one of their numbers. */
static double mean_of(const json_t *work, size_t number) {
    double sum = 0;
    for (size_t u = 0; u < json_array_size(work); u++)
        sum += json_number_value(json_array_get(json_array_get(work, u), number));
    return sum / (double)json_array_size(work);
}

/* An update's. */
static void read_work(struct plan_counts *counts, const json_t *work) {
    counts->product_flops = mean_of(work, 0);
    counts->bytes = mean_of(work, 1);
    counts->copied_bytes = mean_of(work, 2);
}

static void read_sent(struct plan_counts *counts, const struct run_metrics *metrics, double updates) {
    for (int c = 0; c < COLLECTIVES; c++) {
        const json_t *line = json_object_get(metrics->communication, collective_name((enum collective)c));
        if (!line) continue;
        counts->inside[c] = run_metrics_number(line, "inside_bytes") / updates;
        counts->across[c] = run_metrics_number(line, "across_bytes") / updates;
    }
}

/* Memory, run event and bytes of rank 0's run. */
static bool read_first(struct plan_counts *counts, const struct run_metrics *metrics, struct error *error) {
    double updates = run_metrics_number(metrics->communication, "updates");
    if (!(updates >= 1)) return error_set(error, "max_steps 0: an update is needed to plan one");
    counts->run = json_incref(metrics->run);
    counts->memory = json_deep_copy(metrics->memory);
    json_object_del(counts->memory, "event");
    counts->packs = run_metrics_number(metrics->summary, "packs") / updates;
    read_sent(counts, metrics, updates);
    return true;
}

/* Ranks have packs of other lengths where the user's text is read: the largest memory counts, and in each
 * update the work of the rank that the others wait for. `slowest`: at first rank 0's. */
static bool play_others(struct plan_counts *counts, json_t *slowest, const struct plan_options *options,
                        const struct plan_case *row, struct error *error) {
    int step = row->ranks <= MOST_PLAYED ? 1 : row->ranks - 1;
    for (int rank = step; options->own_text && rank < row->ranks; rank += step) {
        struct program program = program_of(options, row, rank);
        struct run_metrics metrics;
        if (!play(&program, options, &metrics, error)) return false;
        json_object_del(metrics.memory, "event");
        keep_largest(counts->memory, metrics.memory);
        keep_slowest(slowest, work_of_updates(&metrics));
        run_metrics_free(&metrics);
    }
    return true;
}

bool plan_dry(struct plan_counts *counts, const struct plan_options *options, const struct plan_case *row,
              struct error *error) {
    *counts = (struct plan_counts){0};
    struct program program = program_of(options, row, 0);
    struct run_metrics metrics;
    if (!play(&program, options, &metrics, error)) return false;
    json_t *slowest = json_deep_copy(work_of_updates(&metrics));
    bool good = read_first(counts, &metrics, error) && play_others(counts, slowest, options, row, error);
    if (good) read_work(counts, slowest);
    json_decref(slowest);
    run_metrics_free(&metrics);
    if (!good) plan_counts_free(counts);
    return good;
}

/* fp16 where nothing is said means another thing on a GPU than here: the precision is set. */
static struct program program_of_words(const struct plan_options *options, const char *stage,
                                       const json_t *arguments, const char *precision) {
    struct program program = {0};
    program_add(&program, "%s/%s/train", options->programs, stage);
    add_settings(&program, arguments);
    add_words(&program, strcmp(precision, "fp16") ? "--fp16 false" : "--fp16 true");
    return program;
}

bool plan_dry_work(struct plan_counts *counts, const struct plan_options *options, const char *stage,
                   const json_t *arguments, const char *precision, struct error *error) {
    *counts = (struct plan_counts){0};
    struct program program = program_of_words(options, stage, arguments, precision);
    struct run_metrics metrics;
    add_words(&program, "--eval_strategy no --max_steps 1");
    if (!play(&program, options, &metrics, error)) return false;
    read_work(counts, work_of_updates(&metrics));
    run_metrics_free(&metrics);
    return true;
}

void plan_counts_free(struct plan_counts *counts) {
    json_decref(counts->run);
    json_decref(counts->memory);
    *counts = (struct plan_counts){0};
}
