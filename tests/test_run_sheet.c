/*
 * ./workshop sheet's and check's program on real runs, short ones of stages 01 and 02: what it fills in, what
 * it keeps, which commands it names, and what it says of entries that do not agree.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

static char *folder; /* with runs/one of stage 01, and of two ranks runs/01 and runs/02 */

#define SHORT                                                                                                \
    "--fp16 false --model_name_or_path random:tiny --max_steps 8 --eval_strategy no --save_strategy no "     \
    "--save_model false --lr_scheduler_type constant "

static struct command_result sheet(const char *arguments) {
    return command_run(60, "cd %s && " BUILD_DIR "/tools/sheet %s", folder, arguments);
}

static void check_has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("no '%s' in: %s", part, text);
}

/* Does the text have this part? "[fp32]" in it is what a command needs for fp32: GPUs compute in fp16 unasked. */
static void check_has_command(const char *text, const char *part) {
    static const char mark[] = "[fp32]";
    const char *at = strstr(part, mark), *asked = strcmp(device_backend(), "cuda") ? "" : " --fp16 false";
    char *whole = at ? xformat("%.*s%s%s", (int)(at - part), part, asked, at + strlen(mark)) : xstrdup(part);
    check_has(text, whole);
    free(whole);
}

/* Runs it, and checks its exit code and what it says. */
static void check_says(const char *arguments, int exit_code, int count, const char *const *parts) {
    struct command_result result = sheet(arguments);
    if (result.exit_code != exit_code || result.timed_out)
        fail_msg("sheet %s: exit code %d: %s%s", arguments, result.exit_code, result.out, result.err);
    for (int i = 0; i < count; i++) check_has_command(result.out, parts[i]);
    command_free(&result);
}
#define CHECK_SAYS(arguments, exit_code, ...)                                                                \
    check_says(arguments, exit_code, (int)(sizeof(const char *[]){__VA_ARGS__} / sizeof(const char *)),      \
               (const char *const[]){__VA_ARGS__})

static char *text_of(const char *name) {
    struct error error;
    struct file_map map;
    char *path = xformat("%s/%s", folder, name);
    if (!file_map(&map, path, &error)) fail_msg("%s", error.text);
    char *text = xformat("%.*s", (int)map.size, (const char *)map.data);
    file_unmap(&map);
    free(path);
    return text;
}

/* Replaces a line of a file that begins with `start`. */
static void set_line(const char *name, const char *start, const char *line) {
    char *text = text_of(name), *at = strstr(text, start);
    if (!at) fail_msg("no line '%s' in %s", start, name);
    char *end = strchr(at, '\n');
    char *changed = xformat("%.*s%s%s", (int)(at - text), text, line, end);
    temporary_write_text(folder, name, changed);
    free(changed);
    free(text);
}

/* A line of a file; the caller frees it. */
static char *line_of(const char *name, const char *start) {
    char *text = text_of(name), *at = strstr(text, start);
    if (!at) fail_msg("no line '%s' in %s", start, name);
    char *line = xformat("%.*s", (int)strcspn(at, "\n"), at);
    free(text);
    return line;
}

static void check_line(const char *name, const char *start, const char *expected) {
    char *line = line_of(name, start);
    assert_string_equal(line, expected);
    free(line);
}

