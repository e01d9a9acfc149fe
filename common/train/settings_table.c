#include "common/train/settings_table.h"

#include <stdio.h>
#include <string.h>

static const char *const strategies[] = {"no", "steps", "epoch", NULL};
static const char *const schedulers[] = {"linear", "cosine", "constant", NULL};
static const char *const automatics[] = {"false", "true", "auto", NULL};
static const char *const offloads[] = {"none", "cpu", NULL};
static const char *const dry_devices[] = {"cpu", "gpu", NULL};
static const char *const signals[] = {"none", "usr1", "usr2", "term", NULL};

/* One line a setting: name, default, bounds or choices, help. */
#define BOOL(name, initial, help)                                                                            \
    { #name, SETTING_BOOL, offsetof(struct settings, name), initial, 0, 0, NULL, help, 0 }
#define INTEGER(name, initial, minimum, maximum, help)                                                       \
    { #name, SETTING_INTEGER, offsetof(struct settings, name), initial, minimum, maximum, NULL, help, 0 }
#define REAL(name, initial, minimum, maximum, help)                                                          \
    { #name, SETTING_REAL, offsetof(struct settings, name), initial, minimum, maximum, NULL, help, 0 }
#define STRING(name, initial, help)                                                                          \
    { #name, SETTING_STRING, offsetof(struct settings, name), initial, 0, 0, NULL, help, 0 }
#define CHOICE(name, initial, choices, help)                                                                 \
    { #name, SETTING_CHOICE, offsetof(struct settings, name), initial, 0, 0, choices, help, 0 }
/* Of stage 05 and later. */
#define OFFLOAD(kind, name, initial, choices, help)                                                          \
    { #name, kind, offsetof(struct settings, name), initial, 0, 0, choices, help, 5 }
#define MANY 2147483647.0

const struct setting settings_table[] = {
    STRING(model_name_or_path, "sample",
           "directory, name in the Hugging Face cache (bigscience/bloom-560m), random:SHAPE, or sample"),
    STRING(train_file, "sample",
           "SQuAD file, .txt file (a line an example), synthetic:COUNTxLENGTH or COUNTxMEAN-MAX, or sample"),
    STRING(validation_file, "",
           "the same, for evaluation; default: what goes with train_file, if sample or synthetic"),
    INTEGER(subset_size, "0", 0, MANY, "training examples used, the first of the file; 0: all"),
    INTEGER(samples_per_device, "0", 0, MANY, "weak scaling: this many training examples per rank; 0: off"),
    INTEGER(eval_subset_size, "-1", -1, MANY, "evaluation examples used; 0: all; -1: min(50, subset_size)"),
    INTEGER(max_seq_length, "512", 2, 65536,
            "tokens of an example at most; longer ones are cut on the right"),
    BOOL(append_eos, "true", "add one labelled </s> after the answer, where there is room"),
    BOOL(label_padding, "false", "count the padding as </s> labels, as the original workshop did"),
    BOOL(pad_to_max_length, "false", "compute on padding too, as the peers do; for comparisons of speed"),

    INTEGER(per_device_train_batch_size, "4", 1, 65536, "examples of a micro-batch on each rank"),
    INTEGER(per_device_eval_batch_size, "4", 1, 65536, "examples of an evaluation batch"),
    INTEGER(gradient_accumulation_steps, "4", 1, 65536, "micro-batches of an update on each rank"),
    REAL(num_train_epochs, "3", 0, 1e6, "passes over the training examples"),
    INTEGER(max_steps, "-1", -1, SETTINGS_MOST_UPDATES, "updates; -1: as num_train_epochs says"),
    REAL(learning_rate, "5e-5", 0, 1e3, "highest learning rate of the schedule"),
    REAL(weight_decay, "0.01", 0, 1e3, "AdamW's decay of matrices and embedding"),
    REAL(adam_beta1, "0.9", 0, 0.999999, "AdamW's decay rate of the first moment"),
    REAL(adam_beta2, "0.999", 0, 0.99999999, "AdamW's decay rate of the second moment"),
    REAL(adam_epsilon, "1e-8", 1e-30, 1, "AdamW's term beside the root"),
    REAL(max_grad_norm, "1.0", 0, 1e12, "gradients are scaled down to this norm; 0: never"),
    CHOICE(lr_scheduler_type, "linear", schedulers, "how the learning rate goes on after the warm-up"),
    INTEGER(warmup_steps, "0", 0, MANY, "updates over which the learning rate rises"),
    REAL(warmup_ratio, "0", 0, 1, "the same as a part of all updates"),
    INTEGER(seed, "42", 0, 4294967295.0, "of the examples' order, random weights and synthetic text"),
    CHOICE(fp16, "auto", automatics, "half precision with loss scaling; auto: on a GPU"),
    BOOL(bf16, "false", "bfloat16 instead"),
    BOOL(gradient_checkpointing, "false", "keep only each block's input; recompute the rest in its backward"),

    INTEGER(train_batch_size, "0", 0, 1e12,
            "examples of an update, which batch size, accumulation and ranks must make; 0: not checked"),

    INTEGER(zero_stage, "-1", -1, 3, "what the ranks share: 0 to 3; -1: the stage's own"),
    INTEGER(stage3_prefetch, "1", 0, 64, "ZeRO-3: units gathered ahead of their use"),
    {"zero_hpz_partition_size", SETTING_INTEGER, offsetof(struct settings, zero_hpz_partition_size), "1", 1,
     65536, NULL, "ZeRO-3 on nodes: ranks of a node, which keep the parameters among them, too; 1: no", 6},
    OFFLOAD(SETTING_CHOICE, offload_optimizer, "none", offloads, "where the optimizer's state is"),
    OFFLOAD(SETTING_CHOICE, offload_param, "none", offloads, "where ZeRO-3's slices of parameters are"),
    OFFLOAD(SETTING_BOOL, offload_gradients, "false", NULL, "gradients add up in host memory, too"),
    OFFLOAD(SETTING_BOOL, pin_memory, "false", NULL, "page-locked host memory for what is offloaded"),
    OFFLOAD(SETTING_CHOICE, offload_optimizer_pin_memory, "auto", automatics,
            "for the optimizer alone; auto: as pin_memory"),
    OFFLOAD(SETTING_CHOICE, offload_param_pin_memory, "auto", automatics,
            "for parameters alone; auto: as pin_memory"),
    STRING(deepspeed, "", "DeepSpeed configuration (JSON), read before --config"),

    CHOICE(eval_strategy, "epoch", strategies, "when to evaluate"),
    INTEGER(eval_steps, "100", 1, MANY, "with eval_strategy steps: every so many updates"),
    BOOL(eval_on_start, "true", "evaluate before training, too"),
    BOOL(predict_with_generate, "false", "evaluation also answers its questions: exact match and F1"),
    INTEGER(generation_max_new_tokens, "32", 1, 65536, "tokens of such an answer at most"),
    CHOICE(save_strategy, "epoch", strategies, "when to write a checkpoint"),
    INTEGER(save_steps, "100", 1, MANY, "with save_strategy steps: every so many updates"),
    INTEGER(save_total_limit, "0", 0, MANY, "checkpoints that stay, the newest; 0: all"),
    BOOL(save_model, "true", "write the final model into output_dir"),
    CHOICE(save_on_signal, "none", signals, "signal on which to write a checkpoint and leave with code 75"),
    STRING(output_dir, "", "where the run writes; default: runs/STAGE-<next number>"),
    BOOL(overwrite_output_dir, "false", "replace a run that output_dir already holds"),
    STRING(resume_from_checkpoint, "", "checkpoint folder, or true: the last whole one in output_dir"),
    INTEGER(logging_steps, "1", 1, MANY, "updates per line on the terminal; metrics.jsonl has them all"),
    BOOL(disable_tqdm, "false", "no progress bar"),

    INTEGER(threads, "0", 0, 4096, "CPU threads of a rank; 0: its share of the node's cores"),
    INTEGER(device_memory_limit, "0", 0, 1e9, "MiB of device memory a rank may use; 0: what there is"),
    BOOL(peer_copies, "true", "GPUs of one node exchange by copies between their memories; false: by NCCL"),
    BOOL(share_device, "false", "several ranks on one GPU, through host memory: slow, for learning"),
    STRING(network_interface, "", "the network interface between nodes (ib0); default: MPI and NCCL choose"),
    REAL(communication_timeout, "600", 0, 1e9,
         "seconds without an answer after which a peer is given up; 0: never"),
    INTEGER(ranks_per_node, "0", 0, 65536, "so many consecutive ranks count as a node; 0: nodes as they are"),
    REAL(slow_network, "0", 0, 1e6, "Gbit/s that may leave a node, imitated; 0: the network as it is"),
    INTEGER(memory_sample_interval, "100", 0, 3600000,
            "milliseconds between samples of memory in use; 0: none"),
    BOOL(time_phases, "false", "time forward, backward, optimizer and exposed communication"),
    INTEGER(dry_rank, "0", 0, 1e6, "dry backend: the rank that is played"),
    INTEGER(dry_world_size, "1", 1, 1e6, "dry backend: of how many ranks"),
    INTEGER(dry_node_size, "0", 0, 1e6, "dry backend: ranks that share a node; 0: all"),
    CHOICE(dry_device, "cpu", dry_devices, "dry backend: whose workspaces and staging are booked"),
    {0},
};

const struct setting *settings_find(const char *name) {
    for (const struct setting *s = settings_table; s->name; s++)
        if (!strcmp(name, s->name)) return s;
    return NULL;
}

const char *setting_kind_name(const struct setting *setting) {
    switch (setting->kind) {
    case SETTING_BOOL:
        return "true or false";
    case SETTING_INTEGER:
        return "an integer";
    case SETTING_REAL:
        return "a number";
    case SETTING_STRING:
        return "a string";
    case SETTING_CHOICE:
        return "one of its names";
    }
    return "";
}

void settings_print_help(const char *program) {
    printf("usage: %s [--deepspeed FILE] [--config FILE] [--name value ...]\n\nSettings, with their defaults "
           "(a stage's "
           "config.json may "
           "have others):\n",
           program);
    for (const struct setting *s = settings_table; s->name; s++) {
        printf("  --%-28s %-12s %s", s->name, s->initial[0] ? s->initial : "-", s->help);
        for (int i = 0; s->choices && s->choices[i]; i++)
            printf("%s%s%s", i ? ", " : " (", s->choices[i], s->choices[i + 1] ? "" : ")");
        printf("\n");
    }
    printf("\ncommon/train/settings.md explains each of them.\n");
}
