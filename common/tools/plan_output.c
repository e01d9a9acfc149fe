/* Rows as JSON, and the tables for people. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/device/ledger.h"
#include "common/report/table.h"
#include "common/tools/plan.h"
#include "common/train/run_metrics.h"

/* ---- rows ---- */

static json_t *bytes_json(double bytes) {
    return json_integer((json_int_t)llround(bytes));
}

static json_t *sent_json(const struct plan_counts *counts) {
    json_t *sent = json_object();
    double inside = 0, across = 0;
    for (int c = 0; c < COLLECTIVES; c++) {
        inside += counts->inside[c];
        across += counts->across[c];
        if (counts->inside[c] + counts->across[c] <= 0) continue;
        json_object_set_new(sent, collective_name((enum collective)c),
                            json_pack("{s:o, s:o}", "inside_bytes", bytes_json(counts->inside[c]),
                                      "across_bytes", bytes_json(counts->across[c])));
    }
    json_object_set_new(
        sent, "total",
        json_pack("{s:o, s:o}", "inside_bytes", bytes_json(inside), "across_bytes", bytes_json(across)));
    return sent;
}

static json_t *seconds_json(const struct plan_times *times) {
    json_t *seconds = json_object();
    json_object_set_new(seconds, "compute", json_number(times->compute));
    json_object_set_new(seconds, "communication", json_number(times->communication));
    json_object_set_new(seconds, "hidden", json_number(times->hidden));
    json_object_set_new(seconds, "exposed", json_number(times->exposed));
    json_object_set_new(seconds, "link", json_number(times->link));
    json_object_set_new(seconds, "host", json_number(times->host));
    json_object_set_new(seconds, "update", json_number(times->update));
    return seconds;
}

static void add_memory(json_t *json, const struct plan_case *row, const json_t *memory, double outside) {
    double device = run_metrics_number(memory, "device.total.peak_bytes");
    double host = run_metrics_number(memory, "host.total.peak_bytes");
    json_object_set(json, "device_memory", json_object_get(memory, "device"));
    json_object_set(json, "host_memory", json_object_get(memory, "host"));
    json_object_set_new(json, "outside_bytes", bytes_json(outside));
    json_object_set_new(json, "needed_bytes", bytes_json(device + outside));
    json_object_set_new(json, "host_node_bytes", bytes_json(host * row->ranks / row->nodes));
}

static double examples_of(const struct plan_case *row, const json_t *run) {
    return row->ranks * run_metrics_number(run, "settings.per_device_train_batch_size") *
           run_metrics_number(run, "settings.gradient_accumulation_steps");
}

json_t *plan_row(const struct plan_case *row, const struct plan_counts *counts,
                 const struct plan_times *times, double outside) {
    json_t *json = json_object(), *work = json_object();
    char *variant = plan_variant(row->stage, json_object_get(counts->run, "settings"));
    double examples = examples_of(row, counts->run), across = 0;
    for (int c = 0; c < COLLECTIVES; c++) across += counts->across[c];
    json_object_set_new(json, "stage", json_string(row->stage));
    json_object_set_new(json, "variant", json_string(variant));
    json_object_set_new(json, "settings", json_string(row->settings));
    json_object_set_new(json, "ranks", json_integer(row->ranks));
    json_object_set_new(json, "nodes", json_integer(row->nodes));
    json_object_set_new(json, "examples_per_update", bytes_json(examples));
    json_object_set_new(json, "packs", json_number(counts->packs));
    add_memory(json, row, counts->memory, outside);
    json_object_set_new(json, "sent", sent_json(counts));
    json_object_set_new(json, "leaves_node_bytes", bytes_json(across * row->ranks / row->nodes));
    json_object_set_new(work, "product_flops", json_number(counts->product_flops));
    json_object_set_new(work, "bytes", json_number(counts->bytes));
    json_object_set_new(work, "copied_bytes", json_number(counts->copied_bytes));
    json_object_set_new(json, "work", work);
    json_object_set_new(json, "seconds", seconds_json(times));
    json_object_set_new(json, "examples_per_second", json_number(examples / times->update));
    free(variant);
    return json;
}

