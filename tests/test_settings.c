/* Settings: where they come from, what they may be, what is said of those that may not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/settings.h"
#include "common/train/settings_table.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

enum { MOST_ARGUMENTS = 32 };

/* Reads a command line of words with single spaces between them. */
static bool read_line(struct settings *settings, const char *line, struct error *error) {
    char text[1024], *arguments[MOST_ARGUMENTS];
    int count = 0;
    assert_true(strlen(line) < sizeof text);
    strcpy(text, line);
    char *rest = text;
    for (char *word; (word = strtok_r(rest, " ", &rest)) && count < MOST_ARGUMENTS;)
        arguments[count++] = word;
    return settings_read_arguments(settings, count, arguments, error);
}

static struct settings accepted(const char *line) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (!read_line(&settings, line, &error)) fail_msg("'%s': %s", line, error.text);
    return settings;
}

/* The error of a command line that must be refused, by its reader or by the check of everything. */
static struct error refused(const char *line) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (read_line(&settings, line, &error) && settings_check(&settings, &error))
        fail_msg("'%s' is accepted", line);
    settings_free(&settings);
    return error;
}
#define REFUSED(line, ...)                                                                                   \
    do {                                                                                                     \
        struct error refusal = refused(line);                                                                \
        CHECK_ERROR(&refusal, __VA_ARGS__);                                                                  \
    } while (0)

static bool read_json(struct settings *settings, const char *text, struct error *error) {
    json_t *object = json_read_bytes(text, strlen(text), "test.json", error);
    if (!object) return false;
    bool ok = settings_read_json(settings, object, "test.json", error);
    json_decref(object);
    return ok;
}

static struct settings accepted_json(const char *text) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (!read_json(&settings, text, &error)) fail_msg("%s: %s", text, error.text);
    return settings;
}

static struct error refused_json(const char *text) {
    struct settings settings;
    struct error error = {""};
    settings_default(&settings);
    if (read_json(&settings, text, &error)) fail_msg("%s is accepted", text);
    settings_free(&settings);
    return error;
}
#define REFUSED_JSON(text, ...)                                                                              \
    do {                                                                                                     \
        struct error refusal = refused_json(text);                                                           \
        CHECK_ERROR(&refusal, __VA_ARGS__);                                                                  \
    } while (0)

/* ---- values ---- */

static void test_defaults(void **state) {
    (void)state;
    struct settings s = accepted("");
    struct error error;
    assert_true(settings_check(&s, &error));
    assert_string_equal(s.model_name_or_path, "sample");
    assert_string_equal(s.train_file, "sample");
    assert_string_equal(s.output_dir, "");
    assert_int_equal(s.max_seq_length, 512);
    assert_int_equal(s.per_device_train_batch_size, 4);
    assert_int_equal(s.gradient_accumulation_steps, 4);
    assert_true(s.num_train_epochs == 3 && s.learning_rate == 5e-5 && s.weight_decay == 0.01);
    assert_true(s.adam_beta1 == 0.9 && s.adam_beta2 == 0.999 && s.adam_epsilon == 1e-8 &&
                s.max_grad_norm == 1);
    assert_int_equal(s.max_steps, -1);
    assert_int_equal(s.lr_scheduler_type, SCHEDULER_LINEAR);
    assert_int_equal(s.seed, 42);
    assert_true(s.append_eos && s.save_model && s.eval_on_start);
    assert_int_equal(s.save_on_signal, WARNING_NONE);
    assert_false(s.label_padding || s.bf16 || s.overwrite_output_dir || s.gradient_checkpointing);
    assert_int_equal(s.fp16, AUTO);
    assert_int_equal(s.eval_strategy, STRATEGY_EPOCH);
    assert_int_equal(s.save_strategy, STRATEGY_EPOCH);
    settings_free(&s);
}

