#include "common/train/deepspeed_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/json.h"
#include "common/train/settings_table.h"

struct reader {
    struct settings *settings;
    const char *path; /* of the file */
    struct error *error;
};

/* What becomes of a key. */
struct key {
    const char *name; /* from the top: "zero_optimization.stage" */
    bool (*read)(struct reader *r, const struct key *key, const json_t *value);
    const char *what; /* the setting; why it is ignored or refused */
    const char *kits; /* the one value that the kit has, as JSON */
};

static bool wrong(const struct reader *r, const struct key *key, const char *expected) {
    return error_set(r->error, "%s: %s: expected %s", r->path, key->name, expected);
}

static bool is_auto(const json_t *value) {
    return json_is_string(value) && !strcmp(json_string_value(value), "auto");
}

/* ---- what may become of a key ---- */

/* A setting of the kit. */
static bool set(struct reader *r, const struct key *key, const json_t *value) {
    const struct setting *setting = settings_find(key->what);
    if (is_auto(value)) return true;
    json_t *one = json_object();
    json_object_set(one, key->what, (json_t *)(size_t)value);
    char *from = xformat("%s: %s", r->path, key->name);
    /* JSON has two ways to write a whole number, and DeepSpeed takes both. */
    double number = json_real_value(value);
    if (setting->kind == SETTING_INTEGER && json_is_real(value) && fabs(number) < 1e15 &&
        number == floor(number))
        json_object_set_new(one, key->what, json_integer((json_int_t)number));
    bool ok = settings_read_json(r->settings, one, from, r->error);
    free(from);
    json_decref(one);
    return ok;
}

static bool ignore(struct reader *r, const struct key *key, const json_t *value) {
    (void)value;
    settings_note(r->settings, "%s: %s is ignored: %s", r->path, key->name, key->what);
    return true;
}

static bool refuse(struct reader *r, const struct key *key, const json_t *value) {
    (void)value;
    return error_set(r->error, "%s: %s: %s", r->path, key->name, key->what);
}

/* Does it say what the kit does anyway? */
static bool is_kits(const struct key *key, const json_t *value) {
    json_t *kits = json_loads(key->kits, JSON_DECODE_ANY, NULL);
    bool numbers = json_is_number(kits) && json_is_number(value);
    bool same = numbers ? json_number_value(kits) == json_number_value(value) : json_equal(kits, value);
    json_decref(kits);
    return same || is_auto(value);
}

static bool ignore_unless_kits(struct reader *r, const struct key *key, const json_t *value) {
    return is_kits(key, value) || ignore(r, key, value);
}

static bool refuse_unless_kits(struct reader *r, const struct key *key, const json_t *value) {
    return is_kits(key, value) || refuse(r, key, value);
}

/* A feature with a section of its own: fine while it is off. */
static bool refuse_if_on(struct reader *r, const struct key *key, const json_t *value) {
    const json_t *on = json_is_object(value) ? json_object_get(value, "enabled") : value;
    if (!on || json_is_false(on) || json_is_null(on)) return true;
    return refuse(r, key, value);
}

static bool read_section(struct reader *r, const char *prefix, const json_t *object);

static bool section(struct reader *r, const struct key *key, const json_t *value) {
    return json_is_object(value) ? read_section(r, key->name, value) : wrong(r, key, "an object");
}

/* zero_optimization, fp16, bf16: what they leave out has DeepSpeed's default. */
static bool set_text(struct reader *r, const char *setting, const char *value) {
    return settings_set(r->settings, settings_find(setting), value, r->path, r->error);
}

static bool zero_section(struct reader *r, const struct key *key, const json_t *value) {
    return section(r, key, value) && (json_object_get(value, "stage") || set_text(r, "zero_stage", "0")) &&
           (json_object_get(value, "offload_optimizer") || set_text(r, "offload_optimizer", "none")) &&
           (json_object_get(value, "offload_param") || set_text(r, "offload_param", "none"));
}

