/* The update: loss scale, clipping and schedule as a state machine, AdamW against its formula in double. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kernel_checks.h"

static const enum dtype dtypes[] = {FP32, BF16, FP16};
enum { DTYPES = 3 };

/* ---- the state ---- */

static struct update_state *state_to_device(const struct update_state *state) {
    size_t doubles = (sizeof *state + 7) / 8;
    struct update_state *device = to_device(FP64, NULL, doubles);
    copy_to_device(kernels_stream(), device, state, sizeof *state);
    stream_synchronize(kernels_stream());
    return device;
}

static struct update_state state_from_device(const struct update_state *device) {
    struct update_state state;
    copy_to_host(kernels_stream(), &state, device, sizeof state);
    stream_synchronize(kernels_stream());
    return state;
}

static const double rates[] = {0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3};

/* update_prepare() with this Σ of squares. */
static struct update_state prepared(struct update_state state, const struct update_rule *rule,
                                    double squares) {
    state.square_sum = squares;
    struct update_state *device = state_to_device(&state);
    void *schedule = to_device(FP64, rates, 8);
    update_prepare(kernels_stream(), device, rule, schedule);
    state = state_from_device(device);
    release(device);
    release(schedule);
    return state;
}

static void assert_near(double got, double expected, double relative) {
    if (!(fabs(got - expected) <= relative * fabs(expected))) fail_msg("%.12g, not %.12g", got, expected);
}

static void test_begin(void **cmocka_state) {
    (void)cmocka_state;
    struct update_state state = {
        .loss_sum = 3, .square_sum = 4, .loss_scale = 8, .applied = 5, .clean_updates = 2};
    struct update_state *device = state_to_device(&state);
    update_begin(kernels_stream(), device);
    state = state_from_device(device);
    assert_true(state.loss_sum == 0 && state.square_sum == 0);
    assert_true(state.loss_scale == 8 && state.applied == 5 && state.clean_updates == 2);
    release(device);
}

static void test_schedule_and_corrections(void **cmocka_state) {
    (void)cmocka_state;
    const struct update_rule rule = {.beta1 = 0.9, .beta2 = 0.999};
    struct update_state state = {.loss_scale = 1};
    for (int t = 1; t <= 8; t++) {
        state = prepared(state, &rule, 9);
        assert_true(state.learning_rate == rates[t - 1] && state.applied == t && !state.skip);
        assert_near(state.correction1, 1 - pow(0.9, t), 1e-7);
        assert_near(state.correction2, 1 - pow(0.999, t), 1e-7);
        assert_true(state.grad_norm == 3 && state.gradient_multiplier == 1); /* no clipping is asked for */
        assert_true(state.loss_scale == 1 && state.used_loss_scale == 1);
    }
}

static void test_clipping(void **cmocka_state) {
    (void)cmocka_state;
    struct update_rule rule = {.max_grad_norm = 2, .beta1 = 0.9, .beta2 = 0.999};
    struct update_state state = {.loss_scale = 1};
    assert_near(prepared(state, &rule, 64).gradient_multiplier, 2 / (8 + 1e-6), 1e-7);
    assert_true(prepared(state, &rule, 1).gradient_multiplier == 1);
    assert_true(prepared(state, &rule, 0).gradient_multiplier == 1);
    state.loss_scale = 1024;
    struct update_state scaled = prepared(state, &rule, 1024.0 * 1024 * 64);
    assert_true(scaled.grad_norm == 8 && scaled.used_loss_scale == 1024);
    assert_near(scaled.gradient_multiplier, 2 / (8 + 1e-6) / 1024, 1e-7);
    /* Without a loss scale to blame, what is not finite stays to be seen, as in PyTorch. */
    state.loss_scale = 1;
    struct update_state infinite = prepared(state, &rule, INFINITY);
    assert_true(!infinite.skip && infinite.applied == 1 && infinite.grad_norm == INFINITY);
    assert_true(infinite.gradient_multiplier == 0);
    struct update_state nan = prepared(state, &rule, NAN);
    assert_true(!nan.skip && nan.applied == 1 && isnan(nan.gradient_multiplier));
}

