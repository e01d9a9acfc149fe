#include "common/train/session.h"

#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/openmp.h"
#include "common/text/lines.h"
#include "common/text/tokenizer.h"
#include "common/train/output.h"
#include "common/train/schedule.h"
#include "common/train/warning_signal.h"

double session_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What --deepspeed's file asks for in vain. */
static void tell_notes(const char *notes) {
    for (const char *line = notes, *end; (end = strchr(line, '\n')); line = end + 1)
        warn("%.*s", (int)(end - line), line);
}

static void open_machine(struct session *s, int count, char **arguments) {
    struct error error;
    bool ok = settings_read(&s->settings, s->stage, count, arguments, &error);
    const struct settings *settings = &s->settings;
    if (ok) warning_signal_await(settings->save_on_signal); /* before any thread is started */
    /* The world comes first even where the settings are wrong: it knows how to say so once, and to end all
     * ranks. */
    s->comm = comm_open_world(&(struct comm_options){.timeout = settings->communication_timeout,
                                                     .share_device = settings->share_device,
                                                     .no_peer_copies = !settings->peer_copies,
                                                     .network_interface = settings->network_interface,
                                                     .dry_rank = (int)settings->dry_rank,
                                                     .dry_size = (int)settings->dry_world_size,
                                                     .dry_node_size = (int)settings->dry_node_size,
                                                     .dry_gpu = settings->dry_device == DRY_GPU});
    if (!ok || !settings_fit_world(&s->settings, comm_size(s->comm), &error)) fail("%s", error.text);
    tell_notes(settings->notes);
    s->rank = comm_rank(s->comm);
    s->world_size = comm_size(s->comm);
    s->dtype = settings_dtype(settings);
    s->device =
        device_open(&(struct device_options){.rank = s->rank,
                                             .world_size = s->world_size,
                                             .node_rank = comm_node_rank(s->comm),
                                             .node_size = comm_node_size(s->comm),
                                             .threads = (int)settings->threads,
                                             .memory_limit = (size_t)settings->device_memory_limit << 20,
                                             .dtype = s->dtype,
                                             .share_device = settings->share_device,
                                             .dry_gpu = settings->dry_device == DRY_GPU});
    comm_attach(s->comm, s->device);
    if (settings->ranks_per_node) comm_declare_nodes(s->comm, (int)settings->ranks_per_node);
    comm_slow_links(s->comm, settings->slow_network * 1e9 / 8);
    comm_count_bytes(s->comm, false); /* until session_begin: setting up is not training */
    s->stream = stream_open(s->device, "compute");
    s->phases = phases_open(s->stream, settings->time_phases);
    if (!device_computes()) s->update_work = json_array();
}

/* The kit's own file; its absence means a broken installation. */
static char *kit_file(const char *inside) {
    char *path = settings_data_path(inside);
    if (!path) fail("%s: not found beside the program; build or install the kit again", inside);
    return path;
}

static void read_config(struct session *s, const char *directory) {
    struct error error;
    char *path = xformat("%s/config.json", directory);
    if (!bloom_config_read(&s->config, path, &error)) fail("%s", error.text);
    free(path);
}

static struct tokenizer *load_tokenizer(const struct session *s) {
    struct error error;
    if (!s->tokenizer_directory) return NULL;
    char *path = xformat("%s/tokenizer.json", s->tokenizer_directory);
    struct tokenizer *tokenizer = tokenizer_load(path, &error);
    if (!tokenizer) fail("%s", error.text);
    free(path);
    return tokenizer;
}

/* The model's shape, and where its parameters and its tokenizer are. */
static void find_model(struct session *s) {
    struct error error;
    const char *name = s->settings.model_name_or_path;
    if (!strcmp(name, "random:tiny") || !strcmp(name, "sample")) {
        s->tokenizer_directory = kit_file("common/sample");
        read_config(s, s->tokenizer_directory);
        if (!strcmp(name, "sample"))
            s->model_directory = xstrdup(s->tokenizer_directory);
        else
            strcpy(s->config.name, "tiny");
    } else if (!strncmp(name, "random:", 7)) {
        if (!bloom_config_published(&s->config, name + 7, &error)) fail("%s", error.text);
    } else {
        s->model_directory = weights_find(name, &error);
        if (!s->model_directory) fail("%s", error.text);
        read_config(s, s->model_directory);
        s->tokenizer_directory = xstrdup(s->model_directory);
    }
    s->sources = (struct model_sources){.model = s->model_directory, .tokenizer = s->tokenizer_directory};
}

