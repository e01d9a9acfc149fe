/* Medians and quartiles of updates' times. */
#include "common/train/update_times.h"

#include "common/base/error.h"
#include "tests/support/check.h"

static double number(json_t *object, const char *key) {
    assert_true(json_is_number(json_object_get(object, key)));
    return json_number_value(json_object_get(object, key));
}

static void add(struct update_times *times, double forward, double optimizer) {
    struct phase_times update = {.total = forward + optimizer};
    update.phase[PHASE_FORWARD] = forward;
    update.phase[PHASE_OPTIMIZER] = optimizer;
    update_times_add(times, &update);
}

static void quantiles_of_few_values(void **state) {
    (void)state;
    double values[] = {7, 1, 3, 5};
    assert_float_equal(quantile(values, 4, 0), 1, 0);
    assert_float_equal(quantile(values, 4, 0.5), 4, 1e-12);
    assert_float_equal(quantile(values, 4, 0.25), 2.5, 1e-12);
    assert_float_equal(quantile(values, 4, 1), 7, 0);
    assert_float_equal(quantile(values, 1, 0.75), 1, 0);
}

static void nothing_is_null(void **state) {
    (void)state;
    struct update_times times = {0};
    assert_true(json_is_null(update_times_json(&times)));
    assert_true(json_is_null(update_times_phases_json(&times)));
    update_times_free(&times);
}

static void warm_up_is_forgotten(void **state) {
    (void)state;
    struct update_times times = {0};
    add(&times, 900, 100);
    update_times_restart(&times);
    for (int i = 0; i < 5; i++) add(&times, 10 + i, 40 - 2 * i);
    json_t *whole = update_times_json(&times), *phases = update_times_phases_json(&times);
    assert_float_equal(number(whole, "median"), 48, 1e-12);
    assert_float_equal(number(whole, "lower_quartile"), 47, 1e-12);
    assert_float_equal(number(whole, "upper_quartile"), 49, 1e-12);
    assert_float_equal(number(whole, "updates"), 5, 0);
    assert_float_equal(number(phases, "forward"), 12, 1e-12);
    assert_float_equal(number(phases, "optimizer"), 36, 1e-12);
    assert_float_equal(number(phases, "communication_exposed"), 0, 0);
    assert_int_equal(json_object_size(phases), PHASES);
    json_decref(whole);
    json_decref(phases);
    update_times_free(&times);
}

/* Of a long run the last ones count. */
static void the_last_are_kept(void **state) {
    (void)state;
    struct update_times times = {0};
    for (int i = 0; i < 100; i++) add(&times, 1000, 0);
    for (int i = 0; i < UPDATE_TIMES_KEPT; i++) add(&times, 1, 0);
    json_t *whole = update_times_json(&times);
    assert_float_equal(number(whole, "upper_quartile"), 1, 0);
    assert_float_equal(number(whole, "updates"), UPDATE_TIMES_KEPT, 0);
    json_decref(whole);
    update_times_free(&times);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_of_few_values),
        cmocka_unit_test(nothing_is_null),
        cmocka_unit_test(warm_up_is_forgotten),
        cmocka_unit_test(the_last_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
