#include "common/report/run_numbers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double mib = 1 << 20;

/* ---- numbers that are worked out ---- */

/* An epoch has ceil(examples ÷ examples of an update) updates. */
static double updates_per_epoch(const struct run_metrics *m, double argument) {
    (void)argument;
    double examples = run_metrics_number(m->run, "train_examples"),
           update = run_metrics_examples_per_update(m);
    return update >= 1 ? ceil(examples / update) : NAN;
}

static double loss_at_step(const struct run_metrics *m, double step) {
    for (size_t i = 0; i < m->step_count; i++)
        if (m->steps[i].step == step) return m->steps[i].loss;
    return NAN;
}

static double eval_loss_at_epoch(const struct run_metrics *m, double epoch) {
    for (size_t i = m->evaluation_count; i-- > 0;)
        if (fabs(m->evaluations[i].epoch - epoch) < 1e-9) return m->evaluations[i].loss;
    return NAN;
}

static double last_eval_loss(const struct run_metrics *m, double argument) {
    (void)argument;
    return run_metrics_last_loss(m->evaluations, m->evaluation_count);
}

/* Of the rank or node with the highest peak. */
static double sample(const struct run_metrics *m, const char *where, const char *key) {
    const json_t *list = json_object_get(m->memory_samples, where), *highest = NULL;
    if (run_metrics_is_dry(m)) return NAN; /* the samples are of the one process that plays a rank */
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        if (!highest || run_metrics_number(entry, "peak") > run_metrics_number(highest, "peak"))
            highest = entry;
    }
    return run_metrics_number(highest, key);
}

#define SAMPLE(where, key)                                                                                   \
    static double where##_##key(const struct run_metrics *m, double argument) {                              \
        (void)argument;                                                                                      \
        return sample(m, #where, #key);                                                                      \
    }
SAMPLE(device, peak)
SAMPLE(device, average)
SAMPLE(device, mode)
SAMPLE(node, peak)
SAMPLE(node, average)
SAMPLE(node, mode)

static double state_bytes(const struct run_metrics *m, const char *key) {
    static const char *const headings[] = {"parameters", "gradients", "optimizer"};
    double sum = 0;
    for (int h = 0; h < 3; h++) {
        char path[64];
        snprintf(path, sizeof path, "device.%s.%s", headings[h], key);
        sum += run_metrics_number(m->memory, path);
    }
    return sum;
}

static double device_state(const struct run_metrics *m, double argument) {
    (void)argument;
    return state_bytes(m, "peak_bytes") / mib;
}

static double host_per_parameter(const struct run_metrics *m, double argument) {
    (void)argument;
    return run_metrics_number(m->memory, "host.total.peak_bytes") / run_metrics_number(m->run, "parameters");
}

/* Bytes of rank 0 in an update: a key of one collective's line, or of all lines where it is NULL. A
 * collective that was not used sent nothing. */
static double sent(const struct run_metrics *m, const char *collective, const char *key) {
    double sum = 0, updates = run_metrics_number(m->communication, "updates");
    const char *name;
    json_t *line;
    json_object_foreach(m->communication, name, line) {
        if (!json_is_object(line) || (collective && strcmp(name, collective) != 0)) continue;
        sum += run_metrics_number(line, key);
    }
    return updates >= 1 ? sum / updates : NAN;
}

static double sent_bytes(const struct run_metrics *m, double argument) {
    (void)argument;
    return run_metrics_sent_bytes(m);
}

/* Speeds of a dry run mean nothing. */
static double speed(const struct run_metrics *m, const char *path) {
    return run_metrics_is_dry(m) ? NAN : run_metrics_number(m->summary, path);
}

static double update_seconds(const struct run_metrics *m, double argument) {
    (void)argument;
    return speed(m, "update_ms.median") / 1000;
}

static double update_steps_per_second(const struct run_metrics *m, double argument) {
    (void)argument;
    return speed(m, "update_samples_per_second") / run_metrics_examples_per_update(m);
}

/* ---- the list ---- */

#define HEADING(where, heading)                                                                              \
    {                                                                                                        \
#where "." #heading, NUMBER_MEMORY, 2, "MiB", "the peak of '" #heading "' in " #where " memory",     \
            "memory", #where "." #heading, NULL                                                              \
    }
#define SPEED(name, digits, unit, what, path)                                                                \
    { name, NUMBER_SPEED, digits, unit, what, "speed", path, NULL }
