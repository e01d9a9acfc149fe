#include <stdlib.h>
#include <string.h>

#include "common/bloom/shards.h"
#include "common/bloom/weights.h"
#include "common/device/kernels.h"

struct weights {
    const struct layout *layout;
    struct shards *shards;                    /* NULL: random values */
    const struct safetensors_entry **entries; /* by parameter number; NULL: random values */
    uint64_t seed;
};

/* ---- opening: every parameter is found and checked ---- */

enum { PREFIX_LENGTH = sizeof "transformer." - 1 }; /* files may have it or not */

static const struct safetensors_entry *find_either(const struct shards *shards, const char *name,
                                                   const char **file) {
    *file = shards_path(shards);
    const struct safetensors_entry *entry = shards_find(shards, name, file);
    return entry ? entry : shards_find(shards, name + PREFIX_LENGTH, file);
}

/* The shape that the file must have: the whole embedding's for a chunk. */
static struct safetensors_text expected_shape(const struct layout *layout, const struct unit *unit,
                                              int number) {
    const struct tensor *tensor = &unit->tensor[number];
    struct safetensors_text out;
    if (unit->kind == EMBEDDING_CHUNK)
        snprintf(out.text, sizeof out.text, "[%zu, %zu]", layout->config.vocabulary, layout->config.hidden);
    else if (tensor_is_matrix(unit, number))
        snprintf(out.text, sizeof out.text, "[%zu, %zu]", tensor->rows, tensor->columns);
    else
        snprintf(out.text, sizeof out.text, "[%zu]", tensor->count);
    return out;
}

static bool readable_as_float(const struct safetensors_entry *entry) {
    return entry->readable && (entry->dtype == FP32 || entry->dtype == FP16 || entry->dtype == BF16);
}

static bool find_parameter(struct weights *weights, const struct unit *unit, int number,
                           struct error *error) {
    char name[96];
    tensor_name(unit, number, name);
    const char *file;
    const struct safetensors_entry *entry = find_either(weights->shards, name, &file);
    if (!entry)
        return error_set(error, "%s: tensor '%s' (or '%s') is missing; is config.json this model's?", file,
                         name, name + PREFIX_LENGTH);

    struct safetensors_text expected = expected_shape(weights->layout, unit, number);
    struct safetensors_text found = safetensors_describe(entry);
    if (!readable_as_float(entry))
        return error_set(error, "%s: tensor '%s' is %s; expected F32, F16 or BF16 %s", file, entry->name,
                         found.text, expected.text);
    if (strcmp(strchr(found.text, '['), expected.text) != 0)
        return error_set(error, "%s: tensor '%s' is %s; config.json says %s", file, entry->name, found.text,
                         expected.text);
    weights->entries[parameter_number(weights->layout, unit, number)] = entry;
    return true;
}

static bool find_parameters(struct weights *weights, struct error *error) {
    const struct layout *layout = weights->layout;
    for (int u = 0; u <= layout->chunks_begin; u++) /* of the chunks, all parts of one parameter, the first */
        for (int t = 0; t < layout->units[u].tensors; t++)
            if (!find_parameter(weights, &layout->units[u], t, error)) return false;
    return true;
}

/* The head is the embedding: a file that holds it once more must hold the same values. */
static bool check_head(const struct weights *weights, struct error *error) {
    const char *file;
    const struct safetensors_entry *embedding = weights->entries[0];
    const struct safetensors_entry *head = shards_find(weights->shards, "lm_head.weight", &file);
    if (!head) return true;
    if (!readable_as_float(head) || head->count != embedding->count)
        return error_set(error,
                         "%s: tensor 'lm_head.weight' is %s, the word embedding %s: an untied head is not "
                         "supported",
                         file, safetensors_describe(head).text, safetensors_describe(embedding).text);
    enum { PIECE = 4096 };
    float a[PIECE], b[PIECE];
    for (size_t begin = 0; begin < head->count; begin += PIECE) {
        size_t count = head->count - begin < PIECE ? head->count - begin : PIECE;
        safetensors_to_float(head, begin, count, a);
        safetensors_to_float(embedding, begin, count, b);
        if (memcmp(a, b, count * sizeof *a) != 0)
            return error_set(
                error,
                "%s: tensor 'lm_head.weight' differs from the word embedding: an untied head is not "
                "supported; if it is a mistake, delete the tensor",
                file);
    }
    return true;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && !strcmp(text + length - tail, end);
}

/* Constants that older programs saved with the parameters. */
static bool is_harmless(const char *name) {
    return !strcmp(name, "lm_head.weight") || ends_with(name, "attention.mask") ||
           ends_with(name, "masked_bias") || ends_with(name, "attn.bias");
}

static int by_address(const void *a, const void *b) {
    const void *x = *(const void *const *)a, *y = *(const void *const *)b;
    return (x > y) - (x < y);
}

