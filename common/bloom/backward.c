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
    struct layernorm_gradients gradients = {.dx = d_selected,
                                            .dweight = gradient(model, unit, NORM_WEIGHT),
                                            .dbias = gradient(model, unit, NORM_BIAS)};
    layernorm_backward(model->stream, model->dtype, &gradients, d_selected, a->selected,
                       parameter(model, unit, NORM_WEIGHT), NULL, a->selected_mean, a->selected_rstd, NULL, r,
                       h, model->accumulate);
    scatter_rows(model->stream, model->dtype, a->d_x, d_selected, input->rows, r, (size_t)input->tokens, h);
}

/* What is queued on `later` from now on waits for what has been queued on `earlier`. */
static void follow(const struct model *model, struct stream *later, struct stream *earlier) {
    event_record(model->queued, earlier);
    stream_wait_event(later, model->queued);
}

/* y = a + down(gelu(up(norm2(a)))): from d_x = dL/dy to d_middle = dL/da. */
static void mlp_backward(struct model *model, int unit, struct block_activations *b, size_t n) {
    struct stream *stream = model->stream, *weights = model->weights_stream;
    enum dtype dtype = model->dtype;
    struct activations *a = &model->activations;
    size_t h = model->config.hidden;
    bool post = model->config.post_layernorm, accumulate = model->accumulate;
    /* What was added to a last is dense's bias. */
    struct layernorm_gradients norm2 = {.dx = a->d_middle,
                                        .dweight = gradient(model, unit, POST_NORM_WEIGHT),
                                        .dbias = gradient(model, unit, POST_NORM_BIAS),
                                        .dx_sums = gradient(model, unit, DENSE_BIAS),
                                        .out = a->norm};

    linear_gelu_backward_input(stream, dtype, a->d_wide, gradient(model, unit, UP_BIAS), a->wide, a->d_x,
                               parameter(model, unit, DOWN_WEIGHT), b->up, n, h, 4 * h, accumulate);
    follow(model, weights, stream);
    linear_backward_weight(weights, dtype, gradient(model, unit, DOWN_WEIGHT),
                           gradient(model, unit, DOWN_BIAS), a->d_x, h, a->wide, n, h, 4 * h, accumulate);
    event_record(model->down_done, weights);

    linear_backward_input(stream, dtype, a->d_temporary, dtype, a->d_wide, 4 * h,
                          parameter(model, unit, UP_WEIGHT), post ? a->d_x : NULL, n, 4 * h, h);
    layernorm_backward(stream, dtype, &norm2, a->d_temporary, b->middle,
                       parameter(model, unit, POST_NORM_WEIGHT), parameter(model, unit, POST_NORM_BIAS),
                       b->mean2, b->rstd2, post ? NULL : a->d_x, n, h, accumulate);
    follow(model, weights, stream);
    linear_backward_weight(weights, dtype, gradient(model, unit, UP_WEIGHT), NULL, a->d_wide, 4 * h, a->norm,
                           n, 4 * h, h, accumulate);
}

/* a = x + dense(attention(norm1(x))): from d_middle = dL/da to d_x = dL/dx. */
static void attention_part_backward(struct model *model, int unit, struct block_activations *b,
                                    const struct input *input) {
    struct stream *stream = model->stream, *weights = model->weights_stream;
    enum dtype dtype = model->dtype;
    struct activations *a = &model->activations;
    size_t n = (size_t)input->tokens, h = model->config.hidden;
    bool post = model->config.post_layernorm, accumulate = model->accumulate;
    const void *norm_weight = parameter(model, unit, INPUT_NORM_WEIGHT),
               *norm_bias = parameter(model, unit, INPUT_NORM_BIAS);
    struct layernorm_gradients norm1 = {.dx = a->d_x,
                                        .dweight = gradient(model, unit, INPUT_NORM_WEIGHT),
                                        .dbias = gradient(model, unit, INPUT_NORM_BIAS)};

    linear_backward_weight(weights, dtype, gradient(model, unit, DENSE_WEIGHT), NULL, a->d_middle, h,
                           b->context, n, h, h, accumulate);
    layernorm_recompute(weights, dtype, a->norm, b->mean1, b->rstd1, b->x, norm_weight, norm_bias, n, h);

    linear_backward_input(stream, dtype, a->d_temporary, dtype, a->d_middle, h,
                          parameter(model, unit, DENSE_WEIGHT), NULL, n, h, h);
    attention_backward(stream, dtype, a->d_qkv, a->d_temporary, b->qkv, b->context, b->lse, a->d_scratch,
                       &input->sequences, model->config.heads, model->config.head_dim);
    follow(model, weights, stream);
    linear_backward_weight(weights, dtype, gradient(model, unit, QKV_WEIGHT), gradient(model, unit, QKV_BIAS),
                           a->d_qkv, 3 * h, a->norm, n, 3 * h, h, accumulate);

    linear_backward_input(stream, dtype, a->d_temporary, dtype, a->d_qkv, 3 * h,
                          parameter(model, unit, QKV_WEIGHT), post ? a->d_middle : NULL, n, 3 * h, h);
    stream_wait_event(stream, model->down_done);
    layernorm_backward(stream, dtype, &norm1, a->d_temporary, b->x, norm_weight, norm_bias, b->mean1,
                       b->rstd1, post ? NULL : a->d_middle, n, h, accumulate);
}

void block_backward(struct model *model, int unit, const struct input *input) {
    struct block_activations *b = &model->activations.blocks[model->layout->units[unit].layer];
    /* The block's output, recomputed too, goes where the next block's input was: the same values. */
    if (model->gradient_checkpointing) block_forward(model, unit, input);
    mlp_backward(model, unit, b, (size_t)input->tokens);
    attention_part_backward(model, unit, b, input);
    follow(model, model->stream, model->weights_stream);
}

void embed_backward(struct model *model, const struct input *input) {
    struct activations *a = &model->activations;
    struct layernorm_gradients gradients = {
        .dx = a->d_x, .dweight = gradient(model, 0, NORM_WEIGHT), .dbias = gradient(model, 0, NORM_BIAS)};
    layernorm_backward(model->stream, model->dtype, &gradients, a->d_x, a->embedded,
                       parameter(model, 0, NORM_WEIGHT), NULL, a->embedded_mean, a->embedded_rstd, NULL,
                       (size_t)input->tokens, model->config.hidden, model->accumulate);
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
