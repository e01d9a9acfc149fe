/*
 * How fast a device and its links are. The numbers of this file are measurements of the kit's own (README.md
 * and the stages' lessons have them) and the vendors' nominal figures; what is neither says so.
 */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/plan.h"

static const struct {
    const char *name, *unit;
    double scale;
} rates_table[RATES] = {
    [RATE_PRODUCTS] = {"products", "TFLOP/s", 1e12},
    [RATE_MEMORY] = {"memory", "GB/s", 1e9},
    [RATE_INSIDE] = {"inside", "GB/s", 1e9},
    [RATE_ACROSS] = {"across", "GB/s", 1e9},
    [RATE_LINK] = {"link", "GB/s", 1e9},
    [RATE_PAGEABLE] = {"pageable", "GB/s", 1e9},
    [RATE_HOST_RANK] = {"host_rank", "GB/s", 1e9},
    [RATE_HOST] = {"host", "GB/s", 1e9},
    [RATE_HIDDEN] = {"hidden", "s/s", 1},
};

const char *plan_rate_name(enum plan_rate rate) {
    return rates_table[rate].name;
}

const char *plan_rate_unit(enum plan_rate rate) {
    return rates_table[rate].unit;
}

double plan_rate_scale(enum plan_rate rate) {
    return rates_table[rate].scale;
}

static void set_rate(struct plan_rates *rates, enum plan_rate rate, double value, const char *source) {
    free(rates->sources[rate]);
    rates->values[rate] = value * rates_table[rate].scale;
    rates->sources[rate] = xstrdup(source);
}

void plan_rates_free(struct plan_rates *rates) {
    for (int r = 0; r < RATES; r++) free(rates->sources[r]);
}

/* ---- measured ---- */

/* Products and memory: what together gives the updates of five shapes that the main README lists, each within
 * 2.3%. Large square products alone reach 776 to 790, copies 4,292. */
static const struct {
    double gpu;
    const char *gpu_source;
    double cpu;
    const char *cpu_source;
} measured[RATES] = {
    [RATE_PRODUCTS] = {790, "measured: H200, updates of five BLOOMs", 0.30, "measured: two cores"},
    [RATE_MEMORY] = {3060, "measured: H200, updates of five BLOOMs", 20, "assumed"},
    [RATE_INSIDE] = {214, "measured: two H200 with NVLink, copies of 25 MB", 7.9,
                     "measured: ranks on two cores"},
    [RATE_ACROSS] = {50, "assumed: one card of 400 Gbit/s a node", 0.125, "assumed: 1 Gbit/s"},
    [RATE_LINK] = {55, "measured: H200", 10, "assumed"},
    [RATE_PAGEABLE] = {11.5, "measured: H200, 9 up and 16 down", 10, "assumed"},
    [RATE_HOST_RANK] = {115, "measured: AdamW on 16 cores beside an H200", 12, "assumed"},
    [RATE_HOST] = {154, "measured: AdamW of two such ranks on a node", 20, "assumed"},
    [RATE_HIDDEN] = {0.4, "measured: copies between two H200", 1, "assumed: it takes the same cores"},
};

struct plan_rates plan_rates_default(const char *device) {
    struct plan_rates rates = {0};
    bool gpu = !strcmp(device, "gpu");
    for (int r = 0; r < RATES; r++)
        set_rate(&rates, (enum plan_rate)r, gpu ? measured[r].gpu : measured[r].cpu,
                 gpu ? measured[r].gpu_source : measured[r].cpu_source);
    return rates;
}

/* ---- cards ---- */

/* Memory in MiB as nvidia-smi tells it; nominal TFLOP/s of dense products in half precision and in fp32, GB/s
 * of memory, GB/s to the other cards (NVLink, one way; 0: through the host's link) and to the host. */
