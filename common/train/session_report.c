/* What a session reports: events of metrics.jsonl and lines for people. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/json.h"
#include "common/train/session.h"
#include "common/train/warning_signal.h"

/* ---- run ---- */

static json_t *host_names(struct comm *comm) {
    char mine[64] = "";
    gethostname(mine, sizeof mine - 1);
    char *all = xcalloc((size_t)comm_size(comm), sizeof mine);
    comm_host_gather(comm, all, mine, sizeof mine);
    json_t *names = json_array();
    for (int r = 0; r < comm_size(comm); r++) {
        json_t *name = json_string(all + (size_t)r * sizeof mine);
        json_array_append_new(names, name ? name : json_string("?"));
    }
    free(all);
    return names;
}

static void report_run(struct session *s) {
    json_t *run = json_object();
    const char *job = getenv("SLURM_JOB_ID");
    json_object_set_new(run, "version", json_string(WORKSHOP_VERSION));
    json_object_set_new(run, "stage", json_string(s->stage));
    json_object_set_new(run, "backend", json_string(device_backend()));
    json_object_set_new(run, "world_size", json_integer(s->world_size));
    json_object_set_new(run, "device", json_string(device_name(s->device)));
    json_object_set_new(run, "hosts", host_names(s->comm));
    json_object_set_new(run, "cores", json_integer(device_cores(s->device)));
    json_object_set_new(run, "job_id", job ? json_string(job) : json_null());
    json_object_set_new(run, "model", json_string(s->config.name));
    json_object_set_new(run, "parameters", json_integer((json_int_t)s->layout.parameters));
    json_object_set_new(run, "precision", json_string(dtype_name(s->dtype)));
    json_object_set_new(run, "train_examples", json_integer(s->train_examples.count));
    json_object_set_new(run, "eval_examples", json_integer(s->eval_examples.count));
    json_object_set_new(run, "updates", json_integer(s->updates));
    json_object_set_new(run, "resumed_from", s->resume ? json_string(s->resume) : json_null());
    json_object_set_new(run, "settings", settings_json(&s->settings));
    metrics_write(s->metrics, "run", run);
    metrics_line(s->metrics, "%s: %s, %.1f M parameters, %s, on %s", s->stage, s->config.name,
                 1e-6 * (double)s->layout.parameters, dtype_name(s->dtype), device_name(s->device));
    metrics_line(s->metrics, "%d rank%s%s; %d examples, %lld updates; writing to %s", s->world_size,
                 s->world_size == 1 ? ", " : "s, the first one: ", device_cores_text(s->device),
                 s->train_examples.count, s->updates, s->output_dir);
    const char *warning = device_cores_warning(s->device);
    if (warning && comm_is_leader(s->comm)) warn("%s", warning);
    if (s->resume) metrics_line(s->metrics, "going on from %s, after update %lld", s->resume, s->step);
}

/* The run goes on all the same, but with other examples than the first one would have had. */
static void warn_of_another_order(const struct session *s) {
    static const char *const keys[] = {"examples_per_update", "train_examples", "seed"};
    const long long now[] = {session_examples_per_update(s), s->train_examples.count, s->settings.seed};
    for (int i = 0; s->resume && i < 3; i++) {
        long long then = json_integer_value(json_object_get(s->resume_state, keys[i]));
        if (then != now[i])
            warn("%s: was written with %s %lld, this run has %lld: it takes its examples in another order",
                 s->resume, keys[i], then, now[i]);
    }
}

void session_begin(struct session *s) {
    long long keep = 0;
    warn_of_another_order(s);
    if (s->resume_state) keep = json_integer_value(json_object_get(s->resume_state, "metrics_bytes"));
    if (s->resume && comm_is_leader(s->comm)) checkpoint_remove_after(s->output_dir, s->step);
    s->metrics = metrics_open(s->output_dir, comm_is_leader(s->comm), keep, !s->settings.disable_tqdm);
    report_run(s);
    comm_count_bytes(s->comm, true);
    s->sampler =
        sampler_start(s->comm, s->device, device_computes() ? s->settings.memory_sample_interval : 0);
    s->start_time = session_seconds();
}

/* ---- updates ---- */

