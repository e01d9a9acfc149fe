/*
 * Answers, from the outside: predict_with_generate gives the same figures on one, two and three ranks and in
 * the stages, sends nothing that training's ledger counts, and says what it cannot do; ask answers from a
 * run's folder, the same each time, and has one line for each thing that is wrong.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { UPDATES = 24, EVALUATIONS = 3 };

static char *folder;          /* few.json */
static struct training first; /* stage 01 on one rank, which saved its model */

/* Two of the sample's paragraphs with three questions each, which a model soon knows by heart. */
static int prepare(void **state) {
    (void)state;
    struct error error;
    char *path = source_path("common/sample/dev.json");
    json_t *root = json_read_file(path, &error), *paragraph;
    if (!root) return -1;
    json_t *articles = json_object_get(root, "data"), *article = json_array_get(articles, 0);
    json_t *paragraphs = json_object_get(article, "paragraphs");
    while (json_array_size(articles) > 1) json_array_remove(articles, 1);
    while (json_array_size(paragraphs) > 2) json_array_remove(paragraphs, 2);
    size_t index;
    json_array_foreach(paragraphs, index, paragraph) {
        json_t *questions = json_object_get(paragraph, "qas");
        while (json_array_size(questions) > 3) json_array_remove(questions, 3);
    }
    folder = temporary_folder();
    char *text = json_dumps(root, 0);
    temporary_write_text(folder, "few.json", text);
    free(text);
    json_decref(root);
    free(path);
    return 0;
}

static int clean_up(void **state) {
    (void)state;
    training_free(&first);
    temporary_remove(folder);
    return 0;
}

/* Evaluation batches of 2, so that one of two ranks has none in the end. */
static struct training run(const char *stage, int ranks, const char *model, int updates,
                           const char *settings) {
    return training_run(
        stage, ranks,
        "--model_name_or_path %s --fp16 false --train_file %s/few.json --validation_file "
        "%s/few.json --max_steps %d --per_device_train_batch_size 1 "
        "--gradient_accumulation_steps %d --per_device_eval_batch_size 2 --learning_rate 2e-3 "
        "--lr_scheduler_type constant --eval_strategy steps --eval_steps %d --save_strategy "
        "no --memory_sample_interval 0 --generation_max_new_tokens 8 %s",
        model, folder, folder, updates, 6 / ranks, UPDATES / (EVALUATIONS - 1), settings);
}

#define ANSWERS "--predict_with_generate "

static double score(const struct training *training, int evaluation, const char *name) {
    int step = evaluation * UPDATES / (EVALUATIONS - 1);
    return training_number(training_event(training, "eval", step), name);
}

static void learns(void **state) {
    (void)state;
    first = run("01-baseline", 1, "random:tiny", UPDATES, ANSWERS);
    assert_int_equal(training_count(&first, "eval"), EVALUATIONS);
    assert_true(score(&first, 0, "eval_exact_match") == 0);
    double exact = score(&first, EVALUATIONS - 1, "eval_exact_match"),
           f1 = score(&first, EVALUATIONS - 1, "eval_f1");
    printf("after %d updates: exact match %g, F1 %g\n", UPDATES, exact, f1);
    if (!(exact >= 30 && exact <= 100 && f1 >= exact && f1 <= 100))
        fail_msg("exact match %g, F1 %g", exact, f1);
    double sixths = exact * 6 / 100; /* a question is a sixth of 100 */
    assert_true(fabs(sixths - round(sixths)) < 1e-9);
}

/* The model that was saved, evaluated elsewhere: the same answers, from the same bits of the parameters. */
static void other_runs(void **state) {
    (void)state;
    static const struct {
        const char *stage;
        int ranks;
        const char *settings;
    } runs[] = {
        {"01-baseline", 1, ANSWERS "--seed 1"},
        {"01-baseline", 2, ANSWERS},
        {"02-zero1", 3, ANSWERS},
        {"04-zero3", 2, ANSWERS},
        {"04-zero3", 3, ANSWERS "--stage3_prefetch 0"},
        {"05-offload", 2, ANSWERS "--zero_stage 3 --offload_optimizer cpu --offload_param cpu"},
        {"06-multinode", 2, ANSWERS "--zero_stage 3 --ranks_per_node 2 --zero_hpz_partition_size 2"},
    };
    double exact = score(&first, EVALUATIONS - 1, "eval_exact_match"),
           f1 = score(&first, EVALUATIONS - 1, "eval_f1");
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        struct training other = run(runs[i].stage, runs[i].ranks, first.output_dir, 0, runs[i].settings);
        double same = score(&other, 0, "eval_exact_match"), same_f1 = score(&other, 0, "eval_f1");
        if (exact != same || f1 != same_f1)
            fail_msg("%s on %d ranks: exact match %g, F1 %g, not %g and %g", runs[i].stage, runs[i].ranks,
                     same, same_f1, exact, f1);
        training_free(&other);
    }
}

