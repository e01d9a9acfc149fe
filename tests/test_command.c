/* The helper that runs programs in tests: output, exit status, signals, time limit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "tests/support/command.h"

static void test_output(void **state) {
    (void)state;
    struct command_result r = command_run(10, "echo one; echo two >&2; cat; exit %d", 3);
    assert_string_equal(r.out, "one\n");
    assert_string_equal(r.err, "two\n");
    assert_int_equal(r.exit_code, 3);
    assert_false(r.timed_out);
    command_free(&r);
}

static void test_much_output(void **state) {
    (void)state;
    struct command_result r =
        command_run(20, "head -c 3000000 /dev/zero | tr '\\0' x; yes | head -n 100000 >&2");
    assert_int_equal(r.out_size, 3000000);
    assert_int_equal(r.err_size, 200000);
    assert_int_equal(lines_with(r.err, "y"), 100000);
    command_free(&r);
}

static void test_signal(void **state) {
    (void)state;
    struct command_result r = command_run(10, "kill -SEGV $$");
    assert_int_equal(r.exit_code, 128 + 11);
    command_free(&r);
}

static void test_time_limit(void **state) {
    (void)state;
    struct command_result r = command_run(0.3, "echo before; sleep 30; echo after");
    assert_true(r.timed_out);
    assert_true(r.seconds < 5);
    assert_string_equal(r.out, "before\n");
    assert_int_not_equal(r.exit_code, 0);
    command_free(&r);
    /* Deaf to SIGTERM. */
    r = command_run(0.3, "trap '' TERM; while true; do sleep 0.1; done");
    assert_true(r.timed_out);
    assert_int_equal(r.exit_code, 128 + 9);
    assert_true(r.seconds < 10);
    command_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),
        cmocka_unit_test(test_much_output),
        cmocka_unit_test(test_signal),
        cmocka_unit_test(test_time_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