static void report_update(struct session *s, const struct pending_update *p) {
    const struct update_state *found = p->state;
    double loss = p->update.predicted ? found->loss_sum / (double)p->update.predicted : 0;
    bool half = s->dtype != FP32, skipped = found->skip;
    s->last_loss = loss;
    s->loss_total += loss;
    s->losses++;
    s->window_loss += loss;
    s->window_losses++;
    json_t *step = json_object();
    json_object_set_new(step, "step", json_integer(p->step));
    json_object_set_new(step, "epoch", json_number(p->update.epoch));
    json_object_set_new(step, "loss", json_number(loss));
    json_object_set_new(step, "grad_norm", json_number(found->grad_norm));
    json_object_set_new(step, "learning_rate", json_number(found->learning_rate));
    if (half) json_object_set_new(step, "loss_scale", json_number(found->used_loss_scale));
    if (half) json_object_set_new(step, "skipped", json_boolean(skipped));
    metrics_write(s->metrics, "step", step);
    if (p->step % s->settings.logging_steps == 0) {
        metrics_line(s->metrics, "{'loss': %.4f, 'grad_norm': %.4f, 'learning_rate': %.6g, 'epoch': %.2f%s}",
                     s->window_loss / (double)s->window_losses, found->grad_norm, found->learning_rate,
                     p->update.epoch, skipped ? ", 'skipped': true" : "");
        s->window_loss = 0;
        s->window_losses = 0;
    }
}

/* Reads the update whose results are on their way, if there is one. */
static void collect(struct session *s) {
    struct pending_update *p = &s->pending;
    if (!p->waiting) return;
    event_synchronize(p->copied);
    p->waiting = false;
    struct phase_times times;
    if (phases_read(s->phases, &times)) update_times_add(&s->update_times, &times);
    if (device_computes()) report_update(s, p);
    double seconds = s->rates.all_seconds;
    if (s->rates.running) seconds += session_seconds() - s->rates.started;
    metrics_progress(s->metrics, p->step, s->updates, p->step - s->first_step, s->last_loss,
                     s->rates.all_examples, seconds);
}

/* A warning reaches one rank or all of them, at any moment: all leave after the same update. After the last
 * one there is nothing to leave. */
static void heed_warning(struct session *s) {
    if (s->settings.save_on_signal == WARNING_NONE || !device_computes() || s->step == s->updates) return;
    double warned = warning_signal_came();
    comm_host_max(s->comm, &warned, 1);
    s->leaving = warned > 0;
    if (s->leaving)
        metrics_line(s->metrics,
                     "a warning signal came: saving after update %lld of %lld, to go on from there later",
                     s->step, s->updates);
}

static void note_work(struct session *s) {
    struct work work = device_work(s->device);
    json_t *update = json_array();
    json_array_append_new(update, json_number(work.product_flops - s->work_before.product_flops));
    json_array_append_new(update, json_number(work.bytes - s->work_before.bytes));
    json_array_append_new(update, json_number(work.copied_bytes - s->work_before.copied_bytes));
    json_array_append_new(s->update_work, update);
}

void session_update_done(struct session *s) {
    phases_end(s->phases);
    collect(s);
    s->step++;
    struct pending_update *p = &s->pending;
    p->waiting = true;
    p->step = s->step;
    p->update = s->update;
    copy_to_host(s->stream, p->state, s->update_state, sizeof *p->state);
    event_record(p->copied, s->stream);
    s->rates.examples += s->update.examples;
    s->rates.tokens += (double)s->update.tokens;
    s->rates.all_examples += s->update.examples;
    if (s->update_work) note_work(s);
    if (s->step - s->first_step == SESSION_WARM_UP && s->updates - s->first_step > SESSION_WARM_UP) {
        session_drain(s);
        s->rates.examples = s->rates.tokens = s->rates.flops = s->rates.seconds = 0;
        update_times_restart(&s->update_times);
    }
    heed_warning(s);
}

void session_drain(struct session *s) {
    collect(s);
    stream_synchronize(s->stream);
    if (!s->rates.running) return;
    double seconds = session_seconds() - s->rates.started;
    s->rates.seconds += seconds;
    s->rates.all_seconds += seconds;
    s->rates.running = false;
}

/* ---- saving ---- */

