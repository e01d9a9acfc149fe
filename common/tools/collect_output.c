/* What collect shows and writes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/page.h"
#include "common/report/run_settings.h"
#include "common/tools/collect.h"

static const char *const measure_titles[MEASURES] = {"examples/s", "device MiB", "host MiB",
                                                     "sent MiB",   "train loss", "eval loss"};
static const int measure_digits[MEASURES] = {2, 1, 0, 2, 4, 4};

/* ---- what describes a run ---- */

enum { STAGE, RANKS, MODEL, BATCH, PRECISION, OFFLOAD, KINDS };
static const char *const kind_titles[KINDS] = {"stage", "ranks", "model", "batch", "precision", "offload"};

static double setting(const struct collected *run, const char *name) {
    return run_metrics_number(json_object_get(run->metrics.run, "settings"), name);
}

/* The text of one of the kinds: ranks as "4 on 2 nodes", batch as "4 x 2", micro-batch by accumulation. */
static void kind_text(char text[96], const struct collected *run, int kind) {
    static const char *const keys[KINDS] = {"stage", NULL, "model", NULL, "precision", NULL};
    const json_t *event = run->metrics.run;
    if (kind == RANKS && run->nodes > 1)
        snprintf(text, 96, "%.0f on %d nodes", run_metrics_number(event, "world_size"), run->nodes);
    else if (kind == RANKS)
        snprintf(text, 96, "%.0f", run_metrics_number(event, "world_size"));
    else if (kind == BATCH)
        snprintf(text, 96, "%.0f x %.0f", setting(run, "per_device_train_batch_size"),
                 setting(run, "gradient_accumulation_steps"));
    else if (kind == OFFLOAD)
        offload_text(text, &run->metrics);
    else
        snprintf(text, 96, "%.90s", run_metrics_text(event, keys[kind]));
}

static void set_kind(struct table *table, size_t row, size_t column, const struct collected *run, int kind) {
    char text[96];
    kind_text(text, run, kind);
    table_set(table, row, column, text[0] ? text : "-");
}

/* ---- the tables ---- */

static const char *const dash_for_nobody = "-";

struct table table_runs(const struct collection *c) {
    enum { OWNER, NAME, GROUP, KIND, MEASURE = KIND + KINDS, STATE = MEASURE + MEASURES, COLUMNS };
    static const char *const titles[] = {"participant", "run", "group"};
    struct table table = table_make(COLUMNS, c->count);
    memcpy(table.titles, titles, sizeof titles);
    memcpy(table.titles + KIND, kind_titles, sizeof kind_titles);
    memcpy(table.titles + MEASURE, measure_titles, sizeof measure_titles);
    table.titles[STATE] = "state";
    for (int i = 0; i < COLUMNS; i++)
        table.words[i] = i <= NAME || i == STATE || (i >= KIND && i < MEASURE && i != KIND + RANKS);
    for (size_t r = 0; r < c->count; r++) {
        const struct collected *run = &c->runs[r];
        char state[96], value[64];
        table_set(&table, r, OWNER, run->found->owner[0] ? run->found->owner : dash_for_nobody);
        table_set(&table, r, NAME, run->found->name);
        table_set_digits(&table, r, GROUP, 0, (double)run->group + 1);
        for (int k = 0; k < KINDS; k++) set_kind(&table, r, KIND + k, run, k);
        for (size_t m = 0; m < MEASURES; m++) {
            table_set_digits(&table, r, MEASURE + m, measure_digits[m], run->values[m]);
            snprintf(value, sizeof value, "%s *", table_cell(&table, r, MEASURE + m));
            if (run->far[m]) table_set(&table, r, MEASURE + m, value);
        }
        run_metrics_state(&run->metrics, state);
        table_set(&table, r, STATE, state);
    }
    return table;
}