/* ---- what fits ---- */

static bool same_world(const json_t *a, const json_t *b) {
    return json_equal(json_object_get(a, "ranks"), json_object_get(b, "ranks"));
}

/* Of the rows for as many devices that fit; the first of equals. */
static bool is_fastest(const json_t *rows, const json_t *row) {
    size_t index;
    json_t *other;
    double mine = run_metrics_number(row, "examples_per_second");
    bool before = true;
    json_array_foreach((json_t *)(size_t)rows, index, other) {
        double its = run_metrics_number(other, "examples_per_second");
        if (other == row) before = false;
        if (!same_world(row, other) || !json_is_true(json_object_get(other, "fits"))) continue;
        if (its > mine || (before && its >= mine && other != row)) return false;
    }
    return json_is_true(json_object_get(row, "fits"));
}

void plan_judge(json_t *rows, double card_bytes, double host_bytes) {
    size_t index;
    json_t *row;
    json_array_foreach(rows, index, row) {
        double room = card_bytes - run_metrics_number(row, "needed_bytes");
        bool host = host_bytes <= 0 || run_metrics_number(row, "host_node_bytes") <= host_bytes;
        bool card = card_bytes > 0;
        json_object_set_new(row, "fits", card ? json_boolean(room >= 0 && host) : json_null());
        json_object_set_new(row, "headroom_bytes", card ? bytes_json(room) : json_null());
    }
    json_array_foreach(rows, index, row)
        json_object_set_new(row, "fastest", json_boolean(is_fastest(rows, row)));
}

/* ---- tables ---- */

static struct table begin_table(const json_t *rows, const char *const *titles) {
    size_t columns = 0;
    while (titles[columns]) columns++;
    struct table table = table_make(columns, json_array_size(rows));
    for (size_t c = 0; c < columns; c++) table.titles[c] = titles[c];
    table.words[0] = true;
    return table;
}

/* Which row it is. */
static void set_row(struct table *table, size_t number, const json_t *row) {
    const char *variant = run_metrics_text(row, "variant");
    char *name = xformat("%s%s%s", run_metrics_text(row, "stage"), variant[0] ? " " : "", variant);
    double ranks = run_metrics_number(row, "ranks"), nodes = run_metrics_number(row, "nodes");
    char *world = nodes > 1 ? xformat("%.0f x %.0f", nodes, ranks / nodes) : xformat("%.0f", ranks);
    table_set(table, number, 0, name);
    table_set(table, number, 1, world);
    free(name);
    free(world);
}

static void set_scaled(struct table *table, size_t row, size_t column, const json_t *json, const char *path,
                       double scale) {
    table_set_digits(table, row, column, 1, run_metrics_number(json, path) / scale);
}

enum { MIB = 1 << 20, GIB = 1 << 30 };

static void print_memory(const json_t *rows) {
    static const char *const titles[] = {"stage",     "devices",     "parameters", "gradients",
                                         "optimizer", "activations", "buffers",    "total",
                                         "outside",   "host",        NULL};
    struct table table = begin_table(rows, titles);
    size_t index;
    json_t *row;
    json_array_foreach((json_t *)(size_t)rows, index, row) {
        set_row(&table, index, row);
        for (int h = 0; h <= HEADINGS; h++) {
            char path[96];
            snprintf(path, sizeof path, "device_memory.%s.peak_bytes",
                     h < HEADINGS ? heading_name((enum heading)h) : "total");
            set_scaled(&table, index, 2 + (size_t)h, row, path, MIB);
        }
        set_scaled(&table, index, 8, row, "outside_bytes", MIB);
        set_scaled(&table, index, 9, row, "host_memory.total.peak_bytes", MIB);
    }
    printf("\npeak memory of a device, and of its rank on the host, MiB\n");
    table_print(&table);
    table_free(&table);
}

