#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/compare.h"

/* ---- the table itself ---- */

static char **cell(struct table *table, size_t row, size_t column) {
    return &table->cells[row * table->columns + column];
}

static void set(struct table *table, size_t row, size_t column, const char *text) {
    *cell(table, row, column) = xstrdup(text);
}

static void set_number(struct table *table, size_t row, size_t column, double value) {
    char text[32];
    number_text(text, value);
    set(table, row, column, text);
}

/* With this many digits after the point. */
static void set_digits(struct table *table, size_t row, size_t column, int digits, double value) {
    char text[32] = "-";
    if (fabs(value) < 1e15) snprintf(text, sizeof text, "%.*f", digits, value);
    set(table, row, column, text);
}

void table_free(struct table *table) {
    for (size_t i = 0; i < table->columns * table->rows; i++) free(table->cells[i]);
    free(table->cells);
}

size_t letters(const char *text) {
    size_t count = 0;
    for (; *text; text++) count += (*text & 0xC0) != 0x80;
    return count;
}

char *label_end(const char *label, size_t most) {
    size_t count = letters(label);
    if (count <= most) return xstrdup(label);
    for (; count >= most; label++) count -= (label[1] & 0xC0) != 0x80;
    return xformat("…%s", label);
}

/* Text from a run's file may hold what a terminal would obey. */
static void print_plain(const char *text) {
    for (; *text; text++) putchar((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text);
}

static void print_cell(const char *text, size_t width, bool words, bool last) {
    int room = (int)(width - letters(text));
    if (!words) printf("%*s", room, "");
    print_plain(text);
    if (words && !last) printf("%*s", room, "");
    printf("%s", last ? "\n" : "  ");
}

void table_print(const struct table *table) {
    size_t widths[TABLE_COLUMNS];
    for (size_t c = 0; c < table->columns; c++) {
        widths[c] = letters(table->titles[c]);
        for (size_t r = 0; r < table->rows; r++) {
            size_t width = letters(table->cells[r * table->columns + c]);
            if (width > widths[c]) widths[c] = width;
        }
    }
    for (size_t c = 0; c < table->columns; c++)
        print_cell(table->titles[c], widths[c], table->words[c], c + 1 == table->columns);
    for (size_t r = 0; r < table->rows; r++)
        for (size_t c = 0; c < table->columns; c++)
            print_cell(table->cells[r * table->columns + c], widths[c], table->words[c],
                       c + 1 == table->columns);
}

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

static double bytes_sent(const struct run_metrics *metrics) {
    double sum = 0, updates = run_metrics_number(metrics->communication, "updates");
    const char *name;
    json_t *line;
    json_object_foreach(metrics->communication, name, line) {
        double bytes = run_metrics_number(line, "bytes");
        if (bytes > 0) sum += bytes;
    }
    return updates >= 1 ? sum / updates / (1 << 20) : NAN;
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
    COLUMNS
};

static const char *const titles[COLUMNS] = {"run",       "stage",      "backend",   "ranks",   "precision",
                                            "state",     "train loss", "eval loss", "off",     "samples/s",
                                            "ms/update", "device MiB", "host MiB",  "sent MiB"};

static void fill_row(struct table *table, size_t row, const struct compared *run,
                     const struct compared *first) {
    const struct run_metrics *m = &run->metrics;
    char state[96], off[32] = "-";
    run_metrics_state(m, state);
    double difference = run == first ? NAN : losses_off(m, &first->metrics);
    if (!isnan(difference)) snprintf(off, sizeof off, difference > 0 ? "%.1e" : "%.0f", difference);
    set(table, row, RUN, run->label);
    set(table, row, STAGE, run_metrics_text(m->run, "stage"));
    set(table, row, BACKEND, run_metrics_text(m->run, "backend"));
    set_digits(table, row, RANKS, 0, run_metrics_number(m->run, "world_size"));
    set(table, row, PRECISION, run_metrics_text(m->run, "precision"));
    set(table, row, STATE, state);
    set_digits(table, row, TRAIN_LOSS, 4, run_metrics_number(m->summary, "train_loss"));
    set_digits(table, row, EVAL_LOSS, 4, run_metrics_last_loss(m->evaluations, m->evaluation_count));
    set(table, row, OFF, off);
    set_number(table, row, RATE, run_metrics_number(m->summary, "update_samples_per_second"));
    set_number(table, row, UPDATE, run_metrics_number(m->summary, "update_ms.median"));
    set_digits(table, row, DEVICE, 1, run_metrics_number(m->memory, "device.total.peak_bytes") / (1 << 20));
    set_digits(table, row, HOST, 1, run_metrics_number(m->memory, "host.total.peak_bytes") / (1 << 20));
    set_number(table, row, SENT, bytes_sent(m));
}

struct table table_results(const struct compared *runs, size_t count) {
    struct table table = {
        .columns = COLUMNS, .rows = count, .cells = xcalloc(count * COLUMNS, sizeof(char *))};
    for (int c = 0; c < COLUMNS; c++) {
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
    struct table table = {.titles = {"run"}, .words = {true}, .rows = count};
    table.columns = 1 + names_that_differ(runs, count, table.titles + 1, TABLE_COLUMNS - 1);
    table.cells = xcalloc(count * table.columns, sizeof(char *));
    for (size_t r = 0; r < count; r++) {
        set(&table, r, 0, runs[r].label);
        for (size_t c = 1; c < table.columns; c++)
            *cell(&table, r, c) = setting_text(&runs[r], table.titles[c]);
    }
    return table;
}
