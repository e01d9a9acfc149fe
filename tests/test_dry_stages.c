/*
 * Stages 01 to 04 at every published shape, on the dry backend: each needs less memory than the one before,
 * model state and bytes sent are the formulas', and what a stage adds in buffers is a few of its units.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/layout.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { STAGES = 4, SHAPES = 6, WORLDS = 4, PREFETCH = 1 };

static const char *const stages[STAGES] = {"01-baseline", "02-zero1", "03-zero2", "04-zero3"};
static const char *const shapes[SHAPES] = {"bloom-560m", "bloom-1b1", "bloom-1b7",
                                           "bloom-3b",   "bloom-7b1", "bloom"};
static const int worlds[WORLDS] = {2, 4, 8, 64};
static char *folder;

/* One case: what all four stages are run with. */
struct dry_case {
    const char *shape, *settings;
    int ranks;
    double element; /* bytes of a parameter or gradient */
    double packs;   /* of an update; 0: not known */
    struct layout layout;
};

/* The last rank's run: its events. */
static json_t *dry_run(const struct dry_case *c, const char *stage) {
    struct command_result result =
        command_run(60,
                    BUILD_DIR "/%s/train --output_dir %s/run --overwrite_output_dir --dry_rank %d "
                              "--dry_world_size %d --model_name_or_path random:%s %s",
                    stage, folder, c->ranks - 1, c->ranks, c->shape, c->settings);
    if (result.exit_code != 0 || result.err_size > 0)
        fail_msg("%s of %d ranks, %s: %s", stage, c->ranks, c->shape, result.err);
    command_free(&result);
    char *output_dir = xformat("%s/run", folder);
    json_t *events = training_events(output_dir);
    free(output_dir);
    return events;
}

static const json_t *event(const json_t *events, const char *kind) {
    size_t index;
    json_t *line;
    json_array_foreach(events, index, line) if (!strcmp(json_string_value(json_object_get(line, "event")),
                                                        kind)) return line;
    fail_msg("no event %s", kind);
    return NULL;
}

static double sent(const json_t *events, const char *collective) {
    const json_t *line = json_object_get(event(events, "communication"), collective);
    double updates = training_number(event(events, "communication"), "updates");
    return line ? training_number(line, "bytes") / updates : 0;
}

static void check_near(const struct dry_case *c, int stage, const char *what, double value, double expected,
                       double bound) {
    if (!(fabs(value - expected) <= bound * expected))
        fail_msg("%s, %d ranks %s, %s: %s %.0f, expected %.0f", c->shape, c->ranks, c->settings,
                 stages[stage], what, value, expected);
}

/* Bytes of parameters, gradients and optimizer state: the formulas of Rajbhandari et al., with N ranks. */
static void check_state(const struct dry_case *c, int stage, const json_t *memory) {
    double psi = (double)c->layout.parameters, n = c->ranks;
    double expected[] = {c->element * psi, c->element * psi, (c->element < 4 ? 12 : 8) * psi};
    for (int i = 0; i < 3; i++)
        if (stage >= 3 - i) expected[i] /= n; /* optimizer from 02 on, gradients from 03, parameters in 04 */
    static const char *const paths[] = {"device.parameters.peak_bytes", "device.gradients.peak_bytes",
                                        "device.optimizer.peak_bytes"};
    for (int i = 0; i < 3; i++)
        check_near(c, stage, paths[i], training_number(memory, paths[i]), expected[i], 0.01);
}

/* Bytes sent per update. */
static void check_sent(const struct dry_case *c, int stage, const json_t *events) {
    double model = (double)c->layout.parameters * c->element * (c->ranks - 1) / c->ranks, a = c->packs;
    double reduced = sent(events, "all_reduce"), scattered = sent(events, "reduce_scatter"),
           gathered = sent(events, "all_gather");
    if (stage > 0) assert_true(reduced <= 32.0 * c->ranks); /* loss and norm */
    if (stage == 0) check_near(c, stage, "all_reduce", reduced, 2 * model, 0.02);
    if (stage == 1) check_near(c, stage, "reduce_scatter", scattered, model, 0.02);
    if (stage >= 2) check_near(c, stage, "reduce_scatter", scattered, a * model, 0.02);
    if (stage == 1 || stage == 2) check_near(c, stage, "all_gather", gathered, model, 0.02);
    if (stage == 3) check_near(c, stage, "both", scattered + gathered, 3 * a * model, 0.02);
    if (stage < 3) assert_true(sent(events, "all_to_all") == 0);
    static const char *const collectives[] = {"all_reduce", "reduce_scatter", "all_gather"};
    for (int i = 0; i < 3; i++) {
        const json_t *line = json_object_get(event(events, "communication"), collectives[i]);
        if (line && training_number(line, "predicted_bytes") > 0)
            check_near(c, stage, collectives[i], training_number(line, "bytes"),
                       training_number(line, "predicted_bytes"), 0.001);
    }
}

static void check_case(struct dry_case *c) {
    struct bloom_config config;
    struct error error;
    assert_true(bloom_config_published(&config, c->shape, &error));
    layout_open(&c->layout, &config, c->ranks);
    double unit = (double)c->layout.largest * c->element, peak = INFINITY, buffers = 0;
    for (int stage = 0; stage < STAGES; stage++) {
        json_t *events = dry_run(c, stages[stage]);
        const json_t *memory = event(events, "memory");
        check_state(c, stage, memory);
        if (c->packs > 0) check_sent(c, stage, events);
        double now = training_number(memory, "device.total.peak_bytes");
        if (!(now < peak))
            fail_msg("%s, %d ranks %s: the peak of %s, %.0f bytes, is not below the %.0f of the stage before",
                     c->shape, c->ranks, c->settings, stages[stage], now, peak);
        peak = now;
        double its = training_number(memory, "device.buffers.peak_bytes");
        if (stage == 0) buffers = its;
        double most = stage < 2 ? 0 : stage == 2 ? 2 : PREFETCH + 3;
        if (!(its - buffers <= most * unit))
            fail_msg("%s, %d ranks %s: %s adds buffers of %g units, more than %g", c->shape, c->ranks,
                     c->settings, stages[stage], (its - buffers) / unit, most);
        json_decref(events);
    }
    layout_close(&c->layout);
}

static void check_all(const char *settings, double element, double packs) {
    for (int s = 0; s < SHAPES; s++)
        for (int w = 0; w < WORLDS; w++)
            check_case(&(struct dry_case){.shape = shapes[s],
                                          .settings = settings,
                                          .ranks = worlds[w],
                                          .element = element,
                                          .packs = packs});
}

/* ---- tests ---- */

/* Every example fills a pack. */
#define FULL                                                                                                 \
    "--train_file synthetic:512x512 --per_device_train_batch_size 1 --gradient_accumulation_steps 2 "        \
    "--max_steps 2 "

static void half_precision(void **state) {
    (void)state;
    check_all(FULL "--fp16 true", 2, 2);
    check_all(FULL "--fp16 false --bf16 true", 2, 2);
}

static void single_precision(void **state) {
    (void)state;
    check_all(FULL "--fp16 false", 4, 2);
}

/* The stages' own settings, with lengths as SQuAD's; without a GPU their precision is fp32. */
static void as_configured(void **state) {
    (void)state;
    check_all("--train_file synthetic:1500x190-512 --max_steps 1", 4, 0);
}

static int set_up(void **state) {
    (void)state;
    folder = temporary_folder();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(half_precision), cmocka_unit_test(single_precision),
                                       cmocka_unit_test(as_configured)};
    return cmocka_run_group_tests(tests, set_up, remove_all);
}