/* "174.2", or with its spread "174.2 (170.1 to 180.0)" where that shows. */
static void spread_text(char text[96], const struct group *group, int m) {
    char low[32], median[32], high[32];
    if (isnan(group->median[m])) {
        snprintf(text, 96, "-");
        return;
    }
    snprintf(low, sizeof low, "%.*f", measure_digits[m], group->low[m]);
    snprintf(median, sizeof median, "%.*f", measure_digits[m], group->median[m]);
    snprintf(high, sizeof high, "%.*f", measure_digits[m], group->high[m]);
    bool one = !strcmp(low, high);
    snprintf(text, 96, one ? "%s" : "%s (%s to %s)", median, low, high);
}

/* Settings that matter and are not the stage's own, but for those that have a column; the caller frees it. */
static char *changed_settings(const struct collected *run) {
    static const char *const shown[] = {"model_name_or_path",
                                        "per_device_train_batch_size",
                                        "gradient_accumulation_steps",
                                        "offload_optimizer",
                                        "offload_param",
                                        "offload_gradients",
                                        "dry_node_size"};
    struct error error;
    const char *name;
    json_t *value, *settings = json_object_get(run->metrics.run, "settings"), *changes = json_object(),
                   *own = stage_settings(run_metrics_text(run->metrics.run, "stage"), changes, &error);
    bool by_steps = run_metrics_number(settings, "max_steps") >= 0; /* then epochs mean nothing */
    json_object_foreach(settings, name, value) {
        bool is_shown = !setting_matters(name) || !own || json_equal(value, json_object_get(own, name));
        is_shown |= by_steps && !strcmp(name, "num_train_epochs");
        for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) is_shown |= !strcmp(name, shown[i]);
        if (!is_shown) json_object_set(changes, name, value);
    }
    char *text = settings_command(changes), *plain = shown_text(text[0] ? text + 1 : "-");
    free(text);
    json_decref(changes);
    json_decref(own);
    return plain;
}

struct table table_groups(const struct collection *c) {
    enum { GROUP, KIND, RUNS = KIND + KINDS, MEASURE, OTHERS = MEASURE + MEASURES, COLUMNS };
    struct table table = table_make(COLUMNS, c->group_count);
    table.titles[GROUP] = "group";
    memcpy(table.titles + KIND, kind_titles, sizeof kind_titles);
    table.titles[RUNS] = "runs";
    memcpy(table.titles + MEASURE, measure_titles, sizeof measure_titles);
    table.titles[OTHERS] = "other settings";
    for (int i = KIND; i < RUNS; i++) table.words[i] = i != KIND + RANKS;
    table.words[OTHERS] = true;
    for (size_t g = 0; g < c->group_count; g++) {
        const struct group *group = &c->groups[g];
        const struct collected *first = &c->runs[group->first];
        char text[96], *others = changed_settings(first);
        table_set_digits(&table, g, GROUP, 0, (double)g + 1);
        for (int k = 0; k < KINDS; k++) set_kind(&table, g, KIND + k, first, k);
        snprintf(text, sizeof text, group->counted == group->runs ? "%zu" : "%zu of %zu", group->counted,
                 group->runs);
        table_set(&table, g, RUNS, text);
        for (int m = 0; m < MEASURES; m++) {
            spread_text(text, group, m);
            table_set(&table, g, MEASURE + m, text);
        }
        table_set(&table, g, OTHERS, others);
        free(others);
    }
    return table;
}

void write_remarks(FILE *out, const struct collection *c, void (*line)(FILE *out, const char *text)) {
    bool far = false;
    for (size_t r = 0; r < c->count; r++) {
        const struct collected *run = &c->runs[r];
        char state[96];
        for (int m = 0; m < MEASURES; m++) far |= run->far[m];
        if (run->counts) continue;
        run_metrics_state(&run->metrics, state);
        char *text = xformat("%s%s%s: %s", run->found->owner, run->found->owner[0] ? " " : "",
                             run->found->name, state);
        line(out, text);
        free(text);
    }
    for (size_t i = 0; i < c->broken_count; i++) line(out, c->broken[i].text);
    if (far)
        line(out, "* far from the median of its group: by more than three times the usual distance, and by "
                  "15% of a "
                  "speed, 10% of host memory, 1% of device memory or bytes, 0.01% of a loss at least");
}

