/*
 * Stage 04's exchange of embedding rows: every token gets its row, whoever owns it, in one round or in many.
 * This program starts itself under mpirun: `test_run_rows rank` is one rank.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "04-zero3/row_exchange.h"
#include "tests/support/check.h"
#include "tests/support/command.h"

#undef fail /* cmocka's; here it is the one of error.h */

enum { CAPACITY = 96, GUARD = 64 };

/* ---- what a rank does ---- */

struct rank {
    struct comm *comm;
    struct device *device;
    struct stream *stream;
    int number, size;
    struct collectives collectives;
    struct layout layout;
    enum dtype dtype;
    char *embedding; /* my slices of all chunks */
};

/* Exact in every type: half precision has 8 bits and more. */
static double value_of(size_t row, size_t column) {
    return (double)((row * 7 + column * 31) % 251) - 125;
}

static void put(enum dtype dtype, void *array, size_t at, double value) {
    if (dtype == FP32) ((float *)array)[at] = (float)value;
    if (dtype == BF16) ((uint16_t *)array)[at] = bf16_from_float((float)value);
    if (dtype == FP16) ((uint16_t *)array)[at] = fp16_from_float((float)value);
}

static double get(enum dtype dtype, const void *array, size_t at) {
    if (dtype == FP32) return (double)((const float *)array)[at];
    uint16_t half = ((const uint16_t *)array)[at];
    return (double)(dtype == BF16 ? bf16_to_float(half) : fp16_to_float(half));
}

static void *on_device(const struct rank *r, const void *host, size_t bytes) {
    void *memory = device_alloc(r->device, ACTIVATIONS, bytes, "test");
    copy_to_device(r->stream, memory, host, bytes);
    stream_synchronize(r->stream);
    return memory;
}

static void fill_embedding(struct rank *r) {
    size_t h = r->layout.config.hidden, at = 0;
    char *host = xcalloc(r->layout.sliced, dtype_size(r->dtype));
    for (int c = r->layout.chunks_begin; c < r->layout.chunks_end; c++) {
        const struct unit *unit = &r->layout.units[c];
        struct slice slice = layout_slice(unit, r->number);
        for (size_t i = 0; i < slice.count; i++) {
            size_t element = slice.begin + i;
            put(r->dtype, host, at++, value_of(unit->first_row + element / h, element % h));
        }
    }
    r->embedding = on_device(r, host, at * dtype_size(r->dtype));
    free(host);
}

static int owner_of(const struct rank *r, int32_t id) {
    size_t chunk = (size_t)id / r->layout.chunk_rows, row = (size_t)id % r->layout.chunk_rows;
    const struct unit *unit = &r->layout.units[r->layout.chunks_begin + (int)chunk];
    return (int)(row * r->layout.config.hidden / unit->slice);
}

static unsigned next(unsigned *state, unsigned below) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % below;
}

/* Every rank can make every rank's pack. */
enum kind { ANY, ALL_OF_ONE, ONE_IS_EMPTY, ALL_EMPTY, SAME_ID, KINDS };
static const char *const kinds[KINDS] = {"any ids", "all of one rank", "one rank's pack empty",
                                         "all packs empty", "one id"};

static int make_ids(const struct rank *r, enum kind kind, unsigned salt, int rank, int32_t *ids) {
    unsigned state = salt * 97u + (unsigned)rank;
    int count = (int)next(&state, CAPACITY / 2) + CAPACITY / 2, owner = (int)(salt % (unsigned)r->size);
    if (rank == (int)salt % r->size) count = CAPACITY;
    if (kind == ALL_EMPTY || (kind == ONE_IS_EMPTY && rank == owner)) return 0;
    for (int i = 0; i < count; i++) {
        do {
            ids[i] = (int32_t)next(&state, (unsigned)r->layout.config.vocabulary);
        } while (kind == ALL_OF_ONE && owner_of(r, ids[i]) != owner);
        if (kind == SAME_ID) ids[i] = (int32_t)r->layout.config.vocabulary - 1;
    }
    return count;
}

static double bytes_sent(const struct rank *r) {
    struct comm_bytes bytes[COLLECTIVES];
    comm_bytes_sent(r->comm, bytes);
    return bytes[ALL_TO_ALL].bytes;
}

/* Rows that others need of me, and the largest number that is needed of one rank. */
static double rows_to_send(const struct rank *r, enum kind kind, unsigned salt, int *most) {
    int32_t ids[CAPACITY];
    int *asked = xcalloc((size_t)r->size, sizeof *asked), mine = 0;
    for (int rank = 0; rank < r->size; rank++) {
        int count = make_ids(r, kind, salt, rank, ids);
        for (int i = 0; i < count; i++) {
            int owner = owner_of(r, ids[i]);
            asked[owner]++;
            mine += owner == r->number && rank != r->number;
        }
    }
    *most = 0;
    for (int rank = 0; rank < r->size; rank++)
        if (asked[rank] > *most) *most = asked[rank];
    free(asked);
    return mine;
}

static void check_rows(const struct rank *r, const char *what, const void *host, const int32_t *ids,
                       int count) {
    size_t h = r->layout.config.hidden;
    for (size_t i = 0; i < (size_t)count * h; i++) {
        double expected = value_of((size_t)ids[i / h], i % h);
        if (get(r->dtype, host, i) != expected)
            fail("rank %d, %s: token %zu, id %d, column %zu: %g, expected %g", r->number, what, i / h,
                 ids[i / h], i % h, get(r->dtype, host, i), expected);
    }
}