void session_save(struct session *s, const struct stage_state *stage) {
    session_drain(s);
    struct update_state now;
    copy_to_host(s->stream, &now, s->update_state, sizeof now);
    stream_synchronize(s->stream);
    metrics_sync(s->metrics);
    json_t *state = json_object();
    json_object_set_new(state, "step", json_integer(s->step));
    json_object_set_new(state, "loss_total", json_number(s->loss_total));
    json_object_set_new(state, "losses", json_integer(s->losses));
    json_object_set_new(state, "loss_scale", json_real(now.loss_scale));
    json_object_set_new(state, "clean_updates", json_integer(now.clean_updates));
    json_object_set_new(state, "applied", json_integer(now.applied));
    json_object_set_new(state, "metrics_bytes", json_integer(metrics_size(s->metrics)));
    json_object_set_new(state, "world_size", json_integer(s->world_size));
    json_object_set_new(state, "examples_per_update", json_integer(session_examples_per_update(s)));
    json_object_set_new(state, "train_examples", json_integer(s->train_examples.count));
    json_object_set_new(state, "seed", json_integer(s->settings.seed));
    json_object_set_new(state, "stage", json_string(s->stage));
    json_object_set_new(state, "precision", json_string(dtype_name(s->dtype)));
    comm_count_bytes(s->comm, false);
    checkpoint_save(s->output_dir, s->step, (int)s->settings.save_total_limit, stage, &s->sources, state,
                    s->comm, s->stream);
    comm_count_bytes(s->comm, true);
    json_decref(state);
    metrics_line(s->metrics, "saved %s/checkpoint-%lld", s->output_dir, s->step);
}

/* ---- the end ---- */

/* Bytes that a rank sends to other nodes, by formula. In one level all peers get equally many. */
static double predict_across(const struct session *s, int c) {
    double peers = s->world_size - 1, others = s->world_size - comm_node_size(s->comm);
    double share = peers > 0 ? others / peers : 0, updates = (double)(s->step - s->first_step);
    double rows = s->sent_per_row[c] * s->rows * share;
    if (s->across_predicted)
        return s->across_per_update[c] * updates + s->across_per_pack[c] * s->packs + rows;
    return (s->sent_per_update[c] * updates + s->sent_per_pack[c] * s->packs) * share + rows;
}

static void report_communication(struct session *s) {
    struct comm_bytes sent[COLLECTIVES];
    comm_bytes_sent_family(s->comm, sent);
    long long updates = s->step - s->first_step;
    json_t *event = json_object();
    for (int c = 0; c < COLLECTIVES; c++) {
        double predicted = s->sent_per_update[c] * (double)updates + s->sent_per_pack[c] * s->packs +
                           s->sent_per_row[c] * s->rows;
        if (!sent[c].calls && predicted == 0) continue;
        json_t *line = json_object();
        json_object_set_new(line, "bytes", json_integer((json_int_t)sent[c].bytes));
        json_object_set_new(line, "predicted_bytes", json_integer((json_int_t)predicted));
        json_object_set_new(line, "inside_bytes", json_integer((json_int_t)sent[c].inside_bytes));
        json_object_set_new(line, "across_bytes", json_integer((json_int_t)sent[c].across_bytes));
        json_object_set_new(line, "predicted_across_bytes", json_integer((json_int_t)predict_across(s, c)));
        json_object_set_new(event, collective_name(c), line);
        if (s->world_size > 1 && updates)
            metrics_line(s->metrics, "%-14s sent per rank and update: %.3f MiB, predicted %.3f MiB",
                         collective_name(c), sent[c].bytes / (double)updates / (1 << 20),
                         predicted / (double)updates / (1 << 20));
    }
    json_object_set_new(event, "updates", json_integer(updates));
    metrics_write(s->metrics, "communication", event);
}

/* What this rank's kernels did since the start: evaluation included. */
static json_t *work_json(struct work work) {
    json_t *object = json_object();
    json_object_set_new(object, "product_flops", json_number(work.product_flops));
    json_object_set_new(object, "bytes", json_number(work.bytes));
    json_object_set_new(object, "copied_bytes", json_number(work.copied_bytes));
    json_object_set_new(object, "kernels", json_integer(work.kernels));
    return object;
}

/* A speed or a loss; null in a dry run, which has none. */
static json_t *measured(double value) {
    return device_computes() ? json_number(value) : json_null();
}

/* Samples that the Trainer would count for this process's part of the run. */
static double samples_of_run(const struct session *s) {
    double all = s->settings.max_steps >= 0 ? (double)s->updates * (double)session_examples_per_update(s)
                                            : s->settings.num_train_epochs * s->train_examples.count;
    return s->updates ? all * (double)(s->step - s->first_step) / (double)s->updates : 0;
}