static void test_command_line(void **state) {
    (void)state;
    struct settings s =
        accepted("--max_steps 12 --learning_rate=2.5e-4 --output_dir out --lr_scheduler_type cosine "
                 "--adam_beta1 .5 --warmup_steps=+3 --train_file= --max_grad_norm 1e2");
    assert_int_equal(s.max_steps, 12);
    assert_true(s.learning_rate == 2.5e-4 && s.adam_beta1 == 0.5 && s.max_grad_norm == 100);
    assert_string_equal(s.output_dir, "out");
    assert_string_equal(s.train_file, "");
    assert_int_equal(s.lr_scheduler_type, SCHEDULER_COSINE);
    assert_int_equal(s.warmup_steps, 3);
    settings_free(&s);

    s = accepted("--max_steps -1 --output_dir -x --resume_from_checkpoint true --eval_subset_size -1");
    assert_int_equal(s.max_steps, -1);
    assert_string_equal(s.output_dir, "-x");
    assert_string_equal(s.resume_from_checkpoint, "true");
    settings_free(&s);

    s = accepted("--output_dir=a=b --seed 4294967295 --max_steps 3 --max_steps 4");
    assert_string_equal(s.output_dir, "a=b");
    assert_true(s.seed == 4294967295);
    assert_int_equal(s.max_steps, 4); /* the last wins */
    settings_free(&s);
}

static void test_booleans(void **state) {
    (void)state;
    static const struct {
        const char *line;
        bool bf16;
        int fp16;
    } cases[] = {{"--bf16", true, AUTO},
                 {"--bf16 true", true, AUTO},
                 {"--bf16=true", true, AUTO},
                 {"--bf16 false", false, AUTO},
                 {"--bf16=false", false, AUTO},
                 {"--bf16 --seed 3", true, AUTO},
                 {"--bf16 --bf16 false", false, AUTO},
                 {"--fp16", false, AUTO_TRUE},
                 {"--fp16 --disable_tqdm", false, AUTO_TRUE},
                 {"--fp16 false", false, AUTO_FALSE},
                 {"--fp16=auto --bf16", true, AUTO}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s = accepted(cases[i].line);
        assert_int_equal(s.bf16, cases[i].bf16);
        assert_int_equal(s.fp16, cases[i].fp16);
        settings_free(&s);
    }
    REFUSED("--bf16 yes", "command line: bf16: 'yes' is neither true nor false");
    REFUSED("--bf16=", "bf16: '' is neither true nor false");
    REFUSED("--bf16 1", "bf16: '1' is neither true nor false");
    REFUSED("--fp16 maybe", "fp16: 'maybe' is none of false, true, auto");
}

static void test_precision(void **state) {
    (void)state;
    struct settings s = accepted("--bf16");
    assert_int_equal(settings_dtype(&s), BF16);
    settings_free(&s);
    s = accepted("--fp16");
    assert_int_equal(settings_dtype(&s), FP16);
    settings_free(&s);
    s = accepted("--fp16 false");
    assert_int_equal(settings_dtype(&s), FP32);
    settings_free(&s);
    s = accepted("--fp16 auto");
    assert_int_equal(settings_dtype(&s), strcmp(WORKSHOP_BACKEND, "cuda") ? FP32 : FP16);
    settings_free(&s);
}

static void test_what_is_no_value(void **state) {
    (void)state;
    static const char *const integers[] = {
        "", "x", "2.5", "2x", "0x10", "1e3", "--", "99999999999999999999", "nan"};
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        char *line = xformat("--logging_steps=%s", integers[i]);
        REFUSED(line, "command line: logging_steps: '", "' is not an integer");
        free(line);
    }
    static const char *const reals[] = {"",     "x",     "1e",  "0x1p3", "nan", "inf",
                                        "-inf", "1e999", "1,5", "1..2",  "."};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        char *line = xformat("--learning_rate=%s", reals[i]);
        REFUSED(line, "command line: learning_rate: '", "' is not a number");
        free(line);
    }
    struct settings s;
    struct error error = {""};
    settings_default(&s);
    char *spaced[] = {(char[]){"--seed"}, (char[]){" 3"}};
    assert_false(settings_read_arguments(&s, 2, spaced, &error));
    settings_free(&s);
    REFUSED("--lr_scheduler_type polynomial", "'polynomial' is none of linear, cosine, constant");
    REFUSED("--output_dir", "--output_dir needs a value");
    REFUSED("--output_dir --seed 3", "--output_dir needs a value");
    REFUSED("--config", "--config needs a value");
    REFUSED("quick", "'quick': settings are written --name value");
    REFUSED("-seed 3", "'-seed': settings are written --name value");
    REFUSED("--config nowhere.json", "nowhere.json: cannot be read");
}

