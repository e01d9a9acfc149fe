/* DeepSpeed configurations as a source of settings: what is taken, what is noted, what is refused. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/deepspeed_config.h"
#include "common/train/settings.h"
#include "tests/support/temporary.h"

static bool apply(struct settings *settings, const char *text, struct error *error) {
    json_t *config = json_read_bytes(text, strlen(text), "ds.json", error);
    if (!config) return false;
    bool ok = deepspeed_config_apply(settings, config, "ds.json", error);
    json_decref(config);
    return ok;
}

static struct settings accepted(const char *text) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (!apply(&settings, text, &error)) fail_msg("%s: %s", text, error.text);
    return settings;
}

static struct error refused(const char *text) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (apply(&settings, text, &error)) fail_msg("%s is accepted", text);
    settings_free(&settings);
    return error;
}
#define REFUSED(text, ...)                                                                                   \
    do {                                                                                                     \
        struct error refusal = refused(text);                                                                \
        CHECK_ERROR(&refusal, __VA_ARGS__);                                                                  \
    } while (0)

/* ---- what is taken ---- */

static void test_all_of_it(void **state) {
    (void)state;
    struct settings s = accepted(
        "{\"train_micro_batch_size_per_gpu\": 2, \"gradient_accumulation_steps\": 8, \"train_batch_size\": "
        "32, \"gradient_clipping\": 0.5, \"fp16\": {\"enabled\": true, \"loss_scale\": 0, "
        "\"initial_scale_power\": 16, \"loss_scale_window\": 1000, \"min_loss_scale\": 1}, "
        "\"zero_optimization\": {\"stage\": 3, \"offload_optimizer\": {\"device\": \"cpu\", \"pin_memory\": "
        "true}, \"offload_param\": {\"device\": \"cpu\"}}, \"optimizer\": {\"type\": \"AdamW\", \"params\": "
        "{\"lr\": 1e-4, \"betas\": [0.8, 0.95], \"eps\": 1e-7, \"weight_decay\": 0, \"adam_w_mode\": true}}, "
        "\"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": {\"warmup_min_lr\": 0, \"warmup_max_lr\": "
        "2e-4, \"warmup_num_steps\": 10, \"warmup_type\": \"linear\", \"total_num_steps\": \"auto\"}}}");
    assert_string_equal(s.notes, "");
    assert_int_equal(s.per_device_train_batch_size, 2);
    assert_int_equal(s.gradient_accumulation_steps, 8);
    assert_int_equal(s.train_batch_size, 32);
    assert_true(s.max_grad_norm == 0.5);
    assert_int_equal(s.fp16, AUTO_TRUE);
    assert_int_equal(s.zero_stage, 3);
    assert_true(s.offload_optimizer == OFFLOAD_CPU && s.offload_param == OFFLOAD_CPU);
    assert_true(settings_pin_optimizer(&s) && !settings_pin_parameters(&s));
    assert_true(s.adam_beta1 == 0.8 && s.adam_beta2 == 0.95 && s.adam_epsilon == 1e-7);
    assert_true(s.weight_decay == 0 && s.learning_rate == 2e-4); /* the scheduler's, not the optimizer's */
    assert_int_equal(s.lr_scheduler_type, SCHEDULER_LINEAR);
    assert_int_equal(s.warmup_steps, 10);
    settings_free(&s);
}

/* The scheduler's rate counts also where it stands first. */
static void test_two_rates(void **state) {
    (void)state;
    struct settings s = accepted("{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_max_lr\": "
                                 "3e-4, \"warmup_num_steps\": 0}}, \"optimizer\": {\"type\": \"Adam\", "
                                 "\"params\": {\"lr\": 1e-4}}}");
    assert_true(s.learning_rate == 3e-4);
    assert_int_equal(s.lr_scheduler_type, SCHEDULER_CONSTANT);
    assert_int_equal(s.warmup_steps, 0);
    settings_free(&s);
}

/* "auto" leaves everything as it is, and so does null. */
static void test_auto(void **state) {
    (void)state;
    struct settings plain;
    settings_default(&plain);
    json_t *before = settings_json(&plain);
    static const char *const texts[] = {
        "{\"train_micro_batch_size_per_gpu\": \"auto\", \"gradient_accumulation_steps\": \"auto\", "
        "\"train_batch_size\": \"auto\", \"gradient_clipping\": \"auto\", \"fp16\": {\"enabled\": \"auto\"}, "
        "\"bf16\": {\"enabled\": \"auto\"}, \"zero_optimization\": {\"stage\": \"auto\"}, \"optimizer\": "
        "{\"type\": \"AdamW\", \"params\": {\"lr\": \"auto\", \"betas\": \"auto\", \"eps\": \"auto\", "
        "\"weight_decay\": \"auto\"}}}",
        "{\"train_batch_size\": null, \"fp16\": null, \"zero_optimization\": null, \"optimizer\": null}",
        "{}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct settings s = accepted(texts[i]);
        json_t *after = settings_json(&s);
        if (!json_equal(before, after)) fail_msg("%s changes something", texts[i]);
        assert_string_equal(s.notes, "");
        json_decref(after);
        settings_free(&s);
    }
    json_decref(before);
    settings_free(&plain);
}

/* A section that is there is whole: what it leaves out is as DeepSpeed has it, whatever was set before. */
static void test_defaults_of_sections(void **state) {
    (void)state;
    struct settings s;
    struct error error = {""};
    settings_default(&s);
    s.zero_stage = 3;
    s.offload_optimizer = s.offload_param = OFFLOAD_CPU;
    s.bf16 = s.pin_memory = true;
    assert_true(apply(&s, "{\"zero_optimization\": {}, \"fp16\": {}, \"bf16\": {}}", &error));
    assert_int_equal(s.zero_stage, 0);
    assert_true(s.offload_optimizer == OFFLOAD_NONE && s.offload_param == OFFLOAD_NONE);
    assert_true(s.fp16 == AUTO_FALSE && !s.bf16);
    assert_true(apply(
        &s, "{\"zero_optimization\": {\"stage\": 2, \"offload_optimizer\": {\"device\": \"cpu\"}}}", &error));
    assert_true(s.offload_optimizer == OFFLOAD_CPU && !settings_pin_optimizer(&s));
    settings_free(&s);
}

/* ---- sizes of batches ---- */

static void check_sizes(const char *text, int ranks, long long batch, long long accumulation) {
    struct settings s = accepted(text);
    struct error error = {""};
    if (!settings_fit_world(&s, ranks, &error)) fail_msg("%s on %d: %s", text, ranks, error.text);
    assert_int_equal(s.per_device_train_batch_size, batch);
    assert_int_equal(s.gradient_accumulation_steps, accumulation);
    settings_free(&s);
}

static void refuse_sizes(const char *text, int ranks) {
    struct settings s = accepted(text);
    struct error error = {""};
    if (settings_fit_world(&s, ranks, &error)) fail_msg("%s is accepted on %d", text, ranks);
    CHECK_ERROR(&error, "train_batch_size", "ranks", "per_device_train_batch_size");
    settings_free(&s);
}

static void test_batch_sizes(void **state) {
    (void)state;
    check_sizes("{}", 3, 4, 4); /* the kit's defaults */
    check_sizes("{\"train_batch_size\": 24, \"train_micro_batch_size_per_gpu\": 2}", 3, 2, 4);
    check_sizes("{\"train_batch_size\": 24, \"gradient_accumulation_steps\": 2}", 3, 4, 2);
    check_sizes("{\"train_batch_size\": 24}", 3, 8, 1);
    check_sizes("{\"train_batch_size\": 48, \"train_micro_batch_size_per_gpu\": \"auto\"}", 3, 4, 4);
    check_sizes("{\"train_batch_size\": 16.0, \"train_micro_batch_size_per_gpu\": 2, "
                "\"gradient_accumulation_steps\": 4}",
                2, 2, 4);
    refuse_sizes("{\"train_batch_size\": 16, \"train_micro_batch_size_per_gpu\": 2, "
                 "\"gradient_accumulation_steps\": 4}",
                 4);
    refuse_sizes("{\"train_batch_size\": 25}", 3);
    refuse_sizes("{\"train_batch_size\": 2}", 3);
    refuse_sizes("{\"train_batch_size\": 24, \"train_micro_batch_size_per_gpu\": 5}", 3);
    refuse_sizes("{\"train_batch_size\": 900000000000, \"train_micro_batch_size_per_gpu\": 1}", 3);
    REFUSED("{\"train_batch_size\": 1.5}", "ds.json: train_batch_size", "expected an integer");
    REFUSED("{\"train_batch_size\": -1}", "ds.json: train_batch_size", "-1 is not between");
    REFUSED("{\"gradient_accumulation_steps\": 0}", "gradient_accumulation_steps", "0 is not between 1");
    REFUSED("{\"train_micro_batch_size_per_gpu\": \"4\"}", "train_micro_batch_size_per_gpu",
            "expected an integer");
}

/* ---- what is noted ---- */

static void test_notes(void **state) {
    (void)state;
    struct settings s = accepted(
        "{\"zero_optimization\": {\"stage\": 2, \"reduce_bucket_size\": 5e8, \"overlap_comm\": true}, "
        "\"steps_per_print\": 10, \"fp16\": {\"enabled\": true, \"initial_scale_power\": 12, \"hysteresis\": "
        "1}, \"wandb\": {\"enabled\": true, \"any\": [1, {\"thing\": 2}]}, \"elasticity\": {\"enabled\": "
        "false}}");
    static const char *const lines[] = {
        "ds.json: zero_optimization.reduce_bucket_size is ignored: ",
        "ds.json: zero_optimization.overlap_comm is ignored: ", "ds.json: steps_per_print is ignored: ",
        "ds.json: fp16.initial_scale_power is ignored: the kit starts at 16\n",
        "ds.json: wandb is ignored: "};
    int newlines = 0;
    for (const char *c = s.notes; *c; c++) newlines += *c == '\n';
    assert_int_equal(newlines, 5);
    for (int i = 0; i < 5; i++)
        if (!strstr(s.notes, lines[i])) fail_msg("no note says '%s' in:\n%s", lines[i], s.notes);
    assert_int_equal(s.zero_stage, 2);
    settings_free(&s);
    s = accepted("{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": \"auto\"}}}");
    assert_non_null(strstr(s.notes, "scheduler.params.warmup_type: a warm-up is linear here"));
    settings_free(&s);
}

/* ---- what is refused ---- */

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *where, *why;
    } cases[] = {
        {"[]", "ds.json", "expected an object"},
        {"{\"zero_optimization\": true}", "ds.json: zero_optimization:", "expected an object"},
        {"{\"zero_optimization\": {\"stage\": 4}}", "zero_optimization.stage", "4 is not between"},
        {"{\"zero_optimization\": {\"stage\": \"2\"}}", "zero_optimization.stage", "expected an integer"},
        {"{\"zero_optimization\": {\"stagee\": 2}}", "zero_optimization.stagee", "does not know this key"},
        {"{\"zero_optimization.stage\": 2}", "zero_optimization.stage", "does not know this key"},
        {"{\"\": 2}", "ds.json: :", "does not know this key"},
        {"{\"stage\": 2}", "ds.json: stage:", "does not know this key"},
        {"{\"zero_optimisation\": {}}", "zero_optimisation", "does not know this key"},
        {"{\"zero_optimization\": {\"offload_optimizer\": {\"device\": \"nvme\"}}}",
         "zero_optimization.offload_optimizer.device", "nvme must be cpu or none"},
        {"{\"zero_optimization\": {\"offload_param\": {\"device\": \"nvme\"}}}",
         "zero_optimization.offload_param.device", "nvme must be cpu or none"},
        {"{\"zero_optimization\": {\"offload_param\": {\"device\": \"gpu\"}}}",
         "zero_optimization.offload_param.device", "'gpu' is none of none, cpu"},
        {"{\"zero_optimization\": {\"offload_param\": {\"pin_memory\": \"yes\"}}}",
         "zero_optimization.offload_param.pin_memory", "'yes' is none of"},
        {"{\"zero_optimization\": {\"offload_param\": \"cpu\"}}", "zero_optimization.offload_param",
         "expected an object"},
        {"{\"zero_optimization\": {\"cpu_offload\": true}}", "zero_optimization.cpu_offload",
         "use offload_optimizer"},
        {"{\"zero_optimization\": {\"zero_quantized_weights\": true}}",
         "zero_optimization.zero_quantized_weights", "does not quantize"},
        {"{\"fp16\": {\"enabled\": 1}}", "fp16.enabled", "expected true, false or \"auto\""},
        {"{\"fp16\": {\"enabled\": \"true\"}}", "fp16.enabled", "expected true, false or \"auto\""},
        {"{\"fp16\": {\"loss_scale\": 128}}", "fp16.loss_scale", "dynamic"},
        {"{\"bf16\": {\"enabled\": \"true\"}}", "bf16.enabled", "expected true or false"},
        {"{\"fp16\": []}", "fp16", "expected an object"},
        {"{\"gradient_clipping\": -1}", "gradient_clipping", "-1 is not between"},
        {"{\"gradient_clipping\": \"1\"}", "gradient_clipping", "expected a number"},
        {"{\"optimizer\": {\"type\": \"Lamb\"}}", "optimizer.type", "AdamW, not 'Lamb'"},
        {"{\"optimizer\": {\"type\": 1}}", "optimizer.type", "expected a string"},
        {"{\"optimizer\": {\"type\": \"Adam\", \"params\": {\"adam_w_mode\": false}}}",
         "optimizer.params.adam_w_mode", "decoupled decay only"},
        {"{\"optimizer\": {\"params\": {\"betas\": [0.9]}}}", "optimizer.params.betas", "two numbers"},
        {"{\"optimizer\": {\"params\": {\"betas\": [0.9, 1]}}}", "optimizer.params.betas",
         "1 is not between"},
        {"{\"optimizer\": {\"params\": {\"betas\": 0.9}}}", "optimizer.params.betas", "two numbers"},
        {"{\"optimizer\": {\"params\": {\"momentum\": 0.9}}}", "optimizer.params.momentum", "does not know"},
        {"{\"optimizer\": {\"params\": {\"lr\": {}}}}", "optimizer.params.lr", "expected a number"},
        {"{\"scheduler\": {\"type\": \"OneCycle\", \"params\": {\"warmup_num_steps\": 1}}}", "scheduler.type",
         "not 'OneCycle'"},
        {"{\"scheduler\": {\"type\": \"WarmupLR\"}}", "scheduler.params.warmup_num_steps", "1000"},
        {"{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 10}}}",
         "scheduler.params.warmup_type", "say \"linear\""},
        {"{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 10, \"warmup_type\": "
         "\"log\"}}}",
         "scheduler.params.warmup_type", "the kit's warm-up is \"linear\""},
        {"{\"scheduler\": {\"type\": \"WarmupDecayLR\", \"params\": {\"warmup_num_steps\": 0, "
         "\"total_num_steps\": 100}}}",
         "scheduler.params.total_num_steps", "use \"auto\""},
        {"{\"elasticity\": {\"enabled\": true}}", "elasticity", "number of ranks"},
        {"{\"amp\": {\"enabled\": true}}", "amp", "fp16 or bf16"},
        {"{\"sparse_attention\": {}}", "sparse_attention", "dense"},
        {"{\"fp16\": {}, \"fp16\": {}}", "ds.json:1:", "malformed JSON"},
        {"{\"fp16\": {}", "ds.json:1:", "malformed JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        REFUSED(cases[i].text, cases[i].where, cases[i].why);
}

/* A key that a file made long or strange leaves the error one line. */
static void test_strange_keys(void **state) {
    (void)state;
    char *text = xformat("{\"a\\nb%0500d\": 1}", 7);
    struct error error = refused(text);
    CHECK_ERROR(&error, "ds.json: a b", "does not know this key");
    free(text);
    assert_true(strlen(error.text) < 200);
}

/* ---- among the other sources ---- */

/* The stage's config.json, then DeepSpeed's file, then --config, then the command line, wherever --deepspeed
 * itself is said. */
static void test_precedence(void **state) {
    (void)state;
    char *folder = temporary_folder();
    temporary_write_text(folder, "ds.json",
                         "{\"train_micro_batch_size_per_gpu\": 7, \"gradient_accumulation_steps\": 5, "
                         "\"gradient_clipping\": 3, \"zero_optimization\": {\"stage\": 0}, "
                         "\"steps_per_print\": 1}");
    char *own = xformat("{\"gradient_accumulation_steps\": 6, \"max_grad_norm\": 4, \"deepspeed\": "
                        "\"%s/ds.json\"}",
                        folder);
    temporary_write_text(folder, "own.json", own);
    char *config = xformat("%s/own.json", folder), *path = xformat("%s/ds.json", folder);
    char *lines[][7] = {
        {(char[]){"train"}, (char[]){"--max_grad_norm"}, (char[]){"9"}, (char[]){"--config"}, config},
        {(char[]){"train"}, (char[]){"--max_grad_norm"}, (char[]){"9"}, (char[]){"--config"}, config,
         (char[]){"--deepspeed"}, path}};
    for (int i = 0; i < 2; i++) {
        struct settings s;
        struct error error = {""};
        if (!settings_read(&s, "01-baseline", i ? 7 : 5, lines[i], &error)) fail_msg("%s", error.text);
        assert_int_equal(s.per_device_train_batch_size, 7);
        assert_int_equal(s.gradient_accumulation_steps, 6);
        assert_true(s.max_grad_norm == 9);
        assert_int_equal(s.subset_size, 500); /* as 01-baseline/config.json has it */
        assert_string_equal(s.deepspeed, path);
        assert_non_null(strstr(s.notes, "steps_per_print is ignored"));
        settings_free(&s);
    }
    char *missing[] = {(char[]){"train"}, (char[]){"--deepspeed=nowhere.json"}};
    struct settings s;
    struct error error = {""};
    assert_false(settings_read(&s, "01-baseline", 2, missing, &error));
    CHECK_ERROR(&error, "nowhere.json");
    settings_free(&s);
    free(own);
    free(config);
    free(path);
    temporary_remove(folder);
}

/* The eight files that come with stage 05. */
static void test_variants(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int stage;
        bool optimizer, parameters;
    } variants[] = {
        {"zero0", 0, false, false},        {"zero1", 1, false, false},
        {"zero2", 2, false, false},        {"zero3", 3, false, false},
        {"zero1-offload", 1, true, false}, {"zero2-offload", 2, true, false},
        {"zero3-offload", 3, true, false}, {"zero3-offload-all", 3, true, true},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        char *inside = xformat("05-offload/deepspeed/%s.json", variants[i].name), *path = source_path(inside);
        struct settings s;
        struct error error = {""};
        settings_default(&s);
        if (!deepspeed_config_read(&s, path, &error) || !settings_check_stage(&s, "05-offload", &error) ||
            !settings_check(&s, &error) || !settings_fit_world(&s, 2, &error))
            fail_msg("%s", error.text);
        assert_string_equal(s.notes, "");
        assert_int_equal(s.zero_stage, variants[i].stage);
        assert_int_equal(s.offload_optimizer == OFFLOAD_CPU, variants[i].optimizer);
        assert_int_equal(s.offload_param == OFFLOAD_CPU, variants[i].parameters);
        assert_int_equal(settings_pin_optimizer(&s), variants[i].optimizer);
        assert_int_equal(settings_pin_parameters(&s), variants[i].parameters);
        settings_free(&s);
        free(inside);
        free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_it),   cmocka_unit_test(test_two_rates),
        cmocka_unit_test(test_auto),        cmocka_unit_test(test_defaults_of_sections),
        cmocka_unit_test(test_batch_sizes), cmocka_unit_test(test_notes),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_strange_keys),
        cmocka_unit_test(test_precedence),  cmocka_unit_test(test_variants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
