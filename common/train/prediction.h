/*
 * Evaluation by answering (predict_with_generate): the model answers the evaluation's questions by greedy
 * generation, and the answers are compared with the right ones as SQuAD v1.1 does it (common/text/score.h).
 *
 * Batches of per_device_eval_batch_size questions are generated at a time, batch j on rank j mod world_size.
 * A batch is the same on any number of ranks, so the answers are, too. Units come from the stage as they do
 * when it saves: in a stage that has parameters in slices, each token of a batch gathers the model once, and
 * ranks whose batch has ended go along.
 */
#ifndef COMMON_TRAIN_PREDICTION_H
#define COMMON_TRAIN_PREDICTION_H

#include "common/train/session.h"

struct prediction {
    double exact_match, f1; /* percent, means over all questions; the same on every rank */
};

/* Answers session->questions. Collective; books the generator's memory while it works. On the dry backend
 * every answer has max_new_tokens tokens, and the result is 0. */
struct prediction session_predict(struct session *session, const struct stage_state *stage);

#endif