static void fills_what_runs_know(void **state) {
    (void)state;
    CHECK_SAYS("fill 02-zero1", 0, "written to runs/sheets/02-zero1.md: 4 cells filled in from 3 runs\n",
               "./workshop run 02-zero1 --ranks 4[fp32] --model_name_or_path random:tiny\n",
               "build/dry/02-zero1/train --dry_world_size 8[fp32] --model_name_or_path random:tiny "
               "--save_model false\n",
               "./workshop run 02-zero1 --ranks 2 --bf16 --model_name_or_path random:tiny "
               "--gradient_accumulation_steps 2 ",
               "(runs/02: fp32, not bf16)\n");
    check_line("runs/sheets/02-zero1.md", "| optimizer, fp32", "| optimizer, fp32, MiB | | 28.11 | 14.05 |");
    check_line("runs/sheets/02-zero1.md", "| training loss", "| training loss | | | | – |");
    char *line = line_of("runs/sheets/02-zero1.md", "| eighth loss |"), *first = strstr(line, "| | ");
    assert_non_null(first);
    /* Twelve digits after the point, and the same in both columns. */
    assert_int_equal(strcspn(first + 4, " "), 14);
    assert_memory_equal(first + 4, first + 4 + 14 + 3, 14);
    free(line);
    CHECK_SAYS("fill 01-baseline --run runs/one --output out/01.md", 0,
               "written to out/01.md: 6 cells filled in from 1 run\n",
               "./workshop run 01-baseline[fp32] --model_name_or_path random:tiny\n",
               "--per_device_train_batch_size 16 --gradient_accumulation_steps 1 --max_steps 8 ");
    line = line_of("out/01.md", "| A |");
    if (strncmp(line, "| A | (none) | ", 15) != 0 || strcmp(line + 15 + 14, " | 117.35 | 32 |") != 0)
        fail_msg("%s", line);
    free(line);
}

/* Links of the copy lead to where the sheet's led. */
static void links_still_lead_there(void **state) {
    (void)state;
    char *copy = text_of("runs/sheets/02-zero1.md"), *link = strstr(copy, "Read [the lesson](");
    assert_non_null(link);
    char *path = xformat("%s/runs/sheets/%.*s", folder, (int)strcspn(link + 18, ")"), link + 18);
    if (!file_exists(path)) fail_msg("%s", path);
    free(path);
    free(copy);
}

static void keeps_what_is_there(void **state) {
    (void)state;
    static const char name[] = "runs/sheets/02-zero1.md";
    set_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | 28, I think | | 14.1 |");
    CHECK_SAYS("fill 02-zero1", 0, "1 cell filled in from 3 runs, 3 kept as they were\n");
    check_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | 28, I think | 28.11 | 14.1 |");
    CHECK_SAYS("fill 02-zero1 --refill", 0, "4 cells filled in from 3 runs\n");
    check_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | 28, I think | 28.11 | 14.05 |");
}

static void agreeing_sheets_agree(void **state) {
    (void)state;
    CHECK_SAYS("check 02-zero1", 0, "question 1, line ", "  agrees      eighth loss: 01, 02\n",
               "  agrees      optimizer, fp32, MiB: 01, 02\n",
               "  open        eighth loss with `--bf16`: 01, 02\n", "\n4 agree, 0 do not\n");
    set_line("runs/sheets/02-zero1.md", "| optimizer, fp32",
             "| optimizer, fp32, MiB | | 29,474,816 bytes | 14 to 14,1 |");
    CHECK_SAYS("check 02-zero1", 0, "  agrees      optimizer, fp32, MiB: 01, 02\n");
    set_line("runs/sheets/02-zero1.md", "| training loss", "| training loss | | 6.5 | | – |");
    CHECK_SAYS("check 02-zero1 runs/sheets/02-zero1.md", 0, "  no run      training loss: 2\n",
               "1 could not be checked, for want of these runs:\n  1 cell of question 1\n      "
               "./workshop run 02-zero1 --ranks 2[fp32] --model_name_or_path random:tiny\n");
    set_line("runs/sheets/02-zero1.md", "| training loss", "| training loss | | | | – |");
}

static void odd_entries_are_named(void **state) {
    (void)state;
    static const char name[] = "runs/sheets/02-zero1.md";
    set_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | | 28.11 | 28.11 |");
    CHECK_SAYS(
        "check 02-zero1", 1, "  agrees      optimizer, fp32, MiB: 01\n",
        "  WRONG       optimizer, fp32, MiB: 02\n           02: you have 28.11, runs/02 has 14.05 MiB\n",
        "that belongs to '01'; or twice: of both ranks together? The sheet asks for one rank\n",
        "(event memory, device.optimizer.peak_bytes ÷ 1,048,576)\n", "\n3 agree, 1 does not\n");
    set_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | | 29.47 | 14.05 s |");
    CHECK_SAYS("check 02-zero1", 1, "that is in MB of 1,000,000 bytes; a MiB has 1,048,576\n",
               "02: 's' is no unit of this; the sheet has MiB\n", "\n2 agree, 2 do not\n");
    set_line(name, "| optimizer, fp32", "| optimizer, fp32, MiB | | the same | 4x2 |");
    set_line(name, "| eighth loss |", "| eighth loss | | 7.5 | 0.001 |");
    CHECK_SAYS("check 02-zero1", 1, "  no number   optimizer, fp32, MiB: 01\n",
               "  WRONG       optimizer, fp32, MiB: 02\n", "another run's, or another update's?\n");
}

