/* The device layer of a backend that computes: element types, ledger, memory, copies, work counted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/device/device.h"
#include "tests/support/check.h"
#include "tests/support/device_checks.h"
#include "tests/support/failing.h"

/* ---- element types ---- */

/* A binary format of `digits` significant bits whose smallest step is 2^lowest. */
struct format {
    int digits, lowest;
    double largest;
    uint16_t infinity; /* its bits */
    uint16_t (*from)(float value);
    float (*to)(uint16_t bits);
};

static const struct format formats[] = {
    {.digits = 11,
     .lowest = -24,
     .largest = 65504,
     .infinity = 0x7c00,
     .from = fp16_from_float,
     .to = fp16_to_float},
    {.digits = 8,
     .lowest = -133,
     .largest = 0x1.fep127,
     .infinity = 0x7f80,
     .from = bf16_from_float,
     .to = bf16_to_float},
};

/* The value's nearest in the format, ties to even, worked out on numbers instead of bits. */
static double nearest(const struct format *format, float value) {
    if (isinf(value) || value == 0) return value;
    int exponent;
    frexp(value, &exponent);
    double step =
        ldexp(1, exponent - format->digits > format->lowest ? exponent - format->digits : format->lowest);
    double rounded = rint(value / step) * step;
    return fabs(rounded) > format->largest ? copysign(HUGE_VAL, value) : copysign(rounded, value);
}

