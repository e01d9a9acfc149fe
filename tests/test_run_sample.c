/*
 * The sample's model: the default run turns it from one that answers no held-out question into one that
 * answers most of them; and the text that it was pre-trained on is still the one that pretrain.py writes,
 * which stage 01 reads with the settings of pretrain.json.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/check.h"
#include "tests/support/command.h"
#include "tests/support/temporary.h"
#include "tests/support/training.h"

enum { UPDATES = 96 };

/* eval_loss was 1.96740 and 1.26839 on two cores in fp32; half precision and other sums move the third digit
 * after the point at most. */
static void default_run_teaches_to_answer(void **state) {
    (void)state;
    struct training run = training_run("01-baseline", 1,
                                       "--predict_with_generate --eval_strategy steps --eval_steps %d "
                                       "--save_strategy no --save_model false",
                                       UPDATES);
    const json_t *before = training_event(&run, "eval", 0), *after = training_event(&run, "eval", UPDATES);
    assert_true(fabs(training_number(before, "eval_loss") - 1.9674) < 0.005);
    assert_true(fabs(training_number(after, "eval_loss") - 1.2684) < 0.005);
    double first = training_number(before, "eval_exact_match"),
           last = training_number(after, "eval_exact_match");
    printf("[          ] exact match: %.0f%% before, %.0f%% after %d updates\n", first, last, UPDATES);
    assert_true(first < 10);
    assert_true(last > 60);
    training_free(&run);
}

static void pretraining_text_is_the_same(void **state) {
    (void)state;
    struct command_result python = command_run(60, "command -v python3");
    bool has_python = python.exit_code == 0;
    command_free(&python);
    if (!has_python) skip();
    char *folder = temporary_folder();
    struct command_result text =
        command_run(60, "python3 -B common/sample/pretrain.py '%s' 2 && cd '%s' && sha256sum pretrain.txt",
                    folder, folder);
    if (text.exit_code != 0) fail_msg("%s", text.err);
    assert_non_null(strstr(text.out, "250 texts"));
    assert_non_null(strstr(text.out, "55164d82257983d8af1640e63c55e26cb3069b9dd524175b4cc6a45c9737ef8e"));
    command_free(&text);
    struct training run = training_run("01-baseline", 1,
                                       "--config common/sample/pretrain.json --train_file %s/pretrain.txt "
                                       "--warmup_steps 0 --max_steps 2 --save_model false",
                                       folder);
    assert_true(training_number(training_event(&run, "run", -1), "train_examples") == 250);
    assert_true(training_number(training_event(&run, "step", 2), "loss") <
                training_number(training_event(&run, "step", 1), "loss"));
    training_free(&run);
    temporary_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_run_teaches_to_answer),
        cmocka_unit_test(pretraining_text_is_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
