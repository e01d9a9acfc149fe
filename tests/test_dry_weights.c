/* On the dry backend weights are counted, not moved: no host memory is touched, and the copies are those of a
 * real run. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/bloom/weights.h"

static void load_all(const struct weights *weights, const struct layout *layout, struct stream *stream,
                     float *staging) {
    struct device *device = stream_device(stream);
    float *out = device_alloc(device, PARAMETERS, layout->padded * sizeof *out, "test");
    for (int u = 0; u < layout->count; u++)
        weights_load(weights, stream, u, 0, layout->units[u].padded, out + layout->units[u].offset, staging);
    device_free(device, out);
}

static void test_load(void **state) {
    (void)state;
    struct device *device =
        device_open(&(struct device_options){.world_size = 3, .node_size = 3, .dtype = BF16});
    struct stream *stream = stream_open(device, "test");
    float *staging = host_alloc(device, BUFFERS, WEIGHTS_STAGING * sizeof *staging, false, "staging");
    assert_false(device_computes());

    char *folder = source_path("tests/fixtures/sharded"),
         *path = source_path("tests/fixtures/sharded/config.json");
    struct bloom_config config;
    struct layout layout;
    struct error error = {""};
    if (!bloom_config_read(&config, path, &error)) fail_msg("%s", error.text);
    layout_open(&layout, &config, 3);
    struct weights *weights = weights_open(folder, &layout, &error);
    if (!weights) fail_msg("%s", error.text);
    double before = device_work(device).copied_bytes;
    load_all(weights, &layout, stream, staging);
    assert_true(device_work(device).copied_bytes - before == (double)(layout.parameters * sizeof(float)));
    weights_close(weights);
    layout_close(&layout);

    /* A model far larger than this machine. */
    assert_true(bloom_config_published(&config, "bloom", NULL));
    layout_open(&layout, &config, 3);
    weights = weights_random(1, &layout);
    before = device_work(device).copied_bytes;
    load_all(weights, &layout, stream, staging);
    assert_true(device_work(device).copied_bytes == before);
    weights_close(weights);
    layout_close(&layout);

    host_free(device, staging);
    stream_close(stream);
    device_close(device);
    free(folder);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_load)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
