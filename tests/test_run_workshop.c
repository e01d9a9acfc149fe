/*
 * The workshop command around a small tree of its own: two stages whose programs print what they are given,
 * so that what the command adds (building, numbering runs, ranks, exit codes, help, complaints) is seen
 * alone.
 */
#include "tests/support/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "tests/support/check.h"

static char *tree; /* the folder of the small tree */

static const char cmake_lists[] =
    "cmake_minimum_required(VERSION 3.21)\n"
    "project(small LANGUAGES C)\n"
    "foreach(stage 01-first 02-second)\n"
    "  add_executable(${stage} ${stage}/train.c)\n"
    "  set_target_properties(${stage} PROPERTIES OUTPUT_NAME train RUNTIME_OUTPUT_DIRECTORY "
    "${CMAKE_BINARY_DIR}/${stage})\n"
    "endforeach()\n"
    "enable_testing()\n"
    "add_test(NAME one_of_${WORKSHOP_BACKEND} COMMAND 01-first --exit 0)\n"
    "add_test(NAME two_of_${WORKSHOP_BACKEND} COMMAND 01-first --exit 0)\n";

/* Prints its arguments in one line; --exit N is its exit code; --leave FILE makes a file; --die N ends it by
 * a signal. */
static const char program[] =
    "#include <signal.h>\n"
    "#include <stdio.h>\n"
    "#include <stdlib.h>\n"
    "#include <string.h>\n"
    "int main(int count, char **arguments) {\n"
    "    int code = 0;\n"
    "    for (int i = 1; i < count; i++) {\n"
    "        if (!strcmp(arguments[i], \"--exit\")) code = atoi(arguments[i + 1]);\n"
    "        if (!strcmp(arguments[i], \"--die\")) raise(atoi(arguments[i + 1]));\n"
    "        if (!strcmp(arguments[i], \"--leave\")) fclose(fopen(arguments[i + 1], \"w\"));\n"
    "        printf(\"%s%c\", arguments[i], i + 1 < count ? ' ' : '\\n');\n"
    "    }\n"
    "    return code;\n"
    "}\n";

static void put(const char *name, const char *text) {
    struct error error;
    char *path = xformat("%s/%s", tree, name);
    if (!file_write(path, text, strlen(text), &error)) fail_msg("%s", error.text);
    free(path);
}

static void copy(const char *name) {
    struct error error;
    char *from = source_path(name), *to = xformat("%s/%s", tree, name);
    if (!file_copy(from, to, &error)) fail_msg("%s", error.text);
    free(from);
    free(to);
}

static void folder(const char *name) {
    struct error error;
    char *path = xformat("%s/%s", tree, name);
    if (!directory_create(path, &error)) fail_msg("%s", error.text);
    free(path);
}

static int setup(void **state) {
    (void)state;
    tree = xstrdup("/tmp/workshop-command-XXXXXX");
    assert_non_null(mkdtemp(tree));
    folder("01-first");
    folder("02-second");
    put("CMakeLists.txt", cmake_lists);
    put("01-first/train.c", program);
    char *second = xformat("%s/* the second stage's idea */\n", program);
    put("02-second/train.c", second);
    free(second);
    copy("CMakePresets.json");
    copy("workshop");
    char *help = source_path("common/tools/help");
    /* And without GPUs' preset, so that all is alike where there are some. */
    struct command_result copied = command_run(10,
                                               "cd '%s' && mkdir -p common/tools && cp -r '%s' common/tools "
                                               "&& sed -i '/\"cuda\"/d' CMakePresets.json",
                                               tree, help);
    assert_int_equal(copied.exit_code, 0);
    command_free(&copied);
    free(help);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    struct error error;
    assert_true(directory_remove(tree, &error));
    free(tree);
    return 0;
}

/* bash workshop ARGUMENTS in the tree, never installing anything; `environment` is NAME=VALUE words or "". */
static struct command_result workshop_in(const char *environment, const char *arguments) {
    return command_run(120, "cd '%s' && env WORKSHOP_NO_INSTALL=1 %s bash workshop %s", tree, environment,
                       arguments);
}

static struct command_result workshop(const char *arguments) {
    return workshop_in("", arguments);
}

static void check_succeeds(struct command_result result) {
    if (result.exit_code != 0) fail_msg("exit code %d: %s%s", result.exit_code, result.out, result.err);
}

