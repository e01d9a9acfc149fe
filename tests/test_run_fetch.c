/*
 * ./workshop fetch against a hub on the loopback interface: the cache's layout, verification, resuming, and
 * every way in which a download goes wrong. The checksums below were computed with git hash-object and
 * sha256sum.
 */
#include "tests/support/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/check.h"
#include "tests/support/command.h"

#define WEIGHTS_SUM "ccf94d7e69859d6219f7ede69f32eb0b53a2a06fa5d3a3887d7dbf39668e1fe3"
#define SHARD_1_SUM "88aba27d2c700185ecff191e73ac430acaa3241f8a89cb98108a6b0a06775a99"
#define SHARD_2_SUM "af07bcdd591491752027434a26ebf86090501f9f8aca2e779f25be8c42df0b7d"
#define CONFIG_SUM "21e02668f4c19b42f3c766c54582b97e4fb9d044"
#define TOKENIZER_SUM "92bdb0aff34a95a7c00546c3d608c984294164ed"
#define INDEX_SUM "6f3af793d3aadfa06aaca6555445954bd9904cb7"
#define TRAIN_SUM "ab0a41c9997fdfd4e35732d01e3a78e51941849438b61ca2c9f0a8d288c8bb2f"
#define DEV_SUM "10833cc390535d491661d71153301f383211ed5d"
#define DEV_SHA256 "988f0eccf898273649bcc27b855053e7ce3939608c7cd11e63c5292af4fe2ac9"
enum { WEIGHTS_SIZE = 3000000, SHARD_1_SIZE = 100000, SHARD_2_SIZE = 50000 };

static const char config[] = "{\n  \"model_type\": \"bloom\",\n  \"hidden_size\": 64\n}\n";
static const char other_config[] = "{\"model_type\": \"gpt2\"}\n";
static const char tokenizer[] = "{\"version\": \"1.0\"}\n";
static const char shard_index[] =
    "{\"metadata\": {}, \"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", "
    "\"b\": \"model-00002-of-00002.safetensors\", "
    "\"c\": \"model-00001-of-00002.safetensors\"}}\n";
static const char train_data[] = "{\"version\": \"1.1\", \"data\": []}\n";
static const char dev_data[] = "{\"version\": \"1.1\", \"data\": [ ]}\n";
static char weights[WEIGHTS_SIZE], shard_1[SHARD_1_SIZE], shard_2[SHARD_2_SIZE];

#define SMALL(text) .data = (text), .size = sizeof(text) - 1
static const struct hub_file files[] = {
    {"test/bloom", "config.json", CONFIG_SUM, false, SMALL(config)},
    {"test/bloom", "tokenizer.json", TOKENIZER_SUM, false, SMALL(tokenizer)},
    {"test/bloom", "model.safetensors", WEIGHTS_SUM, true, weights, WEIGHTS_SIZE},
    {"test/bloom", "pytorch_model.bin", SHARD_1_SUM, true, shard_1, SHARD_1_SIZE},
    {"test/sharded", "config.json", CONFIG_SUM, false, SMALL(config)},
    {"test/sharded", "tokenizer.json", TOKENIZER_SUM, false, SMALL(tokenizer)},
    {"test/sharded", "model.safetensors.index.json", INDEX_SUM, false, SMALL(shard_index)},
    {"test/sharded", "model-00001-of-00002.safetensors", SHARD_1_SUM, true, shard_1, SHARD_1_SIZE},
    {"test/sharded", "model-00002-of-00002.safetensors", SHARD_2_SUM, true, shard_2, SHARD_2_SIZE},
    {"test/other", "config.json", "3914be8a017af6f2a58402c37134858a1cce9b22", false, SMALL(other_config)},
    {"test/pickled", "config.json", CONFIG_SUM, false, SMALL(config)},
    {"test/pickled", "tokenizer.json", TOKENIZER_SUM, false, SMALL(tokenizer)},
    {"test/pickled", "pytorch_model.bin", SHARD_1_SUM, true, shard_1, SHARD_1_SIZE},
    {"datasets/test/squad", "train-v1.1.json", TRAIN_SUM, true, SMALL(train_data)},
    {"datasets/test/squad", "dev-v1.1.json", DEV_SUM, false, SMALL(dev_data)},
};

static struct hub hub;
static char *home;             /* HF_HOME of this test */
static const char *token = ""; /* HF_TOKEN */

