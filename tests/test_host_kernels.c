/* Kernels on host memory: AdamW and sums against plain references, and the same bits however they are made:
 * by any instruction set, any number of threads, from any address. */
#include "tests/support/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/device/host_kernels.h"
#include "tests/support/kernel_checks.h"

static const char *const paths[] = {"plain", "avx2", "avx512"};
enum { PATHS = 3, MOST_THREADS = 4 };

/* Storage types of parameters and gradients. */
static const enum dtype types[][2] = {{FP32, FP32}, {BF16, BF16}, {FP16, FP16}, {BF16, FP32}, {FP16, FP32}};
enum { TYPES = 5 };

/* ---- host arrays, at any offset from an aligned address ---- */

struct array {
    char *block;
    void *at;
    size_t bytes;
};

static struct array open_array(enum dtype dtype, size_t count, size_t offset) {
    struct array array = {.bytes = count * dtype_size(dtype)};
    assert_int_equal(posix_memalign((void **)&array.block, 64, array.bytes + 256), 0);
    memset(array.block, 0x5a, array.bytes + 256);
    array.at = array.block + 64 + offset * dtype_size(dtype);
    return array;
}

/* Nothing before or behind the elements was written. */
static void check_margins(const struct array *array) {
    size_t before = (size_t)((char *)array->at - array->block), size = array->bytes + 256;
    for (size_t i = 0; i < size; i++)
        if ((i < before || i >= before + array->bytes) && array->block[i] != 0x5a)
            fail_msg("byte %zd beside an array of %zu is overwritten", (ptrdiff_t)(i - before), array->bytes);
}

static void put_value(enum dtype dtype, void *array, size_t i, double value) {
    if (dtype == FP32)
        ((float *)array)[i] = (float)value;
    else
        ((uint16_t *)array)[i] =
            dtype == BF16 ? bf16_from_float((float)value) : fp16_from_float((float)value);
}