static const struct {
    const char *name;
    double memory, half, single, bandwidth, peers, link;
    bool bf16;
} cards[] = {
    {"h200-141", 143771, 989.4, 66.9, 4800, 450, 63, true},
    {"h100-80", 81559, 989.4, 66.9, 3350, 450, 63, true},
    {"a100-80", 81920, 312, 19.5, 2039, 300, 31.5, true},
    {"a100-40", 40960, 312, 19.5, 1555, 300, 31.5, true},
    {"v100-32", 32768, 125, 15.7, 900, 150, 15.75, false},
    {"v100-16", 16384, 125, 15.7, 900, 150, 15.75, false},
    {"l40s-48", 46068, 362, 91.6, 864, 0, 31.5, true},
    {"a40-48", 46068, 149.7, 37.4, 696, 0, 31.5, true},
    {"rtx5090-32", 32607, 209.5, 104.8, 1792, 0, 63, true},
    {"rtx4090-24", 24564, 165.2, 82.6, 1008, 0, 31.5, true},
    {"rtx3090-24", 24576, 71.2, 35.6, 936, 0, 31.5, true},
    {"rtx-24", 24576, 71.2, 35.6, 936, 0, 31.5, true},
    {"l4-24", 23034, 121, 30.3, 300, 0, 31.5, true},
    {"a10-24", 23028, 125, 31.2, 600, 0, 31.5, true},
    {"t4-16", 15360, 65.1, 8.1, 320, 0, 15.75, false},
};
enum { CARDS = sizeof cards / sizeof *cards, H200 = 0 };

bool plan_size(const char *text, double *bytes) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1099511627776.0},
                 {"MB", 1e6},      {"GB", 1e9},      {"TB", 1e12}};
    char *end;
    errno = 0;
    double number = isdigit((unsigned char)*text) ? strtod(text, &end) : 0;
    if (!(number > 0) || errno || !isfinite(number)) return false;
    while (*end == ' ') end++;
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        if (!strcmp(end, units[u].unit)) {
            *bytes = number * units[u].bytes;
            return *bytes < 1e18;
        }
    return false;
}

static bool no_such_card(const char *name, struct error *error) {
    char names[512] = "";
    for (int c = 0; c < CARDS; c++) {
        size_t length = strlen(names);
        snprintf(names + length, sizeof names - length, "%s%s", c ? ", " : "", cards[c].name);
    }
    return error_set(error, "--card %s: give its memory, as 80GiB, or one of %s", name, names);
}

bool plan_card_find(struct plan_card *card, const char *name, struct error *error) {
    *card = (struct plan_card){.bf16 = true};
    snprintf(card->name, sizeof card->name, "%s", name);
    for (int c = 0; c < CARDS; c++) {
        if (strcmp(cards[c].name, name) != 0) continue;
        card->known = true;
        card->memory = cards[c].memory * (1 << 20);
        card->half = cards[c].half, card->single = cards[c].single;
        card->bandwidth = cards[c].bandwidth;
        card->peers = cards[c].peers, card->link = cards[c].link;
        card->bf16 = cards[c].bf16;
        return true;
    }
    return plan_size(name, &card->memory) || no_such_card(name, error);
}

void plan_rates_of_card(struct plan_rates *rates, const struct plan_card *card, bool half) {
    double reached[RATES]; /* of the nominal, on the H200 */
    reached[RATE_PRODUCTS] = measured[RATE_PRODUCTS].gpu / cards[H200].half;
    reached[RATE_MEMORY] = measured[RATE_MEMORY].gpu / cards[H200].bandwidth;
    reached[RATE_INSIDE] = measured[RATE_INSIDE].gpu / cards[H200].peers;
    reached[RATE_LINK] = measured[RATE_LINK].gpu / cards[H200].link;
    double nominal = half ? card->half : card->single;
    const char *source = "its nominal rate, times the share reached on an H200";
    double link = reached[RATE_LINK] * card->link;
    set_rate(rates, RATE_PRODUCTS, reached[RATE_PRODUCTS] * nominal, source);
    set_rate(rates, RATE_MEMORY, reached[RATE_MEMORY] * card->bandwidth, source);
    set_rate(rates, RATE_LINK, link, source);
    if (card->peers > 0)
        set_rate(rates, RATE_INSIDE, reached[RATE_INSIDE] * card->peers, source);
    else
        set_rate(rates, RATE_INSIDE, link, "assumed: as the link to the host");
}

