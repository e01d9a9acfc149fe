/*
 * test_reference [DIR…]: BLOOM beside Hugging Face's, on fixtures of the layout in tests/fixtures/README.md
 * (default: all model cases there). For each, in fp32, bf16 and fp16, packed and padded, with and without
 * gradient checkpointing: loss, logits, every gradient, ten AdamW updates and the parameters after them, to
 * the bounds below.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/bloom/safetensors.h"
#include "tests/support/check.h"
#include "tests/support/whole_model.h"

/* What a fixture holds, and how close the kit must come: loss absolute; logits absolute in fp32, else of the
 * largest; the rest of each tensor's largest value. */
struct bounds {
    double loss, logits, gradient, updates, parameters;
};
static struct bounds bounds_of(enum dtype dtype) {
    if (dtype == FP32) return (struct bounds){1e-5, 1e-4, 1e-4, 1e-4, 1e-4};
    double half = dtype == BF16 ? 4e-2 : 1e-2;
    return (struct bounds){half, half, half, half, half};
}

struct fixture {
    const char *directory;
    struct safetensors *reference, *final;
    json_t *training;
    int batch, length; /* of input_ids */
    size_t vocabulary;
    const int32_t *ids, *mask; /* [batch, length] */
    double positions;
};

static char *default_directories[] = {"tests/fixtures/tiny",    "tests/fixtures/odd-heads",
                                      "tests/fixtures/post-ln", "tests/fixtures/published-names",
                                      "tests/fixtures/sharded", NULL};
static char **directories = default_directories;

static const struct safetensors_entry *entry(struct safetensors *file, const char *name) {
    const struct safetensors_entry *found = safetensors_find(file, name);
    if (!found) fail_msg("%s: %s is missing", safetensors_path(file), name);
    return found;
}

static struct safetensors *open_file(const char *directory, const char *name) {
    struct error error;
    char *path = xformat("%s/%s", directory, name);
    struct safetensors *file = safetensors_open(path, &error);
    if (!file) fail_msg("%s", error.text);
    free(path);
    return file;
}

static int32_t *integers(const struct safetensors_entry *from) {
    int32_t *values = xmalloc(from->count * sizeof *values);
    memcpy(values, from->data, from->count * sizeof *values);
    return values;
}

static void open_fixture(struct fixture *f, const char *directory) {
    struct error error;
    *f = (struct fixture){.directory = directory,
                          .reference = open_file(directory, "reference.safetensors"),
                          .final = open_file(directory, "final.safetensors")};
    char *path = xformat("%s/training.json", directory);
    f->training = json_read_file(path, &error);
    if (!f->training) fail_msg("%s", error.text);
    free(path);
    const struct safetensors_entry *ids = entry(f->reference, "input_ids");
    f->batch = (int)ids->shape[0];
    f->length = (int)ids->shape[1];
    f->ids = integers(ids);
    f->mask = integers(entry(f->reference, "attention_mask"));
    f->vocabulary = entry(f->reference, "logits")->shape[2];
}

static void close_fixture(struct fixture *f) {
    free((void *)(size_t)f->ids);
    free((void *)(size_t)f->mask);
    json_decref(f->training);
    safetensors_close(f->reference);
    safetensors_close(f->final);
}

static int real_length(const struct fixture *f, int example) {
    int length = 0;
    while (length < f->length && f->mask[example * f->length + length]) length++;
    return length;
}

static void fill_pack(struct fixture *f, bool padded, struct pack *pack) {
    struct pack_layout layout = {
        .max_seq_length = f->length, .pad_to_max_length = padded, .pad_id = 3, .eos_id = 2};
    pack_open(pack, (struct pack_size){f->batch * f->length, f->batch, f->batch * f->length});
    pack_clear(pack);
    f->positions = 0;
    for (int b = 0; b < f->batch; b++) {
        int length = real_length(f, b);
        pack_add(pack, &layout, f->ids + b * f->length, length, b);
        f->positions += layout_predicted(&layout, length);
    }
    pack_finish(pack);
}

static void check_close(const char *what, const char *where, enum dtype dtype, double worst, double bound) {
    if (!(worst <= bound))
        fail_msg("%s: %s (%s): off by %.3g, allowed %.3g", where, what, dtype_name(dtype), worst, bound);
}

/* The largest difference of two arrays, as a part of the reference's largest value. */
static double relative(const float *ours, const float *theirs, size_t count) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)ours[i] - (double)theirs[i]);
        if (!(difference <= worst)) worst = difference; /* a NaN counts */
        if (fabs((double)theirs[i]) > largest) largest = fabs((double)theirs[i]);
    }
    return largest > 0 ? worst / largest : worst;
}