/* The gathers of a generation are no part of what training sends, and its parameters are gathered as before.
 */
static void same_training(void **state) {
    (void)state;
    struct training with = run("04-zero3", 2, "random:tiny", UPDATES, ANSWERS),
                    without = run("04-zero3", 2, "random:tiny", UPDATES, "");
    static const char *const numbers[] = {"all_gather.bytes", "all_gather.predicted_bytes",
                                          "reduce_scatter.bytes", "all_to_all.bytes"};
    double exact = score(&with, EVALUATIONS - 1, "eval_exact_match"),
           expected = score(&first, EVALUATIONS - 1, "eval_exact_match");
    if (!(fabs(exact - expected) < 34)) /* two questions: rounding may differ from one rank's */
        fail_msg("exact match %g in stage 04, %g in stage 01", exact, expected);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        double x = training_number(training_event(&with, "communication", -1), numbers[i]);
        double y = training_number(training_event(&without, "communication", -1), numbers[i]);
        if (x != y) fail_msg("%s: %.0f with answers, %.0f without", numbers[i], x, y);
    }
    assert_null(json_object_get(training_event(&without, "eval", 0), "eval_exact_match"));
    assert_true(training_difference(&with, &without, UPDATES) == 0);
    training_free(&with);
    training_free(&without);
}

/* The dry backend books what generation takes, to the byte. */
static void same_memory(void **state) {
    (void)state;
    if (strcmp(device_backend(), "cpu") != 0 || !training_has_dry()) skip();
    char *settings =
        xformat("--model_name_or_path random:tiny --fp16 false --train_file %s/few.json "
                "--validation_file %s/few.json --max_steps 1 --eval_strategy steps --eval_steps 1 "
                "--save_strategy no " ANSWERS,
                folder, folder);
    struct training real = training_run("04-zero3", 2, "%s", settings),
                    dry = training_run_dry("04-zero3", 0, 2, settings);
    static const char *const numbers[] = {"device.buffers.peak_bytes", "device.total.peak_bytes"};
    for (int i = 0; i < 2; i++) {
        double x = training_number(training_event(&real, "memory", -1), numbers[i]);
        double y = training_number(training_event(&dry, "memory", -1), numbers[i]);
        if (x != y) fail_msg("%s: %.0f booked, %.0f by the dry backend", numbers[i], x, y);
    }
    training_free(&real);
    training_free(&dry);
    free(settings);
}

static void no_questions(void **state) {
    (void)state;
    struct command_result r =
        command_run(60,
                    BUILD_DIR "/01-baseline/train --model_name_or_path random:tiny --train_file "
                              "synthetic:8x20 --max_steps 1 " ANSWERS "--output_dir %s/none",
                    folder);
    assert_int_not_equal(r.exit_code, 0);
    assert_non_null(strstr(r.err, "predict_with_generate needs questions"));
    command_free(&r);
}

/* ---- ask ---- */

static struct command_result ask(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/ask %s", folder, arguments);
}

static struct command_result ask_first(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/ask %s %s", folder, first.output_dir, arguments);
}

/* What the last evaluation found is what ask finds in the model that was saved. */
static void asks_sample(void **state) {
    (void)state;
    struct command_result one = ask_first("--sample 1"), again = ask_first("--sample=1");
    assert_int_equal(one.exit_code, 0);
    assert_string_equal(one.out, again.out);
    assert_non_null(strstr(one.err, "Context: The town of Ivoreth"));
    assert_int_equal(lines_with(one.out, "?"), 5);
    assert_int_equal(lines_with(one.out, " of 5 as in the file"), 1);
    assert_int_equal(5 - lines_with(one.out, "(in the file: "), one.out[strlen(one.out) - 22] - '0');
    command_free(&one);
    command_free(&again);
}