/* ---- given ---- */

static bool set_given(struct plan_rates *rates, const char *word, struct error *error) {
    const char *equals = strchr(word, '=');
    int r = 0;
    while (r < RATES && (!equals || strncmp(rates_table[r].name, word, (size_t)(equals - word)) != 0 ||
                         rates_table[r].name[equals - word]))
        r++;
    if (r == RATES)
        return error_set(error,
                         "--rate %s: give NAME=VALUE, where NAME is one of products, memory, inside, across, "
                         "link, pageable, host_rank, host, hidden",
                         word);
    char *end;
    double value = strtod(equals + 1, &end);
    bool number = end != equals + 1 && !*end && isfinite(value);
    if (!number || value < 0 || (value == 0 && r != RATE_HIDDEN))
        return error_set(error, "--rate %s: not a positive number of %s", word, rates_table[r].unit);
    set_rate(rates, (enum plan_rate)r, value, "given");
    return true;
}

bool plan_rates_given(struct plan_rates *rates, const char *text, struct error *error) {
    char *copy = xstrdup(text), *state;
    bool good = true;
    for (char *word = strtok_r(copy, ",", &state); word && good; word = strtok_r(NULL, ",", &state))
        good = set_given(rates, word, error);
    free(copy);
    return good;
}

/* ---- from bench's file ---- */

static bool are_words(const json_t *array) {
    size_t index;
    json_t *word;
    json_array_foreach((json_t *)(size_t)array, index, word) if (!json_is_string(word)) return false;
    return json_is_array(array);
}

/* A row of one rank with nothing on the host, in this precision, whose stage has a safe name. */
static bool is_usable(const json_t *row, const char *precision) {
    const char *stage = json_string_value(json_object_get(row, "stage"));
    const char *its = json_string_value(json_object_get(row, "precision"));
    const char *offload =
        json_string_value(json_object_get(json_object_get(row, "settings"), "offload_optimizer"));
    return stage && isdigit((unsigned char)*stage) && !strchr(stage, '/') && its && !strcmp(its, precision) &&
           json_integer_value(json_object_get(row, "ranks")) == 1 && offload && !strcmp(offload, "none") &&
           are_words(json_object_get(row, "arguments")) &&
           json_number_value(json_object_get(json_object_get(row, "update_ms"), "median")) > 0;
}

/* Products at `rate` and bytes at the memory's rate take the measured time; where the bytes alone would take
 * half of it or more, the memory is faster than we suppose: then the two share it. */
static void solve(struct plan_rates *rates, const struct plan_counts *work, double seconds,
                  const char *source) {
    double moving = work->bytes / rates->values[RATE_MEMORY];
    if (moving > seconds / 2) {
        moving = seconds / 2;
        set_rate(rates, RATE_MEMORY, work->bytes / moving / 1e9, source);
    }
    set_rate(rates, RATE_PRODUCTS, work->product_flops / (seconds - moving) / 1e12, source);
}

bool plan_rates_measured(struct plan_rates *rates, const struct plan_options *options, const char *path,
                         const json_t *document, const char *precision, struct error *error) {
    size_t index;
    json_t *row;
    json_array_foreach(json_object_get(document, "rows"), index, row) {
        if (!is_usable(row, precision)) continue;
        struct plan_counts work;
        const char *stage = json_string_value(json_object_get(row, "stage"));
        double seconds =
            1e-3 * json_number_value(json_object_get(json_object_get(row, "update_ms"), "median"));
        if (!plan_dry_work(&work, options, stage, json_object_get(row, "arguments"), precision, error))
            return false;
        const char *device = json_string_value(json_object_get(document, "device"));
        char *source = xformat("%s: %s on %s", path, stage, device ? device : "?");
        solve(rates, &work, seconds, source);
        free(source);
        plan_counts_free(&work);
        return true;
    }
    return error_set(error, "%s: no run of one rank in %s without offload: is this a file of bench?", path,
                     precision);
}