static double value_of(enum dtype dtype, const void *array, size_t i) {
    if (dtype == FP32) return ((const float *)array)[i];
    uint16_t bits = ((const uint16_t *)array)[i];
    return dtype == BF16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

static struct array random_array(enum dtype dtype, size_t count, size_t offset, double scale) {
    struct array array = open_array(dtype, count, offset);
    double *values = random_values(dtype, count, scale);
    for (size_t i = 0; i < count; i++) put_value(dtype, array.at, i, values[i]);
    free(values);
    return array;
}

static struct array copy_array(const struct array *from, enum dtype dtype, size_t offset) {
    struct array array = open_array(dtype, from->bytes / dtype_size(dtype), offset);
    memcpy(array.at, from->at, from->bytes);
    return array;
}

/* ---- AdamW ---- */

/* What one update works on; offsets[k] is where array k begins, in elements from an aligned address. */
struct update {
    enum dtype dtype, gradient_dtype;
    size_t count, decayed;
    struct array parameters, master, m, v, gradient;
};
static const size_t aligned[5] = {0}, misaligned[5] = {1, 3, 2, 5, 7};

static struct update open_update(const enum dtype dtypes[2], size_t count, size_t decayed,
                                 const size_t offsets[5]) {
    struct update u = {.dtype = dtypes[0], .gradient_dtype = dtypes[1], .count = count, .decayed = decayed};
    u.parameters = open_array(u.dtype, count, offsets[0]);
    u.master = random_array(FP32, count, offsets[1], 1);
    u.m = random_array(FP32, count, offsets[2], 0.1);
    u.v = random_array(FP32, count, offsets[3], 0.01);
    u.gradient = random_array(u.gradient_dtype, count, offsets[4], 0.5);
    for (size_t i = 0; i < count; i++) ((float *)u.v.at)[i] = fabsf(((float *)u.v.at)[i]);
    if (count > 7) { /* no gradient at all; one that is subnormal in half precision; one that is huge */
        put_value(u.gradient_dtype, u.gradient.at, 7, 0);
        put_value(u.gradient_dtype, u.gradient.at, 5, 3e-7);
        put_value(u.gradient_dtype, u.gradient.at, 6, 60000);
    }
    return u;
}

static struct update copy_update(const struct update *from, const size_t offsets[5]) {
    struct update u = *from;
    u.parameters = open_array(u.dtype, u.count, offsets[0]);
    u.master = copy_array(&from->master, FP32, offsets[1]);
    u.m = copy_array(&from->m, FP32, offsets[2]);
    u.v = copy_array(&from->v, FP32, offsets[3]);
    u.gradient = copy_array(&from->gradient, u.gradient_dtype, offsets[4]);
    return u;
}

static void close_update(struct update *u) {
    const struct array *arrays[] = {&u->parameters, &u->master, &u->m, &u->v, &u->gradient};
    for (int i = 0; i < 5; i++) {
        check_margins(arrays[i]);
        free(arrays[i]->block);
    }
}

static const struct update_rule rule = {
    .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .max_grad_norm = 1};
static const struct update_state state = {.learning_rate = 1e-2,
                                          .gradient_multiplier = 0.3f,
                                          .correction1 = (float)(1 - 0.729),
                                          .correction2 = (float)(1 - 0.857375)};

static void run_update(struct update *u, int threads, const struct update_state *with) {
    host_adamw(threads, u->dtype, u->parameters.at, u->master.at, u->m.at, u->v.at, u->gradient_dtype,
               u->gradient.at, u->count, u->decayed, with, &rule);
}

/* Operands are around 0.1: what cancels leaves errors of that size. */
static void check_close(const char *what, size_t i, double got, double expected, double tolerance) {
    if (!(fabs(got - expected) <= tolerance * fmax(0.1, fabs(expected))))
        fail_msg("%s of element %zu is %.9g, not %.9g", what, i, got, expected);
}

/* torch.optim.AdamW in fp64. */
static void check_update(const struct update *before, const struct update *after) {
    for (size_t i = 0; i < before->count; i++) {
        double gradient =
            value_of(before->gradient_dtype, before->gradient.at, i) * (double)state.gradient_multiplier;
        double m = 0.9 * (double)((float *)before->m.at)[i] + 0.1 * gradient;
        double v = 0.95 * (double)((float *)before->v.at)[i] + 0.05 * gradient * gradient;
        double parameter = ((float *)before->master.at)[i];
        if (i < before->decayed) parameter *= 1 - 1e-2 * 0.1;
        parameter -= 1e-2 * (m / (1 - 0.729)) / (sqrt(v / (1 - 0.857375)) + 1e-8);
        check_close("m", i, ((float *)after->m.at)[i], m, 2e-7);
        check_close("v", i, ((float *)after->v.at)[i], v, 4e-7);
        float master = ((float *)after->master.at)[i];
        check_close("the master", i, master, parameter, 1e-6);
        double stored = value_of(after->dtype, after->parameters.at, i);
        if (stored != rounded_to(after->dtype, master))
            fail_msg("parameter %zu is %.9g, not the master %.9g rounded", i, stored, (double)master);
    }
}

static void check_same_update(const char *what, const struct update *got, const struct update *expected) {
    const struct array *a[] = {&got->parameters, &got->master, &got->m, &got->v, &got->gradient};
    const struct array *b[] = {&expected->parameters, &expected->master, &expected->m, &expected->v,
                               &expected->gradient};
    static const char *const names[] = {"parameters", "master", "m", "v", "gradient"};
    for (int i = 0; i < 5; i++)
        if (memcmp(a[i]->at, b[i]->at, a[i]->bytes) != 0)
            fail_msg("%s: %s of %zu elements have other bits", what, names[i], got->count);
}

static const size_t sizes[][2] = {{0, 0},     {1, 0},         {1, 1},         {15, 15},      {16, 7},
                                  {17, 16},   {100, 33},      {1000, 1000},   {16384, 8192}, {16385, 1},
                                  {16401, 0}, {50003, 20011}, {65536, 32768}, {70001, 70001}};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* The plain path against fp64; every other path, thread count and address against the plain path's bits. */
static void check_paths(const enum dtype dtypes[2], size_t count, size_t decayed) {
    struct update before = open_update(dtypes, count, decayed, aligned), expected;
    expected = copy_update(&before, aligned);
    assert_true(host_kernels_use("plain"));
    run_update(&expected, 1, &state);
    check_update(&before, &expected);
    for (int p = 0; p < PATHS; p++) {
        if (!host_kernels_use(paths[p])) continue;
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            const size_t *offsets = threads % 2 ? misaligned : aligned;
            struct update again = copy_update(&before, offsets);
            run_update(&again, threads, &state);
            check_same_update(paths[p], &again, &expected);
            close_update(&again);
        }
    }
    close_update(&before);
    close_update(&expected);
}