#define SENT(name, what, collective)                                                                         \
    { name, NUMBER_BYTES, 2, "MiB", what, "bytes", collective, NULL }
#define SENT_INSIDE(name, what, collective)                                                                  \
    { name, NUMBER_BYTES, 2, "MiB", what, "inside_bytes", collective, NULL }
#define SENT_ACROSS(name, what, collective)                                                                  \
    { name, NUMBER_BYTES, 2, "MiB", what, "across_bytes", collective, NULL }
#define MADE(name, kind, digits, unit, what, get)                                                            \
    { name, kind, digits, unit, what, NULL, NULL, get }

const struct run_number run_numbers[] = {
    {"updates", NUMBER_COUNT, 0, "", "the number of updates of the run", "run", "updates", NULL},
    {"train_examples", NUMBER_COUNT, 0, "", "the number of training examples", "run", "train_examples", NULL},
    MADE("updates_per_epoch", NUMBER_COUNT, 0, "", "the number of updates in an epoch", updates_per_epoch),
    {"train_loss", NUMBER_LOSS, 4, "", "train_loss, the mean of all updates", "summary", "train_loss", NULL},
    MADE("loss@", NUMBER_LOSS, 12, "", "the loss of that update", loss_at_step),
    MADE("eval_loss@", NUMBER_LOSS, 4, "", "eval_loss after that epoch", eval_loss_at_epoch),
    MADE("last_eval_loss", NUMBER_LOSS, 4, "", "the last eval_loss", last_eval_loss),
    HEADING(device, parameters),
    HEADING(device, gradients),
    HEADING(device, optimizer),
    HEADING(device, activations),
    HEADING(device, buffers),
    HEADING(device, total),
    HEADING(host, parameters),
    HEADING(host, gradients),
    HEADING(host, optimizer),
    HEADING(host, activations),
    HEADING(host, buffers),
    HEADING(host, total),
    MADE("device.state", NUMBER_MEMORY, 2, "MiB", "parameters, gradients and optimizer together",
         device_state),
    MADE("host.per_parameter", NUMBER_MEMORY, 1, "", "host memory, bytes a parameter", host_per_parameter),
    MADE("device_samples.peak", NUMBER_MEMORY, 1, "MiB", "the largest sample of device memory", device_peak),
    MADE("device_samples.average", NUMBER_MEMORY, 1, "MiB", "the mean of device memory's samples",
         device_average),
    MADE("device_samples.mode", NUMBER_MEMORY, 0, "MiB", "the most frequent sample of device memory",
         device_mode),
    MADE("node_samples.peak", NUMBER_MEMORY, 0, "MiB", "the largest sample of the node's memory", node_peak),
    MADE("node_samples.average", NUMBER_MEMORY, 0, "MiB", "the mean of the node's samples", node_average),
    MADE("node_samples.mode", NUMBER_MEMORY, 0, "MiB", "the most frequent sample of the node's memory",
         node_mode),
    MADE("sent_bytes", NUMBER_BYTES, 0, "bytes", "what a rank sends in an update, in bytes", sent_bytes),
    SENT("sent", "what a rank sends in an update", NULL),
    SENT("sent.all_reduce", "all-reduce, sent in an update", "all_reduce"),
    SENT("sent.reduce_scatter", "reduce-scatter, sent in an update", "reduce_scatter"),
    SENT("sent.all_gather", "all-gather, sent in an update", "all_gather"),
    SENT("sent.all_to_all", "all-to-all, sent in an update", "all_to_all"),
    SENT_INSIDE("inside", "sent inside the node in an update", NULL),
    SENT_ACROSS("across", "sent across nodes in an update", NULL),
    SENT_ACROSS("across.reduce_scatter", "reduce-scatter, sent across nodes", "reduce_scatter"),
    SENT_ACROSS("across.all_gather", "all-gather, sent across nodes", "all_gather"),
    SPEED("runtime", 1, "s", "train_runtime", "train_runtime"),
    SPEED("samples_per_second", 1, "", "train_samples_per_second, evaluation and saving included",
          "train_samples_per_second"),
    SPEED("update_samples_per_second", 1, "", "update_samples_per_second, the updates alone",
          "update_samples_per_second"),
    SPEED("steps_per_second", 2, "", "train_steps_per_second", "train_steps_per_second"),
    MADE("update_steps_per_second", NUMBER_SPEED, 2, "", "steps a second of the updates alone",
         update_steps_per_second),
    SPEED("eval_samples_per_second", 1, "", "eval_samples_per_second", "eval_samples_per_second"),
    SPEED("update_ms", 1, "ms", "the median time of an update", "update_ms.median"),
    MADE("update_seconds", NUMBER_SPEED, 3, "s", "the median time of an update", update_seconds),
    SPEED("phase.forward", 1, "ms", "forward, of an update", "phase_ms.forward"),
    SPEED("phase.backward", 1, "ms", "backward, of an update", "phase_ms.backward"),
    SPEED("phase.communication", 1, "ms", "communication exposed, of an update",
          "phase_ms.communication_exposed"),
    SPEED("phase.optimizer", 1, "ms", "optimizer, of an update", "phase_ms.optimizer"),
    {NULL, NUMBER_COUNT, 0, NULL, NULL, NULL, NULL, NULL},
};