/* Bytes without a pattern: a linear congruential generator's high bytes. */
static void fill(char *data, size_t size, uint32_t seed) {
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1103515245u + 12345u;
        data[i] = (char)(seed >> 24);
    }
}

static int setup(void **state) {
    (void)state;
    fill(weights, sizeof weights, 1);
    fill(shard_1, sizeof shard_1, 2);
    fill(shard_2, sizeof shard_2, 3);
    home = xstrdup("/tmp/workshop-fetch-XXXXXX");
    assert_non_null(mkdtemp(home));
    hub_start(&hub, files, sizeof files / sizeof *files);
    token = "";
    return 0;
}

static int teardown(void **state) {
    (void)state;
    struct error error;
    hub_stop(&hub);
    assert_true(directory_remove(home, &error));
    free(home);
    return 0;
}

/* The shell command that fetches; the caller frees. */
static char *fetch_command(const char *arguments) {
    char *workshop = source_path("workshop");
    char *command =
        xformat("env -u HF_HUB_CACHE -u HUGGINGFACE_HUB_CACHE -u http_proxy HF_HOME='%s' HF_TOKEN='%s' "
                "WORKSHOP_NO_INSTALL=1 bash '%s' fetch --endpoint http://127.0.0.1:%d %s",
                home, token, workshop, hub.port, arguments);
    free(workshop);
    return command;
}

static struct command_result fetch_caught(const char *arguments) {
    char *command = fetch_command(arguments);
    hub.lines = 0;
    struct command_result result = command_run(60, "%s", command);
    free(command);
    return result;
}

/* Fetches, expects success, and gives what is printed to go on with; the caller frees. */
static char *fetch(const char *arguments) {
    struct command_result result = fetch_caught(arguments);
    if (result.exit_code != 0)
        fail_msg("fetch %s: exit code %d: %s", arguments, result.exit_code, result.err);
    char *out = xstrdup(result.out);
    command_free(&result);
    return out;
}

/* Fetches, expects one line of error with this part, and an exit code that is no signal's. */
static void fetch_fails(const char *arguments, const char *part) {
    struct command_result result = fetch_caught(arguments);
    const char *error = strstr(result.err, "error: ");
    if (result.exit_code != 1 || !error || !strstr(error, part))
        fail_msg("fetch %s: exit code %d: %s", arguments, result.exit_code, result.err);
    assert_int_equal(lines_with(result.err, "error"), 1);
    assert_ptr_equal(strchr(error, '\n') + 1, error + strlen(error)); /* the last line */
    assert_string_equal(result.out, "");
    command_free(&result);
}

static char *in_home(const char *path) {
    return xformat("%s/%s", home, path);
}

static void check_content(const char *path, const char *data, size_t size) {
    char *name = in_home(path);
    struct file_map map;
    struct error error;
    if (!file_map(&map, name, &error)) fail_msg("%s", error.text);
    assert_int_equal(map.size, size);
    assert_memory_equal(map.data, data, size);
    file_unmap(&map);
    free(name);
}

static void check_link(const char *path, const char *target) {
    char *name = in_home(path), found[300] = "";
    assert_true(readlink(name, found, sizeof found - 1) > 0);
    assert_string_equal(found, target);
    free(name);
}

static void check_absent(const char *path) {
    char *name = in_home(path);
    if (file_exists(name)) fail_msg("%s should not be there", name);
    free(name);
}

#define BLOOM "hub/models--test--bloom"
#define SNAPSHOT BLOOM "/snapshots/" HUB_COMMIT

static void check_bloom(void) {
    check_content(BLOOM "/refs/main", HUB_COMMIT, strlen(HUB_COMMIT));
    check_content(SNAPSHOT "/config.json", config, sizeof config - 1);
    check_content(SNAPSHOT "/tokenizer.json", tokenizer, sizeof tokenizer - 1);
    check_content(SNAPSHOT "/model.safetensors", weights, sizeof weights);
    check_link(SNAPSHOT "/config.json", "../../blobs/" CONFIG_SUM);
    check_link(SNAPSHOT "/tokenizer.json", "../../blobs/" TOKENIZER_SUM);
    check_link(SNAPSHOT "/model.safetensors", "../../blobs/" WEIGHTS_SUM);
    check_absent(BLOOM "/blobs/" WEIGHTS_SUM ".incomplete");
}