/* Every number at its bounds and just outside. */
static void test_bounds(void **state) {
    (void)state;
    int checked = 0;
    for (const struct setting *s = settings_table; s->name; s++) {
        if (s->kind != SETTING_INTEGER && s->kind != SETTING_REAL) continue;
        bool integer = s->kind == SETTING_INTEGER;
        double below = integer ? s->minimum - 1 : nextafter(s->minimum, -INFINITY);
        double above = integer ? s->maximum + 1 : nextafter(s->maximum, INFINITY);
        const double values[] = {s->minimum, s->maximum, below, above};
        for (int i = 0; i < 4; i++) {
            struct error error = {""};
            struct settings settings;
            char *text = xformat("%.*g", integer ? 15 : 17, values[i]);
            settings_default(&settings);
            bool ok = settings_set(&settings, s, text, "test", &error);
            if (ok != (i < 2)) fail_msg("%s %s: %s", s->name, text, ok ? "accepted" : error.text);
            if (!ok) CHECK_ERROR(&error, "test: ", s->name, " is not between ", " and ");
            settings_free(&settings);
            free(text);
        }
        checked++;
    }
    assert_true(checked > 20);
}

static void test_unknown_names(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"learning_rat", "learning_rate"},  {"lr", "bf16"},
        {"batch_size", "max_steps"},        {"per_gpu_train_batch_size", "per_device_train_batch_size"},
        {"num_epochs", "num_train_epochs"}, {"Seed", "seed"},
        {"output-dir", "output_dir"},       {"gradient_accumulation_step", "gradient_accumulation_steps"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *line = xformat("--%s 3", cases[i][0]), *suggestion = xformat("did you mean '%s'?", cases[i][1]);
        bool far = i == 1 || i == 2; /* nothing is near: any suggestion will do */
        REFUSED(line, "command line: there is no setting", cases[i][0], far ? "did you mean '" : suggestion);
        free(suggestion);
        free(line);
    }
    REFUSED("--=3", "there is no setting ''");
    REFUSED("--a123456789a123456789a123456789a123456789a123456789a123456789a123456789 3",
            "there is no setting", "--help");
    REFUSED_JSON("{\"weight_decai\": 1}", "test.json: there is no setting 'weight_decai'", "'weight_decay'");
}

static void test_combinations(void **state) {
    (void)state;
    REFUSED("--bf16 --fp16", "bf16 and fp16 exclude each other");
    REFUSED("--label_padding", "--append_eos false");
    REFUSED("--model_name_or_path=", "model_name_or_path is empty");
    REFUSED("--train_file=", "train_file is empty");
    REFUSED("--samples_per_device 2 --subset_size 3", "samples_per_device", "subset_size to 0");
    REFUSED("--num_train_epochs 0", "neither num_train_epochs nor max_steps");
    REFUSED("--warmup_steps 1 --warmup_ratio 0.5", "warmup_steps and warmup_ratio");
    REFUSED("--dry_rank 2 --dry_world_size 2", "dry_rank 2 is not below dry_world_size 2");
    static const char *const fine[] = {"--bf16 --fp16 false",
                                       "--bf16 --fp16 auto",
                                       "--label_padding --append_eos false",
                                       "--num_train_epochs 0 --max_steps 5",
                                       "--max_steps 0",
                                       "--dry_rank 1 --dry_world_size 2"};
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        struct error error;
        struct settings s = accepted(fine[i]);
        if (!settings_check(&s, &error)) fail_msg("%s: %s", fine[i], error.text);
        settings_free(&s);
    }
}

static void check_stage(const char *line, const char *stage, long long zero_stage) {
    struct settings s = accepted(line);
    struct error error = {""};
    if (!settings_check_stage(&s, stage, &error)) fail_msg("%s %s: %s", stage, line, error.text);
    assert_int_equal(s.zero_stage, zero_stage);
    settings_free(&s);
}