/* ---- CSV ---- */

static void csv_text(FILE *out, const char *text) {
    fputc('"', out);
    if (text[0] && strchr("=+-@", text[0])) fputc('\'', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc((unsigned char)*text < 0x20 ? ' ' : *text, out);
    }
    fputc('"', out);
}

static void csv_number(FILE *out, double value) {
    if (isfinite(value)) fprintf(out, "%.10g", value);
}

void write_csv(FILE *out, const struct collection *c) {
    static const char *const names[MEASURES] = {"examples_per_second", "device_peak_mib", "host_peak_mib",
                                                "sent_mib_per_update", "train_loss",      "eval_loss"};
    fputs("participant,run,group,stage,backend,ranks,nodes,model,batch,accumulation,precision,offload", out);
    for (int m = 0; m < MEASURES; m++) fprintf(out, ",%s", names[m]);
    fputs(",state,far,file\r\n", out);
    for (size_t r = 0; r < c->count; r++) {
        const struct collected *run = &c->runs[r];
        const json_t *event = run->metrics.run;
        char text[96], *file = shown_text(run->found->path);
        csv_text(out, run->found->owner);
        fputc(',', out);
        csv_text(out, run->found->name);
        fprintf(out, ",%zu,", run->group + 1);
        csv_text(out, run_metrics_text(event, "stage"));
        fputc(',', out);
        csv_text(out, run_metrics_text(event, "backend"));
        fputc(',', out);
        csv_number(out, run_metrics_number(event, "world_size"));
        fprintf(out, ",%d,", run->nodes);
        csv_text(out, run_metrics_text(event, "model"));
        fputc(',', out);
        csv_number(out, setting(run, "per_device_train_batch_size"));
        fputc(',', out);
        csv_number(out, setting(run, "gradient_accumulation_steps"));
        fputc(',', out);
        csv_text(out, run_metrics_text(event, "precision"));
        fputc(',', out);
        offload_text(text, &run->metrics);
        csv_text(out, text);
        for (int m = 0; m < MEASURES; m++) {
            fputc(',', out);
            csv_number(out, run->values[m]);
        }
        run_metrics_state(&run->metrics, text);
        fputc(',', out);
        csv_text(out, text);
        fputc(',', out);
        for (int m = 0, some = 0; m < MEASURES; m++)
            if (run->far[m]) fprintf(out, "%s%s", some++ ? " " : "", names[m]);
        fputc(',', out);
        csv_text(out, file);
        fputs("\r\n", out);
        free(file);
    }
}

/* ---- the page ---- */

static void page_line(FILE *out, const char *text) {
    fputs("<p>", out);
    html_escape(out, text);
    fputs("</p>\n", out);
}

void write_page(FILE *out, const struct collection *c) {
    struct table runs = table_runs(c), groups = table_groups(c);
    char *title = xformat("%zu run%s collected", c->count, c->count == 1 ? "" : "s");
    page_begin(out, title, "td:last-child{white-space:normal}\n"); /* long ones may break */
    page_section(
        out, "Runs that did the same",
        "Medians of those that finished, and from the smallest to the largest. A group is a stage, a "
        "number of ranks and nodes, a model, a precision, and all settings that change a number.");
    page_table(out, &groups);
    page_section(
        out, "All runs",
        "Examples a second of the updates alone; device memory is the ledger's peak on the largest rank, "
        "host memory that of a node's processes together; sent: by a rank in an update. Losses: the mean "
        "of all updates, and of the last evaluation.");
    page_table(out, &runs);
    write_remarks(out, c, page_line);
    page_end(out);
    free(title);
    table_free(&runs);
    table_free(&groups);
}