static void print_time(const json_t *rows) {
    static const char *const titles[] = {"stage",   "devices", "sent inside", "across",
                                         "compute", "hidden",  "exposed",     "link",
                                         "host",    "update",  "examples/s",  NULL};
    static const char *const paths[] = {"seconds.compute", "seconds.hidden", "seconds.exposed",
                                        "seconds.link",    "seconds.host",   "seconds.update"};
    struct table table = begin_table(rows, titles);
    size_t index;
    json_t *row;
    json_array_foreach((json_t *)(size_t)rows, index, row) {
        set_row(&table, index, row);
        set_scaled(&table, index, 2, row, "sent.total.inside_bytes", MIB);
        set_scaled(&table, index, 3, row, "sent.total.across_bytes", MIB);
        for (size_t p = 0; p < 6; p++) set_scaled(&table, index, 4 + p, row, paths[p], 1e-3);
        table_set_number(&table, index, 10, run_metrics_number(row, "examples_per_second"));
    }
    printf("\nan update: MiB that a rank sends; milliseconds; examples of all ranks\n");
    table_print(&table);
    table_free(&table);
}

static const char *verdict(const json_t *row) {
    if (json_is_true(json_object_get(row, "fastest"))) return "fits: the fastest";
    if (json_is_true(json_object_get(row, "fits"))) return "fits";
    return run_metrics_number(row, "headroom_bytes") < 0 ? "too large" : "too large for the host";
}

static void print_card(const json_t *rows, const json_t *document) {
    static const char *const titles[] = {"stage",    "devices",   "needs GiB",  "headroom", "host GiB",
                                         "sent MiB", "update ms", "examples/s", "",         NULL};
    struct table table = begin_table(rows, titles);
    table.words[8] = true;
    size_t index;
    json_t *row;
    json_array_foreach((json_t *)(size_t)rows, index, row) {
        double inside = run_metrics_number(row, "sent.total.inside_bytes");
        double across = run_metrics_number(row, "sent.total.across_bytes");
        set_row(&table, index, row);
        set_scaled(&table, index, 2, row, "needed_bytes", GIB);
        set_scaled(&table, index, 3, row, "headroom_bytes", GIB);
        set_scaled(&table, index, 4, row, "host_node_bytes", GIB);
        table_set_digits(&table, index, 5, 1, (inside + across) / MIB);
        set_scaled(&table, index, 6, row, "seconds.update", 1e-3);
        table_set_number(&table, index, 7, run_metrics_number(row, "examples_per_second"));
        table_set(&table, index, 8, verdict(row));
    }
    printf("\non %s, %.1f GiB (host: of a node; sent: by a rank in an update)\n",
           run_metrics_text(document, "card.name"), run_metrics_number(document, "card.memory_bytes") / GIB);
    table_print(&table);
    table_free(&table);
}

static void print_rates(const json_t *rates) {
    const char *name;
    json_t *rate;
    printf("\nrates\n");
    json_object_foreach((json_t *)(size_t)rates, name, rate)
        printf("  %-10s %9.4g %-8s %s\n", name, run_metrics_number(rate, "value"),
               run_metrics_text(rate, "unit"), run_metrics_text(rate, "source"));
}

static void print_given(const json_t *words) {
    size_t index;
    json_t *word;
    if (!json_array_size(words)) return;
    printf("with");
    json_array_foreach((json_t *)(size_t)words, index, word) printf(" %s", json_string_value(word));
    printf("\n");
}

void plan_print(const json_t *document) {
    const json_t *rows = json_object_get(document, "rows");
    printf("%s, %.1f M parameters, in %s; %.0f micro-batches of %.0f x %.0f tokens an update on each %s\n",
           run_metrics_text(document, "model"), 1e-6 * run_metrics_number(document, "parameters"),
           run_metrics_text(document, "precision"), run_metrics_number(document, "accumulation"),
           run_metrics_number(document, "micro_batch"), run_metrics_number(document, "sequence_length"),
           run_metrics_text(document, "device"));
    print_given(json_object_get(document, "given"));
    if (json_is_object(json_object_get(document, "card"))) {
        print_card(rows, document);
    } else {
        print_memory(rows);
        print_time(rows);
    }
    print_rates(json_object_get(document, "rates"));
}