static void test_loss_scale(void **cmocka_state) {
    (void)cmocka_state;
    const struct update_rule rule = {
        .max_grad_norm = 1, .beta1 = 0.9, .beta2 = 0.999, .dynamic_loss_scale = true, .scale_window = 3};
    /* What arrives, and what must then be: scale used, scale next, skipped, applied, clean updates. */
    const struct {
        double squares, used, next;
        bool skip;
        int applied, clean;
    } steps[] = {
        {INFINITY, 8, 4, true, 0, 0}, {NAN, 4, 2, true, 0, 0},       {4, 2, 2, false, 1, 1},
        {4, 2, 2, false, 2, 2},       {4, 2, 4, false, 3, 0},        {4, 4, 4, false, 4, 1},
        {4, 4, 4, false, 5, 2},       {INFINITY, 4, 2, true, 5, 0},  {4, 2, 2, false, 6, 1},
        {INFINITY, 2, 1, true, 6, 0}, {-INFINITY, 1, 1, true, 6, 0}, {4, 1, 1, false, 7, 1},
    };
    struct update_state state = {.loss_scale = 8};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        double rate = rates[state.applied];
        state = prepared(state, &rule, steps[i].squares);
        assert_true(state.used_loss_scale == (float)steps[i].used &&
                    state.loss_scale == (float)steps[i].next);
        assert_true(!!state.skip == steps[i].skip && state.applied == steps[i].applied);
        assert_int_equal(state.clean_updates, steps[i].clean);
        assert_true(state.learning_rate == rate); /* a skipped update does not move in the schedule */
        if (state.skip) continue;
        double norm = 2 / steps[i].used;
        assert_true(state.grad_norm == norm);
        assert_near(state.gradient_multiplier, fmin(1, 1 / (norm + 1e-6)) / steps[i].used, 1e-7);
        assert_near(state.correction1, 1 - pow(0.9, state.applied), 1e-7);
    }
}

/* ---- AdamW ---- */

struct arrays {
    double *parameters, *m, *v;
};

/* torch.optim.AdamW, element by element. */
static void adamw_of(struct arrays *a, const double *gradient, size_t count, size_t decayed, double rate,
                     int t, double multiplier, const struct update_rule *rule) {
    for (size_t i = 0; i < count; i++) {
        double g = gradient[i] * multiplier;
        if (i < decayed) a->parameters[i] *= 1 - rate * rule->weight_decay;
        a->m[i] = rule->beta1 * a->m[i] + (1 - rule->beta1) * g;
        a->v[i] = rule->beta2 * a->v[i] + (1 - rule->beta2) * g * g;
        double m = a->m[i] / (1 - pow(rule->beta1, t)), v = a->v[i] / (1 - pow(rule->beta2, t));
        a->parameters[i] -= rate * m / (sqrt(v) + rule->epsilon);
    }
}

/* Updates of `count` elements, in which the seventh has no gradient at all. */
static void check_adamw(enum dtype dtype, size_t count, size_t decayed) {
    struct stream *stream = kernels_stream();
    const struct update_rule rule = {
        .max_grad_norm = 1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1};
    struct arrays a = {random_values(FP32, count, 1), xcalloc(count + 1, 8), xcalloc(count + 1, 8)};
    float *master = to_device(FP32, a.parameters, count), *m = to_device(FP32, a.m, count);
    float *v = to_device(FP32, a.v, count);
    void *parameters = dtype == FP32 ? (void *)master : to_device(dtype, NULL, count);
    struct update_state state = {.loss_scale = 4};
    for (int t = 1; t <= 6; t++) {
        double *gradient = random_values(dtype, count, pow(10, t - 4));
        if (count > 7) gradient[7] = 0;
        state = prepared(state, &rule, 16 * 25); /* norm 5: clipped to a fifth */
        void *device_gradient = to_device(dtype, gradient, count);
        struct update_state *device = state_to_device(&state);
        adamw(stream, dtype, parameters, master, m, v, device_gradient, count, decayed, device, &rule);
        adamw_of(&a, gradient, count, decayed, rates[t - 1], t, 1 / (5 + 1e-6) / 4, &rule);
        release(device);
        release(device_gradient);
        free(gradient);
    }
    check_device("m of adamw", FP32, m, a.m, count, 1e-6);
    check_device("v of adamw", FP32, v, a.v, count, 1e-6);
    check_device("master of adamw", FP32, master, a.parameters, count, 1e-6);
    double *exact = from_device(FP32, master, count), *stored = from_device(dtype, parameters, count);
    for (size_t i = 0; i < count; i++) assert_true(stored[i] == rounded_to(dtype, exact[i]));
    if (dtype != FP32) release(parameters);
    void *const blocks[] = {master, m, v};
    for (int i = 0; i < 3; i++) release(blocks[i]);
    double *const values[] = {a.parameters, a.m, a.v, exact, stored};
    for (int i = 0; i < 5; i++) free(values[i]);
}