/* One pack, with a buffer of so many rows for sending, behind which nothing may be written. */
static void exchange(const struct rank *r, struct row_exchange *x, enum kind kind, unsigned salt) {
    size_t h = r->layout.config.hidden, row = h * dtype_size(r->dtype);
    size_t out_bytes = CAPACITY * row, buffer_bytes = x->buffer_rows * row;
    char *host = xmalloc(out_bytes > buffer_bytes ? out_bytes + GUARD : buffer_bytes + GUARD);
    memset(host, 0x55, (out_bytes > buffer_bytes ? out_bytes : buffer_bytes) + GUARD);
    char *out = on_device(r, host, out_bytes + GUARD), *received = on_device(r, host, out_bytes + GUARD),
         *buffer = on_device(r, host, buffer_bytes + GUARD);
    int32_t ids[CAPACITY];
    struct pack pack = {.tokens = make_ids(r, kind, salt, r->number, ids), .ids = ids};
    int most;
    double before = bytes_sent(r), rows = rows_to_send(r, kind, salt, &most);

    row_exchange_plan(x, r->stream, &pack);
    row_exchange_run(x, r->stream, r->dtype, out, r->embedding, buffer, received);
    copy_to_host(r->stream, host, out, out_bytes + GUARD);
    stream_synchronize(r->stream);
    check_rows(r, kinds[kind], host, ids, pack.tokens);
    if (bytes_sent(r) - before != rows * (double)row)
        fail("rank %d, %s: %.0f bytes sent, %.0f rows of %zu were asked for", r->number, kinds[kind],
             bytes_sent(r) - before, rows, row);
    bool fits = (size_t)most <= x->buffer_rows;
    if (fits && (size_t)most + (size_t)r->size <= x->buffer_rows && x->round_count != 1)
        fail("rank %d, %s: %d rounds where one would do", r->number, kinds[kind], x->round_count);
    if (!fits && (size_t)x->round_count * x->buffer_rows < (size_t)most)
        fail("rank %d, %s: %d rounds cannot be enough", r->number, kinds[kind], x->round_count);
    char *const guarded[] = {out + out_bytes, received + out_bytes, buffer + buffer_bytes};
    for (int g = 0; g < 3; g++) {
        copy_to_host(r->stream, host, guarded[g], GUARD);
        stream_synchronize(r->stream);
        for (int i = 0; i < GUARD; i++)
            if (host[i] != 0x55) fail("rank %d, %s: written behind buffer %d", r->number, kinds[kind], g);
    }
    device_free(r->device, buffer);
    device_free(r->device, received);
    device_free(r->device, out);
    free(host);
}

/* An odd width, and a vocabulary of several chunks of which the last one is cut unevenly. */
static void run_type(struct rank *r, enum dtype dtype) {
    struct bloom_config config = {.vocabulary = 1409, .hidden = 20, .layers = 2, .heads = 5, .head_dim = 4};
    r->dtype = dtype;
    layout_open(&r->layout, &config, r->size);
    if (r->layout.chunks_end - r->layout.chunks_begin < 3) fail("the test's embedding has too few chunks");
    fill_embedding(r);
    const size_t rows[] = {(size_t)r->size, 2 * (size_t)r->size + 1, 40, 4 * CAPACITY + 4};
    unsigned salt = 0;
    for (size_t b = 0; b < sizeof rows / sizeof *rows; b++) {
        struct row_exchange x;
        row_exchange_open(&x, r->device, r->comm, &r->collectives, &r->layout,
                          (struct pack_size){.tokens = CAPACITY}, rows[b] * config.hidden);
        for (int kind = 0; kind < KINDS; kind++)
            for (int i = 0; i < 3; i++) exchange(r, &x, (enum kind)kind, salt++);
        row_exchange_close(&x);
    }
    device_free(r->device, r->embedding);
    layout_close(&r->layout);
}

static void run_rank(bool share) {
    struct rank r = {.comm = comm_open_world(&(struct comm_options){.timeout = 60, .share_device = share})};
    r.number = comm_rank(r.comm);
    r.size = comm_size(r.comm);
    r.device = device_open(&(struct device_options){.rank = r.number,
                                                    .world_size = r.size,
                                                    .node_rank = comm_node_rank(r.comm),
                                                    .node_size = comm_node_size(r.comm),
                                                    .threads = 1,
                                                    .dtype = FP32,
                                                    .share_device = share});
    r.stream = stream_open(r.device, "test");
    comm_attach(r.comm, r.device);
    r.collectives = collectives_flat(r.comm);
    run_type(&r, FP32);
    run_type(&r, BF16);
    run_type(&r, FP16);
    stream_close(r.stream);
    comm_close(r.comm);
    if (device_ledger(r.device)->total.bytes || host_ledger(r.device)->total.bytes)
        fail("rank %d: memory is still booked", r.number);
    device_close(r.device);
    printf("done\n");
}

/* ---- starting the ranks ---- */

static char program[4096];

static void run_ranks(int size) {
    struct command_result result =
        command_run(120, COMMAND_MPIRUN "%s rank %s", size, program, command_sharing(size));
    assert_string_equal(result.err, "");
    assert_int_equal(result.exit_code, 0);
    assert_int_equal(lines_with(result.out, "done"), size);
    command_free(&result);
}

static void test_one(void **state) {
    (void)state;
    run_ranks(1);
}

static void test_two(void **state) {
    (void)state;
    run_ranks(2);
}

static void test_three(void **state) {
    (void)state;
    run_ranks(3);
}

static void test_four(void **state) {
    (void)state;
    run_ranks(4);
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "rank") == 0) {
        run_rank(count > 2);
        return 0;
    }
    snprintf(program, sizeof program, "%s", arguments[0]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one), cmocka_unit_test(test_two),
                                       cmocka_unit_test(test_three), cmocka_unit_test(test_four)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