/* offload_optimizer, offload_param: `what` is the setting of the same name. */
static bool offload_section(struct reader *r, const struct key *key, const json_t *value) {
    char *pin = xformat("%s_pin_memory", key->what);
    bool ok = section(r, key, value) &&
              (json_object_get(value, "device") || set_text(r, key->what, "none")) &&
              (json_object_get(value, "pin_memory") || set_text(r, pin, "false"));
    free(pin);
    return ok;
}

static bool offload_device(struct reader *r, const struct key *key, const json_t *value) {
    const char *device = json_string_value(value);
    if (device && !strcmp(device, "nvme"))
        return error_set(r->error, "%s: %s: the kit offloads to host memory only: nvme must be cpu or none",
                         r->path, key->name);
    return set(r, key, value);
}

static bool precision_section(struct reader *r, const struct key *key, const json_t *value) {
    return section(r, key, value) && (json_object_get(value, "enabled") || set_text(r, key->what, "false"));
}

static bool fp16_enabled(struct reader *r, const struct key *key, const json_t *value) {
    if (!json_is_boolean(value) && !is_auto(value)) return wrong(r, key, "true, false or \"auto\"");
    return set(r, key, value);
}

static bool loss_scale(struct reader *r, const struct key *key, const json_t *value) {
    if (is_auto(value) || (json_is_number(value) && json_number_value(value) == 0)) return true;
    return refuse(r, key, value);
}

/* ---- optimizer ---- */

static bool optimizer_type(struct reader *r, const struct key *key, const json_t *value) {
    const char *type = json_string_value(value);
    if (!type) return wrong(r, key, "a string");
    if (!strcasecmp(type, "AdamW") || !strcasecmp(type, "Adam") || is_auto(value)) return true;
    return error_set(r->error, "%s: %s: the kit has AdamW, not '%.40s'", r->path, key->name, type);
}

static bool betas(struct reader *r, const struct key *key, const json_t *value) {
    if (is_auto(value)) return true;
    if (!json_is_array(value) || json_array_size(value) != 2) return wrong(r, key, "two numbers");
    struct key first = {.name = key->name, .what = "adam_beta1"};
    struct key second = {.name = key->name, .what = "adam_beta2"};
    return set(r, &first, json_array_get(value, 0)) && set(r, &second, json_array_get(value, 1));
}

/* ---- scheduler ---- */

/* Of a type's parameters those that are needed to say which schedule of the kit it is. */
static bool scheduler_type(struct reader *r, const struct key *key, const json_t *value) {
    static const char *const names[][2] = {
        {"WarmupLR", "constant"}, {"WarmupDecayLR", "linear"}, {"WarmupCosineLR", "cosine"}};
    const char *type = json_string_value(value);
    if (!type) return wrong(r, key, "a string");
    if (is_auto(value)) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(type, names[i][0])) return set_text(r, "lr_scheduler_type", names[i][1]);
    return error_set(r->error,
                     "%s: %s: the kit has WarmupLR, WarmupDecayLR and WarmupCosineLR, not '%.40s'; without "
                     "scheduler, lr_scheduler_type decides",
                     r->path, key->name, type);
}

/* DeepSpeed's defaults are 1000 updates of warm-up along a logarithm; the kit's warm-up is a line. */
static bool scheduler_section(struct reader *r, const struct key *key, const json_t *value) {
    if (!section(r, key, value)) return false;
    const json_t *parameters = json_object_get(value, "params");
    const json_t *steps = json_object_get(parameters, "warmup_num_steps");
    if (json_object_get(value, "type") && !is_auto(json_object_get(value, "type")) && !steps)
        return error_set(r->error,
                         "%s: %s.params.warmup_num_steps: is missing, which to DeepSpeed means 1000; say how "
                         "many, or \"auto\"",
                         r->path, key->name);
    const json_t *type = json_object_get(parameters, "warmup_type");
    bool no_warmup = json_is_number(steps) && json_number_value(steps) == 0;
    if (type || no_warmup || !steps) return true; /* warmup_type has been read */
    if (is_auto(steps)) {
        settings_note(r->settings,
                      "%s: %s.params.warmup_type: a warm-up is linear here (DeepSpeed's default is log)",
                      r->path, key->name);
        return true;
    }
    return error_set(r->error,
                     "%s: %s.params.warmup_type: is missing, which to DeepSpeed means log; the kit's "
                     "warm-up is linear: say \"linear\"",
                     r->path, key->name);
}

