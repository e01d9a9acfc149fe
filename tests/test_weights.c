/* Weights from and to files: the fixtures, checkpoints with every mistake, sharded ones, random values,
 * look-up. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/bloom/shards.h"
#include "common/bloom/weights.h"
#include "tests/support/temporary.h"

static struct device *device;
static struct stream *stream;
static float *staging;

static const char *const fixtures[] = {
    "tiny",    "odd-heads",           "post-ln",           "published-names",
    "sharded", "trainer-short/model", "trainer-cut/model", "trainer-seed/model"};
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

static int open_device(void **state) {
    (void)state;
    device = device_open(&(struct device_options){.world_size = 1, .node_size = 1, .dtype = FP32});
    stream = stream_open(device, "test");
    staging = host_alloc(device, BUFFERS, WEIGHTS_STAGING * sizeof *staging, false, "staging");
    return 0;
}

static int close_device(void **state) {
    (void)state;
    host_free(device, staging);
    stream_close(stream);
    device_close(device);
    return 0;
}

static char *fixture(int number) {
    char *part = xformat("tests/fixtures/%s", fixtures[number]), *path = source_path(part);
    free(part);
    return path;
}

static void open_layout(struct layout *layout, const char *folder, int world_size) {
    char *path = xformat("%s/config.json", folder);
    struct bloom_config config;
    struct error error = {""};
    if (!bloom_config_read(&config, path, &error)) fail_msg("%s", error.text);
    layout_open(layout, &config, world_size);
    free(path);
}

static struct weights *open_weights(const char *folder, const struct layout *layout) {
    struct error error = {""};
    struct weights *weights = weights_open(folder, layout, &error);
    if (!weights) fail_msg("%s", error.text);
    return weights;
}

/* A stretch of a unit, brought to the host. The caller frees. */
static float *load(const struct weights *weights, int unit, size_t begin, size_t count) {
    size_t bytes = count * sizeof(float);
    float *on_device = device_alloc(device, PARAMETERS, bytes, "test"), *out = xmalloc(bytes);
    memset(out, 0xff, bytes);
    copy_to_device(stream, on_device, out, bytes); /* NaN, where nothing is loaded */
    weights_load(weights, stream, unit, begin, count, on_device, staging);
    copy_to_host(stream, out, on_device, bytes);
    stream_synchronize(stream);
    device_free(device, on_device);
    return out;
}

/* All units, each rank's slices loaded on their own, in a buffer of all units. The caller frees. */
static float *load_all(const struct weights *weights, const struct layout *layout) {
    float *all = xmalloc(layout->padded * sizeof *all);
    for (int u = 0; u < layout->count; u++)
        for (int r = 0; r < layout->world_size; r++) {
            struct slice slice = layout_slice(&layout->units[u], r);
            float *part = load(weights, u, slice.begin, slice.count);
            memcpy(all + layout->units[u].offset + slice.begin, part, slice.count * sizeof *part);
            free(part);
        }
    return all;
}

/* ---- the fixtures ---- */

static void check_tensor(const struct shards *shards, const struct layout *layout, const struct unit *unit,
                         int number, const float *values) {
    char name[96];
    tensor_name(unit, number, name);
    const struct safetensors_entry *entry = shards_find(shards, name, NULL);
    if (!entry) entry = shards_find(shards, name + strlen("transformer."), NULL);
    assert_non_null(entry);
    size_t count = unit->tensor[number].count;
    float *expected = xmalloc(count * sizeof *expected);
    safetensors_to_float(entry, parameter_begin(layout, unit), count, expected);
    assert_memory_equal(values, expected, count * sizeof *expected);
    free(expected);
}

static void test_fixtures_loaded(void **state) {
    (void)state;
    for (int f = 0; f < FIXTURES; f++)
        for (int world_size = 1; world_size <= 4; world_size++) {
            char *folder = fixture(f);
            struct layout layout;
            open_layout(&layout, folder, world_size);
            struct weights *weights = open_weights(folder, &layout);
            struct shards *shards = shards_open(folder, NULL);
            float *all = load_all(weights, &layout);
            for (int u = 0; u < layout.count; u++) {
                const struct unit *unit = &layout.units[u];
                const float *values = all + unit->offset;
                for (int t = 0; t < unit->tensors; t++)
                    check_tensor(shards, &layout, unit, t, values + unit->tensor[t].offset);
                for (size_t i = unit->count; i < unit->padded; i++) assert_true(values[i] == 0);
            }
            free(all);
            shards_close(shards);
            weights_close(weights);
            layout_close(&layout);
            free(folder);
        }
}