static void test_adamw(void **cmocka_state) {
    (void)cmocka_state;
    for (int t = 0; t < TYPES; t++)
        for (int i = 0; i < SIZES; i++) check_paths(types[t], sizes[i][0], sizes[i][1]);
}

/* Every offset within a vector, of the array that is written past the cache. */
static void test_begins(void **cmocka_state) {
    (void)cmocka_state;
    enum { COUNT = 75 };
    for (int t = 0; t < TYPES; t++) {
        struct update before = open_update(types[t], COUNT, 31, aligned), expected;
        expected = copy_update(&before, aligned);
        assert_true(host_kernels_use("plain"));
        run_update(&expected, 1, &state);
        for (int p = 0; p < PATHS; p++) {
            if (!host_kernels_use(paths[p])) continue;
            for (size_t offset = 0; offset < 16; offset++) {
                const size_t offsets[5] = {offset, 16 - offset, offset, 0, 1};
                struct update again = copy_update(&before, offsets);
                run_update(&again, 1, &state);
                check_same_update(paths[p], &again, &expected);
                close_update(&again);
            }
        }
        close_update(&before);
        close_update(&expected);
    }
}

/* In FP32 the parameters may be the master, or not be asked for. */
static void test_fp32_in_place(void **cmocka_state) {
    (void)cmocka_state;
    const enum dtype fp32[2] = {FP32, FP32};
    struct update before = open_update(fp32, 1003, 500, aligned);
    for (int p = 0; p < PATHS; p++) {
        if (!host_kernels_use(paths[p])) continue;
        struct update apart = copy_update(&before, aligned), same = copy_update(&before, misaligned);
        struct update none = copy_update(&before, misaligned);
        run_update(&apart, 2, &state);
        host_adamw(2, FP32, same.master.at, same.master.at, same.m.at, same.v.at, FP32, same.gradient.at,
                   1003, 500, &state, &rule);
        host_adamw(2, FP32, NULL, none.master.at, none.m.at, none.v.at, FP32, none.gradient.at, 1003, 500,
                   &state, &rule);
        assert_memory_equal(same.master.at, apart.master.at, apart.master.bytes);
        assert_memory_equal(none.master.at, apart.master.at, apart.master.bytes);
        assert_memory_equal(none.v.at, apart.v.at, apart.v.bytes);
        assert_memory_equal(apart.parameters.at, apart.master.at, apart.master.bytes);
        close_update(&apart);
        close_update(&same);
        close_update(&none);
    }
    close_update(&before);
}

static void test_skipped(void **cmocka_state) {
    (void)cmocka_state;
    struct update_state skipped = state;
    skipped.skip = 1;
    for (int t = 0; t < TYPES; t++) {
        struct update before = open_update(types[t], 100, 50, aligned), after = copy_update(&before, aligned);
        run_update(&after, 1, &skipped);
        check_same_update("a skipped update", &after, &before);
        close_update(&before);
        close_update(&after);
    }
}