/* ---- the table ---- */

#define UNITS "the kit moves the model's units"
#define FILES "the kit writes its own files"

/* Sections come as "section" and "section.key". */
static const struct key keys[] = {
    {"train_batch_size", set, "train_batch_size", NULL},
    {"train_micro_batch_size_per_gpu", set, "per_device_train_batch_size", NULL},
    {"gradient_accumulation_steps", set, "gradient_accumulation_steps", NULL},
    {"gradient_clipping", set, "max_grad_norm", NULL},

    {"zero_optimization", zero_section, NULL, NULL},
    {"zero_optimization.stage", set, "zero_stage", NULL},
    {"zero_optimization.offload_optimizer", offload_section, "offload_optimizer", NULL},
    {"zero_optimization.offload_optimizer.device", offload_device, "offload_optimizer", NULL},
    {"zero_optimization.offload_optimizer.pin_memory", set, "offload_optimizer_pin_memory", NULL},
    {"zero_optimization.offload_optimizer.ratio", ignore_unless_kits, "all of the state is offloaded", "1"},
    {"zero_optimization.offload_optimizer.nvme_path", ignore, "nothing is offloaded to nvme", NULL},
    {"zero_optimization.offload_optimizer.buffer_count", ignore, UNITS, NULL},
    {"zero_optimization.offload_optimizer.buffer_size", ignore, UNITS, NULL},
    {"zero_optimization.offload_optimizer.pipeline", ignore, "copies and AdamW always overlap", NULL},
    {"zero_optimization.offload_optimizer.pipeline_read", ignore, "copies and AdamW always overlap", NULL},
    {"zero_optimization.offload_optimizer.pipeline_write", ignore, "copies and AdamW always overlap", NULL},
    {"zero_optimization.offload_optimizer.fast_init", ignore, "it only changes the start", NULL},
    {"zero_optimization.offload_param", offload_section, "offload_param", NULL},
    {"zero_optimization.offload_param.device", offload_device, "offload_param", NULL},
    {"zero_optimization.offload_param.pin_memory", set, "offload_param_pin_memory", NULL},
    {"zero_optimization.offload_param.nvme_path", ignore, "nothing is offloaded to nvme", NULL},
    {"zero_optimization.offload_param.buffer_count", ignore, UNITS, NULL},
    {"zero_optimization.offload_param.buffer_size", ignore, UNITS, NULL},
    {"zero_optimization.offload_param.max_in_cpu", ignore, "nothing is offloaded to nvme", NULL},
    {"zero_optimization.allgather_partitions", ignore, UNITS, NULL},
    {"zero_optimization.allgather_bucket_size", ignore, UNITS, NULL},
    {"zero_optimization.reduce_scatter", ignore, UNITS, NULL},
    {"zero_optimization.reduce_bucket_size", ignore, UNITS, NULL},
    {"zero_optimization.use_multi_rank_bucket_allreduce", ignore, UNITS, NULL},
    {"zero_optimization.overlap_comm", ignore, "communication always overlaps", NULL},
    {"zero_optimization.contiguous_gradients", ignore, "gradients always are contiguous", NULL},
    {"zero_optimization.round_robin_gradients", ignore, "each unit is cut among all ranks", NULL},
    {"zero_optimization.sub_group_size", ignore, "AdamW works unit by unit", NULL},
    {"zero_optimization.stage3_prefetch_bucket_size", ignore,
     "it counts parameters; the kit's stage3_prefetch counts units", NULL},
    {"zero_optimization.prefetch_bucket_size", ignore,
     "it counts parameters; the kit's stage3_prefetch counts units", NULL},
    {"zero_optimization.stage3_param_persistence_threshold", ignore, "every unit is cut", NULL},
    {"zero_optimization.param_persistence_threshold", ignore, "every unit is cut", NULL},
    {"zero_optimization.stage3_model_persistence_threshold", ignore, "every unit is cut", NULL},
    {"zero_optimization.stage3_max_live_parameters", ignore, "stage3_prefetch decides", NULL},
    {"zero_optimization.max_live_parameters", ignore, "stage3_prefetch decides", NULL},
    {"zero_optimization.stage3_max_reuse_distance", ignore, "units are released after each use", NULL},
    {"zero_optimization.max_reuse_distance", ignore, "units are released after each use", NULL},
    {"zero_optimization.stage3_gather_16bit_weights_on_model_save", ignore, "the model is always saved whole",
     NULL},
    {"zero_optimization.stage3_gather_fp16_weights_on_model_save", ignore, "the model is always saved whole",
     NULL},
    {"zero_optimization.stage3_use_all_reduce_for_fetch_params", ignore, "units are all-gathered", NULL},
    {"zero_optimization.ignore_unused_parameters", ignore, "BLOOM uses all of them", NULL},
    {"zero_optimization.legacy_stage1", ignore, "the kit has one stage 1", NULL},
    {"zero_optimization.elastic_checkpoint", ignore, FILES, NULL},
    {"zero_optimization.load_from_fp32_weights", ignore, FILES, NULL},
    {"zero_optimization.memory_efficient_linear", ignore, "the kit has linear layers of its own", NULL},
    {"zero_optimization.log_trace_cache_warnings", ignore, "there is no trace", NULL},
    {"zero_optimization.zero_hpz_partition_size", set, "zero_hpz_partition_size", NULL},
    {"zero_optimization.mics_shard_size", ignore_unless_kits, "slices are not kept twice", "-1"},
    {"zero_optimization.mics_hierarchical_params_gather", ignore, "slices are not kept twice", NULL},
    {"zero_optimization.zero_quantized_weights", refuse_if_on, "the kit does not quantize; set it to false",
     NULL},
    {"zero_optimization.zero_quantized_gradients", refuse_if_on, "the kit does not quantize; set it to false",
     NULL},
    {"zero_optimization.zero_quantized_nontrainable_weights", refuse_if_on,
     "the kit does not quantize; set it to false", NULL},
    {"zero_optimization.cpu_offload", refuse_if_on, "is DeepSpeed's old name: use offload_optimizer", NULL},
    {"zero_optimization.cpu_offload_params", refuse_if_on, "is DeepSpeed's old name: use offload_param",
     NULL},
    {"zero_optimization.cpu_offload_use_pin_memory", ignore,
     "is DeepSpeed's old name for offload_optimizer's pin_memory", NULL},

    {"fp16", precision_section, "fp16", NULL},
    {"fp16.enabled", fp16_enabled, "fp16", NULL},
    {"fp16.loss_scale", loss_scale, "the kit's loss scale is dynamic: it must be 0", NULL},
    {"fp16.initial_scale_power", ignore_unless_kits, "the kit starts at 16", "16"},
    {"fp16.loss_scale_window", ignore_unless_kits, "the kit has 1000", "1000"},
    {"fp16.hysteresis", ignore_unless_kits, "the kit halves at each overflow (1)", "1"},
    {"fp16.consecutive_hysteresis", ignore, "the kit halves at each overflow", NULL},
    {"fp16.min_loss_scale", ignore_unless_kits, "the kit has 1", "1"},
    {"fp16.auto_cast", ignore, "inputs are token ids", NULL},
    {"fp16.fp16_master_weights_and_grads", refuse_unless_kits,
     "the kit's master parameters are fp32; use false", "false"},
    {"bf16", precision_section, "bf16", NULL},
    {"bf16.enabled", set, "bf16", NULL},
    {"bf16.immediate_grad_update", ignore, "it only changes when gradients are added", NULL},
    {"bf16.check_grad_overflow", ignore, "bf16 has no loss scale here", NULL},
    {"bf16.bf16_master_weights_and_grads", refuse_unless_kits,
     "the kit's master parameters are fp32; use false", "false"},
    {"bf16.bf16_optimizer_states", refuse_unless_kits, "the kit's moments are fp32; use false", "false"},
    {"amp", refuse_if_on, "the kit has no Apex: use fp16 or bf16", NULL},
    {"communication_data_type", ignore, "what is sent is in the run's precision, and summed in fp32", NULL},
    {"seq_parallel_communication_data_type", ignore, "there is no sequence parallelism", NULL},
    {"data_types", section, NULL, NULL},
    {"data_types.grad_accum_dtype", ignore, "gradients are in the run's precision", NULL},

    {"optimizer", section, NULL, NULL},
    {"optimizer.type", optimizer_type, NULL, NULL},
    {"optimizer.legacy_fusion", ignore, "it only changes the program", NULL},
    {"optimizer.params", section, NULL, NULL},
    {"optimizer.params.lr", set, "learning_rate", NULL},
    {"optimizer.params.betas", betas, NULL, NULL},
    {"optimizer.params.eps", set, "adam_epsilon", NULL},
    {"optimizer.params.weight_decay", set, "weight_decay", NULL},
    {"optimizer.params.adam_w_mode", refuse_unless_kits, "the kit has decoupled decay only: use true",
     "true"},
    {"optimizer.params.bias_correction", refuse_unless_kits, "the kit always corrects: use true", "true"},
    {"optimizer.params.amsgrad", refuse_unless_kits, "the kit does not have it: use false", "false"},
    {"optimizer.params.torch_adam", ignore, "it only changes the program", NULL},
    {"optimizer.params.fused", ignore, "it only changes the program", NULL},
    {"zero_allow_untested_optimizer", ignore, "there is one optimizer", NULL},
    {"zero_force_ds_cpu_optimizer", ignore, "there is one optimizer", NULL},

    {"scheduler", scheduler_section, NULL, NULL},
    {"scheduler.type", scheduler_type, NULL, NULL},
    {"scheduler.params", section, NULL, NULL},
    {"scheduler.params.warmup_max_lr", set, "learning_rate", NULL},
    {"scheduler.params.warmup_num_steps", set, "warmup_steps", NULL},
    {"scheduler.params.warmup_min_lr", refuse_unless_kits, "the kit warms up from 0", "0"},
    {"scheduler.params.warmup_min_ratio", refuse_unless_kits, "the kit warms up from 0", "0"},
    {"scheduler.params.cos_min_ratio", refuse_unless_kits, "the kit's cosine ends at 0", "0"},
    {"scheduler.params.warmup_type", refuse_unless_kits, "the kit's warm-up is \"linear\"", "\"linear\""},
    {"scheduler.params.total_num_steps", refuse_unless_kits,
     "the kit's schedule ends with the run (max_steps, num_train_epochs): use \"auto\"", "\"auto\""},
    {"scheduler.params.last_batch_iteration", refuse_unless_kits, "a run that resumes knows where it is",
     "-1"},

    {"gradient_predivide_factor", ignore, "gradients are scaled by the loss", NULL},
    {"prescale_gradients", ignore, "gradients are scaled by the loss", NULL},
    {"sparse_gradients", ignore, "the embedding is tied to the head: its gradient is dense", NULL},
    {"activation_checkpointing", ignore, "gradient_checkpointing is the kit's setting", NULL},
    {"steps_per_print", ignore, "logging_steps is the kit's setting", NULL},
    {"wall_clock_breakdown", ignore, "time_phases is the kit's setting", NULL},
    {"memory_breakdown", ignore, "every run has its ledger", NULL},
    {"dump_state", ignore, "metrics.jsonl has all settings", NULL},
    {"flops_profiler", ignore, "every run counts its work", NULL},
    {"comms_logger", ignore, "every run counts its bytes", NULL},
    {"tensorboard", ignore, FILES, NULL},
    {"wandb", ignore, FILES, NULL},
    {"comet", ignore, FILES, NULL},
    {"csv_monitor", ignore, FILES, NULL},
    {"checkpoint", ignore, FILES, NULL},
    {"nebula", ignore, FILES, NULL},
    {"aio", ignore, "nothing is offloaded to nvme", NULL},
    {"disable_allgather", ignore, UNITS, NULL},
    {"compile", ignore, "nothing is compiled while it runs", NULL},
    {"use_data_before_expert_parallel_", ignore, "there are no experts", NULL},
    {"elasticity", refuse_if_on, "the number of ranks does not change during a run", NULL},
    {"autotuning", refuse_if_on, "the kit does not tune itself", NULL},
    {"curriculum_learning", refuse_if_on, "examples come in the order of seed", NULL},
    {"data_efficiency", refuse_if_on, "examples come in the order of seed", NULL},
    {"progressive_layer_drop", refuse_if_on, "all layers are always computed", NULL},
    {"eigenvalue", refuse_if_on, "the kit does not compute it", NULL},
    {"quantize_training", refuse_if_on, "the kit does not quantize", NULL},
    {"compression_training", refuse, "the kit does not compress models", NULL},
    {"sparse_attention", refuse, "BLOOM's attention is dense", NULL},
    {"tensor_parallel", refuse, "the kit shares data, not tensors, among ranks", NULL},
    {"pipeline", refuse, "the kit shares data, not layers, among ranks", NULL},
    {NULL, NULL, NULL, NULL},
};