static void refuse_stage(const char *line, const char *stage, const char *says, const char *advice) {
    struct settings s = accepted(line);
    struct error error = {""};
    if (settings_check_stage(&s, stage, &error)) fail_msg("%s %s is accepted", stage, line);
    CHECK_ERROR(&error, stage, says, advice);
    settings_free(&s);
}

/* What a stage does not have may be said, but only as it is. */
static void test_stages(void **state) {
    (void)state;
    check_stage("", "01-baseline", 0);
    check_stage("", "02-zero1", 1);
    check_stage("", "04-zero3", 3);
    check_stage("--zero_stage 2 --offload_optimizer none --pin_memory false", "03-zero2", 2);
    check_stage("--offload_optimizer cpu --offload_param cpu --offload_gradients --pin_memory", "05-offload",
                2);
    check_stage("--zero_stage 0", "05-offload", 0);
    check_stage("--zero_stage 3 --offload_optimizer cpu --offload_param cpu", "06-multinode", 3);
    refuse_stage("--zero_stage 2", "01-baseline", "is zero_stage 0; for 2 use stage 03", "stage 05");
    refuse_stage("--zero_stage 0", "04-zero3", "is zero_stage 3; for 0 use stage 01", "stage 05");
    refuse_stage("--offload_optimizer cpu", "03-zero2", "offload_optimizer", "stage 05 does");
    refuse_stage("--offload_param cpu", "04-zero3", "offload_param", "stage 05 does");
    refuse_stage("--offload_gradients", "04-zero3", "offload_gradients", "stage 05 does");
    refuse_stage("--pin_memory", "01-baseline", "pin_memory", "stage 05 does");
    refuse_stage("--offload_param_pin_memory", "01-baseline", "offload_param_pin_memory", "stage 05 does");
    check_stage("--zero_hpz_partition_size 1 --ranks_per_node 2 --slow_network 1", "04-zero3", 3);
    check_stage("--zero_hpz_partition_size 4 --zero_stage 3", "06-multinode", 3);
    refuse_stage("--zero_hpz_partition_size 4", "04-zero3", "zero_hpz_partition_size", "stage 06 does");
}

static void test_offload(void **state) {
    (void)state;
    REFUSED("--offload_param cpu", "offload_param cpu needs zero_stage 3");
    REFUSED("--offload_param cpu --zero_stage 2", "offload_param cpu needs zero_stage 3");
    REFUSED("--offload_optimizer cpu --zero_stage 0", "offload_optimizer cpu needs zero_stage 1, 2 or 3");
    REFUSED("--offload_gradients --zero_stage 2", "--offload_optimizer cpu");
    REFUSED("--offload_gradients --offload_optimizer cpu --zero_stage 1", "use zero_stage 2 or 3");
    REFUSED("--offload_param cpu --zero_stage 3", "--offload_optimizer cpu");
    REFUSED("--offload_optimizer nvme", "'nvme' is none of none, cpu");
    REFUSED("--zero_hpz_partition_size 4 --zero_stage 2", "set it to 1 with another stage");
    REFUSED("--zero_hpz_partition_size 4 --zero_stage 3 --offload_optimizer cpu --offload_param cpu",
            "set it to 1 with another stage, or with offload_param cpu");
    static const struct {
        const char *line;
        bool optimizer, parameters;
    } pins[] = {
        {"", false, false},
        {"--pin_memory", true, true},
        {"--pin_memory --offload_param_pin_memory false", true, false},
        {"--offload_optimizer_pin_memory", true, false},
        {"--pin_memory --offload_optimizer_pin_memory auto --offload_param_pin_memory true", true, true},
        {"--pin_memory false --offload_optimizer_pin_memory false --offload_param_pin_memory", false, true},
    };
    for (size_t i = 0; i < sizeof pins / sizeof *pins; i++) {
        struct settings s = accepted(pins[i].line);
        if (settings_pin_optimizer(&s) != pins[i].optimizer ||
            settings_pin_parameters(&s) != pins[i].parameters)
            fail_msg("'%s' pins the wrong memory", pins[i].line);
        settings_free(&s);
    }
}

/* ---- JSON ---- */