/* Updates that do not overflow fp16 but whose parameters do, and values that are not finite. */
static void test_extremes(void **cmocka_state) {
    (void)cmocka_state;
    static const float masters[] = {65519.9f, 65520.0f,    -70000.0f,   1e-8f,    3e-8f, 6.1e-5f,
                                    1e-40f,   -1e-40f,     3.4e38f,     -3.4e38f, 0.0f,  -0.0f,
                                    INFINITY, 1.00390625f, 1.01171875f, 2049,     2051,  5.9604645e-8f};
    enum { COUNT = sizeof masters / sizeof *masters };
    const struct update_state still = {
        .learning_rate = 0, .gradient_multiplier = 1, .correction1 = 1, .correction2 = 1};
    for (int t = 0; t < TYPES; t++) {
        for (int p = 0; p < PATHS; p++) {
            if (!host_kernels_use(paths[p])) continue;
            struct update u = open_update(types[t], COUNT, 0, aligned);
            memcpy(u.master.at, masters, sizeof masters);
            memset(u.m.at, 0, u.m.bytes);
            memset(u.gradient.at, 0, u.gradient.bytes);
            run_update(&u, 1, &still);
            for (size_t i = 0; i < COUNT; i++) {
                double got = value_of(u.dtype, u.parameters.at, i), expected = masters[i];
                if (u.dtype == BF16) expected = bf16_to_float(bf16_from_float(masters[i]));
                if (u.dtype == FP16) expected = fp16_to_float(fp16_from_float(masters[i]));
                if (got != expected || signbit(got) != signbit(expected))
                    fail_msg("%s: %.9g becomes %.9g, not %.9g", paths[p], (double)masters[i], got, expected);
            }
            put_value(u.gradient_dtype, u.gradient.at, 3, NAN);
            run_update(&u, 1, &state);
            assert_true(isnan(((float *)u.master.at)[3]) && isnan(value_of(u.dtype, u.parameters.at, 3)));
            assert_false(isnan(((float *)u.master.at)[4]));
            close_update(&u);
        }
    }
}

/* ---- the device's AdamW: the same bits on the CPU, and within its rounding on a GPU ---- */

