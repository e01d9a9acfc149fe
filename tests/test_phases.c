/*
 * Time by phase: what is credited to which phase, across nested ranges, updates that overlap their reading,
 * and updates that follow one another or do not.
 */
#include "common/device/phases.h"

#include <time.h>

#include "tests/support/check.h"

static struct device *device;
static struct stream *stream;

static int open_all(void **state) {
    (void)state;
    device = device_open(&(struct device_options){.world_size = 1, .node_size = 1, .threads = 1});
    stream = stream_open(device, "compute");
    return 0;
}

static int close_all(void **state) {
    (void)state;
    stream_close(stream);
    device_close(device);
    return 0;
}

/* The stream has nothing to do meanwhile: its clock goes on all the same. */
static void pass(int milliseconds) {
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000L}, NULL);
}

/* At least this long, and not twice as long as a busy machine makes it. */
static void check_time(double found, double least) {
    if (!(found >= least - 0.5 && found < least + 150)) fail_msg("%g ms where %g were spent", found, least);
}

static void range(const char *name, int milliseconds) {
    profile_push(name);
    pass(milliseconds);
    profile_pop();
}

/* 40 ms forward in two parts, 30 backward, 20 optimizer, of which 10 wait, 10 that are of no phase. */
static void update(struct phases *phases, bool continues) {
    phases_begin(phases, continues);
    range("forward", 20);
    pass(10);
    profile_push("backward");
    pass(10);
    range("block 3", 20);
    profile_pop();
    range("forward", 20);
    profile_push("optimizer");
    pass(5);
    range(phase_name(PHASE_COMMUNICATION), 10);
    pass(15);
    profile_pop();
    phases_end(phases);
}

static void check_update(const struct phase_times *times) {
    check_time(times->phase[PHASE_FORWARD], 40);
    check_time(times->phase[PHASE_BACKWARD], 30);
    check_time(times->phase[PHASE_OPTIMIZER], 20);
    check_time(times->phase[PHASE_COMMUNICATION], 10);
    check_time(times->phase[PHASE_OTHER], 10);
    double sum = 0;
    for (int p = 0; p < PHASES; p++) sum += times->phase[p];
    assert_float_equal(sum, times->total, 1e-6);
}

static void phases_add_up(void **state) {
    (void)state;
    struct phases *phases = phases_open(stream, true);
    struct phase_times times;
    assert_false(phases_read(phases, &times));
    update(phases, false);
    stream_synchronize(stream);
    assert_true(phases_read(phases, &times));
    check_update(&times);
    assert_false(phases_read(phases, &times));
    phases_close(phases);
}

/* As a session reads them: each update when the next one has been queued. */
static void a_pause_belongs_to_the_next_update(void **state) {
    (void)state;
    struct phases *phases = phases_open(stream, true);
    struct phase_times times[5];
    for (int i = 0; i < 5; i++) {
        update(phases, i > 0 && i != 3);
        if (i) assert_true(phases_read(phases, &times[i - 1]));
        pass(200); /* evaluation, or a slow disk */
    }
    assert_true(phases_read(phases, &times[4]));
    for (int i = 0; i < 5; i++) {
        bool continues = i > 0 && i != 3;
        check_time(times[i].phase[PHASE_OTHER], continues ? 210 : 10);
        times[i].phase[PHASE_OTHER] -= continues ? 200 : 0;
        times[i].total -= continues ? 200 : 0;
        check_update(&times[i]);
    }
    phases_close(phases);
}

static void without_phases_only_the_whole_is_timed(void **state) {
    (void)state;
    struct phases *phases = phases_open(stream, false);
    struct phase_times times;
    update(phases, false);
    assert_true(phases_read(phases, &times));
    check_time(times.total, 110);
    assert_float_equal(times.phase[PHASE_OTHER], times.total, 0);
    phases_close(phases);
}

/* An evaluation's forward, and ranges of a program without a clock. */
static void ranges_outside_updates_do_not_count(void **state) {
    (void)state;
    range("forward", 1);
    struct phases *phases = phases_open(stream, true);
    struct phase_times times;
    range("forward", 1);
    update(phases, false);
    range("forward", 200);
    assert_true(phases_read(phases, &times));
    check_update(&times);
    phases_close(phases);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phases_add_up),
        cmocka_unit_test(a_pause_belongs_to_the_next_update),
        cmocka_unit_test(without_phases_only_the_whole_is_timed),
        cmocka_unit_test(ranges_outside_updates_do_not_count),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
