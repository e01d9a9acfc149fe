/*
 * A session: what every run needs and no stage is about — settings, ranks, device, model shape, text, the
 * run's folder, and how far the run is. A stage's train.c opens one, adds its own parameters, gradients and
 * optimizer state, and asks it what comes next.
 *
 * No function waits for the device inside an update: what an update found (loss, norm, skipped or not) stays
 * in device memory, is copied behind it, and is read when the next update is under way.
 */
#ifndef COMMON_TRAIN_SESSION_H
#define COMMON_TRAIN_SESSION_H

#include <stdbool.h>

#include "common/bloom/layout.h"
#include "common/bloom/model.h"
#include "common/bloom/weights.h"
#include "common/comm/comm.h"
#include "common/device/device.h"
#include "common/device/kernels.h"
#include "common/text/batches.h"
#include "common/text/examples.h"
#include "common/text/questions.h"
#include "common/train/checkpoint.h"
#include "common/train/memory_report.h"
#include "common/train/metrics.h"
#include "common/train/sampler.h"
#include "common/train/settings.h"
#include "common/train/update_times.h"

enum { SESSION_WARM_UP = 3 }; /* updates that the rates of the summary leave out */

/* An update whose results are on their way to the host. */
struct pending_update {
    bool waiting;
    long long step; /* updates done with it */
    struct update update;
    struct event *copied;
    struct update_state *state; /* pinned host memory */
};

/* How fast the updates alone were: evaluation, saving and the warm-up left out. */
struct session_rates {
    bool running;
    double started; /* seconds, when the clock last started */
    double seconds;
    double examples, tokens, flops;   /* of this run's ranks together; flops of this rank */
    double all_examples, all_seconds; /* warm-up included, for the progress bar */
};

struct session {
    const char *stage; /* "01-baseline" */
    struct settings settings;
    enum dtype dtype;

    struct comm *comm;
    int rank, world_size;
    struct device *device;
    struct stream *stream; /* the compute stream */

    struct bloom_config config;
    struct layout layout;
    struct weights *weights;      /* where the parameters come from; NULL when the run resumes */
    struct model_sources sources; /* folders of the model and its tokenizer, for saving */
    char *model_directory;        /* NULL: random weights */
    char *tokenizer_directory;    /* NULL: none */

    struct examples train_examples, eval_examples;
    struct questions questions;             /* to be answered, with predict_with_generate; else empty */
    struct tokenizer *tokenizer;            /* of their answers; else NULL */
    struct batches *batches, *eval_batches; /* the latter NULL without evaluation */
    struct pack_size capacity;              /* of every pack of the run, on any rank */
    struct pack pack;
    struct input input; /* the pack on the device */

    struct update_rule rule;
    struct update_state *update_state; /* device memory */
    double *learning_rates;            /* device memory [updates + 1] */

    long long updates_per_epoch, updates; /* planned */
    long long step;                       /* updates done */
    struct update update;                 /* the current one */
    double loss_total;                    /* of all updates read so far */
    long long losses;
    double window_loss; /* since the last line for people */
    long long window_losses;
    double last_loss;
    double eval_samples_per_second, last_eval_loss;
    struct pending_update pending;
    struct session_rates rates;
    struct phases *phases;            /* the clock of updates on the compute stream */
    struct update_times update_times; /* of this rank, the warm-up left out */
    double start_time;
    long long first_step; /* of this process: where a resumed run went on */
    bool leaving;         /* a warning signal came: save and leave after this update */
    /* Bytes that a rank sends by the stage's formulas: in every update, for every pack of it, and for every
     * row of a pack. */
    double sent_per_update[COLLECTIVES], sent_per_pack[COLLECTIVES], sent_per_row[COLLECTIVES];
    /* Of the first two, to other nodes, where a stage has formulas for that (across_predicted); else, and for
     * rows, as many as collectives in one level send there. */
    double across_per_update[COLLECTIVES], across_per_pack[COLLECTIVES];
    bool across_predicted;
    double packs, rows; /* trained on by this rank so far */
    /* [[FLOP of products, bytes of kernels, bytes of copies], …] of this rank in each update: in a dry run, from
     * which plan learns what an update is, and how uneven ranks are; else NULL. */
    json_t *update_work;
    struct work work_before; /* the present update */

    char *output_dir;
    char *resume; /* checkpoint folder to go on from, or NULL */
    json_t *resume_state;
    struct metrics *metrics;
    struct sampler *sampler;
};

/* Reads the settings, meets the other ranks, opens the device, the model's shape, the text and the run's
 * folder. Whatever is wrong with them ends the job here. */
void session_open(struct session *session, const char *stage, int count, char **arguments);

/* Call once the stage has its parameters: writes the run event, starts sampler and clock; in a resumed run
 * puts the optimizer's counters back. */
void session_begin(struct session *session);

/* Examples of a whole update, of all ranks together. */
long long session_examples_per_update(const struct session *session);

/* Moves to the next update; false when the run is done. */
bool session_next(struct session *session);
/* Fills session->pack and queues its copy to session->input: pack `number` of the current update. */
void session_load_pack(struct session *session, int number);
/* Call when all of an update's work is queued: its results are fetched behind it, and logged with the next
 * one. With save_on_signal the ranks agree here on whether the signal came: after it, session_should_save()
 * is true, session_next() false, and session_close() does not return. Collective. */
void session_update_done(struct session *session);

/* Also before the first update, with eval_on_start. */
bool session_should_evaluate(const struct session *session);
bool session_should_save(const struct session *session);

/* Evaluation as the Trainer's: each batch of per_device_eval_batch_size consecutive examples has its mean,
 * eval_loss is their mean weighted by examples. `forward` (called with the stage's self) computes
 * session->input's losses into model->activations.losses. With predict_with_generate the questions are
 * answered besides (prediction.h). Writes the eval event. Collective. Does nothing without evaluation text.
 */
void session_evaluate(struct session *session, const struct stage_state *stage, void (*forward)(void *self),
                      const struct model *model);

/* Writes a checkpoint of the update just done. Collective. */
void session_save(struct session *session, const struct stage_state *stage);

/* The end: final model (not of a run that leaves for a warning), memory and communication events, summary,
 * tables for people. Collective. */
void session_finish(struct session *session, const struct stage_state *stage,
                    const struct memory_prediction *prediction);
/* Ends the process with WARNING_EXIT_CODE where the run left for a warning. */
void session_close(struct session *session);

/* Reads what is still on its way and stops the rates' clock, which the next update starts again. */
void session_drain(struct session *session);
/* Monotonic seconds. */
double session_seconds(void);

#endif