/* ---- reading ---- */

static const struct key *find(const char *prefix, const char *name) {
    size_t length = strlen(prefix);
    for (const struct key *key = keys; key->name; key++) {
        const char *rest = key->name;
        if (length && (strncmp(rest, prefix, length) != 0 || rest[length] != '.')) continue;
        if (!strcmp(rest + length + (length > 0), name)) return key;
    }
    return NULL;
}

/* The members of a section; "" is the top. The table ends the recursion: its sections have names. */
static bool read_section(struct reader *r, const char *prefix, const json_t *object) {
    const char *name;
    json_t *value;
    /* The macro drops const; nothing is changed. */
    json_object_foreach((json_t *)(size_t)object, name, value) {
        const struct key *key = strchr(name, '.') ? NULL : find(prefix, name);
        if (!key)
            return error_set(r->error,
                             "%s: %s%s%.60s: the kit does not know this key of DeepSpeed's; correct or "
                             "remove it",
                             r->path, prefix, prefix[0] ? "." : "", name);
        if (!json_is_null(value) && !key->read(r, key, value)) return false;
    }
    return true;
}

/* With the whole update's size, what is left out of the other two follows from it. */
static void leave_open(struct settings *settings, const json_t *config) {
    if (!json_is_number(json_object_get(config, "train_batch_size"))) return;
    if (!json_object_get(config, "train_micro_batch_size_per_gpu")) settings->per_device_train_batch_size = 0;
    if (!json_object_get(config, "gradient_accumulation_steps")) settings->gradient_accumulation_steps = 0;
}

/* Where both have a learning rate: as in DeepSpeed, whatever their order in the file. */
static bool scheduler_decides(struct reader *r, const json_t *config) {
    const json_t *rate =
        json_object_get(json_object_get(json_object_get(config, "scheduler"), "params"), "warmup_max_lr");
    return !json_is_number(rate) || set(r, find("scheduler.params", "warmup_max_lr"), rate);
}

bool deepspeed_config_apply(struct settings *settings, const json_t *config, const char *path,
                            struct error *error) {
    struct reader reader = {.settings = settings, .path = path, .error = error};
    if (!json_is_object(config)) return error_set(error, "%s: expected an object of DeepSpeed's keys", path);
    if (!read_section(&reader, "", config)) return false;
    leave_open(settings, config);
    return scheduler_decides(&reader, config);
}

bool deepspeed_config_read(struct settings *settings, const char *path, struct error *error) {
    json_t *config = json_read_file(path, error);
    if (!config) return false;
    bool ok = deepspeed_config_apply(settings, config, path, error);
    json_decref(config);
    return ok;
}
