/* What two levels gain behind a slow network: bench_levels on two nodes of two ranks that this machine plays,
 * with 1 Gbit/s between them. */
#include "tests/support/check.h"

#include <stdio.h>
#include <string.h>

#include "common/device/device.h"
#include "tests/support/command.h"
#include "tests/support/training.h"

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

/* Any stage can be looked at on nodes that are declared: what it sends across is as predicted, and a slow
 * network lets that pass at its rate. */
static void test_declared_nodes(void **state) {
    (void)state;
    static const char *const collectives[] = {"reduce_scatter", "all_gather"};
    if (strcmp(device_backend(), "cpu") != 0) skip();
    struct training run = training_run(
        "04-zero3", 4,
        "--max_steps 2 --save_strategy no --eval_strategy no --save_model false --ranks_per_node "
        "2 --slow_network 0.4 --train_file synthetic:32x32 --gradient_accumulation_steps 1");
    const json_t *sent = training_event(&run, "communication", -1);
    double across = 0;
    for (size_t i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s.across_bytes", collectives[i]);
        double bytes = training_number(sent, path);
        snprintf(path, sizeof path, "%s.predicted_across_bytes", collectives[i]);
        assert_float_equal(bytes / training_number(sent, path), 1, 0.02);
        snprintf(path, sizeof path, "%s.inside_bytes", collectives[i]);
        assert_float_equal(bytes / training_number(sent, path), 2, 1e-9);
        across += bytes;
    }
    double seconds = training_number(training_event(&run, "summary", -1), "train_runtime");
    assert_true(seconds > across / 25e6); /* half of 50 MB/s is a rank's */
    training_free(&run);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_levels_gain),
                                       cmocka_unit_test(test_declared_nodes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