static void test_json(void **state) {
    (void)state;
    struct settings s =
        accepted_json("{\"max_steps\": 12, \"learning_rate\": 2.5e-4, \"num_train_epochs\": 2, "
                      "\"bf16\": true, \"fp16\": false, \"output_dir\": \"out\", "
                      "\"eval_strategy\": \"no\", \"weight_decay\": null, "
                      "\"resume_from_checkpoint\": true}");
    assert_int_equal(s.max_steps, 12);
    assert_true(s.learning_rate == 2.5e-4 && s.num_train_epochs == 2 && s.weight_decay == 0.01);
    assert_true(s.bf16 && s.fp16 == AUTO_FALSE);
    assert_string_equal(s.output_dir, "out");
    assert_string_equal(s.resume_from_checkpoint, "true");
    assert_int_equal(s.eval_strategy, STRATEGY_NO);
    settings_free(&s);
    REFUSED_JSON("[1]", "test.json: expected an object of settings");
    REFUSED_JSON("{\"max_steps\": \"12\"}", "test.json: max_steps: expected an integer");
    REFUSED_JSON("{\"max_steps\": 12.0}", "max_steps: expected an integer");
    REFUSED_JSON("{\"max_steps\": true}", "max_steps: expected an integer");
    REFUSED_JSON("{\"learning_rate\": \"1\"}", "learning_rate: expected a number");
    REFUSED_JSON("{\"learning_rate\": [1]}", "learning_rate: expected a number");
    REFUSED_JSON("{\"learning_rate\": 2000}", "learning_rate: 2000 is not between");
    REFUSED_JSON("{\"bf16\": 1}", "bf16: expected true or false");
    REFUSED_JSON("{\"bf16\": \"true\"}", "bf16: expected true or false");
    REFUSED_JSON("{\"output_dir\": 3}", "output_dir: expected a string");
    REFUSED_JSON("{\"output_dir\": true}", "output_dir: expected a string");
    REFUSED_JSON("{\"output_dir\": {}}", "output_dir: expected a string");
    REFUSED_JSON("{\"eval_strategy\": 1}", "eval_strategy: expected one of its names");
    REFUSED_JSON("{\"eval_strategy\": true}", "eval_strategy: 'true' is none of no, steps, epoch");
    REFUSED_JSON("{\n \"seed\" 3}", "test.json:2:9:");
}

/* The stage's config.json, then --config wherever it stands, then the rest of the command line. */
static void test_precedence(void **state) {
    (void)state;
    char *folder = temporary_folder();
    temporary_write_text(folder, "first.json", "{\"seed\": 7, \"max_steps\": 8, \"subset_size\": 9}");
    temporary_write_text(folder, "second.json", "{\"max_steps\": 10}");
    char *first = xformat("%s/first.json", folder), *second = xformat("--config=%s/second.json", folder);
    char *arguments[] = {(char[]){"train"},
                         (char[]){"--seed"},
                         (char[]){"1"},
                         (char[]){"--config"},
                         first,
                         second,
                         (char[]){"--logging_steps=3"}};
    struct settings s;
    struct error error = {""};
    if (!settings_read(&s, "01-baseline", sizeof arguments / sizeof *arguments, arguments, &error))
        fail_msg("%s", error.text);
    assert_int_equal(s.seed, 1);
    assert_int_equal(s.max_steps, 10);
    assert_int_equal(s.subset_size, 9);
    assert_int_equal(s.logging_steps, 3);
    assert_true(s.weight_decay == 0.01);
    settings_free(&s);
    if (!settings_read(&s, "01-baseline", 1, arguments, &error)) fail_msg("%s", error.text);
    assert_int_equal(s.subset_size, 500); /* as 01-baseline/config.json has it */
    settings_free(&s);
    free(first);
    free(second);
    temporary_remove(folder);
}