/* Each labelled row's logits beside the reference's at its position. */
static double check_logits(struct fixture *f, struct whole_model *w, const struct pack *pack) {
    const struct safetensors_entry *reference = entry(f->reference, "logits");
    size_t ld = w->layout.padded_vocabulary, size = dtype_size(w->dtype);
    float *ours = xmalloc(f->vocabulary * sizeof *ours), *theirs = xmalloc(f->vocabulary * sizeof *theirs);
    float *device = device_alloc(w->device, BUFFERS, f->vocabulary * sizeof(float), "a row of logits");
    double worst = 0, largest = 0;
    for (int r = 0; r < pack->labelled; r++) {
        int sequence = pack->row_sequence[r];
        int position = pack->examples[sequence] * f->length + pack->rows[r] - pack->starts[sequence];
        const char *row = (const char *)w->model.activations.logits + (size_t)r * ld * size;
        convert(w->stream, FP32, device, w->dtype, row, f->vocabulary);
        copy_to_host(w->stream, ours, device, f->vocabulary * sizeof(float));
        stream_synchronize(w->stream);
        safetensors_to_float(reference, (size_t)position * f->vocabulary, f->vocabulary, theirs);
        for (size_t c = 0; c < f->vocabulary; c++) {
            double difference = fabs((double)ours[c] - (double)theirs[c]);
            if (!(difference <= worst)) worst = difference;
            if (fabs((double)theirs[c]) > largest) largest = fabs((double)theirs[c]);
        }
    }
    device_free(w->device, device);
    free(ours);
    free(theirs);
    return w->dtype == FP32 ? worst : worst / largest;
}

/* A reference tensor with our name for it, and its values as fp32; the caller frees both. */
static float *reference_values(const struct safetensors_entry *theirs, const char *prefix, char **name) {
    const char *own = theirs->name + strlen(prefix);
    *name = strncmp(own, "transformer.", 12) ? xformat("transformer.%s", own) : xstrdup(own);
    float *values = xmalloc(theirs->count * sizeof *values);
    safetensors_to_float(theirs, 0, theirs->count, values);
    return values;
}

static float *our_values(struct whole_model *w, const void *buffers, const char *name, size_t expected) {
    size_t count;
    float *values = whole_model_tensor(w, buffers, name, &count);
    if (!values || count != expected) fail_msg("%s is not among our tensors", name);
    return values;
}

static void check_count(const struct fixture *f, const struct whole_model *w, size_t compared) {
    size_t expected = 12 * w->layout.config.layers + 5;
    if (compared != expected) fail_msg("%s: %zu tensors compared, not %zu", f->directory, compared, expected);
}

/* Every gradient beside ours, which the loss scale multiplies: the largest difference, of each tensor's
 * largest value. */
static double check_gradients(struct fixture *f, struct whole_model *w, double loss_scale) {
    double worst = 0;
    size_t compared = 0;
    for (size_t i = 0; i < safetensors_count(f->reference); i++) {
        const struct safetensors_entry *theirs = safetensors_at(f->reference, i);
        if (strncmp(theirs->name, "grad.", 5) != 0 || !strcmp(theirs->name, "grad.lm_head.weight")) continue;
        char *name;
        float *values = reference_values(theirs, "grad.", &name);
        float *ours = our_values(w, w->gradients, name, theirs->count);
        for (size_t e = 0; e < theirs->count; e++) ours[e] = (float)(ours[e] / loss_scale);
        double off = relative(ours, values, theirs->count);
        if (!(off <= worst)) worst = off;
        free(ours);
        free(values);
        free(name);
        compared++;
    }
    check_count(f, w, compared);
    return worst;
}

struct parameter_difference {
    double
        known;  /* of elements with a known gradient: the largest difference, of the tensor's largest value */
    double all; /* of all elements */
    double unknown; /* of the others, in absolute terms */
};

/* One tensor's parameters after the updates. AdamW divides a gradient by its own size: an element whose
 * gradient is smaller than the bound within which gradients agree may move either way, in Hugging Face's runs
 * as in ours. (Key biases are such elements all: their gradient is zero in exact arithmetic.) */
static void compare_parameters(const float *ours, const float *theirs, const float *gradient, size_t count,
                               double gradient_bound, struct parameter_difference *worst) {
    double largest = 0, steepest = 0;
    for (size_t e = 0; e < count; e++) {
        largest = fmax(largest, fabs((double)theirs[e]));
        steepest = fmax(steepest, fabs((double)gradient[e]));
    }
    for (size_t e = 0; e < count; e++) {
        double off = fabs((double)ours[e] - (double)theirs[e]);
        bool known = fabs((double)gradient[e]) > gradient_bound * steepest;
        double *where = known ? &worst->known : &worst->unknown;
        double value = known ? off / largest : off;
        if (!(value <= *where)) *where = value; /* a NaN counts */
        if (!(off / largest <= worst->all)) worst->all = off / largest;
    }
}

static struct parameter_difference check_parameters(struct fixture *f, struct whole_model *w,
                                                    double gradient_bound) {
    struct parameter_difference worst = {0};
    size_t compared = 0;
    for (size_t i = 0; i < safetensors_count(f->final); i++) {
        const struct safetensors_entry *theirs = safetensors_at(f->final, i);
        if (!strcmp(theirs->name, "lm_head.weight")) continue; /* tied */
        char *name, *own_name;
        float *values = reference_values(theirs, "", &name);
        char *gradient_name = xformat("grad.%s", name);
        float *gradient = reference_values(entry(f->reference, gradient_name), "grad.", &own_name);
        float *ours = our_values(w, w->parameters, name, theirs->count);
        size_t head_dim = w->layout.config.head_dim;
        for (size_t e = 0; e < theirs->count; e++)
            if (strstr(name, "query_key_value.bias") && e / head_dim % 3 == 1) gradient[e] = 0;
        compare_parameters(ours, values, gradient, theirs->count, gradient_bound, &worst);
        free(ours);
        free(gradient);
        free(values);
        free(gradient_name);
        free(own_name);
        free(name);
        compared++;
    }
    check_count(f, w, compared);
    return worst;
}

