/*
 * The same run as the Hugging Face Trainer: stage 01 with the settings of whole-run fixtures gives their log
 * update by update and their evaluation losses, to the bounds of this test, on 1, 2 and 3 ranks, packed and
 * padded.
 *
 * test_run_trainer [DIR…]   default: the three of tests/fixtures
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "tests/support/check.h"
#include "tests/support/training.h"

static char *default_directories[] = {"tests/fixtures/trainer-short", "tests/fixtures/trainer-cut",
                                      "tests/fixtures/trainer-seed", NULL};
static char **directories = default_directories;

static double member(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

/* The largest differences from the Trainer's log. */
struct difference {
    double loss, grad_norm, learning_rate, eval_loss, epoch;
};

static void compare_step(const struct training *run, const json_t *theirs, struct difference *worst) {
    const json_t *ours = training_event(run, "step", json_integer_value(json_object_get(theirs, "step")));
    worst->loss = fmax(worst->loss, fabs(member(ours, "loss") - member(theirs, "loss")));
    worst->grad_norm =
        fmax(worst->grad_norm, fabs(member(ours, "grad_norm") / member(theirs, "grad_norm") - 1));
    worst->learning_rate =
        fmax(worst->learning_rate, fabs(member(ours, "learning_rate") - member(theirs, "learning_rate")));
    worst->epoch = fmax(worst->epoch, fabs(member(ours, "epoch") - member(theirs, "epoch")));
}

static double difference_before(const struct training *run, const json_t *trainer) {
    return fabs(member(training_event(run, "eval", 0), "eval_loss") - member(trainer, "eval_loss_before"));
}

static struct difference compare(const struct training *run, const json_t *trainer) {
    struct difference worst = {.eval_loss = difference_before(run, trainer)};
    int steps = 0, evaluations = 1;
    size_t index;
    json_t *theirs;
    json_array_foreach(json_object_get(trainer, "log"), index, theirs) {
        if (json_object_get(theirs, "eval_loss")) {
            const json_t *ours =
                training_event(run, "eval", json_integer_value(json_object_get(theirs, "step")));
            worst.eval_loss =
                fmax(worst.eval_loss, fabs(member(ours, "eval_loss") - member(theirs, "eval_loss")));
            worst.epoch = fmax(worst.epoch, fabs(member(ours, "epoch") - member(theirs, "epoch")));
            evaluations++;
        } else if (json_object_get(theirs, "loss")) {
            compare_step(run, theirs, &worst);
            steps++;
        } else {
            const json_t *summary = training_event(run, "summary", -1);
            worst.loss = fmax(worst.loss, fabs(member(summary, "train_loss") - member(theirs, "train_loss")));
        }
    }
    assert_int_equal(training_count(run, "step"), steps);
    assert_int_equal(training_count(run, "eval"), evaluations);
    return worst;
}

/* Divides a setting by the ranks where it divides. */
static bool divide(json_t *settings, const char *name, int ranks) {
    long long value = json_integer_value(json_object_get(settings, name));
    if (value % ranks) return false;
    json_object_set_new(settings, name, json_integer(value / ranks));
    return true;
}

static void check_run(const char *directory, int ranks, bool padded) {
    struct error error;
    char *path = xformat("%s/trainer.json", directory);
    json_t *trainer = json_read_file(path, &error);
    if (!trainer) fail_msg("%s", error.text);
    json_t *settings = json_object_get(trainer, "settings");
    /* The same global batch: an update is then made of the same examples, whichever rank has which. Where it
     * cannot be dealt to the ranks, updates are others than the Trainer's, and only what was before them can
     * be compared. */
    bool same = divide(settings, "gradient_accumulation_steps", ranks) ||
                divide(settings, "per_device_train_batch_size", ranks);
    char *text = training_settings(trainer);
    struct training run = training_run(
        "01-baseline", ranks,
        "--model_name_or_path %s/model --train_file %s/train.json --validation_file %s/dev.json "
        "--subset_size 0 --fp16 false --save_strategy no --pad_to_max_length %s%s%s",
        directory, directory, directory, padded ? "true" : "false", text, same ? "" : " --max_steps 2");
    struct difference worst = {0};
    if (same)
        worst = compare(&run, trainer);
    else
        worst.eval_loss = difference_before(&run, trainer);
    printf("%s, %d rank%s, %s: ", directory, ranks, ranks > 1 ? "s" : "", padded ? "padded" : "packed");
    if (!same)
        printf("(the global batch cannot be dealt to %d ranks: evaluation before training alone) ", ranks);
    printf("off by: loss %.2g, grad_norm %.2g, learning_rate %.2g, eval_loss %.2g\n", worst.loss,
           worst.grad_norm, worst.learning_rate, worst.eval_loss);
    if (!(worst.loss <= 1e-4 && worst.grad_norm <= 1e-3 && worst.learning_rate == 0 &&
          worst.eval_loss <= 1e-4))
        fail_msg("%s on %d ranks is not the Trainer's run", directory, ranks);
    /* The share of an epoch counts micro-batches a rank, which more ranks cut otherwise. */
    if (ranks == 1 && worst.epoch > 1e-12) fail_msg("%s: epoch off by %.3g", directory, worst.epoch);
    training_free(&run);
    free(text);
    free(path);
    json_decref(trainer);
}

static void check_ranks(int ranks) {
    for (char **directory = directories; *directory; directory++)
        for (int padded = 0; padded < 2; padded++) check_run(*directory, ranks, padded);
}

static void one_rank(void **state) {
    (void)state;
    check_ranks(1);
}
/* More ranks of stage 01 are sanitized in test_run_stages. */
static void two_ranks(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    check_ranks(2);
}
static void three_ranks(void **state) {
    (void)state;
    if (training_is_brief()) skip();
    check_ranks(3);
}

int main(int argc, char **argv) {
    if (argc > 1) directories = argv + 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_rank), cmocka_unit_test(two_ranks),
                                       cmocka_unit_test(three_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
