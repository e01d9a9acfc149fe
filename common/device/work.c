#include "common/device/work.h"

/* Products of doubles: a count of bytes or FLOP may be beyond what a size_t holds. */
static void add(struct stream *stream, double flops, double bytes) {
    struct work *work = stream_work(stream);
    work->product_flops += flops;
    work->bytes += bytes;
    work->kernels++;
}

static double product(size_t m, size_t n, size_t k) {
    return 2.0 * (double)m * (double)n * (double)k;
}

static double matrix(enum dtype dtype, size_t rows, size_t columns) {
    return (double)dtype_size(dtype) * (double)rows * (double)columns;
}

static double vector(enum dtype dtype, size_t count) {
    return matrix(dtype, 1, count);
}

/* ---- linear layers ---- */

void work_linear_forward(struct stream *stream, enum dtype dtype, bool bias, bool residual, size_t m,
                         size_t n, size_t k) {
    add(stream, product(m, n, k),
        matrix(dtype, m, k) + matrix(dtype, n, k) + (1 + residual) * matrix(dtype, m, n) +
            bias * vector(dtype, n));
}

void work_linear_gelu_forward(struct stream *stream, enum dtype dtype, size_t m, size_t n, size_t k) {
    add(stream, product(m, n, k),
        matrix(dtype, m, k) + matrix(dtype, n, k) + 2 * matrix(dtype, m, n) + vector(dtype, n));
}

void work_linear_backward_input(struct stream *stream, enum dtype dtype, enum dtype dx_dtype, bool added,
                                size_t m, size_t n, size_t k) {
    add(stream, product(m, n, k),
        matrix(dtype, m, n) + matrix(dtype, n, k) + (1 + added) * matrix(dx_dtype, m, k));
}

void work_linear_gelu_backward_input(struct stream *stream, enum dtype dtype, size_t m, size_t n, size_t k,
                                     bool accumulate) {
    add(stream, product(m, n, k),
        matrix(dtype, m, n) + matrix(dtype, n, k) + 3 * matrix(dtype, m, k) +
            (1 + accumulate) * vector(dtype, k));
}

void work_linear_backward_weight(struct stream *stream, enum dtype dtype, bool bias, size_t m, size_t n,
                                 size_t k, bool accumulate) {
    double gradients = matrix(dtype, n, k) + bias * vector(dtype, n);
    add(stream, product(m, n, k), matrix(dtype, m, n) + matrix(dtype, m, k) + (1 + accumulate) * gradients);
}

void work_gelu_forward(struct stream *stream, enum dtype dtype, size_t count) {
    add(stream, 0, 2 * vector(dtype, count));
}

/* ---- layer norm: mean and rstd of each row are 2 fp32 ---- */

void work_layernorm_forward(struct stream *stream, enum dtype dtype, size_t rows, size_t h) {
    add(stream, 0, 2 * matrix(dtype, rows, h) + 2 * vector(dtype, h) + matrix(FP32, rows, 2));
}

/* The forward's bias is read where its output is recomputed. */
void work_layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                             bool added, size_t rows, size_t h, bool accumulate) {
    bool recomputed = to->out != NULL, summed = to->dx_sums != NULL;
    add(stream, 0,
        (3 + added + recomputed) * matrix(dtype, rows, h) + (1 + recomputed) * vector(dtype, h) +
            (2 + summed) * (1 + accumulate) * vector(dtype, h) + matrix(FP32, rows, 2));
}

/* ---- attention ---- */

static double sequence_bytes(const struct sequences *sequences) {
    return vector(INT32, 2 * (size_t)sequences->count + 1);
}

/* Two products a pair of rows: scores, and their mean of the values. */
void work_attention_forward(struct stream *stream, enum dtype dtype, const struct sequences *sequences,
                            size_t heads, size_t head_dim) {
    size_t tokens = (size_t)sequences->tokens;
    add(stream, 2 * product(heads, head_dim, 1) * sequences->pairs,
        4 * matrix(dtype, tokens, heads * head_dim) + matrix(FP32, heads, tokens) +
            sequence_bytes(sequences));
}

/* Five: the scores again, and the gradients of probabilities, values, queries and keys. Read are qkv, dout,
 * out and lse, written is dqkv; the scratch is both. */