static void layout_is_the_cache_s(void **state) {
    (void)state;
    char *out = fetch("test/bloom");
    assert_non_null(strstr(out, "--model_name_or_path test/bloom"));
    free(out);
    check_bloom();
    check_absent(SNAPSHOT "/pytorch_model.bin");
    check_absent(SNAPSHOT "/special_tokens_map.json"); /* the repository has none */
    assert_int_equal(hub_requests(&hub, "pytorch_model.bin", ""), 0);
    /* A second time, nothing is downloaded. */
    free(fetch("test/bloom"));
    assert_int_equal(hub_requests(&hub, "GET", ""), 0);
    check_bloom();
}

static void token_goes_to_the_hub_only(void **state) {
    (void)state;
    token = "hf_secret";
    free(fetch("test/bloom"));
    assert_true(hub_requests(&hub, "/resolve/", "token=hf_secret") > 0);
    assert_int_equal(hub_requests(&hub, "/resolve/", "token=none"), 0);
    assert_int_equal(hub_requests(&hub, "/bytes/", "token=hf_secret"), 0);
}

static void other_revision(void **state) {
    (void)state;
    free(fetch("test/bloom --revision refs/pr/1"));
    check_content(BLOOM "/refs/refs/pr/1", HUB_COMMIT, strlen(HUB_COMMIT));
    check_absent(BLOOM "/refs/main");
    free(fetch("test/bloom --revision " HUB_COMMIT));
    check_absent(BLOOM "/refs/" HUB_COMMIT);
}

static void shards_follow_the_index(void **state) {
    (void)state;
    free(fetch("test/sharded"));
    check_content("hub/models--test--sharded/snapshots/" HUB_COMMIT "/model-00001-of-00002.safetensors",
                  shard_1, sizeof shard_1);
    check_content("hub/models--test--sharded/snapshots/" HUB_COMMIT "/model-00002-of-00002.safetensors",
                  shard_2, sizeof shard_2);
    assert_int_equal(hub_requests(&hub, "GET /bytes/" SHARD_1_SUM, ""), 1);
}

static void broken_connections_are_resumed(void **state) {
    (void)state;
    hub.faults = (struct hub_faults){.breaks = 2, .break_after = 1000000};
    free(fetch("test/bloom"));
    check_bloom();
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=0 "), 1);
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=1000000 "), 1);
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=2000000 "), 1);
}

static void killed_command_is_resumed(void **state) {
    (void)state;
    hub.faults = (struct hub_faults){.breaks = 1, .break_after = 2000000, .stall = true};
    char *command = fetch_command("test/bloom");
    hub.lines = 0;
    struct command_result result =
        command_run(60,
                    "setsid %s & until [ $(stat -c %%s '%s/" BLOOM "/blobs/" WEIGHTS_SUM
                    ".incomplete' || echo 0) -ge 1900000 ]; do sleep 0.1; done 2>/dev/null; kill -KILL -$!",
                    command, home);
    assert_int_equal(result.exit_code, 0);
    free(command);
    command_free(&result);
    check_absent(BLOOM "/refs/main"); /* nothing stands for a snapshot that is not whole */
    check_absent(SNAPSHOT "/model.safetensors");
    /* The hub notices a moment later that the client is gone, and only then notes the request. */
    for (int i = 0; i < 100 && !hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, ""); i++) usleep(50000);
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=0 "), 1);
    free(fetch("test/bloom"));
    check_bloom();
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, ""), 1);
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=0 "), 0);
}

static void server_without_ranges(void **state) {
    (void)state;
    hub.faults = (struct hub_faults){.breaks = 1, .break_after = 1000000, .no_ranges = true};
    free(fetch("test/bloom"));
    check_bloom();
}

static void wrong_bytes_are_deleted(void **state) {
    (void)state;
    hub.faults = (struct hub_faults){.corrupt = true};
    fetch_fails("test/bloom", "model.safetensors: wrong checksum");
    check_absent(BLOOM "/blobs/" WEIGHTS_SUM);
    check_absent(BLOOM "/blobs/" WEIGHTS_SUM ".incomplete");
    check_absent(BLOOM "/refs/main");
    hub.faults = (struct hub_faults){0};
    free(fetch("test/bloom"));
    check_bloom();
}