static double *values_of_floats(const struct array *array) {
    size_t count = array->bytes / sizeof(float);
    double *values = xcalloc(count + 1, sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = ((const float *)array->at)[i];
    return values;
}

static void *floats_to_device(const struct array *array) {
    double *values = values_of_floats(array);
    void *device = to_device(FP32, values, array->bytes / sizeof(float));
    free(values);
    return device;
}

static void bring_floats(struct array *to, const void *device) {
    copy_to_host(kernels_stream(), to->at, device, to->bytes);
    stream_synchronize(kernels_stream());
}

static void update_on_device(struct update *u) {
    struct stream *stream = kernels_stream();
    float *master = floats_to_device(&u->master), *m = floats_to_device(&u->m), *v = floats_to_device(&u->v);
    void *gradient = to_device(u->dtype, NULL, u->count);
    void *parameters = u->dtype == FP32 ? (void *)master : to_device(u->dtype, NULL, u->count);
    struct update_state *device_state = to_device(FP64, NULL, (sizeof state + 7) / 8);
    copy_to_device(stream, gradient, u->gradient.at, u->gradient.bytes);
    copy_to_device(stream, device_state, &state, sizeof state);
    adamw(stream, u->dtype, parameters, master, m, v, gradient, u->count, u->decayed, device_state, &rule);
    bring_floats(&u->parameters, parameters);
    bring_floats(&u->master, master);
    bring_floats(&u->m, m);
    bring_floats(&u->v, v);
    if (u->dtype != FP32) release(parameters);
    void *const blocks[] = {master, m, v, gradient, device_state};
    for (int i = 0; i < 5; i++) release(blocks[i]);
}

static void check_near_floats(const char *what, const struct array *got, const struct array *expected) {
    for (size_t i = 0; i < got->bytes / sizeof(float); i++)
        check_close(what, i, ((float *)got->at)[i], ((float *)expected->at)[i], 1e-6);
}

static void test_as_device(void **cmocka_state) {
    (void)cmocka_state;
    bool cpu = !strcmp(device_backend(), "cpu");
    host_kernels_use(NULL);
    for (int t = 0; t < 3; t++) {
        struct update host = open_update(types[t], 50003, 20011, aligned);
        struct update device = copy_update(&host, aligned);
        run_update(&host, 2, &state);
        update_on_device(&device);
        if (cpu) {
            check_same_update("beside the device's adamw()", &host, &device);
        } else {
            check_near_floats("m", &host.m, &device.m);
            check_near_floats("v", &host.v, &device.v);
            check_near_floats("the master", &host.master, &device.master);
        }
        close_update(&host);
        close_update(&device);
    }
}

/* ---- gradients ---- */

/* Sums of fp32: each added in fp32 and rounded once. */
static void check_accumulate(enum dtype sum_dtype, enum dtype dtype, size_t count, bool add) {
    struct array gradient = random_array(dtype, count, 0, 2), begin = random_array(sum_dtype, count, 0, 3);
    struct array expected = copy_array(&begin, sum_dtype, 0);
    double squares = 0;
    for (size_t i = 0; i < count; i++) {
        float sum = (float)value_of(dtype, gradient.at, i);
        if (add) sum = (float)value_of(sum_dtype, begin.at, i) + sum;
        put_value(sum_dtype, expected.at, i, sum);
        double stored = value_of(sum_dtype, expected.at, i);
        squares += stored * stored;
    }
    double first = NAN;
    for (int p = 0; p < PATHS; p++) {
        if (!host_kernels_use(paths[p])) continue;
        for (int threads = 1; threads <= MOST_THREADS; threads++) {
            struct array sum = copy_array(&begin, sum_dtype, (size_t)threads * 3);
            struct array added = copy_array(&gradient, dtype, (size_t)threads);
            double found = host_accumulate(threads, sum_dtype, sum.at, dtype, added.at, count, add);
            assert_memory_equal(sum.at, expected.at, expected.bytes);
            if (!(fabs(found - squares) <= 1e-12 * squares))
                fail_msg("Σ x² of %zu is %.17g, not %.17g", count, found, squares);
            if (isnan(first)) first = found;
            assert_true(found == first); /* the same bits */
            assert_true(host_sum_of_squares(threads, sum_dtype, sum.at, count) == first);
            check_margins(&sum);
            free(sum.block);
            free(added.block);
        }
    }
    free(gradient.block);
    free(begin.block);
    free(expected.block);
}

static void test_accumulate(void **cmocka_state) {
    (void)cmocka_state;
    static const enum dtype pairs[][2] = {
        {FP32, FP32}, {BF16, BF16}, {FP16, FP16}, {FP32, BF16}, {FP32, FP16}};
    for (int t = 0; t < TYPES; t++)
        for (int i = 0; i < SIZES; i++)
            for (int add = 0; add < 2; add++) check_accumulate(pairs[t][0], pairs[t][1], sizes[i][0], add);
}

/* What overflows must show in the sum of squares, wherever it is: the update is then skipped. */
static void test_overflow(void **cmocka_state) {
    (void)cmocka_state;
    enum { COUNT = 40 };
    for (int p = 0; p < PATHS; p++) {
        if (!host_kernels_use(paths[p])) continue;
        for (size_t at = 0; at < COUNT; at++) {
            uint16_t sum[COUNT] = {0}, gradient[COUNT] = {0};
            sum[at] = gradient[at] = fp16_from_float(40000);
            assert_true(isfinite(host_sum_of_squares(1, FP16, sum, COUNT)));
            assert_true(isinf(host_accumulate(1, FP16, sum, FP16, gradient, COUNT, true)));
            sum[at] = fp16_from_float(NAN);
            assert_true(isnan(host_sum_of_squares(1, FP16, sum, COUNT)));
        }
    }
}

static void test_instructions(void **cmocka_state) {
    (void)cmocka_state;
    assert_true(host_kernels_use("plain"));
    assert_string_equal(host_kernels_instructions(), "plain");
    assert_false(host_kernels_use("mmx"));
    assert_string_equal(host_kernels_instructions(), "plain");
    assert_true(host_kernels_use(NULL));
    const char *best = host_kernels_instructions();
    for (int p = 0; p < PATHS; p++)
        if (host_kernels_use(paths[p])) best = paths[p]; /* from worst to best */
    assert_true(host_kernels_use(NULL));
    assert_string_equal(host_kernels_instructions(), best);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_instructions), cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_begins),       cmocka_unit_test(test_fp32_in_place),
        cmocka_unit_test(test_skipped),      cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_as_device),    cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_overflow),
    };
    return cmocka_run_group_tests(tests, kernels_setup, kernels_teardown);
}