/* The file or generator behind validation_file where it is not set: what goes with the training text, if
 * anything. */
static const char *default_validation(const char *train_file) {
    return !strcmp(train_file, "sample") || examples_are_synthetic(train_file) ? train_file : "";
}

static void load_text(struct session *s, const char *source, const char *sample,
                      const struct tokenizer *tokenizer, const struct examples_options *options,
                      struct examples *examples) {
    struct error error;
    char *path = strcmp(source, "sample") ? xstrdup(source) : kit_file(sample);
    if (!tokenizer && !examples_are_synthetic(source))
        fail("%s has no tokenizer for %s: use a model directory, sample, random:tiny, or synthetic text",
             s->config.name, path);
    if (!examples_load(examples, path, tokenizer, options, &error)) fail("%s", error.text);
    free(path);
}

static void keep_first(struct examples *examples, long long count) {
    if (count > 0 && count < examples->count) examples->count = (int)count;
}

/* The evaluation's questions, as many as it has examples. */
static void load_questions(struct session *s, const char *source, const struct tokenizer *tokenizer) {
    struct error error;
    if (examples_are_synthetic(source) || lines_are_in(source))
        fail("settings: predict_with_generate needs questions to answer: give a validation_file that has "
             "some, or leave it out");
    char *path = strcmp(source, "sample") ? xstrdup(source) : kit_file("common/sample/dev.json");
    if (!questions_load(&s->questions, path, tokenizer, (int)s->config.vocabulary, s->eval_examples.count,
                        &error))
        fail("%s", error.text);
    free(path);
}

static void load_examples(struct session *s) {
    const struct settings *settings = &s->settings;
    const char *validation = settings->validation_file;
    if (!validation[0]) validation = default_validation(settings->train_file);
    bool evaluates = settings->eval_strategy != STRATEGY_NO;
    if (evaluates && !validation[0])
        fail("settings: validation_file is not set: give one, or set eval_strategy to no");
    bool reads_text =
        !examples_are_synthetic(settings->train_file) || (evaluates && !examples_are_synthetic(validation));
    struct tokenizer *tokenizer = reads_text ? load_tokenizer(s) : NULL;

    struct examples_options options = {.max_seq_length = (int)settings->max_seq_length,
                                       .vocabulary = (int)s->config.vocabulary,
                                       .subset_size = (int)settings->subset_size,
                                       .append_eos = settings->append_eos,
                                       .eos_id = s->config.eos,
                                       .seed = (uint64_t)settings->seed};
    long long subset = settings->subset_size;
    if (settings->samples_per_device) subset = settings->samples_per_device * s->world_size;
    options.subset_size = (int)(subset < INT_MAX ? subset : INT_MAX);
    load_text(s, settings->train_file, "common/sample/train.json", tokenizer, &options, &s->train_examples);
    keep_first(&s->train_examples, subset);
    if (evaluates) {
        long long wanted = settings->eval_subset_size;
        if (wanted < 0) wanted = subset > 0 && subset < 50 ? subset : 50;
        options.subset_size = (int)wanted;
        options.seed++; /* a generator's evaluation text is not its training text */
        load_text(s, validation, "common/sample/dev.json", tokenizer, &options, &s->eval_examples);
        keep_first(&s->eval_examples, wanted);
        if (settings->predict_with_generate) load_questions(s, validation, tokenizer);
    }
    if (settings->predict_with_generate)
        s->tokenizer = tokenizer;
    else
        tokenizer_free(tokenizer);
}