/* What settings_json() says is what was set: read again, to the last digit. */
static void test_json_and_back(void **state) {
    (void)state;
    struct settings s = accepted("--learning_rate 0.1 --adam_beta2 0.98765432109876543 --num_train_epochs 2 "
                                 "--max_grad_norm 1e-7 --seed 4294967295 --max_steps -1 --fp16 false --bf16 "
                                 "--eval_strategy steps --train_file a\"b\\c");
    json_t *object = settings_json(&s), *again;
    for (const struct setting *setting = settings_table; setting->name; setting++)
        assert_non_null(json_object_get(object, setting->name));
    char *text = json_dumps(object, JSON_REAL_PRECISION(17));
    assert_non_null(strstr(text, "\"num_train_epochs\": 2.0"));
    assert_non_null(strstr(text, "\"max_steps\": -1,"));
    assert_non_null(strstr(text, "\"fp16\": \"false\", \"bf16\": true"));
    struct settings read = accepted_json(text);
    assert_true(read.learning_rate == 0.1 && read.adam_beta2 == 0.98765432109876543 &&
                read.max_grad_norm == 1e-7);
    again = settings_json(&read);
    assert_true(json_equal(object, again));
    json_decref(again);
    settings_free(&read);
    free(text);
    json_decref(object);
    settings_free(&s);
    s = accepted("--output_dir \xff");
    object = settings_json(&s);
    assert_string_equal(json_string_value(json_object_get(object, "output_dir")), "(not UTF-8)");
    json_decref(object);
    settings_free(&s);
}

/* ---- the table, and what is written about it ---- */

static void test_table(void **state) {
    (void)state;
    for (const struct setting *s = settings_table; s->name; s++) {
        assert_true(s->help[0] && s->initial && strlen(s->name) < 40);
        assert_true(setting_kind_name(s)[0]);
        assert_true((s->kind == SETTING_CHOICE) == (s->choices != NULL));
        for (const struct setting *other = settings_table; other < s; other++) {
            assert_string_not_equal(s->name, other->name);
            assert_true(s->offset != other->offset);
        }
    }
}

static char *read_source(const char *name) {
    struct error error;
    struct file_map map;
    char *path = source_path(name);
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    char *text = xformat("%.*s", (int)map.size, map.data);
    file_unmap(&map);
    free(path);
    return text;
}

/* A heading, or a table's row that begins with the name. */
static bool described(const char *page, const char *name) {
    char *row = xformat("| `%s`", name), *quoted = xformat("`%s`", name);
    bool found = false;
    for (const char *line = page; line && !found; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        size_t length = strcspn(line, "\n");
        found = !strncmp(line, row, strlen(row)) ||
                (line[0] == '#' && memmem(line, length, quoted, strlen(quoted)));
    }
    free(quoted);
    free(row);
    return found;
}

static void test_reference_page(void **state) {
    (void)state;
    char *page = read_source("common/train/settings.md");
    for (const struct setting *s = settings_table; s->name; s++)
        if (!described(page, s->name)) fail_msg("settings.md does not describe `%s`", s->name);
    free(page);
}

static void test_stage_config(void **state) {
    (void)state;
    struct settings s;
    struct error error = {""};
    settings_default(&s);
    char *text = read_source("01-baseline/config.json");
    if (!read_json(&s, text, &error) || !settings_check(&s, &error)) fail_msg("%s", error.text);
    free(text);
    settings_free(&s);
}

static void test_help(void **state) {
    (void)state;
    struct command_result result = command_run(20, BUILD_DIR "/01-baseline/train --help");
    assert_int_equal(result.exit_code, 0);
    assert_string_equal(result.err, "");
    for (const struct setting *s = settings_table; s->name; s++) {
        char *begin = xformat("  --%s ", s->name);
        assert_int_equal(lines_with(result.out, begin), 1);
        free(begin);
    }
    command_free(&result);
    result = command_run(20, BUILD_DIR "/01-baseline/train --version");
    assert_int_equal(result.exit_code, 0);
    assert_string_equal(result.out, WORKSHOP_VERSION "\n");
    command_free(&result);
}

static void test_data_path(void **state) {
    (void)state;
    char *path = settings_data_path("common/sample/train.json");
    assert_non_null(path);
    assert_true(file_exists(path));
    free(path);
    assert_null(settings_data_path("common/sample/nowhere.json"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_command_line),
        cmocka_unit_test(test_booleans),
        cmocka_unit_test(test_precision),
        cmocka_unit_test(test_what_is_no_value),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_unknown_names),
        cmocka_unit_test(test_combinations),
        cmocka_unit_test(test_stages),
        cmocka_unit_test(test_offload),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_json_and_back),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_reference_page),
        cmocka_unit_test(test_stage_config),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_data_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