/* One line of error, with this part. */
static void check_error(const char *arguments, const char *part) {
    struct command_result result = workshop(arguments);
    if (result.exit_code != 1 || strncmp(result.err, "error: ", 7) != 0 || !strstr(result.err, part) ||
        strchr(result.err, '\n') != result.err + strlen(result.err) - 1)
        fail_msg("workshop %s: exit code %d: %s", arguments, result.exit_code, result.err);
    assert_string_equal(result.out, "");
    command_free(&result);
}

static void help_names_everything(void **state) {
    (void)state;
    struct command_result all = workshop("--help");
    check_succeeds(all);
    static const char *const commands[] = {"run", "bench", "test", "build", "pretrain", "fetch", "diff"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char *usage = xformat("./workshop %s", commands[i]), *arguments = xformat("%s --help", commands[i]);
        assert_true(lines_with(all.out, usage) > 0);
        struct command_result one = workshop(arguments);
        check_succeeds(one);
        assert_ptr_equal(strstr(one.out, usage), one.out);
        command_free(&one);
        free(usage);
        free(arguments);
    }
    assert_non_null(strstr(all.out, "01-first 02-second"));
    command_free(&all);
}

static void mistakes_are_one_line(void **state) {
    (void)state;
    check_error("frobnicate", "no command 'frobnicate'");
    check_error("run", "run which stage? 01-first 02-second");
    check_error("run 7", "no stage '7' here: the stages are 01-first 02-second");
    check_error("run 01-fist", "no stage '01-fist'");
    check_error("run 1 --ranks 0", "--ranks 0");
    check_error("run 1 --ranks many", "--ranks many");
    check_error("run 1 --ranks", "--ranks needs a value");
    check_error("run 1 --device tpu", "--device tpu");
    check_error("bench 7", "no stage '7' here");
    check_error("bench 1 --device", "--device needs a value");
    check_error("bench 1 --device tpu", "--device tpu");
    check_error("build --preset cpu", "build takes no '--preset'");
    check_error("diff", "diff takes one stage or two");
    check_error("diff 1 2 1", "diff takes one stage or two");
    check_error("diff 1", "01-first is the first stage");
    check_error("diff 0", "no stage '0'");
    check_error("diff --color", "no stage '--color'");
    check_error("diff 1 9", "no stage '9'");
}

static void diff_shows_what_is_added(void **state) {
    (void)state;
    put("02-second/half.h", "/* the idea's module */\n");
    put("02-second/half.c", "#include \"02-second/half.h\"\n");
    const char *const same[] = {"diff 01 2", "diff 01-first 02-second/", "diff 2"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct command_result result = workshop(same[i]);
        check_succeeds(result);
        const char *top = "added: 02-second/half.h and .c\n--- 01-first/train.c\n+++ 02-second/train.c\n";
        assert_ptr_equal(strstr(result.out, top), result.out);
        assert_non_null(strstr(result.out, "\n+/* the second stage's idea */\n"));
        assert_int_equal(lines_with(result.out, "added: "), 1);
        assert_null(strstr(result.out, "\n-#")); /* nothing is taken away */
        assert_null(strchr(result.out, '\033')); /* colours are for terminals */
        command_free(&result);
    }
    struct command_result result = workshop("diff 2 1"); /* backwards: what the first one lacks */
    check_succeeds(result);
    assert_ptr_equal(strstr(result.out, "--- 02-second/train.c\n+++ 01-first/train.c\n"), result.out);
    assert_non_null(strstr(result.out, "\n-/* the second stage's idea */\n"));
    command_free(&result);
    result = workshop("diff 01-first 01");
    check_succeeds(result);
    assert_string_equal(result.out, "");
    command_free(&result);
}

/* Between stages that are no neighbours, the modules of all that come after the first one. */
static void diff_names_all_modules_between(void **state) {
    (void)state;
    folder("03-third");
    put("03-third/train.c", program);
    put("02-second/half.h", "");
    put("03-third/row.h", "");
    put("03-third/table.h", "");
    struct command_result result = workshop("diff 1 3");
    check_succeeds(result);
    assert_string_equal(result.out, "added: 02-second/half.h and .c\nadded: 03-third/row.h and .c\n"
                                    "added: 03-third/table.h and .c\n");
    command_free(&result);
    result = workshop("diff 3"); /* the stage before is the second */
    check_succeeds(result);
    const char *top = "added: 03-third/row.h and .c\nadded: 03-third/table.h and .c\n--- 02-second/train.c\n";
    assert_ptr_equal(strstr(result.out, top), result.out);
    command_free(&result);
}