long long session_examples_per_update(const struct session *s) {
    return s->settings.per_device_train_batch_size * s->settings.gradient_accumulation_steps * s->world_size;
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

/* The order of the examples, the number of updates, and how large the packs get. */
static void plan_batches(struct session *s) {
    const struct settings *settings = &s->settings;
    struct batches_options options = {.batch = (int)settings->per_device_train_batch_size,
                                      .accumulation = (int)settings->gradient_accumulation_steps,
                                      .world_size = s->world_size,
                                      .rank = s->rank,
                                      .seed = (uint32_t)settings->seed,
                                      .layout = {.max_seq_length = (int)settings->max_seq_length,
                                                 .pad_to_max_length = settings->pad_to_max_length,
                                                 .label_padding = settings->label_padding,
                                                 .pad_id = s->config.pad,
                                                 .eos_id = s->config.eos}};
    s->batches = batches_open(&s->train_examples, &options);
    s->updates_per_epoch = batches_updates_per_epoch(s->batches);
    double updates = settings->max_steps >= 0
                         ? (double)settings->max_steps
                         : ceil(settings->num_train_epochs * (double)s->updates_per_epoch);
    if (updates > SETTINGS_MOST_UPDATES)
        fail("settings: num_train_epochs %g are %.0f updates, more than the %d of which the kit keeps "
             "learning rates; lower it",
             settings->num_train_epochs, updates, SETTINGS_MOST_UPDATES);
    s->updates = (long long)updates;
    s->capacity = batches_largest(s->batches, s->updates);
    if (s->eval_examples.count > 0) {
        options.batch = (int)settings->per_device_eval_batch_size;
        options.pack_tokens = s->capacity.tokens;
        s->eval_batches = batches_open_evaluation(&s->eval_examples, &options);
        struct pack_size size = batches_largest(s->eval_batches, 1);
        s->capacity.tokens = larger(s->capacity.tokens, size.tokens);
        s->capacity.sequences = larger(s->capacity.sequences, size.sequences);
        s->capacity.labelled = larger(s->capacity.labelled, size.labelled);
    }
    pack_open(&s->pack, s->capacity);
    input_open(&s->input, s->device, s->capacity);
}

/* The optimizer's rule and counters, and every learning rate of the run, in device memory. */
static void open_update_state(struct session *s) {
    const struct settings *settings = &s->settings;
    s->rule = (struct update_rule){.max_grad_norm = settings->max_grad_norm,
                                   .beta1 = settings->adam_beta1,
                                   .beta2 = settings->adam_beta2,
                                   .epsilon = settings->adam_epsilon,
                                   .weight_decay = settings->weight_decay,
                                   .dynamic_loss_scale = s->dtype == FP16,
                                   .scale_window = 1000};
    long long warmup = settings->warmup_steps;
    if (settings->warmup_ratio > 0) warmup = (long long)ceil(settings->warmup_ratio * (double)s->updates);
    size_t bytes = (size_t)(s->updates + 1) * sizeof(double);
    double *rates = xmalloc(bytes);
    for (long long i = 0; i <= s->updates; i++)
        rates[i] = schedule_learning_rate(settings->lr_scheduler_type, settings->learning_rate, i, warmup,
                                          s->updates);
    s->learning_rates = device_alloc(s->device, BUFFERS, bytes, "learning rates");
    copy_to_device(s->stream, s->learning_rates, rates, bytes);

    struct update_state state = {.loss_scale = s->dtype == FP16 ? 65536.0f : 1.0f};
    if (s->resume_state) {
        state.loss_scale = (float)json_number_value(json_object_get(s->resume_state, "loss_scale"));
        state.clean_updates = (int32_t)json_integer_value(json_object_get(s->resume_state, "clean_updates"));
        state.applied = (int32_t)json_integer_value(json_object_get(s->resume_state, "applied"));
    }
    s->update_state = device_alloc(s->device, BUFFERS, sizeof state, "the update's state");
    copy_to_device(s->stream, s->update_state, &state, sizeof state);
    s->pending.state = host_alloc(s->device, BUFFERS, sizeof state, true, "the update's state");
    s->pending.copied = event_open(s->device);
    stream_synchronize(s->stream);
    free(rates);
}

/* How many checkpoints the rest of the run will write, one for a warning among them. */
static long long checkpoints_ahead(const struct session *s) {
    long long every =
        s->settings.save_strategy == STRATEGY_STEPS ? s->settings.save_steps : s->updates_per_epoch;
    long long warned = s->settings.save_on_signal != WARNING_NONE;
    if (s->settings.save_strategy == STRATEGY_NO) return warned;
    return (s->updates + every - 1) / every - s->step / every + warned;
}

static void read_resume_state(struct session *s) {
    struct error error;
    if (!s->resume) return;
    s->resume_state = checkpoint_state(s->resume, &error);
    if (!s->resume_state) fail("%s", error.text);
    s->step = s->first_step = json_integer_value(json_object_get(s->resume_state, "step"));
    const json_t *loss_total = json_object_get(s->resume_state, "loss_total");
    s->loss_total = json_is_null(loss_total) ? NAN : json_number_value(loss_total);
    s->losses = json_integer_value(json_object_get(s->resume_state, "losses"));
    const char *precision = json_string_value(json_object_get(s->resume_state, "precision"));
    if (strcmp(precision, dtype_name(s->dtype)) != 0)
        fail("%s: was written in %s, but this run is in %s: set fp16 and bf16 as in that run", s->resume,
             precision, dtype_name(s->dtype));
    if (s->step > s->updates)
        fail("%s: was written after update %lld, but this run has only %lld: raise num_train_epochs or "
             "max_steps",
             s->resume, s->step, s->updates);
}

static void open_weights(struct session *s) {
    struct error error;
    s->weights = s->model_directory ? weights_open(s->model_directory, &s->layout, &error)
                                    : weights_random((uint64_t)s->settings.seed, &s->layout);
    if (!s->weights) fail("%s", error.text);
}

void session_open(struct session *session, const char *stage, int count, char **arguments) {
    struct session *s = session;
    openmp_wait_briefly(arguments);
    *s = (struct session){.stage = stage, .start_time = session_seconds()};
    signal(SIGXFSZ, SIG_IGN); /* a file over the user's limit is then a failed write, which has a message */
    open_machine(s, count, arguments);
    find_model(s);
    load_examples(s);
    layout_open(&s->layout, &s->config, s->world_size);
    plan_batches(s);
    /* Before the output folder is touched: a model that is not whole must not cost an old run its files. */
    if (!s->settings.resume_from_checkpoint[0]) open_weights(s);
    s->output_dir = output_open(&s->settings, stage, s->model_directory, s->comm, &s->resume);
    if (!s->resume && !s->weights) open_weights(s);
    read_resume_state(s);
    if (device_computes())
        output_check_space(s->output_dir, &s->settings, &s->layout, s->dtype, &s->sources,
                           checkpoints_ahead(s), s->comm);
    open_update_state(s);
}

bool session_next(struct session *s) {
    if (s->step >= s->updates || s->leaving) return false;
    batches_update(s->batches, s->step, &s->update);
    s->work_before = device_work(s->device);
    phases_begin(s->phases, s->rates.running);
    if (!s->rates.running) {
        s->rates.running = true;
        s->rates.started = session_seconds();
    }
    return true;
}

void session_load_pack(struct session *s, int number) {
    batches_fill(s->batches, number, &s->pack);
    input_upload(&s->input, s->stream, &s->pack);
    s->rates.flops += model_flops(&s->config, &s->input);
    s->packs++;
    s->rows += s->input.tokens;
}

bool session_should_evaluate(const struct session *s) {
    if (!s->eval_batches) return false;
    if (s->step == s->first_step) return s->step == 0 && s->settings.eval_on_start;
    if (s->settings.eval_strategy == STRATEGY_STEPS) return s->step % s->settings.eval_steps == 0;
    return s->step % s->updates_per_epoch == 0 || s->step == s->updates;
}

bool session_should_save(const struct session *s) {
    if (s->leaving) return true;
    if (s->settings.save_strategy == STRATEGY_NO || !device_computes()) return false;
    if (s->settings.save_strategy == STRATEGY_STEPS)
        return s->step % s->settings.save_steps == 0 || s->step == s->updates;
    return s->step % s->updates_per_epoch == 0 || s->step == s->updates;
}

void session_close(struct session *s) {
    metrics_close(s->metrics);
    event_close(s->pending.copied);
    host_free(s->device, s->pending.state);
    device_free(s->device, s->update_state);
    device_free(s->device, s->learning_rates);
    input_close(&s->input);
    pack_close(&s->pack);
    batches_close(s->batches);
    if (s->eval_batches) batches_close(s->eval_batches);
    examples_free(&s->train_examples);
    examples_free(&s->eval_examples);
    questions_free(&s->questions);
    tokenizer_free(s->tokenizer);
    weights_close(s->weights);
    layout_close(&s->layout);
    update_times_free(&s->update_times);
    phases_close(s->phases);
    stream_close(s->stream);
    comm_close(s->comm);
    device_close(s->device);
    json_decref(s->resume_state);
    json_decref(s->update_work);
    free(s->resume);
    free(s->output_dir);
    free(s->model_directory);
    free(s->tokenizer_directory);
    settings_free(&s->settings);
    if (!s->leaving) return;
    /* Without what libraries do at exit: a launcher that sees the first rank leave with this code may already
     * be ending the others, and their code should be the same. */
    fflush(NULL);
    _exit(WARNING_EXIT_CODE);
}
