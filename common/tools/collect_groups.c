/* Which runs did the same, and how they compare. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/run_settings.h"
#include "common/tools/collect.h"

/* ---- one run ---- */

static int count_nodes(const json_t *run) {
    double ranks = run_metrics_number(run, "world_size");
    double size = run_metrics_number(run, "settings.ranks_per_node");
    double dry = run_metrics_number(run, "settings.dry_node_size");
    if (!strcmp(run_metrics_text(run, "backend"), "dry")) size = dry;
    if (size >= 1) return (int)fmin(ceil(ranks / size), 1e6);
    const json_t *hosts = json_object_get(run, "hosts");
    int count = 0;
    for (size_t i = 0; i < json_array_size(hosts); i++) {
        bool new = true;
        for (size_t j = 0; j < i && new; j++)
            new = !json_equal(json_array_get(hosts, i), json_array_get(hosts, j));
        count += new;
    }
    return count ? count : 1;
}

/* The largest peak of the nodes' resident memory, MiB. */
static double host_peak(const struct run_metrics *metrics) {
    double most = NAN;
    const json_t *nodes = json_object_get(metrics->memory_samples, "node");
    for (size_t i = 0; i < json_array_size(nodes); i++)
        most = fmax(most, run_metrics_number(json_array_get(nodes, i), "peak"));
    return most;
}

static void measure(struct collected *run) {
    const struct run_metrics *m = &run->metrics;
    bool dry = run_metrics_is_dry(m);
    run->nodes = count_nodes(m->run);
    run->values[RATE] = dry ? NAN : run_metrics_number(m->summary, "update_samples_per_second");
    run->values[DEVICE] = run_metrics_number(m->memory, "device.total.peak_bytes") / (1 << 20);
    run->values[HOST] = dry ? NAN : host_peak(m);
    run->values[SENT] = run_metrics_sent_bytes(m) / (1 << 20);
    run->values[TRAIN_LOSS] = run_metrics_number(m->summary, "train_loss");
    run->values[EVAL_LOSS] = run_metrics_last_loss(m->evaluations, m->evaluation_count);
    run->counts = !dry && !run_metrics_is_odd(m);
}

void offload_text(char text[48], const struct run_metrics *metrics) {
    static const char *const names[] = {"optimizer", "param", "gradients"};
    static const char *const shown[] = {"optimizer", "parameters", "gradients"};
    text[0] = '\0';
    for (int i = 0; i < 3; i++) {
        char path[40];
        snprintf(path, sizeof path, "offload_%s", names[i]);
        const json_t *value = json_object_get(json_object_get(metrics->run, "settings"), path);
        bool is = json_is_true(value) || (json_is_string(value) && !strcmp(json_string_value(value), "cpu"));
        if (is) snprintf(text + strlen(text), 48 - strlen(text), "%s%s", text[0] ? "+" : "", shown[i]);
    }
}

/* ---- order and groups ---- */

static int compare_texts(const struct collected *a, const struct collected *b, const char *key) {
    return strverscmp(run_metrics_text(a->metrics.run, key), run_metrics_text(b->metrics.run, key));
}

