/*
 * The rotations of stages 03 and 04 in one process: a layout for several ranks, and collectives that note
 * what they are asked for. What is gathered when, into a buffer that nobody uses; what becomes of a gradient.
 */
#include <stdlib.h>
#include <string.h>

#include "03-zero2/gradient_shard.h"
#include "04-zero3/parameter_shard.h"
#include "common/comm/comm.h"
#include "common/device/device.h"
#include "tests/support/check.h"

enum { RANKS = 4, RANK = 1, MOST_NOTED = 256, END = -1 };

/* What the collectives below were asked for. */
struct note {
    void *out;
    const void *in;
    size_t count;
};

struct fixture {
    struct device *device;
    struct stream *stream;
    struct comm *comm;
    struct layout layout;
    struct collectives collectives;
    struct note notes[MOST_NOTED];
    int noted;
};

static struct comm_request note(struct fixture *f, void *out, const void *in, size_t count) {
    if (f->noted == MOST_NOTED) fail_msg("more than %d collectives", MOST_NOTED);
    f->notes[f->noted++] = (struct note){out, in, count};
    return (struct comm_request){0};
}

static int slice_of_rank(const void *self, int rank) {
    (void)self;
    return rank;
}

/* The sum over ranks of which only this one has something. */
static struct comm_request note_reduce_scatter(void *self, struct stream *stream, void *out, void *in,
                                               size_t count, enum dtype dtype) {
    struct fixture *f = self;
    const char *mine = (const char *)in + RANK * count * dtype_size(dtype);
    if (out != mine) copy_on_device(stream, out, mine, count * dtype_size(dtype));
    return note(f, out, in, count);
}

static struct comm_request note_all_gather(void *self, struct stream *stream, void *out, const void *in,
                                           size_t count, enum dtype dtype) {
    (void)stream, (void)dtype;
    return note(self, out, in, count);
}

static struct fixture *open_fixture(size_t layers) {
    struct fixture *f = xcalloc(1, sizeof *f);
    f->comm = comm_open_world(&(struct comm_options){0});
    f->device =
        device_open(&(struct device_options){.world_size = 1, .node_size = 1, .threads = 1, .dtype = FP32});
    comm_attach(f->comm, f->device);
    f->stream = stream_open(f->device, "test");
    struct bloom_config config = {
        .vocabulary = 203, .hidden = 24, .layers = layers, .heads = 3, .head_dim = 8};
    layout_open(&f->layout, &config, RANKS);
    f->collectives = (struct collectives){.self = f,
                                          .slices = RANKS,
                                          .slice = RANK,
                                          .slice_of = slice_of_rank,
                                          .reduce_scatter_start = note_reduce_scatter,
                                          .all_gather_start = note_all_gather};
    return f;
}

static void close_fixture(struct fixture *f) {
    layout_close(&f->layout);
    stream_close(f->stream);
    comm_close(f->comm);
    assert_int_equal(device_ledger(f->device)->total.bytes, 0);
    device_close(f->device);
    free(f);
}

/* ---- how deep ---- */

static void test_depth(void **state) {
    (void)state;
    /* 1,000 elements on 4 ranks: 750 are not kept; buffers must stay below that. */
    struct layout layout = {.padded = 1000, .sliced = 250, .largest = 100};
    assert_int_equal(rotation_depth(&layout, 1), 1);
    assert_int_equal(rotation_depth(&layout, 4), 4);
    assert_int_equal(rotation_depth(&layout, 7), 7);
    assert_int_equal(rotation_depth(&layout, 8), 7);
    layout.largest = 250;
    assert_int_equal(rotation_depth(&layout, 3), 2); /* three would be all that is saved */
    layout.largest = 900;
    assert_int_equal(rotation_depth(&layout, 2), 1); /* never less */
    layout = (struct layout){.padded = 1000, .sliced = 1000, .largest = 10};
    assert_int_equal(rotation_depth(&layout, 2), 1); /* one rank keeps everything */
}

/* ---- parameters ---- */

