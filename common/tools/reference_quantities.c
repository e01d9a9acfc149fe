#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/reference.h"

enum { LOSSES_COMPARED = 10 };

enum kind {
    PLAIN,   /* the numbers at `paths`, in words of their own */
    SUM,     /* of all members of the object at `paths` that have the key behind the last dot */
    RATIO,   /* of the number to that of the run's base */
    DISTANCE /* the largest relative difference of the first losses from those of the run's base */
};

/* A quantity: what a table calls it, and its numbers, one for each word of `paths`, with that many digits. */
struct quantity {
    const char *name, *title, *paths;
    double scale;       /* what the number in the results is multiplied by */
    const char *digits; /* one for each path, the last for all that follow */
    const char *divisor;
    enum kind kind;
    bool absent_is_zero;
};

#define MIB (1.0 / (1 << 20))
#define DEVICE(name, title)                                                                                  \
    { name, title ", MiB", "memory.device." name ".peak_bytes", MIB, "2", NULL, PLAIN, false }
#define HOST(name, title)                                                                                    \
    { "host_" name, title ", MiB", "memory.host." name ".peak_bytes", MIB, "2", NULL, PLAIN, false }
#define SENT(name, title)                                                                                    \
    {                                                                                                        \
        name, "sent per rank and update: " title ", MiB", "communication." name ".bytes", MIB, "2",          \
            "communication.updates", PLAIN, true                                                             \
    }
#define NUMBER(name, title, path, digits)                                                                    \
    { name, title, path, 1, digits, NULL, PLAIN, false }
#define ALL_SENT(name, title, key)                                                                           \
    { name, title, "communication." key, MIB, "2", "communication.updates", SUM, false }

static const struct quantity quantities[] = {
    NUMBER("updates", "updates of the run", "run.updates", "0"),
    NUMBER("packs", "packs of the run", "summary.packs", "0"),
    NUMBER("updates_epoch", "steps per epoch", "evals.1.step", "0"),
    NUMBER("train_samples", "training samples/s", "summary.train_samples_per_second", "1"),
    NUMBER("update_samples", "training samples/s, the updates alone", "summary.update_samples_per_second",
           "1"),
    NUMBER("speed", "examples/s", "summary.update_samples_per_second", "1"),
    {"ratio", "× its base", "summary.update_samples_per_second", 1, "2", NULL, RATIO, false},
    {"losses_off", "losses off", "", 1, "", NULL, DISTANCE, false},
    NUMBER("runtime", "runtime, s", "summary.train_runtime", "1"),
    NUMBER("steps_per_second", "steps/s", "summary.train_steps_per_second", "2"),
    NUMBER("train_loss", "training loss", "summary.train_loss", "4"),
    NUMBER("eval_before", "evaluation loss before training", "evals.0.eval_loss", "4"),
    NUMBER("eval_losses", "evaluation loss after epochs 1 / 2 / 3",
           "evals.1.eval_loss evals.2.eval_loss evals.3.eval_loss", "4"),
    NUMBER("eval_loss", "evaluation loss after epoch 3", "evals.3.eval_loss", "4"),
    NUMBER("exact_match", "exact match before / after training, %",
           "evals.0.eval_exact_match evals.3.eval_exact_match", "1"),
    NUMBER("f1", "F1 before / after training, %", "evals.0.eval_f1 evals.3.eval_f1", "1"),
    NUMBER("eval_samples", "evaluation samples/s", "summary.eval_samples_per_second", "1"),
    NUMBER("device_over_time", "device memory over time: peak / average / mode, MiB",
           "memory_samples.device.0.peak memory_samples.device.0.average memory_samples.device.0.mode",
           "110"),
    NUMBER("node_over_time", "host memory of the node: peak / average / mode, MiB",
           "memory_samples.node.0.peak memory_samples.node.0.average memory_samples.node.0.mode", "110"),
    DEVICE("parameters", "parameters"),
    DEVICE("gradients", "gradients"),
    DEVICE("optimizer", "optimizer"),
    DEVICE("activations", "activations"),
    DEVICE("buffers", "buffers"),
    {"peak", "total peak, MiB", "memory.device.total.peak_bytes", MIB, "1", NULL, PLAIN, false},
    {"peak_gib", "total peak, GiB", "memory.device.total.peak_bytes", MIB / 1024, "2", NULL, PLAIN, false},
    HOST("parameters", "host: parameters"),
    HOST("gradients", "host: gradients"),
    HOST("optimizer", "host: optimizer"),
    {"host", "host, total, MiB", "memory.host.total.peak_bytes", MIB, "1", NULL, PLAIN, false},
    SENT("all_reduce", "all-reduce"),
    SENT("reduce_scatter", "reduce-scatter"),
    SENT("all_gather", "all-gather"),
    SENT("all_to_all", "all-to-all"),
    ALL_SENT("sent", "sent per rank and update, MiB", "bytes"),
    ALL_SENT("predicted", "predicted, MiB", "predicted_bytes"),
    ALL_SENT("inside", "inside, MiB", "inside_bytes"),
    ALL_SENT("across", "across, MiB", "across_bytes"),
    NUMBER("loss_1", "first loss", "losses.0", "5"),
    NUMBER("loss_8", "eighth loss", "losses.7", "*"),
    NUMBER("norm_1", "first `grad_norm`", "norms.0", "4"),
    NUMBER("update_ms", "update, ms", "summary.update_ms.median", "1"),
    NUMBER("forward", "forward, ms", "summary.phase_ms.forward", "1"),
    NUMBER("backward", "backward, ms", "summary.phase_ms.backward", "1"),
    NUMBER("exposed", "communication exposed, ms", "summary.phase_ms.communication_exposed", "1"),
    NUMBER("optimizer_ms", "optimizer, ms", "summary.phase_ms.optimizer", "1"),
    NUMBER("train_examples", "training examples", "run.train_examples", "0"),
};