const struct run_number *run_number_find(const char *name, double *argument) {
    *argument = 0;
    const char *at = strchr(name, '@');
    size_t length = at ? (size_t)(at - name) + 1 : strlen(name);
    for (const struct run_number *n = run_numbers; n->name; n++) {
        if (strlen(n->name) != length || strncmp(n->name, name, length) != 0) continue;
        if (!at) return n;
        char *end;
        *argument = strtod(at + 1, &end);
        return end > at + 1 && !*end ? n : NULL;
    }
    return NULL;
}

static double ledger_mib(const struct run_metrics *metrics, const char *heading, const char *key) {
    char path[64];
    snprintf(path, sizeof path, "%s.%s", heading, key);
    return run_metrics_number(metrics->memory, path) / mib;
}

double run_number_value(const struct run_number *number, const struct run_metrics *metrics, double argument) {
    if (number->get) return number->get(metrics, argument);
    if (number->kind == NUMBER_BYTES) return sent(metrics, number->path, number->event) / mib;
    if (number->kind == NUMBER_SPEED) return speed(metrics, number->path);
    if (number->kind == NUMBER_MEMORY) return ledger_mib(metrics, number->path, "peak_bytes");
    bool summary = !strcmp(number->event, "summary");
    return run_metrics_number(summary ? metrics->summary : metrics->run, number->path);
}

double run_number_predicted(const struct run_number *number, const struct run_metrics *metrics) {
    if (number->get == device_state) return state_bytes(metrics, "predicted_bytes") / mib;
    if (number->get == sent_bytes) return sent(metrics, NULL, "predicted_bytes");
    if (number->get) return NAN;
    if (number->kind == NUMBER_MEMORY) return ledger_mib(metrics, number->path, "predicted_bytes");
    if (number->kind != NUMBER_BYTES) return NAN;
    if (!strcmp(number->event, "bytes")) return sent(metrics, number->path, "predicted_bytes") / mib;
    if (!strcmp(number->event, "across_bytes"))
        return sent(metrics, number->path, "predicted_across_bytes") / mib;
    return (sent(metrics, number->path, "predicted_bytes") -
            sent(metrics, number->path, "predicted_across_bytes")) /
           mib;
}

double run_number_tolerance(const struct run_number *number) {
    static const double tolerances[] = {[NUMBER_COUNT] = 0,    [NUMBER_LOSS] = 1e-13, [NUMBER_MEMORY] = 0.01,
                                        [NUMBER_BYTES] = 0.01, [NUMBER_SPEED] = 0.15, [NUMBER_RATIO] = 0.02};
    return tolerances[number->kind];
}

/* Commas between thousands, as the sheets have them. */
static char *with_commas(const char *digits) {
    size_t whole = strcspn(digits, "."), sign = digits[0] == '-', length = strlen(digits), out = 0;
    char *text = xmalloc(2 * length + 4);
    if (sign) out += (size_t)sprintf(text, "−");
    for (size_t i = sign; i < length; i++) {
        if (i > sign && i < whole && (whole - i) % 3 == 0) text[out++] = ',';
        text[out++] = digits[i];
    }
    text[out] = '\0';
    return text;
}

char *run_number_text(const struct run_number *number, double value) {
    char digits[64];
    if (!isfinite(value) || fabs(value) > 1e15) return xstrdup("");
    snprintf(digits, sizeof digits, "%.*f", number->digits, value);
    return with_commas(digits);
}
