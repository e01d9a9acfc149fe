/* What two levels gain behind a slow network: bench_levels on two nodes of two ranks that this machine plays,
 * with 1 Gbit/s between them. */
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

#include "common/device/device.h"
#include "tests/support/command.h"

/* A line of the table: "04 two levels      967.8 ms   a rank sends  119.75 MB inside, …". */
struct line {
    double milliseconds, inside, across, gain;
};

static struct line find_line(const char *table, const char *name) {
    struct line line = {0};
    const char *at = strstr(table, name);
    if (!at) fail_msg("no line '%s' in:\n%s", name, table);
    int found = sscanf(at + strlen(name), "%lf ms a rank sends %lf MB inside, %lf MB across %lf",
                       &line.milliseconds, &line.inside, &line.across, &line.gain);
    if (found != 4) fail_msg("line '%s' is not as expected in:\n%s", name, table);
    return line;
}

/* In one level a node's two ranks each take half of the model across in a reduce-scatter or gather; the link
 * bounds the gain to 2. */
static void test_two_levels_gain(void **state) {
    (void)state;
    if (strcmp(device_backend(), "cpu") != 0) skip();
    struct command_result r = command_run(240, COMMAND_MPIRUN BUILD_DIR "/tests/bench_levels 2 1 2", 4);
    assert_string_equal(r.err, "");
    assert_int_equal(r.exit_code, 0);
    print_message("%s", r.out);
    struct line flat = find_line(r.out, "03 one level "), levels = find_line(r.out, "03 two levels ");
    assert_true(levels.gain >= 1.6 && levels.gain < 2.1);
    assert_true(levels.across * 1.99 < flat.across && flat.across < levels.across * 2.01);
    double seconds = 2 * flat.across * 1e6 / 125e6; /* both ranks share the link */
    assert_true(flat.milliseconds > 990 * seconds && flat.milliseconds < 1600 * seconds);
    flat = find_line(r.out, "04 one level ");
    levels = find_line(r.out, "04 two levels ");
    struct line second = find_line(r.out, "04 two levels, second cut");
    assert_true(levels.gain >= 1.6 && levels.gain < 2.1);
    assert_true(second.gain >= 2.2);
    assert_true(second.across < 0.75 * levels.across);
    command_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_levels_gain)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
