#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/compare.h"

/* ---- results ---- */

double losses_off(const struct run_metrics *metrics, const struct run_metrics *other) {
    static const char *const keys[] = {"model", "train_examples", "updates"};
    double worst = NAN;
    if (run_metrics_examples_per_update(metrics) != run_metrics_examples_per_update(other)) return NAN;
    for (int k = 0; k < 3; k++)
        if (!json_equal(json_object_get(metrics->run, keys[k]), json_object_get(other->run, keys[k])))
            return NAN;
    for (size_t i = 0, j = 0; i < metrics->step_count && j < other->step_count;) {
        const struct run_point *ours = &metrics->steps[i], *theirs = &other->steps[j];
        if (ours->step == theirs->step && isfinite(ours->loss) && isfinite(theirs->loss))
            worst = fmax(worst, fabs(ours->loss - theirs->loss) / fabs(theirs->loss)); /* NAN loses */
        i += ours->step <= theirs->step;
        j += theirs->step <= ours->step;
    }
    return worst;
}

enum column {
    RUN,
    STAGE,
    BACKEND,
    RANKS,
    PRECISION,
    STATE,
    TRAIN_LOSS,
    EVAL_LOSS,
    OFF,
    RATE,
    UPDATE,
    DEVICE,
    HOST,
    SENT,
    EXACT, /* only where a run's evaluation answers questions */
    COLUMNS
};

static const char *const titles[COLUMNS] = {"run",       "stage",      "backend",   "ranks",    "precision",
                                            "state",     "train loss", "eval loss", "off",      "samples/s",
                                            "ms/update", "device MiB", "host MiB",  "sent MiB", "exact %"};

static double exact_match(const struct compared *run) {
    const struct run_metrics *m = &run->metrics;
    return m->evaluation_count ? m->evaluations[m->evaluation_count - 1].exact_match : NAN;
}

static void fill_row(struct table *table, size_t row, const struct compared *run,
                     const struct compared *first) {
    const struct run_metrics *m = &run->metrics;
    char state[96], off[32] = "-";
    run_metrics_state(m, state);
    double difference = run == first ? NAN : losses_off(m, &first->metrics);
    if (!isnan(difference)) snprintf(off, sizeof off, difference > 0 ? "%.1e" : "%.0f", difference);
    table_set(table, row, RUN, run->label);
    table_set(table, row, STAGE, run_metrics_text(m->run, "stage"));
    table_set(table, row, BACKEND, run_metrics_text(m->run, "backend"));
    table_set_digits(table, row, RANKS, 0, run_metrics_number(m->run, "world_size"));
    table_set(table, row, PRECISION, run_metrics_text(m->run, "precision"));
    table_set(table, row, STATE, state);
    table_set_digits(table, row, TRAIN_LOSS, 4, run_metrics_number(m->summary, "train_loss"));
    table_set_digits(table, row, EVAL_LOSS, 4, run_metrics_last_loss(m->evaluations, m->evaluation_count));
    table_set(table, row, OFF, off);
    table_set_number(table, row, RATE, run_metrics_number(m->summary, "update_samples_per_second"));
    table_set_number(table, row, UPDATE, run_metrics_number(m->summary, "update_ms.median"));
    table_set_digits(table, row, DEVICE, 1,
                     run_metrics_number(m->memory, "device.total.peak_bytes") / (1 << 20));
    table_set_digits(table, row, HOST, 1, run_metrics_number(m->memory, "host.total.peak_bytes") / (1 << 20));
    table_set_number(table, row, SENT, run_metrics_sent_bytes(m) / (1 << 20));
    if (table->columns > EXACT) table_set_digits(table, row, EXACT, 1, exact_match(run));
}

struct table table_results(const struct compared *runs, size_t count) {
    bool answers = false;
    for (size_t r = 0; r < count; r++) answers = answers || isfinite(exact_match(&runs[r]));
    int columns = answers ? COLUMNS : EXACT;
    struct table table = table_make((size_t)columns, count);
    for (int c = 0; c < columns; c++) {
        table.titles[c] = titles[c];
        table.words[c] = c <= BACKEND || c == PRECISION || c == STATE;
    }
    for (size_t r = 0; r < count; r++) fill_row(&table, r, &runs[r], &runs[0]);
    return table;
}

/* ---- settings that differ ---- */

static json_t *setting(const struct compared *run, const char *name) {
    return json_object_get(json_object_get(run->metrics.run, "settings"), name);
}

static bool differs(const struct compared *runs, size_t count, const char *name) {
    if (!strcmp(name, "output_dir")) return false;
    for (size_t r = 1; r < count; r++) {
        json_t *first = setting(&runs[0], name), *other = setting(&runs[r], name);
        if (first != other && !json_equal(first, other)) return true;
    }
    return false;
}

/* Names of settings that any run has and in which they differ, in the order of the runs' files; they stay the
 * runs'. How many of them. */
static size_t names_that_differ(const struct compared *runs, size_t count, const char **names, size_t room) {
    size_t found = 0;
    for (size_t r = 0; r < count; r++) {
        const char *name;
        json_t *value;
        json_object_foreach(json_object_get(runs[r].metrics.run, "settings"), name, value) {
            size_t known = 0;
            while (known < found && strcmp(names[known], name) != 0) known++;
            if (known == found && found < room && differs(runs, count, name)) names[found++] = name;
        }
    }
    return found;
}

static char *setting_text(const struct compared *run, const char *name) {
    json_t *value = setting(run, name);
    if (!value || json_is_null(value)) return xstrdup("-");
    if (json_is_string(value)) return xstrdup(json_string_value(value));
    char *dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)), *text = xstrdup(dumped);
    free(dumped);
    return text;
}

struct table table_settings(const struct compared *runs, size_t count) {
    const char *names[TABLE_COLUMNS - 1];
    size_t found = names_that_differ(runs, count, names, TABLE_COLUMNS - 1);
    struct table table = table_make(1 + found, count);
    table.titles[0] = "run", table.words[0] = true;
    memcpy(table.titles + 1, names, found * sizeof *names);
    for (size_t r = 0; r < count; r++) {
        table_set(&table, r, 0, runs[r].label);
        for (size_t c = 1; c < table.columns; c++) {
            char *text = setting_text(&runs[r], table.titles[c]);
            table_set(&table, r, c, text);
            free(text);
        }
    }
    return table;
}