/* On a terminal, which script(1) plays, the diff is coloured. */
static void diff_is_coloured_on_a_terminal(void **state) {
    (void)state;
    if (system("command -v script >/dev/null") != 0) skip();
    struct command_result result =
        command_run(30, "cd '%s' && script -qec 'bash workshop diff 1 2' /dev/null </dev/null", tree);
    check_succeeds(result);
    assert_non_null(strstr(result.out, "\033[32m+/* the second stage's idea */"));
    command_free(&result);
}

static void check_run(const char *arguments, int exit_code, const char *out) {
    struct command_result result = workshop(arguments);
    if (result.exit_code != exit_code || strcmp(result.out, out) != 0)
        fail_msg("workshop %s: exit code %d, printed \"%s\": %s", arguments, result.exit_code, result.out,
                 result.err);
    command_free(&result);
}

static void runs_are_numbered(void **state) {
    (void)state;
    check_run("run 1 --epochs 3 --leave runs/01-first-1/x", 0,
              "--epochs 3 --leave runs/01-first-1/x --output_dir runs/01-first-1\n");
    check_run("run 01-first/", 0, "--output_dir runs/01-first-2\n");
    check_run("run 01", 0, "--output_dir runs/01-first-2\n"); /* nothing had come of the last one */
    check_run("run 02 --seed=4", 0, "--seed 4 --output_dir runs/02-second-1\n");
    check_run("run 2 --output_dir elsewhere --text 'two words'", 0,
              "--output_dir elsewhere --text two words\n");
    put("settings.json", "{\"output_dir\": \"mine\"}");
    check_run("run 2 --config settings.json", 0, "--config settings.json\n");
    check_run("run 1 --help", 0, "--help\n");
}

static void exit_code_is_the_program_s(void **state) {
    (void)state;
    check_run("run 1 --exit 3", 3, "--exit 3 --output_dir runs/01-first-1\n");
    struct command_result result = workshop("run 1 --ranks 2 --exit 3 --output_dir x");
    assert_int_equal(result.exit_code, 3);
    assert_int_equal(lines_with(result.out, "--exit 3 --output_dir x"), 2);
    assert_null(strstr(result.err, "mpirun")); /* it keeps its comments to itself */
    assert_null(strstr(result.err, "Primary job"));
    command_free(&result);
}

/* Nobody but ./workshop can say that a rank was killed: in one line, as mpirun keeps quiet. */
static void killed_ranks_are_told(void **state) {
    (void)state;
    struct command_result built = workshop("run 1 --output_dir x");
    check_succeeds(built);
    command_free(&built);
    struct command_result result = workshop("run 1 --ranks 2 --die 9 --output_dir x");
    assert_int_equal(result.exit_code, 128 + 9);
    const char *expected =
        "error: a rank was ended by signal 9 (SIGKILL), and with it the others: no memory left";
    if (strncmp(result.err, expected, strlen(expected)) != 0 || strchr(result.err, '\n')[1])
        fail_msg("it says: %s", result.err);
    command_free(&result);
}

static void tests_of_both_backends(void **state) {
    (void)state;
    struct command_result result = workshop("test");
    check_succeeds(result);
    if (lines_with(result.out, "100% tests passed") != 2) fail_msg("%s", result.out);
    static const char *const all[] = {"one_of_cpu", "two_of_cpu", "one_of_dry", "two_of_dry"};
    for (int i = 0; i < 4; i++) assert_non_null(strstr(result.out, all[i]));
    command_free(&result);
    result = workshop("test -R one_of_cpu");
    check_succeeds(result);
    if (lines_with(result.out, "100% tests passed") != 1) fail_msg("%s", result.out);
    assert_non_null(strstr(result.out, "one_of_cpu"));
    assert_null(strstr(result.out, "two_of_cpu"));
    command_free(&result);
}

static void broken_source_is_shown(void **state) {
    (void)state;
    put("01-first/train.c", "int main(void) { return nothing; }\n");
    struct command_result result = workshop("run 1");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.err, "nothing"));
    assert_non_null(strstr(result.err, "/build/cpu does not build"));
    command_free(&result);
    put("01-first/train.c", program); /* and mended, it runs */
    check_run("run 1 --output_dir x", 0, "--output_dir x\n");
}

