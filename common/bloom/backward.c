#include "common/bloom/model.h"

static void *parameter(const struct model *model, int unit, int tensor) {
    return model_tensor(model, model->parameters, unit, tensor);
}

static void *gradient(const struct model *model, int unit, int tensor) {
    return model_tensor(model, model->gradients, unit, tensor);
}

static char *chunk_logits(const struct model *model, int unit) {
    return (char *)model->activations.logits +
           model->layout->units[unit].first_row * dtype_size(model->dtype);
}

void head_dx(struct model *model, int unit, const struct input *input) {
    struct activations *a = &model->activations;
    bool first = unit == model->layout->chunks_end - 1; /* the walk comes from the end */
    linear_backward_input(model->stream, model->dtype, a->d_normed, FP32, chunk_logits(model, unit),
                          model->layout->padded_vocabulary, parameter(model, unit, CHUNK_ROWS),
                          first ? NULL : a->d_normed, (size_t)input->labelled,
                          model->layout->units[unit].padded_rows, model->config.hidden);
}

void final_norm_backward(struct model *model, const struct input *input) {
    struct activations *a = &model->activations;
    int unit = model->layout->final_norm;
    size_t r = (size_t)input->labelled, h = model->config.hidden;
    void *d_selected = a->d_wide; /* [r,h] fits: no more labelled rows than rows */
    convert(model->stream, model->dtype, d_selected, FP32, a->d_normed, r * h);
    layernorm_backward(model->stream, model->dtype, d_selected, gradient(model, unit, NORM_WEIGHT),
                       gradient(model, unit, NORM_BIAS), d_selected, a->selected,
                       parameter(model, unit, NORM_WEIGHT), a->selected_mean, a->selected_rstd, NULL, r, h,
                       model->accumulate);
    scatter_rows(model->stream, model->dtype, a->d_x, d_selected, input->rows, r, (size_t)input->tokens, h);
}

/* y = a + down(gelu(up(norm2(a)))): from d_x = dL/dy to d_x = dL/da. */
static void mlp_backward(struct model *model, int unit, struct block_activations *b, size_t n) {
    struct stream *stream = model->stream;
    enum dtype dtype = model->dtype;
    struct activations *a = &model->activations;
    size_t h = model->config.hidden;
    bool post = model->config.post_layernorm, accumulate = model->accumulate;

    gelu_forward(stream, dtype, a->wide, b->up, 4 * n * h);
    linear_backward_weight(stream, dtype, gradient(model, unit, DOWN_WEIGHT),
                           gradient(model, unit, DOWN_BIAS), a->d_x, h, a->wide, n, h, 4 * h, accumulate);
    linear_gelu_backward_input(stream, dtype, a->d_wide, a->d_x, parameter(model, unit, DOWN_WEIGHT), b->up,
                               n, h, 4 * h);
    layernorm_recompute(stream, dtype, a->norm, b->mean2, b->rstd2, b->middle,
                        parameter(model, unit, POST_NORM_WEIGHT), parameter(model, unit, POST_NORM_BIAS), n,
                        h);
    linear_backward_weight(stream, dtype, gradient(model, unit, UP_WEIGHT), gradient(model, unit, UP_BIAS),
                           a->d_wide, 4 * h, a->norm, n, 4 * h, h, accumulate);
    linear_backward_input(stream, dtype, a->d_temporary, dtype, a->d_wide, 4 * h,
                          parameter(model, unit, UP_WEIGHT), post ? a->d_x : NULL, n, 4 * h, h);
    layernorm_backward(stream, dtype, a->d_x, gradient(model, unit, POST_NORM_WEIGHT),
                       gradient(model, unit, POST_NORM_BIAS), a->d_temporary, b->middle,
                       parameter(model, unit, POST_NORM_WEIGHT), b->mean2, b->rstd2, post ? NULL : a->d_x, n,
                       h, accumulate);
}

/* a = x + dense(attention(norm1(x))): from d_x = dL/da to d_x = dL/dx. */
static void attention_part_backward(struct model *model, int unit, struct block_activations *b,
                                    const struct input *input) {
    struct stream *stream = model->stream;
    enum dtype dtype = model->dtype;
    struct activations *a = &model->activations;
    size_t n = (size_t)input->tokens, h = model->config.hidden;
    bool post = model->config.post_layernorm, accumulate = model->accumulate;
    void *d_qkv = a->wide;

    linear_backward_weight(stream, dtype, gradient(model, unit, DENSE_WEIGHT),
                           gradient(model, unit, DENSE_BIAS), a->d_x, h, b->context, n, h, h, accumulate);
    linear_backward_input(stream, dtype, a->d_temporary, dtype, a->d_x, h,
                          parameter(model, unit, DENSE_WEIGHT), NULL, n, h, h);
    attention_backward(stream, dtype, d_qkv, a->d_temporary, b->qkv, b->context, b->lse, a->d_scratch,
                       &input->sequences, model->config.heads, model->config.head_dim);
    layernorm_recompute(stream, dtype, a->norm, b->mean1, b->rstd1, b->x,
                        parameter(model, unit, INPUT_NORM_WEIGHT), parameter(model, unit, INPUT_NORM_BIAS), n,
                        h);
    linear_backward_weight(stream, dtype, gradient(model, unit, QKV_WEIGHT), gradient(model, unit, QKV_BIAS),
                           d_qkv, 3 * h, a->norm, n, 3 * h, h, accumulate);
    linear_backward_input(stream, dtype, a->d_temporary, dtype, d_qkv, 3 * h,
                          parameter(model, unit, QKV_WEIGHT), post ? a->d_x : NULL, n, 3 * h, h);
    layernorm_backward(stream, dtype, a->d_x, gradient(model, unit, INPUT_NORM_WEIGHT),
                       gradient(model, unit, INPUT_NORM_BIAS), a->d_temporary, b->x,
                       parameter(model, unit, INPUT_NORM_WEIGHT), b->mean1, b->rstd1, post ? NULL : a->d_x, n,
                       h, accumulate);
}

void block_backward(struct model *model, int unit, const struct input *input) {
    struct block_activations *b = &model->activations.blocks[model->layout->units[unit].layer];
    /* The block's output, recomputed too, goes where the next block's input was: the same values. */
    if (model->gradient_checkpointing) block_forward(model, unit, input);
    mlp_backward(model, unit, b, (size_t)input->tokens);
    attention_part_backward(model, unit, b, input);
}

void embed_backward(struct model *model, const struct input *input) {
    struct activations *a = &model->activations;
    layernorm_backward(model->stream, model->dtype, a->d_x, gradient(model, 0, NORM_WEIGHT),
                       gradient(model, 0, NORM_BIAS), a->d_x, a->embedded, parameter(model, 0, NORM_WEIGHT),
                       a->embedded_mean, a->embedded_rstd, NULL, (size_t)input->tokens, model->config.hidden,
                       model->accumulate);
}

void head_dw(struct model *model, int unit, const struct input *input) {
    const struct unit *chunk = &model->layout->units[unit];
    struct activations *a = &model->activations;
    void *d_rows = gradient(model, unit, CHUNK_ROWS);
    linear_backward_weight(model->stream, model->dtype, d_rows, NULL, chunk_logits(model, unit),
                           model->layout->padded_vocabulary, a->normed, (size_t)input->labelled,
                           chunk->padded_rows, model->config.hidden, model->accumulate);
    embedding_backward(model->stream, model->dtype, d_rows, chunk->first_row, chunk->padded_rows, a->d_x,
                       input->ids, input->by_id, (size_t)input->tokens, model->config.hidden);
}