/* Any stretch of a unit, not only slices. */
static void test_stretches(void **state) {
    (void)state;
    char *folder = fixture(0);
    struct layout layout;
    open_layout(&layout, folder, 3);
    struct weights *weights = open_weights(folder, &layout);
    for (int u = 0; u < layout.count; u++) {
        size_t padded = layout.units[u].padded;
        float *whole = load(weights, u, 0, padded);
        for (size_t begin = 0, count = 1; begin < padded; begin += count, count = count * 2 + 1) {
            if (count > padded - begin) count = padded - begin;
            float *part = load(weights, u, begin, count);
            assert_memory_equal(part, whole + begin, count * sizeof *part);
            free(part);
        }
        free(load(weights, u, padded, 0));
        free(whole);
    }
    weights_close(weights);
    layout_close(&layout);
    free(folder);
}

/* Values in `dtype`, as a run of that precision has them. The caller frees. */
static void *convert_values(const float *values, size_t count, enum dtype dtype) {
    char *out = xmalloc(count * dtype_size(dtype));
    if (dtype == FP32) return memcpy(out, values, count * sizeof *values);
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = dtype == BF16 ? bf16_from_float(values[i]) : fp16_from_float(values[i]);
        memcpy(out + 2 * i, &bits, 2);
    }
    return out;
}

static void write_model(const char *folder, const struct layout *layout, const float *all, enum dtype dtype) {
    struct error error = {""};
    struct weights_writer *writer = weights_writer_open(folder, layout, dtype, &error);
    if (!writer) fail_msg("%s", error.text);
    for (int u = layout->count; u-- > 0;) {
        const struct unit *unit = &layout->units[u];
        void *values = convert_values(all + unit->offset, unit->count, dtype);
        if (!weights_write_unit(writer, u, values, &error)) fail_msg("%s", error.text);
        free(values);
    }
    if (!weights_writer_finish(writer, &error)) fail_msg("%s", error.text);
}

/* The two sets have the same tensors; those of the first may lack the prefix. */
static void check_same_tensors(const struct shards *written, const struct shards *original) {
    size_t count = 0;
    for (size_t f = 0; f < shards_count(original); f++)
        for (size_t i = 0; i < safetensors_count(shards_file(original, f)); i++, count++) {
            const struct safetensors_entry *a = safetensors_at(shards_file(original, f), i);
            bool prefixed = !strncmp(a->name, "transformer.", strlen("transformer."));
            char *name = xformat("%s%s", prefixed ? "" : "transformer.", a->name);
            const struct safetensors_entry *b = shards_find(written, name, NULL);
            if (!b) fail_msg("%s was not written", name);
            assert_string_equal(safetensors_describe(b).text, safetensors_describe(a).text);
            assert_memory_equal(b->data, a->data, a->size);
            free(name);
        }
    assert_int_equal(shards_count(written), 1);
    assert_int_equal(safetensors_count(shards_file(written, 0)), count);
}

/* What is loaded, cut for any number of ranks, and written in the same type is the same file, bit for bit. */
static void test_fixtures_written(void **state) {
    (void)state;
    for (int f = 0; f < FIXTURES; f++)
        for (int world_size = 1; world_size <= 3; world_size += 2) {
            char *from = fixture(f), *to = temporary_folder();
            struct layout layout;
            open_layout(&layout, from, world_size);
            struct weights *weights = open_weights(from, &layout);
            float *all = load_all(weights, &layout);
            struct shards *original = shards_open(from, NULL);
            enum dtype dtype = safetensors_at(shards_file(original, 0), 0)->dtype;
            write_model(to, &layout, all, dtype);

            struct error error = {""};
            struct shards *written = shards_open(to, &error);
            if (!written) fail_msg("%s", error.text);
            check_same_tensors(written, original);
            char *path = xformat("%s/model.safetensors", to);
            struct stat status;
            assert_int_equal(stat(path, &status), 0);
            assert_int_equal(status.st_size, weights_file_bytes(&layout, dtype));
            free(path);
            shards_close(written);
            shards_close(original);
            free(all);
            weights_close(weights);
            layout_close(&layout);
            temporary_remove(to);
            free(from);
        }
}

