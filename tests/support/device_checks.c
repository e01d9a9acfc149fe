#include "tests/support/device_checks.h"

#include <string.h>

#include "common/device/kernels.h"
#include "tests/support/check.h"
#include "tests/support/failing.h"

static struct device *open_device(enum dtype dtype, size_t limit) {
    struct device_options options = {.world_size = 1, .node_size = 1, .memory_limit = limit, .dtype = dtype};
    return device_open(&options);
}

/* Whether a device's memory is all its own to count, and its workspace booked when it is opened: on a GPU
 * libraries and other programs use memory too, and a stream gets its workspace when it first needs it. */
static bool on_gpu(void) {
    return !strcmp(device_backend(), "cuda");
}

/* ---- memory ---- */

static void assert_line(const struct ledger_line *line, size_t bytes, size_t peak_bytes) {
    assert_int_equal(line->bytes, bytes);
    assert_int_equal(line->peak_bytes, peak_bytes);
}

void check_booking(void **state) {
    (void)state;
    struct device *device = open_device(FP32, 1 << 30);
    const struct ledger *ledger = device_ledger(device);
    char *a = device_alloc(device, PARAMETERS, 1000, "a");
    char *b = device_alloc(device, GRADIENTS, 5 << 20, "b");
    char *nothing = device_alloc(device, GRADIENTS, 0, "nothing");
    char *host = host_alloc(device, OPTIMIZER, 77, true, "host");
    assert_int_equal((uintptr_t)a % 256, 0);
    assert_int_equal((uintptr_t)b % 256, 0);
    assert_true(a + 1000 <= b || b + (5 << 20) <= a);
    assert_true(nothing != a && nothing != b && host != a && host != b);
    assert_line(&ledger->total, 1000 + (5 << 20), 1000 + (5 << 20));
    if (!on_gpu()) assert_int_equal(device_bytes_in_use(device), 1000 + (5 << 20));
    device_free(device, a);
    device_free(device, nothing);
    device_free(device, NULL);
    host_free(device, NULL);
    assert_line(&ledger->lines[PARAMETERS], 0, 1000);
    assert_line(&ledger->lines[GRADIENTS], 5 << 20, 5 << 20);
    assert_line(&ledger->total, 5 << 20, 1000 + (5 << 20));
    device_free(device, b);
    assert_line(&ledger->total, 0, 1000 + (5 << 20));
    assert_line(&host_ledger(device)->lines[OPTIMIZER], 77, 77);
    assert_line(&host_ledger(device)->total, 77, 77);
    host_free(device, host);
    assert_line(&host_ledger(device)->total, 0, 77);
    if (!on_gpu()) assert_int_equal(device_bytes_in_use(device), 0);
    device_close(device);
}

void check_workspace(void **state) {
    (void)state;
    static const struct {
        enum dtype dtype;
        size_t bytes;
    } expected[] = {{FP32, 0}, {BF16, 32 << 20}, {FP16, 32 << 20}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        struct device *device = open_device(expected[i].dtype, 1 << 30);
        assert_line(&device_ledger(device)->lines[BUFFERS], expected[i].bytes, expected[i].bytes);
        assert_line(&device_ledger(device)->total, expected[i].bytes, expected[i].bytes);
        assert_line(&host_ledger(device)->total, 0, 0);
        device_close(device);
    }
}

static void ask_for_moments(void *context) {
    device_alloc(context, OPTIMIZER, 500, "first moments");
}

static void ask_for_activations(void *context) {
    device_alloc(context, ACTIVATIONS, 401, "queries, keys and values");
}

static void open_without_room(void *context) {
    open_device(BF16, *(size_t *)context);
}

void check_memory_limit(void **state) {
    (void)state;
    struct device *device = open_device(FP32, 10000);
    assert_int_equal(device_ledger(device)->limit, 10000);
    device_alloc(device, PARAMETERS, 4000, "parameters");
    void *gradients = device_alloc(device, GRADIENTS, 5600, "gradients");
    CHECK_FAILS(ask_for_moments, device, "out of device memory", "optimizer asked for 500 bytes",
                "first moments", "9.38 KiB of 9.77 KiB are booked",
                "(parameters 3.91 KiB, gradients 5.47 KiB)", "stages 02 to 04");
    CHECK_FAILS(ask_for_activations, device, "activations asked for 401 bytes", "gradient_checkpointing");
    device_alloc(device, ACTIVATIONS, 400, "what is left");
    device_free(device, gradients);
    device_alloc(device, OPTIMIZER, 5600, "what is free again");
    device_close(device);
    if (on_gpu()) return;
    size_t limit = 1 << 20;
    CHECK_FAILS(open_without_room, &limit, "buffers asked for 32.00 MiB", "workspace",
                "0 bytes of 1.00 MiB are booked");
}