void work_attention_backward(struct stream *stream, enum dtype dtype, const struct sequences *sequences,
                             size_t heads, size_t head_dim) {
    size_t tokens = (size_t)sequences->tokens;
    add(stream, 5 * product(heads, head_dim, 1) * sequences->pairs,
        8 * matrix(dtype, tokens, heads * head_dim) + 3 * matrix(FP32, heads, tokens) +
            sequence_bytes(sequences));
}

/* Each row reads the keys and values of all positions that it sees; its own are read in qkv and written to
 * the cache. */
void work_attention_cached(struct stream *stream, enum dtype dtype, const struct cached_rows *rows,
                           size_t heads, size_t head_dim) {
    add(stream, 2 * product(heads, head_dim, 1) * rows->keys,
        6 * matrix(dtype, (size_t)rows->count, heads * head_dim) +
            2 * vector(dtype, heads * head_dim) * rows->keys + 2 * vector(INT32, (size_t)rows->count));
}

/* ---- embedding, rows ---- */

void work_embedding_lookup(struct stream *stream, enum dtype dtype, size_t n, size_t h) {
    add(stream, 0, 2 * matrix(dtype, n, h) + vector(INT32, n));
}

void work_embedding_backward(struct stream *stream, enum dtype dtype, size_t rows, size_t n, size_t h) {
    size_t touched = n < rows ? n : rows;
    add(stream, 0, matrix(dtype, n, h) + 2 * matrix(dtype, touched, h) + 2 * vector(INT32, n));
}

void work_gather_rows(struct stream *stream, enum dtype dtype, size_t count, size_t h) {
    add(stream, 0, 2 * matrix(dtype, count, h) + vector(INT32, count));
}

void work_scatter_rows(struct stream *stream, enum dtype dtype, size_t count, size_t n, size_t h) {
    add(stream, 0, matrix(dtype, count, h) + matrix(dtype, n, h) + vector(INT32, count));
}

/* ---- loss ---- */

/* A row's label, weight and loss are 4 bytes each. */
void work_cross_entropy(struct stream *stream, enum dtype dtype, size_t rows, size_t vocabulary, size_t ld,
                        bool gradient) {
    add(stream, 0,
        matrix(dtype, rows, vocabulary) + gradient * (matrix(dtype, rows, ld) + vector(FP32, 1)) +
            matrix(FP32, rows, 3));
}

void work_largest_column(struct stream *stream, enum dtype dtype, size_t rows, size_t vocabulary) {
    add(stream, 0, matrix(dtype, rows, vocabulary) + vector(INT32, rows));
}

void work_sum_values(struct stream *stream, size_t count) {
    add(stream, 0, vector(FP32, count) + 2 * vector(FP64, 1));
}

void work_sum_of_squares(struct stream *stream, enum dtype dtype, size_t count) {
    add(stream, 0, vector(dtype, count) + 2 * vector(FP64, 1));
}

/* ---- the update ---- */

void work_update_begin(struct stream *stream) {
    add(stream, 0, 2 * vector(FP64, 1));
}

void work_update_prepare(struct stream *stream) {
    add(stream, 0, 2 * (double)sizeof(struct update_state) + vector(FP64, 1));
}

/* Master, m and v are read and written; in half precision the parameters are written besides. */
void work_adamw(struct stream *stream, enum dtype dtype, size_t count) {
    add(stream, 0,
        6 * vector(FP32, count) + (dtype == FP32 ? 1 : 2) * vector(dtype, count) +
            (double)sizeof(struct update_state));
}

/* ---- filling, converting, copying ---- */

void work_convert(struct stream *stream, enum dtype out_dtype, enum dtype dtype, size_t count) {
    add(stream, 0, vector(out_dtype, count) + vector(dtype, count));
}

void work_add_elements(struct stream *stream, enum dtype dtype, size_t count) {
    add(stream, 0, 3 * vector(dtype, count));
}

void work_fill(struct stream *stream, size_t count) {
    add(stream, 0, vector(FP32, count));
}

void work_copy_host(struct stream *stream, size_t bytes) {
    stream_work(stream)->copied_bytes += (double)bytes;
}

void work_copy_device(struct stream *stream, size_t bytes) {
    add(stream, 0, 2 * (double)bytes);
}

void work_fill_zero(struct stream *stream, size_t bytes) {
    add(stream, 0, (double)bytes);
}