static void test_adamw(void **cmocka_state) {
    (void)cmocka_state;
    static const size_t sizes[][2] = {{0, 0}, {1, 0}, {1, 1}, {100, 33}, {40000, 20011}, {40000, 40000}};
    for (int d = 0; d < DTYPES; d++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            check_adamw(dtypes[d], sizes[i][0], sizes[i][1]);
}

static void test_skipped(void **cmocka_state) {
    (void)cmocka_state;
    enum { COUNT = 50 };
    const struct update_rule rule = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
    const struct update_state state = {
        .skip = 1, .gradient_multiplier = 1, .learning_rate = 1, .correction1 = 1, .correction2 = 1};
    double *x = random_values(FP32, COUNT, 1), *half = random_values(FP16, COUNT, 1);
    float *master = to_device(FP32, x, COUNT), *m = to_device(FP32, x, COUNT), *v = to_device(FP32, x, COUNT);
    void *parameters = to_device(FP16, half, COUNT), *gradient = to_device(FP16, half, COUNT);
    struct update_state *device = state_to_device(&state);
    adamw(kernels_stream(), FP16, parameters, master, m, v, gradient, COUNT, COUNT / 2, device, &rule);
    check_device("master", FP32, master, x, COUNT, 0);
    check_device("m", FP32, m, x, COUNT, 0);
    check_device("v", FP32, v, x, COUNT, 0);
    check_device("parameters", FP16, parameters, half, COUNT, 0);
    void *const blocks[] = {master, m, v, parameters, gradient, device};
    for (int i = 0; i < 6; i++) release(blocks[i]);
    free(x);
    free(half);
}

/* ---- the same bits ---- */

enum { BITS_COUNT = 70001 };

static void one_update(struct stream *stream, void *out) {
    const struct update_rule rule = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
    const struct update_state state = {
        .gradient_multiplier = 0.5f, .learning_rate = 0.1, .correction1 = 0.1f, .correction2 = 0.01f};
    float *blocks[4];
    for (int i = 0; i < 4; i++) {
        double *x = random_values(FP32, BITS_COUNT, 1);
        for (size_t j = 0; j < BITS_COUNT; j++) x[j] = fabs(x[j]);
        blocks[i] = to_device(FP32, x, BITS_COUNT);
        free(x);
    }
    struct update_state *device = state_to_device(&state);
    adamw(stream, FP32, blocks[0], blocks[0], blocks[1], blocks[2], blocks[3], BITS_COUNT, 30001, device,
          &rule);
    for (int i = 0; i < 3; i++)
        copy_to_host(stream, (float *)out + (size_t)i * BITS_COUNT, blocks[i], BITS_COUNT * sizeof(float));
    stream_synchronize(stream);
    for (int i = 0; i < 4; i++) release(blocks[i]);
    release(device);
}

static void test_same_bits(void **cmocka_state) {
    (void)cmocka_state;
    check_same_bits("adamw", one_update, 3 * BITS_COUNT * sizeof(float), true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin),    cmocka_unit_test(test_schedule_and_corrections),
        cmocka_unit_test(test_clipping), cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_adamw),    cmocka_unit_test(test_skipped),
        cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
