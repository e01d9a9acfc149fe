/* Learning rates against those of Transformers 5.23 (get_linear_schedule_with_warmup and its siblings, asked
 * for the rate before each update and after the last): the same doubles. */
#include "common/train/schedule.h"
#include "tests/support/check.h"

struct schedule_case {
    enum scheduler scheduler;
    double learning_rate;
    long long warmup, total;
    double expected[12]; /* [total + 1] */
};

static const struct schedule_case cases[] = {
    {SCHEDULER_LINEAR,
     5e-05,
     0,
     7,
     {5.0000000000000002e-05, 4.2857142857142856e-05, 3.5714285714285717e-05, 2.8571428571428571e-05,
      2.1428571428571428e-05, 1.4285714285714285e-05, 7.1428571428571427e-06, 0}},
    {SCHEDULER_LINEAR,
     0.001,
     3,
     10,
     {0, 0.00033333333333333332, 0.00066666666666666664, 0.001, 0.0008571428571428571, 0.00071428571428571429,
      0.00057142857142857136, 0.00042857142857142855, 0.00028571428571428568, 0.00014285714285714284, 0}},
    {SCHEDULER_LINEAR,
     0.0003,
     5,
     5,
     {0, 5.9999999999999995e-05, 0.00011999999999999999, 0.00017999999999999998, 0.00023999999999999998, 0}},
    {SCHEDULER_LINEAR,
     2e-05,
     4,
     3,
     {0, 5.0000000000000004e-06, 1.0000000000000001e-05, 1.5000000000000002e-05}},
    {SCHEDULER_COSINE,
     5e-05,
     0,
     7,
     {5.0000000000000002e-05, 4.7524221697560477e-05, 4.0587245046468342e-05, 3.0563023348907862e-05,
      1.9436976651092144e-05, 9.4127549535316634e-06, 2.4757783024395241e-06, 0}},
    {SCHEDULER_COSINE,
     0.001,
     3,
     10,
     {0, 0.00033333333333333332, 0.00066666666666666664, 0.001, 0.00095048443395120952,
      0.00081174490092936679, 0.00061126046697815718, 0.00038873953302184284, 0.00018825509907063325,
      4.9515566048790485e-05, 0}},
    {SCHEDULER_COSINE,
     0.0003,
     5,
     5,
     {0, 5.9999999999999995e-05, 0.00011999999999999999, 0.00017999999999999998, 0.00023999999999999998,
      0.00029999999999999997}},
    {SCHEDULER_COSINE,
     2e-05,
     4,
     3,
     {0, 5.0000000000000004e-06, 1.0000000000000001e-05, 1.5000000000000002e-05}},
    {SCHEDULER_CONSTANT,
     5e-05,
     0,
     7,
     {5.0000000000000002e-05, 5.0000000000000002e-05, 5.0000000000000002e-05, 5.0000000000000002e-05,
      5.0000000000000002e-05, 5.0000000000000002e-05, 5.0000000000000002e-05, 5.0000000000000002e-05}},
    {SCHEDULER_CONSTANT,
     0.001,
     3,
     10,
     {0, 0.00033333333333333332, 0.00066666666666666664, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001,
      0.001}},
    {SCHEDULER_CONSTANT,
     0.0003,
     5,
     5,
     {0, 5.9999999999999995e-05, 0.00011999999999999999, 0.00017999999999999998, 0.00023999999999999998,
      0.00029999999999999997}},
    {SCHEDULER_CONSTANT,
     2e-05,
     4,
     3,
     {0, 5.0000000000000004e-06, 1.0000000000000001e-05, 1.5000000000000002e-05}},
};

static void test_as_transformers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct schedule_case *c = &cases[i];
        for (long long done = 0; done <= c->total; done++) {
            double rate = schedule_learning_rate(c->scheduler, c->learning_rate, done, c->warmup, c->total);
            if (rate != c->expected[done])
                fail_msg("case %zu, after %lld updates: %.17g instead of %.17g", i, done, rate,
                         c->expected[done]);
        }
    }
}

/* What a run's end may ask for: one update more than planned, a run without any. */
static void test_edges(void **state) {
    (void)state;
    assert_true(schedule_learning_rate(SCHEDULER_LINEAR, 1, 8, 0, 7) == 0);
    assert_true(schedule_learning_rate(SCHEDULER_LINEAR, 1, 0, 0, 0) == 0);
    assert_true(schedule_learning_rate(SCHEDULER_COSINE, 1, 0, 0, 0) == 1);
    assert_true(schedule_learning_rate(SCHEDULER_CONSTANT, 1, 1000000000, 0, 1) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_transformers),
        cmocka_unit_test(test_edges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
