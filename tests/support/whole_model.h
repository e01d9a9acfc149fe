/*
 * A whole BLOOM on one rank for tests: parameters, gradients and optimizer state of all units in one piece,
 * and one update after the other on packs that the test makes. What the stages do, without text, files and
 * reports.
 */
#ifndef TESTS_SUPPORT_WHOLE_MODEL_H
#define TESTS_SUPPORT_WHOLE_MODEL_H

#include "common/bloom/layout.h"
#include "common/bloom/model.h"
#include "common/device/device.h"
#include "common/text/pack.h"

struct whole_model {
    struct device *device;
    struct stream *stream;
    struct layout layout;
    struct model model;
    struct input input;
    enum dtype dtype;
    void *parameters, *gradients; /* [padded] of dtype */
    float *master, *m, *v;        /* [padded]; in fp32 master is parameters */
    struct update_state *state;   /* device memory */
    double *learning_rates;       /* device memory */
    struct update_rule rule;
};

/* Opens device and model from a checkpoint directory (or, where it is NULL, `config` with random weights).
 * rates [updates] are the learning rates. fail()s where something is wrong. */
void whole_model_open(struct whole_model *w, const char *directory, const struct bloom_config *config,
                      enum dtype dtype, struct pack_size capacity, bool checkpointing, const double *rates,
                      int updates, float loss_scale);
void whole_model_close(struct whole_model *w);

void whole_model_forward(struct whole_model *w, const struct pack *pack);
/* Loss and gradients of the pack just computed, over `positions` predicted positions; returns the mean loss.
 */
double whole_model_backward(struct whole_model *w, double positions, bool accumulate);
/* AdamW on the gradients; returns what the update found. Begin clears the sums before the first backward. */
void whole_model_begin_update(struct whole_model *w);
struct update_state whole_model_update(struct whole_model *w);

/* A tensor by its Hugging Face name, as fp32 host memory that the caller frees, from buffers that are laid
 * out as parameters (dtype). NULL where there is none. Chunks of the embedding come as one. */
float *whole_model_tensor(struct whole_model *w, const void *buffers, const char *name, size_t *count);

#endif