static void errors_are_one_line(void **state) {
    (void)state;
    fetch_fails("test/nothing", "test/nothing: not at http://127.0.0.1:");
    fetch_fails("test/bloom --revision nothing", "no such revision");
    fetch_fails("test/other", "test/other is not a BLOOM");
    assert_int_equal(hub_requests(&hub, "GET /bytes/", ""), 0);
    fetch_fails("test/pickled", "no model.safetensors");
    fetch_fails("../../etc/passwd", "no repository's name");
    fetch_fails("test/bloom --revision ../../x", "no name of a branch");
    fetch_fails("test/bloom --frobnicate", "no option '--frobnicate'");
    fetch_fails("test/bloom --endpoint http://127.0.0.1:1", "it does not answer");
    hub.faults.status = 503;
    fetch_fails("test/bloom", "status 503");
    hub.faults.status = 401;
    fetch_fails("test/bloom", "HF_TOKEN");
}

static void full_disk_is_told(void **state) {
    (void)state;
    /* A limit on file sizes stands for the full disk: writing fails all the same. In blocks of 512 bytes. */
    char *command = fetch_command("test/bloom");
    struct command_result result = command_run(60, "trap '' XFSZ; ulimit -f 2000; %s", command);
    free(command);
    assert_int_equal(result.exit_code, 1);
    assert_int_equal(lines_with(result.err, "error"), 1);
    assert_non_null(strstr(result.err, "is the disk full?"));
    command_free(&result);
    free(fetch("test/bloom"));
    check_bloom();
    assert_int_equal(hub_requests(&hub, "GET /bytes/" WEIGHTS_SUM, "range=0 "), 0); /* it went on */
}

static void squad_from_the_hub(void **state) {
    (void)state;
    char *out = fetch("--squad-repo test/squad");
    char *train =
        xformat("--train_file %s/hub/datasets--test--squad/snapshots/" HUB_COMMIT "/train-v1.1.json", home);
    char *dev = xformat(
        "--validation_file %s/hub/datasets--test--squad/snapshots/" HUB_COMMIT "/dev-v1.1.json", home);
    assert_non_null(strstr(out, train));
    assert_non_null(strstr(out, dev));
    free(train);
    free(dev);
    free(out);
    check_content("hub/datasets--test--squad/snapshots/" HUB_COMMIT "/train-v1.1.json", train_data,
                  sizeof train_data - 1);
    check_link("hub/datasets--test--squad/snapshots/" HUB_COMMIT "/dev-v1.1.json", "../../blobs/" DEV_SUM);
}

static void squad_from_a_folder_of_the_web(void **state) {
    (void)state;
    char *arguments =
        xformat("--squad-url http://127.0.0.1:%d/web --squad-sha256 " TRAIN_SUM "," DEV_SHA256, hub.port);
    token = "hf_secret";
    free(fetch(arguments));
    check_content("squad/train-v1.1.json", train_data, sizeof train_data - 1);
    check_content("squad/dev-v1.1.json", dev_data, sizeof dev_data - 1);
    free(fetch(arguments));
    assert_int_equal(hub.lines, 0); /* what is there and right needs no network */
    free(arguments);
    /* Without sums of one's own, only the published bytes will do. */
    arguments = xformat("--squad-url http://127.0.0.1:%d/web", hub.port);
    fetch_fails(arguments, "train-v1.1.json: wrong checksum");
    check_absent("squad/train-v1.1.json");
    free(arguments);
    arguments = xformat("--squad-url http://127.0.0.1:%d/web/nothing", hub.port);
    fetch_fails(arguments, "check --squad-url");
    free(arguments);
}

#define FETCH_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        FETCH_TEST(layout_is_the_cache_s),
        FETCH_TEST(token_goes_to_the_hub_only),
        FETCH_TEST(other_revision),
        FETCH_TEST(shards_follow_the_index),
        FETCH_TEST(broken_connections_are_resumed),
        FETCH_TEST(killed_command_is_resumed),
        FETCH_TEST(server_without_ranges),
        FETCH_TEST(wrong_bytes_are_deleted),
        FETCH_TEST(errors_are_one_line),
        FETCH_TEST(full_disk_is_told),
        FETCH_TEST(squad_from_the_hub),
        FETCH_TEST(squad_from_a_folder_of_the_web),
    };
    return cmocka_run_group_tests_name("fetch", tests, NULL, NULL);
}
