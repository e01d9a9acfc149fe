/*
 * Settings: one list of names, Hugging Face's and DeepSpeed's own where they exist (settings.md is the
 * reference page).
 *
 * They come, later ones winning, from the stage's config.json, from --deepspeed FILE (a DeepSpeed
 * configuration, deepspeed_config.h), from --config FILE (JSON, one object, the same names), and from --name
 * value on the command line (--name=value and, for booleans, --name alone are fine too), wherever --config
 * stands there. An unknown name is an error that suggests the nearest one.
 */
#ifndef COMMON_TRAIN_SETTINGS_H
#define COMMON_TRAIN_SETTINGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/device/dtype.h"

enum strategy { STRATEGY_NO, STRATEGY_STEPS, STRATEGY_EPOCH };             /* eval_strategy, save_strategy */
enum scheduler { SCHEDULER_LINEAR, SCHEDULER_COSINE, SCHEDULER_CONSTANT }; /* lr_scheduler_type */
enum automatic { AUTO_FALSE, AUTO_TRUE, AUTO };                            /* fp16, …_pin_memory */
enum offload { OFFLOAD_NONE, OFFLOAD_CPU };                                /* offload_optimizer, …_param */
enum dry_device { DRY_CPU, DRY_GPU };                                      /* dry_device */
enum warning_signal { WARNING_NONE, WARNING_USR1, WARNING_USR2, WARNING_TERM }; /* save_on_signal */

/* Updates of a run at most: it keeps a learning rate for each. */
enum { SETTINGS_MOST_UPDATES = 10000000 };

/* Strings are never NULL; "" stands for "not set". All belong to the settings. */
struct settings {
    /* model, text */
    char *model_name_or_path;
    char *train_file;
    char *validation_file;
    int64_t subset_size;        /* training examples; 0: all */
    int64_t samples_per_device; /* weak scaling: subset_size = this × world size; 0: off */
    int64_t eval_subset_size;   /* evaluation examples; 0: all; -1: min(50, subset_size) */
    int64_t max_seq_length;     /* tokens */
    bool append_eos;
    bool label_padding;
    bool pad_to_max_length;
    /* training */
    int64_t per_device_train_batch_size;
    int64_t per_device_eval_batch_size;
    int64_t gradient_accumulation_steps;
    double num_train_epochs;
    int64_t max_steps; /* updates; -1: num_train_epochs decides */
    double learning_rate;
    double weight_decay;
    double adam_beta1, adam_beta2, adam_epsilon;
    double max_grad_norm;
    enum scheduler lr_scheduler_type;
    int64_t warmup_steps;
    double warmup_ratio;
    int64_t seed;
    enum automatic fp16;
    bool bf16;
    bool gradient_checkpointing;
    int64_t train_batch_size; /* examples of an update; 0: whatever the ranks make of it */
    /* ZeRO */
    int64_t zero_stage;              /* 0 to 3 once settings_read() is done */
    int64_t stage3_prefetch;         /* units gathered ahead of their use */
    int64_t zero_hpz_partition_size; /* ranks of a node that keep the parameters among them, too; 1: none */
    enum offload offload_optimizer, offload_param;
    bool offload_gradients;
    bool pin_memory; /* of what is offloaded, where the next two are auto: see settings_pin_…() */
    enum automatic offload_optimizer_pin_memory, offload_param_pin_memory;
    char *deepspeed; /* a DeepSpeed configuration's path; "": none */
    /* evaluation, logging, saving */
    enum strategy eval_strategy;
    int64_t eval_steps;
    bool eval_on_start;
    bool predict_with_generate;        /* evaluation answers its questions, too */
    int64_t generation_max_new_tokens; /* of an answer */
    enum strategy save_strategy;
    int64_t save_steps;
    int64_t save_total_limit; /* 0: all stay */
    bool save_model;          /* the final model directory */
    enum warning_signal save_on_signal;
    char *output_dir; /* "": runs/STAGE-<next number> */
    bool overwrite_output_dir;
    char *resume_from_checkpoint; /* "": no; "true": the last whole one; else a checkpoint's folder */
    int64_t logging_steps;
    bool disable_tqdm; /* no progress bar */
    /* machine */
    int64_t threads;                /* CPU threads a rank; 0: its share of the node's cores */
    int64_t device_memory_limit;    /* MiB of device memory a rank may use; 0: what there is */
    bool share_device;              /* ranks of a node may have the same GPU */
    bool peer_copies;               /* GPUs of a node exchange by copy engines */
    int64_t ranks_per_node;         /* so many consecutive ranks count as a node; 0: as they are */
    double slow_network;            /* Gbit/s that leave a node, imitated; 0: as it is */
    double communication_timeout;   /* seconds */
    char *network_interface;        /* between nodes; "": the libraries choose */
    int64_t memory_sample_interval; /* milliseconds; 0: no sampler */
    bool time_phases;               /* note how long forward, backward and so on take */
    /* dry backend: which rank of how many is played, and how many of them share a node (0: all) */
    int64_t dry_rank, dry_world_size, dry_node_size;
    enum dry_device dry_device; /* whose memory it books */

    /* No setting: what people should hear of --deepspeed's file once one rank can say it, a line each. */
    char *notes;
};

/* Reads all sources into defaulted settings; `stage` is its folder ("01-baseline"), `arguments` are main()'s.
 * Handles
 * --help and --version itself (prints and exits 0). False with `error` set; the settings may be freed all the
 * same. */
bool settings_read(struct settings *settings, const char *stage, int count, char **arguments,
                   struct error *error);
void settings_free(struct settings *settings);

/* The parts of it: later calls win over earlier ones. `from` names the source in errors. In `arguments`
 * (without the program's name) --config files come before all other settings, wherever they stand. */
void settings_default(struct settings *settings);
bool settings_read_json(struct settings *settings, const json_t *object, const char *from,
                        struct error *error);
bool settings_read_arguments(struct settings *settings, int count, char **arguments, struct error *error);
/* Ranges and combinations. */
bool settings_check(const struct settings *settings, struct error *error);
/* What this stage ("01-baseline") has: settings that belong to later ones may only have their defaults.
 * zero_stage -1 becomes the stage's own. */
bool settings_check_stage(struct settings *settings, const char *stage, struct error *error);
/* Once the number of ranks is known: train_batch_size must be batch × accumulation × ranks. What --deepspeed
 * left open of the two is worked out here. */
bool settings_fit_world(struct settings *settings, int world_size, struct error *error);

/* The precision asked for; fp16 "auto" is true on a GPU, false on a CPU. */
enum dtype settings_dtype(const struct settings *settings);

/* Is what is offloaded to be in page-locked memory? */
bool settings_pin_optimizer(const struct settings *settings);
bool settings_pin_parameters(const struct settings *settings);

/* Adds a line to notes. */
void settings_note(struct settings *settings, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* All settings in force as a JSON object; a new reference. */
json_t *settings_json(const struct settings *settings);

/* Folder with the kit's data (config.json of the stages, common/sample): the installation
 * that the program is in, else the source tree. The caller frees the path of `inside` in it
 * ("common/sample/train.json"); NULL where there is none. */
char *settings_data_path(const char *inside);

#endif