/* Rates of the updates alone: of all of them where the run has no more than those that warm up. */
static void report_rates(struct session *s, json_t *summary) {
    const struct session_rates *rates = &s->rates;
    double per_second = rates->seconds > 0 ? 1 / rates->seconds : 0, flops = rates->flops * per_second;
    double peak_flops = device_peak_flops(s->device, s->dtype);
    bool warm = s->step - s->first_step > SESSION_WARM_UP;
    json_object_set_new(summary, "update_samples_per_second", measured(rates->examples * per_second));
    json_object_set_new(summary, "tokens_per_second", measured(rates->tokens * per_second));
    bool timed = device_computes(), phases = timed && s->settings.time_phases;
    json_object_set_new(summary, "update_ms", timed ? update_times_json(&s->update_times) : json_null());
    json_object_set_new(summary, "phase_ms",
                        phases ? update_times_phases_json(&s->update_times) : json_null());
    json_object_set_new(summary, "model_flops_per_second", measured(flops));
    json_object_set_new(summary, "model_flops_utilization",
                        peak_flops > 0 ? measured(flops / peak_flops) : json_null());
    if (device_computes())
        metrics_line(s->metrics,
                     "the updates alone (%s): %.2f examples/s, %.0f tokens/s, %.1f GFLOP/s a rank",
                     warm ? "after 3 to warm up" : "too few to warm up", rates->examples * per_second,
                     rates->tokens * per_second, flops * 1e-9);
}

static void report_summary(struct session *s, double peak_bytes) {
    double runtime = session_seconds() - s->start_time, samples = samples_of_run(s);
    double updates = (double)(s->step - s->first_step);
    double train_loss = s->losses ? s->loss_total / (double)s->losses : 0;
    json_t *summary = json_object();
    json_object_set_new(summary, "train_loss", measured(train_loss));
    json_object_set_new(summary, "train_runtime", measured(runtime));
    json_object_set_new(summary, "train_samples_per_second", measured(samples / runtime));
    json_object_set_new(summary, "train_steps_per_second", measured(updates / runtime));
    json_object_set_new(summary, "eval_samples_per_second", measured(s->eval_samples_per_second));
    json_object_set_new(summary, "peak_memory_mib", json_number(peak_bytes / (1 << 20)));
    json_object_set_new(summary, "packs", json_integer((json_int_t)s->packs));
    json_object_set_new(summary, "work", work_json(device_work(s->device)));
    json_object_set_new(summary, "update_work", s->update_work ? json_incref(s->update_work) : json_null());
    json_object_set_new(summary, "world_size", json_integer(s->world_size));
    json_object_set_new(summary, "stage", json_string(s->stage));
    json_object_set_new(summary, "steps", json_integer(s->step));
    json_object_set_new(summary, "output_dir", json_string(s->output_dir));
    if (device_computes())
        metrics_line(
            s->metrics,
            "{'train_runtime': %.2f, 'train_samples_per_second': %.3f, 'train_steps_per_second': %.3f, "
            "'train_loss': %.4f}",
            runtime, samples / runtime, updates / runtime, train_loss);
    report_rates(s, summary);
    metrics_write(s->metrics, "summary", summary);
}

void session_finish(struct session *s, const struct stage_state *stage,
                    const struct memory_prediction *prediction) {
    session_drain(s);
    if (s->settings.save_model && device_computes() && !s->leaving) {
        comm_count_bytes(s->comm, false);
        checkpoint_save_model(s->output_dir, stage, &s->sources, s->comm, s->stream);
        comm_count_bytes(s->comm, true);
    }
    json_t *memory = memory_event(s->comm, s->device, prediction);
    char *table = memory_table(memory);
    metrics_line(s->metrics, "%s", table);
    free(table);
    json_t *peak = json_object_get(json_object_get(json_object_get(memory, "device"), "total"), "peak_bytes");
    double peak_bytes = json_number_value(peak);
    metrics_write(s->metrics, "memory", memory);
    json_t *samples = sampler_stop(s->sampler, s->output_dir);
    if (samples) metrics_write(s->metrics, "memory_samples", samples);
    report_communication(s);
    report_summary(s, peak_bytes);
}