static void check_updates(struct fixture *f, struct whole_model *w, const struct pack *pack,
                          struct bounds bounds) {
    const json_t *steps = json_object_get(f->training, "steps"), *step;
    size_t index;
    double worst = 0, worst_norm = 0, moved = 0;
    json_array_foreach((json_t *)(size_t)steps, index, step) {
        whole_model_begin_update(w);
        whole_model_forward(w, pack);
        double loss = whole_model_backward(w, f->positions, false);
        struct update_state state = whole_model_update(w);
        worst = fmax(worst, fabs(loss - json_number_value(json_object_get(step, "loss"))));
        double norm = json_number_value(json_object_get(step, "grad_norm"));
        worst_norm = fmax(worst_norm, fabs(state.grad_norm / norm - 1));
        moved +=
            json_number_value(json_object_get(step, "learning_rate")); /* about the most that AdamW moves */
        assert_false(state.skip);
    }
    assert_int_equal(index, 10);
    whole_model_begin_update(w);
    whole_model_forward(w, pack);
    double loss = whole_model_backward(w, f->positions, false);
    worst = fmax(worst, fabs(loss - json_number_value(json_object_get(f->training, "final_loss"))));
    check_close("losses of ten updates", f->directory, w->dtype, worst, bounds.updates);
    check_close("gradient norms", f->directory, w->dtype, worst_norm,
                w->dtype == FP32 ? 1e-3 : bounds.gradient);
    struct parameter_difference off = check_parameters(f, w, bounds.gradient);
    printf("  ten updates: losses off by %.2g, norms %.2g, parameters %.2g (where gradients are known; all: "
           "%.2g)\n",
           worst, worst_norm, off.known, off.all);
    check_close("parameters after ten updates", f->directory, w->dtype, off.known, bounds.parameters);
    check_close("parameters that may move either way", f->directory, w->dtype, off.unknown, 2 * moved);
}

static double *learning_rates(const struct fixture *f, int *count) {
    const json_t *steps = json_object_get(f->training, "steps");
    *count = (int)json_array_size(steps);
    double *rates = xcalloc((size_t)*count, sizeof *rates);
    for (int i = 0; i < *count; i++)
        rates[i] = json_number_value(json_object_get(json_array_get(steps, (size_t)i), "learning_rate"));
    return rates;
}

static void check_variant(struct fixture *f, enum dtype dtype, bool padded, bool checkpointing) {
    struct bounds bounds = bounds_of(dtype);
    struct pack pack;
    fill_pack(f, padded, &pack);
    int updates;
    double *rates = learning_rates(f, &updates);
    /* The runs' own start, 2^16, may overflow at first: here every update counts. */
    float scale = dtype == FP16 ? 1024.0f : 1.0f;
    struct whole_model w;
    whole_model_open(&w, f->directory, NULL, dtype, pack.capacity, checkpointing, rates, updates, scale);
    whole_model_begin_update(&w);
    whole_model_forward(&w, &pack);
    double logits = check_logits(f, &w, &pack);
    double loss = whole_model_backward(&w, f->positions, false);
    float reference;
    safetensors_to_float(entry(f->reference, "loss"), 0, 1, &reference);
    double gradients = check_gradients(f, &w, (double)scale);
    printf("%s, %s, %s%s: off by: loss %.2g, logits %.2g, gradients %.2g\n", f->directory, dtype_name(dtype),
           padded ? "padded" : "packed", checkpointing ? ", checkpointing" : "",
           fabs(loss - (double)reference), logits, gradients);
    check_close("loss", f->directory, dtype, fabs(loss - (double)reference), bounds.loss);
    check_close("logits", f->directory, dtype, logits, bounds.logits);
    check_close("gradients", f->directory, dtype, gradients, bounds.gradient);
    check_updates(f, &w, &pack, bounds);
    whole_model_close(&w);
    pack_close(&pack);
    free(rates);
}

static void check_all(enum dtype dtype) {
    for (char **directory = directories; *directory; directory++) {
        struct fixture f;
        open_fixture(&f, *directory);
        check_variant(&f, dtype, false, false);
        check_variant(&f, dtype, true, false);
        check_variant(&f, dtype, false, true);
        close_fixture(&f);
    }
}

static void test_fp32(void **state) {
    (void)state;
    check_all(FP32);
}
static void test_bf16(void **state) {
    (void)state;
    check_all(BF16);
}
static void test_fp16(void **state) {
    (void)state;
    check_all(FP16);
}

int main(int argc, char **argv) {
    if (argc > 1) directories = argv + 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fp32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_fp16)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
