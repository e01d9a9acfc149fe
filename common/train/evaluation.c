#include <stdio.h>
#include <stdlib.h>

#include "common/base/json.h"
#include "common/train/prediction.h"
#include "common/train/session.h"

/* Adds a pack's losses to their examples: sums [2 · examples], of weighted losses and of weights. */
static void add_losses(const struct pack *pack, const float *losses, double *sums) {
    for (int r = 0; r < pack->labelled; r++) {
        size_t example = (size_t)pack->examples[pack->row_sequence[r]];
        sums[2 * example] += (double)losses[r];
        sums[2 * example + 1] += (double)pack->weights[r];
    }
}

/* The mean over batches of consecutive examples of each batch's mean, weighted by its examples. */
static double mean_of_batches(const double *sums, int examples, int batch) {
    double total = 0;
    for (int begin = 0; begin < examples; begin += batch) {
        int end = begin + batch < examples ? begin + batch : examples;
        double loss = 0, weight = 0;
        for (int i = begin; i < end; i++) {
            loss += sums[2 * i];
            weight += sums[2 * i + 1];
        }
        if (weight > 0) total += loss / weight * (end - begin);
    }
    return total / examples;
}

/* eval_loss of the evaluation's examples. */
static double evaluate_losses(struct session *s, const struct stage_state *stage, void (*forward)(void *self),
                              const struct model *model) {
    int examples = s->eval_examples.count;
    double *sums = xcalloc(2 * (size_t)examples, sizeof *sums);
    size_t bytes = (size_t)s->capacity.labelled * sizeof(float);
    float *host_losses = host_alloc(s->device, BUFFERS, bytes, true, "evaluation losses");
    struct update all;
    batches_update(s->eval_batches, 0, &all);
    for (int number = 0; number < all.packs; number++) {
        batches_fill(s->eval_batches, number, &s->pack);
        input_upload(&s->input, s->stream, &s->pack);
        forward(stage->self);
        copy_to_host(s->stream, host_losses, model->activations.losses,
                     (size_t)s->pack.labelled * sizeof(float));
        stream_synchronize(s->stream);
        if (device_computes()) add_losses(&s->pack, host_losses, sums);
    }
    comm_host_sum(s->comm, sums, 2 * (size_t)examples);
    host_free(s->device, host_losses);
    double loss = mean_of_batches(sums, examples, (int)s->settings.per_device_eval_batch_size);
    free(sums);
    return loss;
}

/* A loss, a score or a speed; null in a dry run, which has none. */
static json_t *measured(double value) {
    return device_computes() ? json_number(value) : json_null();
}

static void report_evaluation(struct session *s, double loss, const struct prediction *prediction,
                              double seconds) {
    double epoch = s->step ? s->update.epoch : 0;
    json_t *event = json_object();
    json_object_set_new(event, "step", json_integer(s->step));
    json_object_set_new(event, "epoch", json_number(epoch));
    json_object_set_new(event, "eval_loss", measured(loss));
    if (prediction) json_object_set_new(event, "eval_exact_match", measured(prediction->exact_match));
    if (prediction) json_object_set_new(event, "eval_f1", measured(prediction->f1));
    json_object_set_new(event, "eval_samples_per_second", measured(s->eval_samples_per_second));
    json_object_set_new(event, "eval_runtime", measured(seconds));
    metrics_write(s->metrics, "eval", event);
    if (!device_computes()) return;
    char scores[80] = "";
    if (prediction)
        snprintf(scores, sizeof scores, "'eval_exact_match': %.2f, 'eval_f1': %.2f, ",
                 prediction->exact_match, prediction->f1);
    metrics_line(
        s->metrics,
        "{'eval_loss': %.4f, %s'eval_runtime': %.2f, 'eval_samples_per_second': %.2f, 'epoch': %.2f}", loss,
        scores, seconds, s->eval_samples_per_second, epoch);
}

void session_evaluate(struct session *s, const struct stage_state *stage, void (*forward)(void *self),
                      const struct model *model) {
    if (!s->eval_batches) return;
    session_drain(s);
    double start = session_seconds();
    bool answers = s->settings.predict_with_generate;
    struct prediction prediction;
    comm_count_bytes(s->comm, false);
    double loss = evaluate_losses(s, stage, forward, model);
    if (answers) prediction = session_predict(s, stage);
    comm_count_bytes(s->comm, true);
    double seconds = session_seconds() - start;
    s->last_eval_loss = loss;
    s->eval_samples_per_second = s->eval_examples.count / seconds;
    report_evaluation(s, loss, answers ? &prediction : NULL, seconds);
}