/* A tensor that no parameter is read from may mean that config.json is another model's. */
static void warn_of_others(const struct weights *weights) {
    size_t parameters = parameter_count(weights->layout), others = 0;
    const struct safetensors_entry **used = xmalloc(parameters * sizeof(struct safetensors_entry *));
    memcpy(used, weights->entries, parameters * sizeof *used);
    qsort(used, parameters, sizeof *used, by_address);
    const char *first = NULL, *path = NULL;
    for (size_t f = 0; f < shards_count(weights->shards); f++) {
        const struct safetensors *file = shards_file(weights->shards, f);
        for (size_t i = 0; i < safetensors_count(file); i++) {
            const struct safetensors_entry *entry = safetensors_at(file, i);
            if (is_harmless(entry->name) || bsearch(&entry, used, parameters, sizeof *used, by_address))
                continue;
            if (!others++) first = entry->name, path = safetensors_path(file);
        }
    }
    if (others)
        warn("%s: tensor '%.200s' and %zu more are no part of this model and stay unused; is config.json the "
             "right one?",
             path, first, others - 1);
    free(used);
}

struct weights *weights_open(const char *directory, const struct layout *layout, struct error *error) {
    struct shards *shards = shards_open(directory, error);
    if (!shards) return NULL;
    struct weights *weights = xcalloc(1, sizeof *weights);
    weights->layout = layout;
    weights->shards = shards;
    weights->entries = xcalloc(parameter_count(layout), sizeof *weights->entries);
    if (!find_parameters(weights, error) || !check_head(weights, error)) {
        weights_close(weights);
        return NULL;
    }
    warn_of_others(weights);
    return weights;
}

struct weights *weights_random(uint64_t seed, const struct layout *layout) {
    struct weights *weights = xcalloc(1, sizeof *weights);
    weights->layout = layout;
    weights->seed = seed;
    return weights;
}

void weights_close(struct weights *weights) {
    if (!weights) return;
    shards_close(weights->shards);
    free(weights->entries);
    free(weights);
}

/* ---- loading: a stretch of a unit, tensor by tensor ---- */

static void load_from_file(const struct safetensors_entry *entry, struct stream *stream, size_t begin,
                           size_t count, float *out, float *staging) {
    for (size_t done = 0; done < count;) {
        size_t some = count - done < WEIGHTS_STAGING ? count - done : WEIGHTS_STAGING;
        if (device_computes()) safetensors_to_float(entry, begin + done, some, staging);
        copy_to_device(stream, out + done, staging, some * sizeof *out);
        stream_synchronize(stream); /* staging is free again */
        done += some;
    }
}

static bool is_norm_weight(const struct unit *unit, int number) {
    if (unit->kind == BLOCK) return number == INPUT_NORM_WEIGHT || number == POST_NORM_WEIGHT;
    return unit->kind != EMBEDDING_CHUNK && number == NORM_WEIGHT;
}

static void load_random(const struct weights *weights, struct stream *stream, const struct unit *unit,
                        int number, size_t begin, size_t count, float *out) {
    const struct layout *layout = weights->layout;
    if (tensor_is_matrix(unit, number))
        fill_normal(stream, out, weights->seed, parameter_number(layout, unit, number), begin, count,
                    layout->config.initializer_range);
    else
        fill_value(stream, out, is_norm_weight(unit, number) ? 1.0f : 0.0f, count);
}

void weights_load(const struct weights *weights, struct stream *stream, int unit_number, size_t begin,
                  size_t count, float *out, float *staging) {
    const struct layout *layout = weights->layout;
    const struct unit *unit = &layout->units[unit_number];
    size_t end = begin + count;
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        size_t from = begin > tensor->offset ? begin : tensor->offset;
        size_t to = end < tensor->offset + tensor->count ? end : tensor->offset + tensor->count;
        if (from >= to) continue;
        size_t first = parameter_begin(layout, unit) + from - tensor->offset; /* in the parameter */
        if (weights->entries)
            load_from_file(weights->entries[parameter_number(layout, unit, t)], stream, first, to - from,
                           out + (from - begin), staging);
        else
            load_random(weights, stream, unit, t, first, to - from, out + (from - begin));
    }
    size_t padding = begin > unit->count ? begin : unit->count;
    if (padding < end) fill_zero(stream, out + (padding - begin), (end - padding) * sizeof *out);
}

void weights_load_to_host(const struct weights *weights, struct stream *stream, int unit, size_t begin,
                          size_t count, float *out, float *window, float *staging) {
    for (size_t done = 0; done < count; done += WEIGHTS_WINDOW) {
        size_t some = count - done < WEIGHTS_WINDOW ? count - done : WEIGHTS_WINDOW;
        weights_load(weights, stream, unit, begin + done, some, window, staging);
        copy_to_host(stream, out + done, window, some * sizeof *out);
        stream_synchronize(stream);
    }
}