struct misuse {
    struct device *device;
    void *pointer;
};

static void free_as_device(void *context) {
    struct misuse *misuse = context;
    device_free(misuse->device, misuse->pointer);
}

static void free_as_host(void *context) {
    struct misuse *misuse = context;
    host_free(misuse->device, misuse->pointer);
}

void check_unknown_pointers(void **state) {
    (void)state;
    struct device *device = open_device(FP32, 0);
    struct misuse misuse = {.device = device, .pointer = device_alloc(device, BUFFERS, 100, "block")};
    CHECK_FAILS(free_as_host, &misuse, "host memory at", "is not allocated");
    device_free(device, misuse.pointer);
    CHECK_FAILS(free_as_device, &misuse, "device memory at", "is not allocated");
    device_close(device);
}

/* ---- work ---- */

static struct work last_work;

/* What has been counted since the last call. */
static void assert_work(const struct device *device, double flops, double bytes, long long kernels) {
    struct work work = device_work(device);
    assert_true(work.product_flops - last_work.product_flops == flops);
    if (work.bytes - last_work.bytes != bytes)
        fail_msg("%.0f bytes counted, not %.0f", work.bytes - last_work.bytes, bytes);
    assert_int_equal(work.kernels - last_work.kernels, kernels);
    last_work = work;
}

void check_copies_counted(void **state) {
    (void)state;
    struct device *device = open_device(FP32, 0);
    struct stream *stream = stream_open(device, "test");
    assert_ptr_equal(stream_device(stream), device);
    last_work = (struct work){0};
    char host[300] = {1};
    char *memory = device_alloc(device, BUFFERS, 1000, "copies");
    copy_to_device(stream, memory, host, 300);
    copy_to_host(stream, host, memory, 200);
    assert_true(device_work(device).copied_bytes == 500);
    assert_work(device, 0, 0, 0);
    copy_on_device(stream, memory + 500, memory, 300);
    assert_work(device, 0, 600, 1);
    fill_zero(stream, memory, 1000);
    assert_work(device, 0, 1000, 1);
    copy_to_device(stream, memory, NULL, 0);
    fill_zero(stream, memory, 0);
    assert_work(device, 0, 0, 1);
    assert_true(device_work(device).copied_bytes == 500);
    stream_close(stream);
    device_close(device);
}

/* The sizes of all operands below, different where the kernels let them be. */
enum { M = 6, N = 4, K = 8, HEADS = 2, HEAD_DIM = 8, VOCABULARY = 5, LD = 7, MOST = 4096 };

/* Zeroed device memory, enough for any operand. */
static void *operand(struct stream *stream) {
    void *memory = device_alloc(stream_device(stream), BUFFERS, MOST, "operand");
    fill_zero(stream, memory, MOST);
    return memory;
}

static void *indices(struct stream *stream, const int32_t *values, size_t count) {
    void *memory = operand(stream);
    copy_to_device(stream, memory, values, count * sizeof *values);
    return memory;
}