static int compare_numbers(double a, double b) {
    if (isnan(a) || isnan(b)) return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

static int compare_settings(const struct collected *a, const struct collected *b) {
    const json_t *first = json_object_get(a->metrics.run, "settings"),
                 *second = json_object_get(b->metrics.run, "settings");
    return settings_differ(first, second, NULL) || settings_differ(second, first, NULL);
}

static int compare_kinds(const struct collected *a, const struct collected *b) {
    static const char *const texts[] = {"model", "precision"};
    int order = compare_texts(a, b, "stage");
    for (int i = 0; i < 2 && !order; i++) order = compare_texts(a, b, texts[i]);
    if (!order)
        order = compare_numbers(run_metrics_number(a->metrics.run, "world_size"),
                                run_metrics_number(b->metrics.run, "world_size"));
    if (!order) order = a->nodes - b->nodes;
    if (!order) order = run_metrics_is_dry(&a->metrics) - run_metrics_is_dry(&b->metrics);
    return order;
}

static int by_kind_and_name(const void *first, const void *second) {
    const struct collected *a = first, *b = second;
    int order = compare_kinds(a, b);
    if (!order) order = (a->group > b->group) - (a->group < b->group);
    if (!order) order = strverscmp(a->found->owner, b->found->owner);
    return order ? order : strverscmp(a->found->path, b->found->path);
}

/* The group of run r among those before it, which are in order of their kinds; its number. */
static size_t find_group(struct collection *c, size_t r) {
    for (size_t g = c->group_count; g-- > 0;) {
        const struct collected *first = &c->runs[c->groups[g].first];
        if (compare_kinds(first, &c->runs[r])) break;
        if (!compare_settings(first, &c->runs[r])) return g;
    }
    c->groups[c->group_count] = (struct group){.first = r};
    return c->group_count++;
}

static void make_groups(struct collection *c) {
    if (c->count) qsort(c->runs, c->count, sizeof *c->runs, by_kind_and_name);
    c->groups = xcalloc(c->count + 1, sizeof *c->groups);
    for (size_t r = 0; r < c->count; r++) {
        c->runs[r].group = find_group(c, r);
        c->groups[c->runs[r].group].runs++;
        c->groups[c->runs[r].group].counted += c->runs[r].counts;
    }
    if (c->count) qsort(c->runs, c->count, sizeof *c->runs, by_kind_and_name);
    for (size_t r = c->count; r-- > 0;) c->groups[c->runs[r].group].first = r;
}

/* ---- medians, and who is far from them ---- */

static int by_value(const void *a, const void *b) {
    return compare_numbers(*(const double *)a, *(const double *)b);
}

/* Of values in order; NAN of none. */
static double middle(const double *values, size_t count) {
    return count ? (values[(count - 1) / 2] + values[count / 2]) / 2 : NAN;
}

/* A value is far where it is off by more than three times the usual distance from the median (1.48 × the
 * median distance: a normal distribution's standard deviation) and by more than what is nothing to speak of:
 * speeds and a process's memory vary, the ledger and bytes do not, and losses do by the number of threads. */
static const double nothing[MEASURES] = {0.15, 0.01, 0.1, 0.01, 1e-4, 1e-4};
enum { GROUP_TO_JUDGE_BY = 3 };

static void judge(struct collection *c, size_t g, int measure, double *values) {
    struct group *group = &c->groups[g];
    struct collected *first = &c->runs[group->first];
    size_t count = 0;
    for (size_t r = 0; r < group->runs; r++)
        if (first[r].counts && isfinite(first[r].values[measure])) values[count++] = first[r].values[measure];
    if (count) qsort(values, count, sizeof *values, by_value);
    double median = middle(values, count);
    group->median[measure] = median;
    group->low[measure] = count ? values[0] : NAN;
    group->high[measure] = count ? values[count - 1] : NAN;
    if (count < GROUP_TO_JUDGE_BY) return;
    for (size_t i = 0; i < count; i++) values[i] = fabs(values[i] - median);
    qsort(values, count, sizeof *values, by_value);
    double usual = fmax(3 * 1.4826 * middle(values, count), nothing[measure] * fabs(median));
    for (size_t r = 0; r < group->runs; r++)
        first[r].far[measure] = first[r].counts && fabs(first[r].values[measure] - median) > usual;
}

void collection_group(struct collection *c) {
    for (size_t r = 0; r < c->count; r++) measure(&c->runs[r]);
    make_groups(c);
    double *values = xcalloc(c->count + 1, sizeof *values);
    for (size_t g = 0; g < c->group_count; g++)
        for (int m = 0; m < MEASURES; m++) judge(c, g, m, values);
    free(values);
}