static int unit_gathered(const struct fixture *f, const struct parameter_shard *shard, int number) {
    for (int u = 0; u < f->layout.count; u++)
        if (f->notes[number].in == parameter_shard_slice(shard, u)) {
            assert_int_equal(f->notes[number].count, f->layout.units[u].slice);
            return u;
        }
    fail_msg("what is gathered is no unit's slice");
    return -1;
}

/* Uses a unit and checks what that began to gather: `expected` in this order, ended by END, none of them into
 * the buffer of this unit. Returns that buffer. */
static void *use(struct fixture *f, struct parameter_shard *shard, int unit, int direction,
                 const int *expected) {
    int before = f->noted, count = 0;
    void *memory = parameter_shard_use(shard, unit, direction);
    for (; expected[count] >= 0; count++) {
        if (before + count >= f->noted) fail_msg("unit %d is not gathered", expected[count]);
        assert_int_equal(unit_gathered(f, shard, before + count), expected[count]);
        if (expected[count] != unit) assert_ptr_not_equal(f->notes[before + count].out, memory);
    }
    assert_int_equal(f->noted - before, count);
    return memory;
}
#define USE(f, shard, unit, direction, ...) use(f, shard, unit, direction, (const int[]){__VA_ARGS__})

/* A whole micro-batch's walk: each unit is whole in its buffer while it is used, and no buffer is written
 * that holds one of the units still to come. */
static void walk(int prefetch) {
    struct fixture *f = open_fixture(8);
    struct parameter_shard shard;
    parameter_shard_open(&shard, f->device, f->stream, f->comm, &f->layout, &f->collectives, FP32, prefetch);
    assert_int_equal(shard.depth, prefetch + 1);
    int units = f->layout.count, *there = xcalloc((size_t)shard.depth, sizeof *there);
    for (int step = 0; step < 4 * units; step++) {
        int forward = step / units % 2 == 0, place = step % units;
        int unit = forward ? place : units - 1 - place, direction = forward ? 1 : -1, before = f->noted;
        void *memory = parameter_shard_use(&shard, unit, direction);
        for (int n = before; n < f->noted; n++) {
            int gathered = unit_gathered(f, &shard, n);
            int ahead = (gathered - unit) * direction;
            if (ahead < 0 || ahead > prefetch) fail_msg("unit %d is gathered at unit %d", gathered, unit);
            for (int i = 0; i < shard.depth; i++)
                if (shard.rotation[i].memory == f->notes[n].out) there[i] = gathered;
        }
        for (int i = 0; i < shard.depth; i++)
            if (shard.rotation[i].memory == memory) assert_int_equal(there[i], unit);
        for (int ahead = 1; ahead <= prefetch; ahead++) {
            int next = unit + ahead * direction, found = next < 0 || next >= units;
            for (int i = 0; i < shard.depth; i++) found = found || there[i] == next;
            if (!found) fail_msg("at unit %d, %d is not on its way", unit, next);
        }
        if (!forward && unit == 0) {
            parameter_shard_forget(&shard);
            for (int i = 0; i < shard.depth; i++) there[i] = -1;
        }
    }
    /* All units forwards, and backwards those that are no longer there; twice. */
    assert_int_equal(f->noted, 2 * (2 * units - (prefetch + 1)));
    double elements = 0;
    for (int n = 0; n < f->noted; n++) elements += (double)f->layout.units[unit_gathered(f, &shard, n)].count;
    assert_true(elements == 2 * parameter_shard_gathered(&shard) * (double)f->layout.parameters);
    free(there);
    parameter_shard_close(&shard);
    close_fixture(f);
}

static void test_walks(void **state) {
    (void)state;
    for (int prefetch = 0; prefetch <= 3; prefetch++) walk(prefetch);
}

