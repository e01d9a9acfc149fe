/*
 * Batches: which examples each update of a run is made of, which of them this rank computes, in which packs.
 *
 * An epoch's shuffled order (order.h) is cut into batches of `batch` consecutive examples. An update takes
 * the next accumulation × world_size batches; batch j of them belongs to rank j mod world_size, as its
 * micro-batch j div world_size. So N ranks with accumulation A see what 1 rank with accumulation N·A sees. An
 * epoch's last update may be smaller; some ranks may have nothing in it.
 *
 * A rank's micro-batches of one update are then merged, in order, into packs of at most batch ×
 * max_seq_length rows (an example is never split): as the loss is normalised over the whole update, that
 * changes nothing but the time. With pad_to_max_length each micro-batch is a pack of its own. Every rank runs
 * the same number of packs, the most that any rank needs and at least one; ranks with fewer get empty packs
 * last.
 *
 * An evaluation is the same without shuffling: one "update" with all examples in file order, batch j (of
 * per_device_eval_batch_size) on rank j mod world_size. Example i belongs to evaluation batch i div batch.
 *
 * Every rank computes all of this for itself: no communication.
 */
#ifndef COMMON_TEXT_BATCHES_H
#define COMMON_TEXT_BATCHES_H

#include <stdint.h>

#include "common/text/examples.h"
#include "common/text/pack.h"

struct batches_options {
    int batch;        /* per_device_train_batch_size, or per_device_eval_batch_size */
    int accumulation; /* gradient_accumulation_steps; of no meaning in an evaluation */
    int world_size, rank;
    uint32_t seed;
    int pack_tokens; /* most rows of a merged pack, 0: batch × max_seq_length; raised to max_seq_length */
    struct pack_layout layout;
};

/* One update (or the evaluation), as all ranks see it. */
struct update {
    int packs;           /* passes through the model, the same on every rank, at least 1 */
    int examples;        /* of all ranks, as all that follow */
    long long tokens;    /* real tokens */
    long long predicted; /* predicted positions (the weights' sum): the loss's denominator */
    double epoch;        /* epochs done after this update, as the Trainer logs it (it counts micro-batches) */
};

struct batches;

/* For training; `examples` must live as long. The caller calls batches_close. */
struct batches *batches_open(const struct examples *examples, const struct batches_options *options);
/* For an evaluation: batches_update(…, 0, …) is all of it. */
struct batches *batches_open_evaluation(const struct examples *examples,
                                        const struct batches_options *options);
void batches_close(struct batches *batches);

/* ceil(examples / (batch × accumulation × world_size)); 1 for an evaluation. */
int batches_updates_per_epoch(const struct batches *batches);

/* Moves to an update of the run (from 0; its epoch is update div updates per epoch) and describes it. */
void batches_update(struct batches *batches, long long update, struct update *description);
/* Fills `pack` with this rank's pack number `number` (0 … packs − 1) of the current update. */
void batches_fill(struct batches *batches, int number, struct pack *pack);

/* The largest tokens, sequences and labelled rows of any pack in the first `updates` updates, on any rank: a
 * capacity for pack_open, and the activations' size, the same on every rank. Keeps the current update. */
struct pack_size batches_largest(const struct batches *batches, long long updates);

#endif
