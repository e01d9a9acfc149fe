#include "common/tools/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/device/ledger.h"
#include "common/device/phases.h"

/* The same run, but for the number of ranks: synthetic text grows with them. */
static bool same_but_for_ranks(const json_t *a, const json_t *b) {
    static const char *const keys[] = {"stage", "model", "precision", "accumulation", "micro_batch"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_equal(json_object_get(a, keys[i]), json_object_get(b, keys[i]))) return false;
    json_t *left = json_deep_copy(json_object_get(a, "settings"));
    json_t *right = json_deep_copy(json_object_get(b, "settings"));
    static const char *const differ[] = {"train_file", "validation_file", "output_dir"};
    for (size_t i = 0; i < sizeof differ / sizeof *differ; i++) {
        json_object_del(left, differ[i]);
        json_object_del(right, differ[i]);
    }
    bool same = json_equal(left, right);
    json_decref(left);
    json_decref(right);
    return same;
}

double bench_ratio(const json_t *rows, const json_t *row) {
    size_t index;
    json_t *other;
    json_array_foreach((json_t *)(size_t)rows, index, other) {
        if (json_integer_value(json_object_get(other, "ranks")) != 1 || !same_but_for_ranks(row, other))
            continue;
        double one = bench_number(other, "examples_per_second.median");
        return one > 0 ? bench_number(row, "examples_per_second.median") / one : 0;
    }
    return 0;
}

/* The same updates: as many examples, in the same order, of the same model. */
static bool same_updates(const json_t *a, const json_t *b) {
    static const char *const keys[] = {"train_file", "seed",          "max_seq_length",
                                       "max_steps",  "learning_rate", "pad_to_max_length"};
    const json_t *left = json_object_get(a, "settings"), *right = json_object_get(b, "settings");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!json_equal(json_object_get(left, keys[i]), json_object_get(right, keys[i]))) return false;
    return json_equal(json_object_get(a, "model"), json_object_get(b, "model")) &&
           json_equal(json_object_get(a, "precision"), json_object_get(b, "precision")) &&
           json_equal(json_object_get(a, "micro_batch"), json_object_get(b, "micro_batch")) &&
           bench_number(a, "ranks") * bench_number(a, "accumulation") ==
               bench_number(b, "ranks") * bench_number(b, "accumulation");
}

static double largest_difference(const json_t *ours, const json_t *theirs) {
    double worst = 0;
    for (size_t i = 0; i < json_array_size(ours) && i < json_array_size(theirs); i++) {
        double x = json_number_value(json_array_get(ours, i));
        double y = json_number_value(json_array_get(theirs, i)), off = fabs(x - y) / fabs(y);
        if (!(off <= worst)) worst = off; /* a NaN counts */
    }
    return worst;
}

double bench_losses_off(const json_t *rows, const json_t *row) {
    size_t index;
    json_t *other;
    json_array_foreach((json_t *)(size_t)rows, index, other) {
        if (other == row || bench_number(other, "ranks") != 1 || !same_updates(row, other)) continue;
        return largest_difference(json_object_get(row, "losses"), json_object_get(other, "losses"));
    }
    return -1;
}

/* What every line begins with. */
static void print_run(const json_t *row) {
    printf("%-14s%6.0f%8.0f", json_string_value(json_object_get(row, "stage")), bench_number(row, "ranks"),
           bench_number(row, "accumulation"));
}

static void print_titles(const char *what, const char *columns) {
    printf("\n%s\n%-14s%6s%8s%s\n", what, "stage", "ranks", "accum.", columns);
}

static void print_speed(const json_t *row, const json_t *all) {
    char spread[64];
    snprintf(spread, sizeof spread, "%.2f to %.2f", bench_number(row, "examples_per_second.lower_quartile"),
             bench_number(row, "examples_per_second.upper_quartile"));
    print_run(row);
    printf("%12.2f%22s%12.0f%10.1f%%", bench_number(row, "examples_per_second.median"), spread,
           bench_number(row, "tokens_per_second"), 100 * bench_number(row, "share_of_peak"));
    double ratio = bench_ratio(all, row), evaluated = bench_number(row, "eval_samples_per_second");
    if (ratio > 0)
        printf("%10.2f", ratio);
    else
        printf("%10s", "-");
    double off = bench_losses_off(all, row);
    if (off >= 0)
        printf("%12.1e", off);
    else
        printf("%12s", "-");
    if (evaluated > 0) printf("   evaluation %.2f", evaluated);
    printf("\n");
}

static void print_phases(const json_t *row) {
    print_run(row);
    printf("%10.2f", bench_number(row, "update_ms.median"));
    for (int p = 0; p < PHASES; p++) {
        char path[64];
        snprintf(path, sizeof path, "phase_ms.%s", phase_name((enum phase)p));
        printf("%*.2f", p == PHASE_COMMUNICATION ? 23 : 11, bench_number(row, path));
    }
    printf("\n");
}

static double peak_mib(const json_t *row, const char *place, const char *heading) {
    char path[128];
    snprintf(path, sizeof path, "%s.%s.peak_bytes", place, heading);
    return bench_number(row, path) / (1 << 20);
}

static void print_memory(const json_t *row) {
    print_run(row);
    for (int h = 0; h < HEADINGS; h++)
        printf("%12.1f", peak_mib(row, "device_memory", heading_name((enum heading)h)));
    printf("%12.1f%12.1f\n", peak_mib(row, "device_memory", "total"), peak_mib(row, "host_memory", "total"));
}

/* The user's own settings. */
static void print_given(const json_t *words) {
    size_t index;
    json_t *word;
    if (!json_array_size(words)) return;
    printf("with");
    json_array_foreach((json_t *)(size_t)words, index, word) printf(" %s", json_string_value(word));
    printf("\n");
}

/* What all rows have in common, as the first of them has it. */
static void print_header(const json_t *row, const struct bench_machine *machine) {
    const json_t *settings = json_object_get(row, "settings");
    bool padded = json_is_true(json_object_get(settings, "pad_to_max_length"));
    printf("%s in %s on %s; micro-batches of %.0f x %.0f tokens%s\n",
           json_string_value(json_object_get(row, "model")),
           json_string_value(json_object_get(row, "precision")), machine->device,
           bench_number(row, "micro_batch"), bench_number(settings, "max_seq_length"),
           padded ? ", padding computed" : " at most, without padding");
    print_given(json_object_get(row, "given"));
    printf("peak: %.4g TFLOP/s, measured with products of %d x %d matrices\n", 1e-12 * machine->peak_flops,
           machine->matrix, machine->matrix);
}

void bench_print(const json_t *rows, const json_t *all, const struct bench_machine *machine) {
    size_t index, count = json_array_size(rows);
    json_t *row;
    if (!count) return;
    print_header(json_array_get(rows, 0), machine);
    char title[128];
    snprintf(title, sizeof title, "speed: medians (and quartiles) of %.0f updates",
             bench_number(json_array_get(rows, 0), "update_ms.updates"));
    print_titles(title, "  examples/s             quartiles    tokens/s    of peak  x 1 rank  losses off");
    json_array_foreach((json_t *)(size_t)rows, index, row) print_speed(row, all);
    print_titles("milliseconds of an update, medians",
                 "    update    forward   backward  communication exposed  optimizer      other");
    json_array_foreach((json_t *)(size_t)rows, index, row) print_phases(row);
    print_titles("peak memory of a rank, MiB",
                 "  parameters   gradients   optimizer activations     buffers       total        host");
    json_array_foreach((json_t *)(size_t)rows, index, row) print_memory(row);
}
