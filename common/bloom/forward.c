#include "common/bloom/model.h"

static void *parameter(const struct model *model, int unit, int tensor) {
    return model_tensor(model, model->parameters, unit, tensor);
}

void embed_lookup(struct model *model, const struct input *input) {
    embedding_lookup(model->stream, model->dtype, model->activations.embedded,
                     model->parameters[model->layout->chunks_begin], input->ids, (size_t)input->tokens,
                     model->config.hidden);
}

void embed_forward(struct model *model, const struct input *input) {
    struct activations *a = &model->activations;
    layernorm_forward(model->stream, model->dtype, a->blocks[0].x, a->embedded_mean, a->embedded_rstd,
                      a->embedded, parameter(model, 0, NORM_WEIGHT), parameter(model, 0, NORM_BIAS),
                      (size_t)input->tokens, model->config.hidden, model->config.layer_norm_epsilon);
}

/* x → a = x + dense(attention(norm1(x))) → y = a + down(gelu(up(norm2(a)))). With post_layernorm the
 * residuals added are the layer norms' outputs instead of their inputs. */
void block_forward(struct model *model, int unit, const struct input *input) {
    struct stream *stream = model->stream;
    enum dtype dtype = model->dtype;
    size_t n = (size_t)input->tokens, h = model->config.hidden, heads = model->config.heads;
    size_t layer = (size_t)model->layout->units[unit].layer;
    bool post = model->config.post_layernorm;
    float epsilon = model->config.layer_norm_epsilon;
    struct activations *a = &model->activations;
    struct block_activations *b = &a->blocks[layer];
    void *y = layer + 1 < model->config.layers ? a->blocks[layer + 1].x : a->last;

    layernorm_forward(stream, dtype, a->norm, b->mean1, b->rstd1, b->x,
                      parameter(model, unit, INPUT_NORM_WEIGHT), parameter(model, unit, INPUT_NORM_BIAS), n,
                      h, epsilon);
    linear_forward(stream, dtype, b->qkv, 3 * h, a->norm, parameter(model, unit, QKV_WEIGHT),
                   parameter(model, unit, QKV_BIAS), NULL, n, 3 * h, h);
    attention_forward(stream, dtype, b->context, b->lse, b->qkv, &input->sequences, heads,
                      model->config.head_dim);
    linear_forward(stream, dtype, b->middle, h, b->context, parameter(model, unit, DENSE_WEIGHT),
                   parameter(model, unit, DENSE_BIAS), post ? a->norm : b->x, n, h, h);

    layernorm_forward(stream, dtype, a->norm, b->mean2, b->rstd2, b->middle,
                      parameter(model, unit, POST_NORM_WEIGHT), parameter(model, unit, POST_NORM_BIAS), n, h,
                      epsilon);
    linear_gelu_forward(stream, dtype, a->wide, b->up, a->norm, parameter(model, unit, UP_WEIGHT),
                        parameter(model, unit, UP_BIAS), n, 4 * h, h);
    linear_forward(stream, dtype, y, h, a->wide, parameter(model, unit, DOWN_WEIGHT),
                   parameter(model, unit, DOWN_BIAS), post ? a->norm : b->middle, n, h, 4 * h);
}

void final_norm_forward(struct model *model, const struct input *input) {
    struct activations *a = &model->activations;
    int unit = model->layout->final_norm;
    size_t r = (size_t)input->labelled, h = model->config.hidden;
    gather_rows(model->stream, model->dtype, a->selected, a->last, input->rows, r, h);
    layernorm_forward(model->stream, model->dtype, a->normed, a->selected_mean, a->selected_rstd, a->selected,
                      parameter(model, unit, NORM_WEIGHT), parameter(model, unit, NORM_BIAS), r, h,
                      model->config.layer_norm_epsilon);
}

void head_logits(struct model *model, int unit, const struct input *input) {
    const struct unit *chunk = &model->layout->units[unit];
    size_t columns = model->layout->padded_vocabulary;
    char *logits = (char *)model->activations.logits + chunk->first_row * dtype_size(model->dtype);
    linear_forward(model->stream, model->dtype, logits, columns, model->activations.normed,
                   parameter(model, unit, CHUNK_ROWS), NULL, NULL, (size_t)input->labelled,
                   chunk->padded_rows, model->config.hidden);
}

void head_loss(struct model *model, const struct input *input, double *loss_sum, const float *loss_scale,
               double positions) {
    struct activations *a = &model->activations;
    cross_entropy(model->stream, model->dtype, a->logits, a->losses, input->labels, input->weights,
                  (size_t)input->labelled, model->config.vocabulary, model->layout->padded_vocabulary,
                  loss_scale != NULL, loss_scale, (float)(1 / positions));
    sum_values(model->stream, loss_sum, a->losses, (size_t)input->labelled);
}