static void test_both_ends(void **state) {
    (void)state;
    struct fixture *f = open_fixture(8);
    struct parameter_shard shard;
    parameter_shard_open(&shard, f->device, f->stream, f->comm, &f->layout, &f->collectives, FP32, 2);
    int last = f->layout.count - 1;
    void *first = USE(f, &shard, 0, +1, 0, 1, 2, END);
    assert_ptr_equal(USE(f, &shard, 0, +1, END), first); /* still there */
    USE(f, &shard, 1, +1, 3, END);
    USE(f, &shard, last - 1, +1, last - 1, last, END);
    void *end = USE(f, &shard, last, +1, END);
    USE(f, &shard, last - 1, -1, last - 2, last - 3, END);
    /* What is behind is free. */
    assert_true(f->notes[f->noted - 1].out == end || f->notes[f->noted - 2].out == end);
    USE(f, &shard, 1, -1, 1, 0, END);
    USE(f, &shard, 0, -1, END);
    parameter_shard_forget(&shard);
    USE(f, &shard, 0, -1, 0, END);
    /* A buffer lent out has lost its unit. */
    USE(f, &shard, 0, +1, 1, 2, END);
    void *lent = parameter_shard_buffer(&shard);
    int before = f->noted;
    for (int u = 0; u < 3; u++) parameter_shard_use(&shard, u, +1);
    bool written = false;
    for (int n = before; n < f->noted; n++) written = written || f->notes[n].out == lent;
    assert_true(written);
    parameter_shard_close(&shard);
    close_fixture(f);
}

/* ---- gradients ---- */

static void fill_unit(struct fixture *f, void *memory, const struct unit *unit, float value) {
    float *values = xmalloc(unit->count * sizeof *values);
    for (size_t i = 0; i < unit->count; i++) values[i] = value + (float)(i % 7);
    copy_to_device(f->stream, memory, values, unit->count * sizeof *values);
    stream_synchronize(f->stream);
    free(values);
}

/* Element i of my slice after gradients `value` of some micro-batches added up: 0 in the padding. */
static void check_slice(struct fixture *f, const struct gradient_shard *shard, int u, double value,
                        int packs) {
    const struct unit *unit = &f->layout.units[u];
    struct slice slice = layout_slice(unit, RANK);
    float *values = xmalloc(slice.count * sizeof *values);
    copy_to_host(f->stream, values, gradient_shard_slice(shard, u), slice.count * sizeof *values);
    stream_synchronize(f->stream);
    for (size_t i = 0; i < slice.count; i++) {
        size_t at = slice.begin + i;
        double expected = at < unit->count ? value + packs * (double)(at % 7) : 0;
        if ((double)values[i] != expected)
            fail_msg("unit %d, element %zu: %g, expected %g", u, at, (double)values[i], expected);
    }
    free(values);
}

/* Two updates of three micro-batches: the first one overwrites, the others add. Buffers start dirty. */
static void gradients_add_up(size_t layers, int depth) {
    struct fixture *f = open_fixture(layers);
    struct gradient_shard shard;
    gradient_shard_open(&shard, f->device, f->stream, f->comm, &f->layout, &f->collectives, FP32);
    assert_int_equal(shard.depth, depth);
    for (int i = 0; i < shard.depth; i++)
        fill_unit(f, shard.rotation[i].memory, &(struct unit){.count = f->layout.largest}, 1e6f);
    for (int update = 0; update < 2; update++) {
        for (int pack = 0; pack < 3; pack++) {
            gradient_shard_begin(&shard, pack == 0);
            for (int u = f->layout.chunks_begin - 1; u >= 0; u--) {
                fill_unit(f, gradient_shard_whole(&shard, u), &f->layout.units[u],
                          (float)(100 * update + 10 * pack + u));
                gradient_shard_reduce(&shard, u);
            }
        }
        gradient_shard_finish(&shard);
        for (int u = 0; u < f->layout.chunks_begin; u++)
            check_slice(f, &shard, u, 3 * (100 * update + u) + 30, 3);
    }
    assert_int_equal(f->noted, 6 * f->layout.chunks_begin);
    gradient_shard_close(&shard);
    close_fixture(f);
}

static void test_gradients(void **state) {
    (void)state;
    gradients_add_up(8, 2);
    gradients_add_up(1, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_depth), cmocka_unit_test(test_walks),
                                       cmocka_unit_test(test_both_ends), cmocka_unit_test(test_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