static void count_linear(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype), flops = 2 * 6 * 4 * 8;
    void *mn = operand(stream), *mk = operand(stream), *nk = operand(stream), *row = operand(stream),
         *other = operand(stream), *active = operand(stream);
    assert_work(device, 0, 6 * MOST, 6);
    linear_forward(stream, dtype, mn, N, mk, nk, NULL, NULL, M, N, K);
    assert_work(device, flops, s * (48 + 32 + 24), 1);
    linear_forward(stream, dtype, mn, N, mk, nk, row, mn, M, N, K);
    assert_work(device, flops, s * (48 + 32 + 24 + 24 + 4), 1);
    linear_gelu_forward(stream, dtype, mn, other, mk, nk, row, M, N, K);
    assert_work(device, flops, s * (48 + 32 + 24 + 24 + 4), 1);
    linear_backward_input(stream, dtype, mk, dtype, mn, N, nk, NULL, M, N, K);
    assert_work(device, flops, s * (24 + 32 + 48), 1);
    linear_backward_input(stream, dtype, mk, FP32, mn, N, nk, mk, M, N, K);
    assert_work(device, flops, s * (24 + 32) + 4 * (48 + 48), 1);
    linear_gelu_backward_input(stream, dtype, mk, row, active, mn, nk, other, M, N, K, false);
    assert_work(device, flops, s * (24 + 32 + 48 + 48 + 48 + 8), 1);
    linear_gelu_backward_input(stream, dtype, mk, row, active, mn, nk, other, M, N, K, true);
    assert_work(device, flops, s * (24 + 32 + 48 + 48 + 48 + 8 + 8), 1);
    linear_backward_weight(stream, dtype, nk, NULL, mn, N, mk, M, N, K, false);
    assert_work(device, flops, s * (24 + 48 + 32), 1);
    linear_backward_weight(stream, dtype, nk, row, mn, N, mk, M, N, K, true);
    assert_work(device, flops, s * (24 + 48 + 32 + 32 + 4 + 4), 1);
    linear_backward_weight(stream, dtype, nk, row, mn, N, mk, 0, N, K, false);
    assert_work(device, 0, s * (32 + 4), 1);
    gelu_forward(stream, dtype, mn, mk, 48);
    assert_work(device, 0, s * 96, 1);
}

static void count_layernorm(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype);
    void *out = operand(stream), *x = operand(stream), *weight = operand(stream), *bias = operand(stream);
    float *mean = operand(stream), *rstd = operand(stream);
    assert_work(device, 0, 6 * MOST, 6);
    layernorm_forward(stream, dtype, out, mean, rstd, x, weight, bias, M, K, 1e-5f);
    assert_work(device, 0, s * (48 + 48 + 8 + 8) + 4 * (6 + 6), 1);
    layernorm_recompute(stream, dtype, out, mean, rstd, x, weight, bias, M, K);
    assert_work(device, 0, s * (48 + 48 + 8 + 8) + 4 * (6 + 6), 1);
    struct layernorm_gradients to = {.dx = out, .dweight = operand(stream), .dbias = operand(stream)};
    assert_work(device, 0, 2 * MOST, 2);
    layernorm_backward(stream, dtype, &to, out, x, weight, bias, mean, rstd, NULL, M, K, false);
    assert_work(device, 0, s * (48 + 48 + 48 + 8 + 8 + 8) + 4 * (6 + 6), 1);
    layernorm_backward(stream, dtype, &to, out, x, weight, bias, mean, rstd, out, M, K, true);
    assert_work(device, 0, s * (4 * 48 + 8 + 4 * 8) + 4 * (6 + 6), 1);
    to.dx_sums = operand(stream), to.out = operand(stream);
    assert_work(device, 0, 2 * MOST, 2);
    layernorm_backward(stream, dtype, &to, out, x, weight, bias, mean, rstd, out, M, K, true);
    assert_work(device, 0, s * (5 * 48 + 8 + 8 + 6 * 8) + 4 * (6 + 6), 1);
}

static void count_attention(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype);
    static const int32_t starts[] = {0, 4, 6}, keys[] = {4, 1};
    struct sequences sequences = {.count = 2,
                                  .tokens = 6,
                                  .longest = 4,
                                  .pairs = 4 + 3 + 2 + 1 + 1 + 1,
                                  .starts = indices(stream, starts, 3),
                                  .keys = indices(stream, keys, 2)};
    void *out = operand(stream), *qkv = operand(stream), *dqkv = operand(stream), *dout = operand(stream);
    float *lse = operand(stream), *scratch = operand(stream);
    assert_work(device, 0, 8 * MOST, 8);
    attention_forward(stream, dtype, out, lse, qkv, &sequences, HEADS, HEAD_DIM);
    assert_work(device, 2 * 2 * 12 * 16, s * (4 * 6 * 16) + 4 * 12 + 4 * (3 + 2), 1);
    attention_backward(stream, dtype, dqkv, dout, qkv, out, lse, scratch, &sequences, HEADS, HEAD_DIM);
    assert_work(device, 5 * 2 * 12 * 16, s * (8 * 6 * 16) + 4 * 3 * 12 + 4 * (3 + 2), 1);
    static const int32_t slots[] = {1, 0}, positions[] = {2, 0};
    struct key_value_cache cache = {.keys = dqkv, .values = dout, .capacity = 3};
    struct cached_rows rows = {.count = 2,
                               .keys = 3 + 1,
                               .slots = indices(stream, slots, 2),
                               .positions = indices(stream, positions, 2)};
    assert_work(device, 0, 2 * MOST, 2);
    attention_cached(stream, dtype, out, &cache, qkv, &rows, HEADS, HEAD_DIM);
    assert_work(device, 2 * 2 * 4 * 16, s * (6 * 2 * 16 + 2 * 4 * 16) + 4 * (2 + 2), 1);
}