/* Predictions are compared, and are no mistakes. */
static void predictions(void **state) {
    (void)state;
    set_line("out/01.md", "| device memory: optimizer", "| device memory: optimizer, MiB | 28.1 | 28.11 |");
    set_line("out/01.md", "| updates of the run |", "| updates of the run | 24 | |");
    CHECK_SAYS("check 01-baseline out/01.md", 0,
               "  no run      device memory: optimizer, MiB: predicted, measured\n",
               "  agrees      A: eighth loss, activations, MiB, updates/epoch\n");
    CHECK_SAYS("fill 01-baseline --output out/six.md", 0, "filled in");
    set_line("out/six.md", "| activations with it", "| activations with it, MiB | 11.8 | |");
    CHECK_SAYS("check 01-baseline out/six.md", 0, "  no run      activations with it, MiB: predicted\n");
    /* As that run would have written it, with another number of tokens. */
    struct command_result run = command_run(
        60,
        "cd %s/runs && mkdir padded && sed 's/\"pad_to_max_length\":false/\"pad_to_max_length\":true/' "
        "one/metrics.jsonl >padded/metrics.jsonl",
        folder);
    assert_int_equal(run.exit_code, 0);
    command_free(&run);
    CHECK_SAYS("check 01-baseline out/six.md", 0, "  prediction  activations with it, MiB: predicted\n",
               "runs/padded predicts 117.35 MiB\n", "; 0 of 1 predictions are right\n");
}

static void check_error(const char *arguments, const char *part) {
    check_program_refuses(sheet(arguments), arguments, part);
}

static void mistakes_are_one_line(void **state) {
    (void)state;
    check_error("", "sheet fill STAGE");
    check_error("fill", "sheet fill STAGE");
    check_error("fill 07-none", "is '07-none' a stage");
    check_error("fill 02-zero1 --run", "--run needs a value");
    check_error("fill 02-zero1 --run nowhere", "nowhere: there is no such folder");
    check_error("fill 02-zero1 --run out", "out: no run's metrics.jsonl below it");
    check_error("check 03-zero2", "./workshop sheet 03-zero2 makes one");
    check_error("check 02-zero1 a.md b.md", "does not take 'b.md'");
    check_error("fill 02-zero1 --outptu x", "sheet does not take '--outptu'");
    temporary_write_text(folder, "file", "");
    check_error("fill 02-zero1 --output file/sheet.md", "file");
}

static void start_runs(void) {
    struct command_result result = command_run(
        120,
        "cd %s && mkdir runs && " BUILD_DIR "/01-baseline/train " SHORT "--output_dir runs/one && "
        "for stage in 01-baseline 02-zero1; do " COMMAND_MPIRUN BUILD_DIR "/$stage/train %s " SHORT
        "--gradient_accumulation_steps 2 --output_dir runs/${stage%%%%-*} || exit 1; done",
        folder, 2, command_sharing(2));
    if (result.exit_code != 0) fail_msg("exit code %d: %s", result.exit_code, result.err);
    command_free(&result);
}

static int prepare(void **state) {
    (void)state;
    start_runs();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    folder = temporary_folder();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_what_runs_know),  cmocka_unit_test(links_still_lead_there),
        cmocka_unit_test(keeps_what_is_there),   cmocka_unit_test(agreeing_sheets_agree),
        cmocka_unit_test(odd_entries_are_named), cmocka_unit_test(predictions),
        cmocka_unit_test(mistakes_are_one_line),
    };
    return cmocka_run_group_tests(tests, prepare, remove_all);
}
