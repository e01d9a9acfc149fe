/* The folders of checkpoints: which are whole, which is the last, which go. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/train/checkpoint.h"
#include "common/train/checkpoint_files.h"
#include "tests/support/check.h"
#include "tests/support/temporary.h"

static const char sound_state[] =
    "{\"step\": 7, \"loss_total\": 47.5, \"losses\": 7, \"loss_scale\": 65536.0, "
    "\"clean_updates\": 3, \"applied\": 6, \"metrics_bytes\": 2735, \"world_size\": 2, "
    "\"examples_per_update\": 6, \"train_examples\": 37, \"seed\": 42, "
    "\"stage\": \"01-baseline\", \"precision\": \"fp16\"}";

/* sound_state with one text replaced. The caller frees. */
static char *changed_state(const char *old, const char *new) {
    const char *found = strstr(sound_state, old);
    assert_non_null(found);
    return xformat("%.*s%s%s", (int)(found - sound_state), sound_state, new, found + strlen(old));
}

static void test_state(void **state) {
    (void)state;
    struct error error = {""};
    json_t *read = checkpoint_parse_state(sound_state, strlen(sound_state), "state.json", &error);
    if (!read) fail_msg("%s", error.text);
    json_decref(read);
    char *text = changed_state("47.5", "null"); /* a loss that was not finite */
    read = checkpoint_parse_state(text, strlen(text), "state.json", &error);
    assert_non_null(read);
    json_decref(read);
    free(text);
    static const char *const wrong[][3] = {{"\"step\": 7", "\"step\": -1", "step"},
                                           {"\"step\": 7", "\"step\": 7.0", "step"},
                                           {"\"step\": 7", "\"step\": 100000000000", "step"},
                                           {"\"step\": 7, ", "", "step"},
                                           {"47.5", "\"47.5\"", "loss_total"},
                                           {"\"loss_total\": 47.5, ", "", "loss_total"},
                                           {"65536.0", "0", "loss_scale"},
                                           {"65536.0", "-1.0", "loss_scale"},
                                           {"65536.0", "1e300", "loss_scale"},
                                           {"65536.0", "null", "loss_scale"},
                                           {"\"applied\": 6", "\"applied\": 8", "applied"},
                                           {"\"world_size\": 2", "\"world_size\": 0", "world_size"},
                                           {"2735", "-5", "metrics_bytes"},
                                           {"\"fp16\"", "16", "precision"},
                                           {"\"01-baseline\"", "null", "stage"},
                                           {"\"seed\": 42", "\"seed\": \"42\"", "seed"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        text = changed_state(wrong[i][0], wrong[i][1]);
        error = (struct error){""};
        read = checkpoint_parse_state(text, strlen(text), "state.json", &error);
        if (read) fail_msg("accepted: %s", text);
        CHECK_ERROR(&error, "state.json: ", wrong[i][2], "the checkpoint is damaged");
        free(text);
    }
    assert_null(checkpoint_parse_state("{\n", 2, "state.json", &error));
    CHECK_ERROR(&error, "state.json:2:");
    assert_null(checkpoint_parse_state("[]", 2, "state.json", &error));
}

static void test_manifest(void **state) {
    (void)state;
    static const char *const wrong[] = {"{}",
                                        "[]",
                                        "{\"files\": []}",
                                        "{\"files\": {}}",
                                        "{\"files\": {\"a\": \"1\"}}",
                                        "{\"files\": {\"a\": 1.5}}",
                                        "{\"files\": {\"../a\": 1}}",
                                        "{\"files\": {\"a\": 1}"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct error error = {""};
        json_t *manifest = manifest_parse(wrong[i], strlen(wrong[i]), "manifest.json", &error);
        if (manifest) fail_msg("accepted: %s", wrong[i]);
        CHECK_ERROR(&error, "manifest.json:");
    }
}

/* A whole checkpoint of nothing but a state. */
static void make_checkpoint(const char *folder, const char *name) {
    struct error error;
    char *state = xformat("%s/state.json", name), *path = xformat("%s/%s", folder, name);
    temporary_write_text(folder, state, sound_state);
    if (!manifest_write(path, &error)) fail_msg("%s", error.text);
    free(path);
    free(state);
}

/* The updates of all checkpoints there, as one text: "1 2 10". */
static void check_list(const char *folder, const char *expected) {
    int count;
    char text[256] = "";
    long long *updates = checkpoint_list(folder, &count);
    for (int i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", i ? " " : "", updates[i]);
    assert_string_equal(text, expected);
    free(updates);
}

static void check_last(const char *folder, const char *expected) {
    char *last = checkpoint_last(folder);
    if (!expected) assert_null(last);
    if (expected) assert_string_equal(strrchr(last, '/') + 1, expected);
    free(last);
}

static void test_folders(void **state) {
    (void)state;
    char *folder = temporary_folder();
    check_list(folder, "");
    check_last(folder, NULL);
    static const char *const others[] = {"checkpoint-5.part",
                                         "checkpoint-07",
                                         "checkpoint-+7",
                                         "checkpoint-",
                                         "checkpoint--3",
                                         "checkpoint-8x",
                                         "checkpoint-99999999999999999999",
                                         "other-9"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) make_checkpoint(folder, others[i]);
    check_list(folder, "");
    static const char *const whole[] = {"checkpoint-10", "checkpoint-2", "checkpoint-1", "checkpoint-9"};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) make_checkpoint(folder, whole[i]);
    check_list(folder, "1 2 9 10");
    check_last(folder, "checkpoint-10");
    temporary_write_text(folder, "checkpoint-10/state.json", "{}");
    check_last(folder, "checkpoint-9");

    char *part = xformat("%s/checkpoint-5.part", folder), *similar = xformat("%s/checkpoint-8x", folder);
    assert_true(directory_exists(part));
    checkpoint_clean(folder);
    assert_false(directory_exists(part));
    assert_true(directory_exists(similar));
    free(similar);
    free(part);

    checkpoint_prune(folder, 0);
    check_list(folder, "1 2 9 10");
    checkpoint_prune(folder, 3);
    check_list(folder, "2 9 10");
    checkpoint_remove_after(folder, 2);
    check_list(folder, "2");
    checkpoint_remove_after(folder, 2);
    check_list(folder, "2");
    temporary_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