/* From arguments, from standard input with a context, and without one. */
static void asks_questions(void **state) {
    (void)state;
#define QUESTION "What is the town hall of Ivoreth built of?"
    struct command_result argument = ask_first("--sample 1 '" QUESTION "' 'And who?'");
    struct command_result lines = command_run(60,
                                              "cd %s && printf '\\n" QUESTION "\\nAnd who?\\n\\nno more\\n' "
                                              "| " BUILD_DIR "/tools/ask %s",
                                              folder, first.output_dir);
    assert_int_equal(argument.exit_code, 0);
    assert_int_equal(lines.exit_code, 0);
    assert_int_equal(lines_with(argument.out, ""), 2);
    assert_string_equal(argument.out, lines.out);
    command_free(&argument);
    command_free(&lines);
    temporary_write_text(folder, "text.txt", "A short text.\n");
    argument = ask_first("--context_file text.txt Why? --max_new_tokens 3");
    lines = command_run(
        60, "cd %s && printf 'A short text.\\nWhy?' | " BUILD_DIR "/tools/ask %s --max_new_tokens=3", folder,
        first.output_dir);
    struct command_result given = ask_first("Why? --max_new_tokens 3 --context 'A short text.'");
    assert_int_equal(argument.exit_code, 0);
    assert_string_equal(argument.out, lines.out);
    assert_string_equal(argument.out, given.out);
    command_free(&argument);
    command_free(&lines);
    command_free(&given);
}

/* In half precision too; a model with random weights does not end, and is ended. */
static void ends(void **state) {
    (void)state;
    static const char *const precisions[] = {"fp32", "bf16", "fp16"};
    for (int i = 0; i < 3; i++) {
        char *arguments = xformat("--precision %s --sample 2 Who? --max_new_tokens 5", precisions[i]);
        struct command_result r = ask_first(arguments);
        assert_int_equal(r.exit_code, 0);
        assert_int_equal(lines_with(r.out, ""), 1);
        command_free(&r);
        free(arguments);
    }
    char *model = source_path("tests/fixtures/trainer-short/model");
    char *arguments = xformat("%s 'Who is it?' --context 'It is the mayor.' --max_new_tokens 7", model);
    struct command_result r = ask(arguments);
    assert_int_equal(r.exit_code, 0);
    assert_non_null(strstr(r.err, "(cut after 7 tokens"));
    command_free(&r);
    free(arguments);
    free(model);
}

static void check_refuses(struct command_result r, const char *text) {
    if (!r.exit_code || !strstr(r.err, text) || lines_with(r.err, "error: ") != 1)
        fail_msg("exit code %d, expected '%s' in: %s", r.exit_code, text, r.err);
    command_free(&r);
}

static void refuses(void **state) {
    (void)state;
    char *bare = source_path("tests/fixtures/tiny"); /* no tokenizer */
    check_refuses(ask(""), "ask which model?");
    check_refuses(ask("nowhere Who?"), "nowhere: no such folder");
    char *arguments = xformat("%s Who?", bare);
    check_refuses(ask(arguments), "tokenizer.json: there is none");
    check_refuses(ask_first("Who? --window 50"), "leaves no room for an answer in a window of 50");
    check_refuses(ask_first("--sample 11"), "has 10 paragraphs");
    check_refuses(ask_first("--sample 1 --context x Who?"), "give one of them");
    check_refuses(ask_first("--context_file nowhere.txt Who?"), "nowhere.txt");
    check_refuses(ask_first("Who? --color"), "ask has no option '--color'");
    check_refuses(ask_first("Who? --window"), "--window needs a value");
    check_refuses(ask_first("Who? --window 0"), "--window 0: not a number from 1 on");
    check_refuses(ask_first("Who? --precision int8"), "fp32, bf16 or fp16");
    /* An over-long question from a person is no end. */
    struct command_result r =
        command_run(60,
                    "cd %s && printf 'A text.\\nWho, and who else, and who after that, and why and when and "
                    "where and whence?\\nWho?\\n' | " BUILD_DIR "/tools/ask %s --window 25",
                    folder, first.output_dir);
    assert_int_equal(r.exit_code, 0);
    assert_int_equal(lines_with(r.err, "leaves no room"), 1);
    assert_int_equal(lines_with(r.out, ""), 1);
    command_free(&r);
    free(arguments);
    free(bare);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learns),         cmocka_unit_test(other_runs),   cmocka_unit_test(same_training),
        cmocka_unit_test(same_memory),    cmocka_unit_test(no_questions), cmocka_unit_test(asks_sample),
        cmocka_unit_test(asks_questions), cmocka_unit_test(ends),         cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, prepare, clean_up);
}