static const struct quantity *find_quantity(const char *name) {
    for (size_t i = 0; i < sizeof quantities / sizeof *quantities; i++)
        if (!strcmp(quantities[i].name, name)) return &quantities[i];
    return NULL;
}

const char *quantity_title(const char *name) {
    const struct quantity *quantity = find_quantity(name);
    return quantity ? quantity->title : NULL;
}

/* ---- numbers in results ---- */

/* The value at a path of keys and positions ("evals.1.eval_loss"); NULL where there is none. Borrowed. */
static const json_t *value_at(const json_t *value, const char *path) {
    char keys[256], *state;
    snprintf(keys, sizeof keys, "%s", path);
    for (char *key = strtok_r(keys, ".", &state); key && value; key = strtok_r(NULL, ".", &state))
        value = json_is_array(value) ? json_array_get(value, (size_t)strtoul(key, NULL, 10))
                                     : json_object_get(value, key);
    return value;
}

static double number_at(const json_t *results, const char *path) {
    const json_t *value = value_at(results, path);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* The sum over an object's members of the key behind the path's last dot. */
static double sum_at(const json_t *results, const char *path) {
    char above[256];
    snprintf(above, sizeof above, "%s", path);
    char *key = strrchr(above, '.');
    *key++ = '\0';
    const json_t *members = value_at(results, above);
    const char *name;
    json_t *member;
    double sum = 0;
    if (!json_is_object(members)) return NAN;
    json_object_foreach((json_t *)(size_t)members, name, member) sum +=
        json_number_value(json_object_get(member, key));
    return sum;
}

static double one_number(const struct quantity *quantity, const json_t *results, const char *path) {
    double number = quantity->kind == SUM ? sum_at(results, path) : number_at(results, path);
    if (isnan(number) && quantity->absent_is_zero && json_object_get(results, "memory")) number = 0;
    double divisor = quantity->divisor ? number_at(results, quantity->divisor) : 1;
    return number == 0 ? 0 : number * quantity->scale / divisor;
}

static double losses_distance(const json_t *ours, const json_t *theirs) {
    const json_t *a = json_object_get(ours, "losses"), *b = json_object_get(theirs, "losses");
    double worst = json_array_size(a) && json_array_size(b) ? 0 : NAN;
    for (size_t i = 0; i < LOSSES_COMPARED && i < json_array_size(a) && i < json_array_size(b); i++) {
        double x = json_number_value(json_array_get(a, i)), y = json_number_value(json_array_get(b, i));
        worst = fmax(worst, fabs(x - y) / fabs(y));
    }
    return worst;
}

/* ---- text ---- */

/* 1234567.8 with a comma before every three digits. */
static void add_number(char *text, size_t size, double number, int digits) {
    char plain[64];
    size_t used = strlen(text);
    snprintf(plain, sizeof plain, "%.*f", digits, number);
    size_t whole = strcspn(plain, ".");
    for (size_t i = 0; plain[i] && used + 2 < size; i++) {
        bool comma = i > 0 && i < whole && (whole - i) % 3 == 0 && plain[i - 1] != '-';
        if (comma) text[used++] = ',';
        text[used++] = plain[i];
    }
    text[used] = '\0';
}

static void add_text(char *text, size_t size, const char *more) {
    snprintf(text + strlen(text), size - strlen(text), "%s", more);
}

static void plain_text(const struct quantity *quantity, const json_t *results, char *text, size_t size) {
    char paths[256], *state;
    int number = 0, found = 0;
    snprintf(paths, sizeof paths, "%s", quantity->paths);
    for (char *path = strtok_r(paths, " ", &state); path; path = strtok_r(NULL, " ", &state), number++) {
        size_t last = strlen(quantity->digits) - 1;
        char digits = quantity->digits[(size_t)number < last ? (size_t)number : last];
        double value = one_number(quantity, results, path);
        if (number) add_text(text, size, " / ");
        found += !isnan(value);
        if (isnan(value))
            add_text(text, size, "–");
        else
            add_number(text, size, value, digits == '*' ? 12 : digits - '0');
    }
    if (!found) snprintf(text, size, "–");
}

bool quantity_text(const char *name, const json_t *runs, const json_t *run, char *text, size_t size) {
    const struct quantity *quantity = find_quantity(name);
    const json_t *results = json_object_get(run, "results");
    if (!quantity) return false;
    text[0] = '\0';
    if (quantity->kind == PLAIN || quantity->kind == SUM) {
        plain_text(quantity, results, text, size);
        return true;
    }
    const char *base_name = json_string_value(json_object_get(run, "base"));
    const json_t *base = json_object_get(base_name ? json_object_get(runs, base_name) : NULL, "results");
    double number = quantity->kind == DISTANCE
                        ? losses_distance(results, base)
                        : number_at(results, quantity->paths) / number_at(base, quantity->paths);
    if (!results || !base || isnan(number))
        snprintf(text, size, "–");
    else if (quantity->kind == DISTANCE)
        snprintf(text, size, number > 0 ? "%.1e" : "0", number);
    else
        add_number(text, size, number, 2);
    return true;
}