/* A user who may not install: with a PATH of everyday tools only, and with a CMake that finds no library. */
static void missing_is_told(void **state) {
    (void)state;
    folder("bin");
    struct command_result result = command_run(
        10,
        "cd '%s/bin' && for tool in bash env dirname readlink awk grep sed sort paste head cat mkdir touch "
        "flock; do ln -s \"$(command -v $tool)\" . || exit; done",
        tree);
    check_succeeds(result);
    command_free(&result);
    char *path = xformat("CC= CMAKE_GENERATOR= PATH='%s/bin'", tree);
    result = workshop_in(path, "run 1");
    free(path);
    assert_int_equal(result.exit_code, 1);
    const char *missing = "error: missing here: gcc libc6-dev cmake make";
    if (strncmp(result.err, missing, strlen(missing)) != 0) fail_msg("no '%s': %s", missing, result.err);
    assert_non_null(strstr(result.err, "sudo apt-get install -y gcc libc6-dev cmake make"));
    assert_non_null(strstr(result.err, "module load cmake gcc gmake"));
    assert_non_null(strstr(result.err, "spack install cmake gcc gmake"));
    assert_non_null(strstr(result.err, "conda install -y -c conda-forge c-compiler cmake make"));
    command_free(&result);

    folder("common/cmake");
    copy("CMakeLists.txt");
    copy("common/cmake/dependencies.cmake");
    put("blind.cmake", "set(CMAKE_FIND_ROOT_PATH /nonexistent)\n"
                       "set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)\n"
                       "set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)\n");
    char *toolchain = xformat("CMAKE_TOOLCHAIN_FILE='%s/blind.cmake'", tree);
    result = workshop_in(toolchain, "build");
    free(toolchain);
    assert_int_equal(result.exit_code, 1);
    assert_ptr_equal(strstr(result.err, "error: missing here: libjansson-dev uthash-dev libcmocka-dev"),
                     result.err);
    assert_non_null(strstr(result.err, "libdnnl-dev"));
    assert_non_null(strstr(result.err, "uthash.h"));
    assert_int_equal(lines_with(result.err, "rror"), 1); /* told once, in words */
    command_free(&result);
}

/* bin, libexec and share as cmake --install lays them. */
static void installed_copy(void **state) {
    (void)state;
    struct command_result result =
        command_run(10,
                    "cd '%s' && mkdir -p copy/bin copy/libexec/workshop/cpu/01-first copy/share/workshop && "
                    "cp workshop copy/bin && "
                    "cp -r 01-first 02-second copy/share/workshop && rm CMakeLists.txt && "
                    "printf '#!/bin/sh\\necho first \"$@\"\\n' > copy/libexec/workshop/cpu/01-first/train && "
                    "chmod +x copy/libexec/workshop/cpu/01-first/train copy/bin/workshop && ln -s "
                    "copy/bin/workshop link && "
                    "./link run 1",
                    tree);
    check_succeeds(result);
    assert_string_equal(result.out, "first --output_dir runs/01-first-1\n");
    command_free(&result);
    result = command_run(10, "cd '%s' && ./link diff 1 2 && ./link build", tree);
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.out, "+/* the second stage's idea */"));
    assert_non_null(strstr(result.err, "error: this is an installed copy"));
    command_free(&result);
}

#define WORKSHOP_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORKSHOP_TEST(help_names_everything),
        WORKSHOP_TEST(mistakes_are_one_line),
        WORKSHOP_TEST(diff_shows_what_is_added),
        WORKSHOP_TEST(diff_names_all_modules_between),
        WORKSHOP_TEST(diff_is_coloured_on_a_terminal),
        WORKSHOP_TEST(runs_are_numbered),
        WORKSHOP_TEST(exit_code_is_the_program_s),
        WORKSHOP_TEST(killed_ranks_are_told),
        WORKSHOP_TEST(tests_of_both_backends),
        WORKSHOP_TEST(broken_source_is_shown),
        WORKSHOP_TEST(missing_is_told),
        WORKSHOP_TEST(installed_copy),
    };
    return cmocka_run_group_tests_name("workshop", tests, NULL, NULL);
}
