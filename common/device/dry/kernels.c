/*
 * The kernels without their work: each is counted, as on every backend, and nothing is read or written. As
 * device memory holds nothing here, only what the arguments themselves say can count.
 */
#include "common/device/kernels.h"
#include "common/device/immediate/immediate.h"
#include "common/device/work.h"

/* What the CUDA backend's kernel of this name books when it has `elements` to compute. */
static void need_workspace(struct stream *stream, size_t elements) {
    if (!stream->device->options.dry_gpu || stream->workspace || !elements) return;
    stream->workspace =
        device_alloc(stream->device, BUFFERS, CUDA_WORKSPACE_BYTES, "workspace of a stream's kernels");
}

/* ---- linear layers ---- */

void linear_forward(struct stream *stream, enum dtype dtype, void *y, size_t ldy, const void *x,
                    const void *w, const void *bias, const void *residual, size_t m, size_t n, size_t k) {
    work_linear_forward(stream, dtype, bias, residual, m, n, k);
    need_workspace(stream, m * n);
}

void linear_gelu_forward(struct stream *stream, enum dtype dtype, void *out, void *pre, const void *x,
                         const void *w, const void *bias, size_t m, size_t n, size_t k) {
    work_linear_gelu_forward(stream, dtype, m, n, k);
    need_workspace(stream, m * n);
}

void linear_backward_input(struct stream *stream, enum dtype dtype, void *dx, enum dtype dx_dtype,
                           const void *dy, size_t lddy, const void *w, const void *add, size_t m, size_t n,
                           size_t k) {
    work_linear_backward_input(stream, dtype, dx_dtype, add, m, n, k);
    need_workspace(stream, m * k);
}

void linear_gelu_backward_input(struct stream *stream, enum dtype dtype, void *dpre, void *dbias,
                                void *active, const void *dy, const void *w, const void *pre, size_t m,
                                size_t n, size_t k, bool accumulate) {
    work_linear_gelu_backward_input(stream, dtype, m, n, k, accumulate);
    need_workspace(stream, m * k);
}

void linear_backward_weight(struct stream *stream, enum dtype dtype, void *dw, void *dbias, const void *dy,
                            size_t lddy, const void *x, size_t m, size_t n, size_t k, bool accumulate) {
    work_linear_backward_weight(stream, dtype, dbias, m, n, k, accumulate);
    if (m || !accumulate) need_workspace(stream, n * k);
}

void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_gelu_forward(stream, dtype, count);
}

/* ---- layer norm ---- */

void layernorm_forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                       const void *x, const void *weight, const void *bias, size_t rows, size_t h,
                       float eps) {
    work_layernorm_forward(stream, dtype, rows, h);
}

void layernorm_recompute(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                         const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                         size_t h) {
    work_layernorm_forward(stream, dtype, rows, h);
}

void layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                        const void *dy, const void *x, const void *weight, const void *bias,
                        const float *mean, const float *rstd, const void *add, size_t rows, size_t h,
                        bool accumulate) {
    work_layernorm_backward(stream, dtype, to, add, rows, h, accumulate);
    need_workspace(stream, h);
}

/* ---- attention ---- */

void attention_forward(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                       const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_forward(stream, dtype, sequences, heads, head_dim);
}

void attention_backward(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                        const void *qkv, const void *out, const float *lse, float *scratch,
                        const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_backward(stream, dtype, sequences, heads, head_dim);
}

void attention_cached(struct stream *stream, enum dtype dtype, void *out, const struct key_value_cache *cache,
                      const void *qkv, const struct cached_rows *rows, size_t heads, size_t head_dim) {
    work_attention_cached(stream, dtype, rows, heads, head_dim);
}

/* ---- embedding, rows ---- */

void embedding_lookup(struct stream *stream, enum dtype dtype, void *out, const void *table,
                      const int32_t *ids, size_t n, size_t h) {
    work_embedding_lookup(stream, dtype, n, h);
}

void embedding_backward(struct stream *stream, enum dtype dtype, void *dtable, size_t first_row, size_t rows,
                        const void *dx, const int32_t *ids, const int32_t *by_id, size_t n, size_t h) {
    work_embedding_backward(stream, dtype, rows, n, h);
}

void gather_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                 size_t count, size_t h) {
    work_gather_rows(stream, dtype, count, h);
}

void scatter_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                  size_t count, size_t n, size_t h) {
    work_scatter_rows(stream, dtype, count, n, h);
}

/* ---- loss ---- */

void cross_entropy(struct stream *stream, enum dtype dtype, void *logits, float *losses,
                   const int32_t *labels, const float *weights, size_t rows, size_t vocabulary, size_t ld,
                   bool gradient, const float *loss_scale, float inverse_positions) {
    work_cross_entropy(stream, dtype, rows, vocabulary, ld, gradient);
}

void largest_column(struct stream *stream, enum dtype dtype, int32_t *out, const void *logits, size_t rows,
                    size_t vocabulary, size_t ld) {
    work_largest_column(stream, dtype, rows, vocabulary);
}

void sum_values(struct stream *stream, double *total, const float *values, size_t count) {
    work_sum_values(stream, count);
    need_workspace(stream, count);
}

void sum_of_squares(struct stream *stream, enum dtype dtype, double *total, const void *x, size_t count) {
    work_sum_of_squares(stream, dtype, count);
    need_workspace(stream, count);
}

/* ---- the update ---- */

void update_begin(struct stream *stream, struct update_state *state) {
    work_update_begin(stream);
}

void update_prepare(struct stream *stream, struct update_state *state, const struct update_rule *rule,
                    const double *learning_rates) {
    work_update_prepare(stream);
}

void adamw(struct stream *stream, enum dtype dtype, void *parameters, float *master, float *m, float *v,
           const void *gradient, size_t count, size_t decayed, const struct update_state *state,
           const struct update_rule *rule) {
    work_adamw(stream, dtype, count);
}

/* ---- filling and converting ---- */

void convert(struct stream *stream, enum dtype out_dtype, void *out, enum dtype dtype, const void *x,
             size_t count) {
    work_convert(stream, out_dtype, dtype, count);
}

void add_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_add_elements(stream, dtype, count);
}

void fill_value(struct stream *stream, float *out, float value, size_t count) {
    work_fill(stream, count);
}

void fill_normal(struct stream *stream, float *out, uint64_t seed, uint64_t tensor, size_t first,
                 size_t count, float deviation) {
    work_fill(stream, count);
}
