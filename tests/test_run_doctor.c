/* ./workshop doctor on an installed copy of this build: all is well, or the fault that was planted is named,
 * in its line and in no other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"

static char *folder; /* kit/, the copy; here/, where the doctor is called */

static struct command_result shell(const char *command) {
    return command_run(120, "cd %s/here && %s", folder, command);
}

static void must(const char *command) {
    struct command_result result = shell(command);
    if (result.exit_code != 0) fail_msg("%s: exit code %d: %s", command, result.exit_code, result.err);
    command_free(&result);
}

/* `before` stands in front of the command ("PATH=… "). */
static struct command_result doctor(const char *before, const char *arguments) {
    return command_run(120, "cd %s/here && %s ../kit/bin/workshop doctor %s", folder, before, arguments);
}

/* One line is WRONG, names `what` and says `advice`. */
static void names_fault(const char *before, const char *arguments, const char *what, const char *advice) {
    struct command_result result = doctor(before, arguments);
    const char *line = strstr(result.out, "WRONG");
    if (result.exit_code != 1 || lines_with(result.out, "WRONG") != 1)
        fail_msg("exit code %d, expected one line on %s:\n%s%s", result.exit_code, what, result.out,
                 result.err);
    char *text = strndup(line, strcspn(line, "\n"));
    if (!strstr(text, what) || !strstr(text, advice))
        fail_msg("'%s' and '%s' are not in: %s", what, advice, text);
    free(text);
    command_free(&result);
}

static void test_all_is_well(void **state) {
    (void)state;
    struct command_result result = doctor("", "--model_name_or_path " SOURCE_DIR
                                              "/tests/fixtures/trainer-short/model --train_file " SOURCE_DIR
                                              "/tests/fixtures/trainer-short/train.json");
    if (result.exit_code != 0) fail_msg("exit code %d:\n%s%s", result.exit_code, result.out, result.err);
    assert_int_equal(lines_with(result.out, "WRONG"), 0);
    assert_int_equal(lines_with(result.out, "ok     a run on"), 2);
    assert_non_null(strstr(result.out, "all is well"));
    command_free(&result);
}

static void test_missing_library(void **state) {
    (void)state;
    must("cp -a ../kit ../without");
    must("sed -i s/libjansson[.]so/libmissing.so/ ../without/libexec/workshop/*/01-baseline/train");
    struct command_result result = shell("../without/bin/workshop doctor");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.out, "WRONG  libraries: "));
    assert_non_null(strstr(result.out, "libmissing.so"));
    command_free(&result);
    must("rm -r ../without");
}

static void test_nothing_built(void **state) {
    (void)state;
    must("cp -a ../kit ../empty && rm -r ../empty/libexec/workshop/*/*");
    struct command_result result = shell("../empty/bin/workshop doctor");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.out, "WRONG  programs: none in "));
    command_free(&result);
    must("rm -r ../empty");
}

static void test_broken_installation(void **state) {
    (void)state;
    must("cp -a ../kit ../broken && echo '{' >../broken/share/workshop/01-baseline/config.json");
    struct command_result result = shell("../broken/bin/workshop doctor");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.out, "WRONG  a run on one device: error: "));
    assert_non_null(strstr(result.out, "config.json"));
    command_free(&result);
    must("rm -r ../broken");
}

static void test_no_mpirun(void **state) {
    (void)state;
    must("mkdir ../bin && for f in /usr/local/bin/* /usr/bin/* /bin/*; do "
         "case $f in *mpirun*|*mpiexec*|*orterun*) ;; *) ln -sf $f ../bin/ ;; esac; done");
    names_fault("PATH=$PWD/../bin", "", "MPI", "load the MPI module");
}

static void test_wrong_folder_of_model(void **state) {
    (void)state;
    names_fault("HF_HOME=$PWD/nothing", "--model_name_or_path bigscience/bloom-560m", "model",
                "./workshop fetch bigscience/bloom-560m");
    names_fault("", "--model_name_or_path $PWD", "model", "has no config.json");
}

/* A copy of the fixture's model with something done to it. */
static void spoil(const char *command) {
    char *line = xformat("rm -rf model && cp -r %s model && chmod -R u+w model && cd model && %s",
                         SOURCE_DIR "/tests/fixtures/trainer-short/model", command);
    must(line);
    free(line);
}

static void test_spoiled_model(void **state) {
    (void)state;
    spoil("rm tokenizer.json");
    names_fault("", "--model_name_or_path model", "model", "has no tokenizer.json");
    spoil("truncate -s -1 $(ls *.safetensors | head -n 1)");
    names_fault("", "--model_name_or_path model", "model", "is not whole");
    spoil("rm *.safetensors");
    names_fault("", "--model_name_or_path model", "model", "safetensors");
    spoil("sed -i 's/\"bloom\"/\"llama\"/' config.json");
    names_fault("", "--model_name_or_path model", "model", "is not a BLOOM");
}

static void test_text(void **state) {
    (void)state;
    names_fault("", "--train_file squad.json", "text", "squad.json cannot be read");
    names_fault("", "--train_file " SOURCE_DIR "/tests/fixtures/trainer-short/model/config.json", "text",
                "is not SQuAD");
}

/* Not even root writes into a file as if it were a folder. */
static void test_no_permission(void **state) {
    (void)state;
    must("rm -rf runs && touch runs");
    names_fault("", "", "permission to write", "runs cannot be written");
    must("rm runs");
}

static void test_full_disk(void **state) {
    (void)state;
    must("mkdir -p ../full && printf '#!/bin/sh\\necho head\\necho disk 100 90 10 90%% /\\n' >../full/df && "
         "chmod +x ../full/df");
    names_fault("PATH=$PWD/../full:$PATH", "", "disk", "make room");
}

static void test_site(void **state) {
    (void)state;
    must("echo launcher=ssh >site.conf");
    struct command_result result = doctor("", "");
    assert_int_equal(result.exit_code, 1);
    assert_non_null(strstr(result.err, "launcher is srun or mpirun"));
    command_free(&result);
    must("rm site.conf");
}

static int setup(void **state) {
    (void)state;
    folder = temporary_folder();
    struct command_result result =
        command_run(60, "mkdir %1$s/here && cmake --install %2$s --prefix %1$s/kit", folder, BUILD_DIR);
    if (result.exit_code != 0) fail_msg("cmake --install: %s", result.err);
    command_free(&result);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    temporary_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_is_well),   cmocka_unit_test(test_missing_library),
        cmocka_unit_test(test_nothing_built), cmocka_unit_test(test_broken_installation),
        cmocka_unit_test(test_no_mpirun),     cmocka_unit_test(test_wrong_folder_of_model),
        cmocka_unit_test(test_spoiled_model), cmocka_unit_test(test_text),
        cmocka_unit_test(test_no_permission), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_site),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