static void test_writer_errors(void **state) {
    (void)state;
    char *from = fixture(0), *to = temporary_folder();
    struct layout layout;
    open_layout(&layout, from, 1);
    float *values = xcalloc(layout.largest, sizeof *values);
    struct error error = {""};
    struct weights_writer *writer = weights_writer_open(to, &layout, FP32, &error);
    assert_true(weights_write_unit(writer, 1, values, &error));
    assert_false(weights_write_unit(writer, 1, values, &error)); /* twice */
    CHECK_ERROR(&error, to, "twice");
    assert_false(weights_writer_finish(writer, &error)); /* units missing */
    CHECK_ERROR(&error, to, "were written");
    writer = weights_writer_open(to, &layout, FP32, &error);
    weights_writer_abandon(writer);
    weights_writer_abandon(NULL);
    if (rmdir(to) != 0) fail_msg("%s: something was left behind", to);

    temporary_write_text(to, "file", "");
    char *blocked = xformat("%s/file", to);
    assert_null(weights_writer_open(blocked, &layout, FP32, &error));
    CHECK_ERROR(&error, blocked);
    free(blocked);
    free(values);
    layout_close(&layout);
    temporary_remove(to);
    free(from);
}

/* ---- random values ---- */

/* All parameters in the order of their numbers, free of any cut. The caller frees. */
static float *random_parameters(uint64_t seed, const struct bloom_config *config, int world_size) {
    struct layout layout;
    layout_open(&layout, config, world_size);
    struct weights *weights = weights_random(seed, &layout);
    float *all = load_all(weights, &layout);
    float *out = xmalloc(layout.parameters * sizeof *out);
    size_t used = 0;
    for (int u = 0; u < layout.count; u++) {
        const struct unit *unit = &layout.units[u];
        memcpy(out + used, all + unit->offset, unit->count * sizeof *out);
        for (size_t i = unit->count; i < unit->padded; i++) assert_true(all[unit->offset + i] == 0);
        used += unit->count;
    }
    assert_int_equal(used, layout.parameters);
    free(all);
    weights_close(weights);
    layout_close(&layout);
    return out;
}

static const struct bloom_config small = {.vocabulary = 1000, /* several chunks */
                                          .hidden = 8,
                                          .layers = 2,
                                          .heads = 2,
                                          .head_dim = 4,
                                          .initializer_range = 0.02f};

static void test_random_cuts(void **state) {
    (void)state;
    size_t bytes = bloom_parameters(&small) * sizeof(float);
    float *one = random_parameters(42, &small, 1);
    for (int world_size = 2; world_size <= 9; world_size++) {
        float *cut = random_parameters(42, &small, world_size);
        assert_memory_equal(cut, one, bytes);
        free(cut);
    }
    float *other = random_parameters(43, &small, 1);
    assert_memory_not_equal(other, one, bytes);
    free(other);
    free(one);
}

static void check_normal(const float *values, size_t count, double deviation) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++) sum += values[i], squares += (double)values[i] * values[i];
    double mean = sum / (double)count, bound = 5 / sqrt((double)count); /* five standard errors */
    assert_true(fabs(mean) < deviation * bound);
    assert_true(fabs(sqrt(squares / (double)count) / deviation - 1) < bound);
}

static void test_random_values(void **state) {
    (void)state;
    struct bloom_config config = small;
    config.vocabulary = 4000;
    config.hidden = 64;
    struct layout layout;
    layout_open(&layout, &config, 2);
    struct weights *weights = weights_random(1, &layout);
    for (int u = 0; u < layout.count; u++) {
        const struct unit *unit = &layout.units[u];
        float *values = load(weights, u, 0, unit->padded);
        for (int t = 0; t < unit->tensors; t++) {
            const float *x = values + unit->tensor[t].offset;
            char name[96];
            tensor_name(unit, t, name);
            bool gain = (strstr(name, "layernorm") || strstr(name, "ln_f")) && strstr(name, "weight");
            if (tensor_is_matrix(unit, t))
                check_normal(x, unit->tensor[t].count, config.initializer_range);
            else
                for (size_t i = 0; i < unit->tensor[t].count; i++) assert_true(x[i] == (gain ? 1.0f : 0.0f));
        }
        free(values);
    }
    /* No two tensors, and no two chunks, are alike. */
    float *a = load(weights, 1, 0, 64), *b = load(weights, 2, 0, 64),
          *c = load(weights, layout.chunks_begin, 0, 64), *d = load(weights, layout.chunks_begin + 1, 0, 64);
    assert_memory_not_equal(a, b, 64 * sizeof *a);
    assert_memory_not_equal(a, c, 64 * sizeof *a);
    assert_memory_not_equal(c, d, 64 * sizeof *a);
    free(a), free(b), free(c), free(d);
    weights_close(weights);
    layout_close(&layout);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixtures_loaded),  cmocka_unit_test(test_stretches),
        cmocka_unit_test(test_fixtures_written), cmocka_unit_test(test_writer_errors),
        cmocka_unit_test(test_random_cuts),      cmocka_unit_test(test_random_values),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