static void count_rows(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype);
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 5};
    void *out = operand(stream), *x = operand(stream), *ids = indices(stream, numbers, 6);
    assert_work(device, 0, 3 * MOST, 3);
    embedding_lookup(stream, dtype, out, x, ids, M, K);
    assert_work(device, 0, s * 96 + 4 * 6, 1);
    embedding_backward(stream, dtype, out, 2, 3, x, ids, ids, M, K);
    assert_work(device, 0, s * (48 + 24 + 24) + 4 * (6 + 6), 1);
    gather_rows(stream, dtype, out, x, ids, 3, K);
    assert_work(device, 0, s * (24 + 24) + 4 * 3, 1);
    scatter_rows(stream, dtype, out, x, ids, 3, M, K);
    assert_work(device, 0, s * (24 + 48) + 4 * 3, 1);
}

static void count_loss(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype);
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 0};
    void *logits = operand(stream), *labels = indices(stream, numbers, 6);
    float *losses = operand(stream), *weights = operand(stream), *loss_scale = operand(stream);
    double *total = operand(stream);
    assert_work(device, 0, 6 * MOST, 6);
    cross_entropy(stream, dtype, logits, losses, labels, weights, M, VOCABULARY, LD, false, loss_scale, 1);
    assert_work(device, 0, s * 30 + 4 * (6 + 6 + 6), 1);
    cross_entropy(stream, dtype, logits, losses, labels, weights, M, VOCABULARY, LD, true, loss_scale, 1);
    assert_work(device, 0, s * (30 + 42) + 4 * (6 + 6 + 6 + 1), 1);
    largest_column(stream, dtype, labels, logits, M, VOCABULARY, LD);
    assert_work(device, 0, s * 30 + 4 * 6, 1);
    sum_values(stream, total, losses, M);
    assert_work(device, 0, 4 * 6 + 16, 1);
    sum_of_squares(stream, dtype, total, logits, 42);
    assert_work(device, 0, s * 42 + 16, 1);
}

static void count_update(struct stream *stream, enum dtype dtype) {
    struct device *device = stream_device(stream);
    double s = (double)dtype_size(dtype);
    /* 28 bytes a parameter: in half precision the gradient is 2 bytes less, and the parameter written 2 more.
     */
    struct update_rule rule = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8};
    struct update_state *update = operand(stream);
    double *learning_rates = operand(stream);
    float *master = operand(stream), *m = operand(stream), *v = operand(stream);
    void *gradient = operand(stream), *parameters = dtype == FP32 ? master : operand(stream);
    assert_work(device, 0, (dtype == FP32 ? 6 : 7) * MOST, dtype == FP32 ? 6 : 7);
    update_begin(stream, update);
    assert_work(device, 0, 16, 1);
    update_prepare(stream, update, &rule, learning_rates);
    assert_work(device, 0, 2 * sizeof *update + 8, 1);
    adamw(stream, dtype, parameters, master, m, v, gradient, 48, 32, update, &rule);
    assert_work(device, 0, 28 * 48 + (double)sizeof *update, 1);
    convert(stream, dtype, gradient, FP32, m, 40);
    assert_work(device, 0, (s + 4) * 40, 1);
    fill_value(stream, m, 1, 40);
    assert_work(device, 0, 160, 1);
    fill_normal(stream, m, 1, 2, 3, 40, 0.02f);
    assert_work(device, 0, 160, 1);
}

void check_kernels_counted(void **state) {
    (void)state;
    static const enum dtype dtypes[] = {FP32, BF16, FP16};
    for (int i = 0; i < 3; i++) {
        struct device *device = open_device(dtypes[i], 0);
        struct stream *stream = stream_open(device, "test");
        last_work = (struct work){0};
        count_linear(stream, dtypes[i]);
        count_layernorm(stream, dtypes[i]);
        count_attention(stream, dtypes[i]);
        count_rows(stream, dtypes[i]);
        count_loss(stream, dtypes[i]);
        count_update(stream, dtypes[i]);
        stream_close(stream);
        device_close(device);
    }
}