static void check_value(const struct format *format, float value) {
    uint16_t bits = format->from(value);
    double got = format->to(bits), expected = nearest(format, value);
    if (got != expected || !signbit(got) != !signbit(value))
        fail_msg("%a becomes %a (%#x), not %a", value, got, bits, expected);
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* What the bits of a finite number stand for, by the definition of the format. */
static double value_of(const struct format *format, uint16_t bits) {
    int fraction_bits = format->digits - 1;
    int exponent = (bits & 0x7fff) >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
    double magnitude = exponent ? ldexp(fraction + (1 << fraction_bits), exponent - 1 + format->lowest)
                                : ldexp(fraction, format->lowest);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static void test_every_half_value(void **state) {
    (void)state;
    for (const struct format *format = formats; format < formats + 2; format++) {
        for (uint32_t bits = 0; bits < 0x10000; bits++) {
            float value = format->to((uint16_t)bits);
            if ((bits & 0x7fff) > format->infinity) {
                assert_true(isnan(value) && isnan(format->to(format->from(value))));
                continue;
            }
            assert_int_equal(format->from(value), bits);
            if ((bits & 0x7fff) == format->infinity)
                assert_true(isinf(value));
            else
                assert_true(value == value_of(format, (uint16_t)bits));
            assert_int_equal(signbit(value) != 0, bits >> 15);
        }
    }
}

/* Half-way between each value and the next, and the fp32 numbers on both sides of it; beyond the largest
 * value, what rounds to it and what becomes infinite. */
static void test_ties_go_to_even(void **state) {
    (void)state;
    for (const struct format *format = formats; format < formats + 2; format++) {
        for (uint16_t bits = 0; bits < format->infinity; bits++) {
            float value = format->to(bits);
            double next = bits + 1 < format->infinity
                              ? format->to((uint16_t)(bits + 1))
                              : 2 * format->largest - format->to((uint16_t)(bits - 1));
            float middle = (float)((value + next) / 2);
            assert_true(middle == (value + next) / 2);
            uint16_t even = bits % 2 ? (uint16_t)(bits + 1) : bits;
            assert_int_equal(format->from(middle), even);
            assert_int_equal(format->from(-middle), even | 0x8000);
            assert_int_equal(format->from(nextafterf(middle, 0)), bits);
            assert_int_equal(format->from(nextafterf(middle, HUGE_VALF)), bits + 1);
        }
    }
    assert_int_equal(fp16_from_float(65519.996f), 0x7bff);
    assert_int_equal(fp16_from_float(65520), 0x7c00);
    assert_int_equal(fp16_from_float(-3e38f), 0xfc00);
    assert_int_equal(bf16_from_float(0x1.fffffep127f), 0x7f80);
}

static void test_values_over_all_of_fp32(void **state) {
    (void)state;
    for (uint64_t bits = 0; bits < 0x100000000; bits += 4999) {
        float value = float_of((uint32_t)bits);
        for (const struct format *format = formats; format < formats + 2; format++) {
            if (isnan(value))
                assert_true(isnan(format->to(format->from(value))));
            else
                check_value(format, value);
        }
#ifdef __FLT16_MANT_DIG__
        _Float16 compilers = (_Float16)value;
        uint16_t half;
        memcpy(&half, &compilers, sizeof half);
        if (!isnan(value)) assert_int_equal(fp16_from_float(value), half);
#endif
    }
    /* All of a NaN's fraction may be in the bits that are cut off. */
    assert_true(isnan(bf16_to_float(bf16_from_float(float_of(0x7f800001)))));
    assert_true(isnan(fp16_to_float(fp16_from_float(float_of(0xff800001)))));
}

static void test_dtype_names(void **state) {
    (void)state;
    static const struct {
        enum dtype dtype;
        const char *name;
        size_t size;
    } expected[] = {
        {FP32, "fp32", 4}, {BF16, "bf16", 2}, {FP16, "fp16", 2}, {FP64, "fp64", 8}, {INT32, "int32", 4}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_string_equal(dtype_name(expected[i].dtype), expected[i].name);
        assert_int_equal(dtype_size(expected[i].dtype), expected[i].size);
    }
}

/* ---- ledger ---- */

static void take_too_much(void *context) {
    ledger_remove(context, BUFFERS, 8);
}

static void test_ledger(void **state) {
    (void)state;
    struct ledger ledger = {0};
    ledger_add(&ledger, ACTIVATIONS, 100);
    ledger_remove(&ledger, ACTIVATIONS, 100);
    ledger_add(&ledger, BUFFERS, 70);
    /* The two were never there together: the peak of the sum is not the sum of the peaks. */
    assert_int_equal(ledger.lines[ACTIVATIONS].peak_bytes, 100);
    assert_int_equal(ledger.lines[BUFFERS].peak_bytes, 70);
    assert_int_equal(ledger.total.peak_bytes, 100);
    ledger_add(&ledger, ACTIVATIONS, 40);
    assert_int_equal(ledger.total.bytes, 110);
    assert_int_equal(ledger.total.peak_bytes, 110);
    ledger_remove(&ledger, BUFFERS, 65);
    ledger_reset_peaks(&ledger);
    assert_int_equal(ledger.lines[ACTIVATIONS].peak_bytes, 40);
    assert_int_equal(ledger.lines[BUFFERS].peak_bytes, 5);
    assert_int_equal(ledger.total.peak_bytes, 45);
    CHECK_FAILS(take_too_much, &ledger, "8 bytes taken off buffers, which holds 5");
    assert_string_equal(heading_name(PARAMETERS), "parameters");
    assert_string_equal(heading_name(BUFFERS), "buffers");
}

/* ---- device ---- */

/* Sizes around those at which a block gets huge pages and copies are cut for the threads. */
static void test_copies(void **state) {
    (void)state;
    struct device_options options = {.world_size = 1, .node_size = 1, .threads = 2, .dtype = FP32};
    struct device *device = device_open(&options);
    struct stream *stream = stream_open(device, "test");
    static const size_t sizes[] = {1, 4095, (4 << 20) - 1, 4 << 20, (9 << 20) + 17};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = sizes[i];
        unsigned char *from = xmalloc(bytes), *back = xcalloc(1, bytes);
        for (size_t at = 0; at < bytes; at++) from[at] = (unsigned char)(at * 2654435761u >> 24);
        void *a = device_alloc(device, BUFFERS, bytes, "a"), *b = device_alloc(device, BUFFERS, bytes, "b");
        copy_to_device(stream, a, from, bytes);
        copy_on_device(stream, b, a, bytes);
        fill_zero(stream, a, bytes);
        copy_to_host(stream, back, b, bytes);
        stream_synchronize(stream);
        assert_memory_equal(from, back, bytes);
        copy_to_host(stream, back, a, bytes);
        stream_synchronize(stream);
        for (size_t at = 0; at < bytes; at++)
            if (back[at]) fail_msg("byte %zu of %zu is not cleared", at, bytes);
        device_free(device, a);
        device_free(device, b);
        free(from);
        free(back);
    }
    stream_close(stream);
    device_close(device);
}

static void test_events(void **state) {
    (void)state;
    struct device_options options = {.world_size = 1, .node_size = 1, .dtype = FP32};
    struct device *device = device_open(&options);
    struct stream *one = stream_open(device, "one"), *two = stream_open(device, "two");
    struct event *event = event_open(device);
    int value = 7, seen = 0;
    int *memory = device_alloc(device, BUFFERS, sizeof *memory, "value");
    profile_push("range");
    copy_to_device(one, memory, &value, sizeof value);
    event_record(event, one);
    stream_wait_event(two, event);
    copy_to_host(two, &seen, memory, sizeof seen);
    event_record(event, two);
    event_synchronize(event);
    stream_synchronize(two);
    profile_pop();
    assert_int_equal(seen, 7);
    event_close(event);
    stream_close(one);
    stream_close(two);
    device_close(device);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half_value),
        cmocka_unit_test(test_ties_go_to_even),
        cmocka_unit_test(test_values_over_all_of_fp32),
        cmocka_unit_test(test_dtype_names),
        cmocka_unit_test(test_ledger),
        cmocka_unit_test(check_booking),
        cmocka_unit_test(check_memory_limit),
        cmocka_unit_test(check_unknown_pointers),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_events),
        cmocka_unit_test(check_copies_counted),
        cmocka_unit_test(check_kernels_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
