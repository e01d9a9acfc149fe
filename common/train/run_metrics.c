#include "common/train/run_metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

/* ---- values in events ---- */

static const json_t *value_at(const json_t *event, const char *path) {
    char key[64];
    while (event && *path) {
        size_t length = strcspn(path, ".");
        if (length >= sizeof key) return NULL;
        memcpy(key, path, length);
        key[length] = '\0';
        event = json_object_get(event, key);
        path += length + (path[length] == '.');
    }
    return event;
}

double run_metrics_number(const json_t *event, const char *path) {
    const json_t *value = value_at(event, path);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *run_metrics_text(const json_t *event, const char *path) {
    const json_t *value = value_at(event, path);
    return json_is_string(value) ? json_string_value(value) : "";
}

/* ---- reading ---- */

static void replace(json_t **place, json_t *event) {
    json_decref(*place);
    *place = json_incref(event);
}

static void forget(json_t **place) {
    json_decref(*place);
    *place = NULL;
}

static void start_process(struct run_metrics *metrics, json_t *event) {
    replace(&metrics->run, event);
    metrics->processes++;
    forget(&metrics->memory);
    forget(&metrics->memory_samples);
    forget(&metrics->communication);
    forget(&metrics->summary);
}

/* Appends the event. A step that comes again replaces what was there from it on. Room doubles at powers of
 * two. */
static void add_point(struct run_point **points, size_t *count, const json_t *event, const char *loss) {
    struct run_point point = {
        .step = run_metrics_number(event, "step"),
        .epoch = run_metrics_number(event, "epoch"),
        .loss = run_metrics_number(event, loss),
        .exact_match = run_metrics_number(event, "eval_exact_match"),
        .grad_norm = run_metrics_number(event, "grad_norm"),
        .skipped = json_is_true(json_object_get(event, "skipped")),
    };
    if (isnan(point.step)) return;
    while (*count && (*points)[*count - 1].step >= point.step) (*count)--;
    if ((*count & (*count - 1)) == 0)
        *points = xrealloc(*points, (*count ? 2 * *count : 1) * sizeof **points);
    (*points)[(*count)++] = point;
}

static void add_event(struct run_metrics *metrics, json_t *event) {
    const char *name = run_metrics_text(event, "event");
    if (!strcmp(name, "run")) start_process(metrics, event);
    if (!strcmp(name, "step")) add_point(&metrics->steps, &metrics->step_count, event, "loss");
    if (!strcmp(name, "eval"))
        add_point(&metrics->evaluations, &metrics->evaluation_count, event, "eval_loss");
    if (!strcmp(name, "memory")) replace(&metrics->memory, event);
    if (!strcmp(name, "memory_samples")) replace(&metrics->memory_samples, event);
    if (!strcmp(name, "communication")) replace(&metrics->communication, event);
    if (!strcmp(name, "summary")) replace(&metrics->summary, event);
}

static bool read_lines(struct run_metrics *metrics, const struct file_map *map, const char *path,
                       struct error *error) {
    size_t at = 0;
    for (long line = 1; at < map->size; line++) {
        const char *start = map->data + at, *end = memchr(start, '\n', map->size - at);
        if (!end) break; /* the run was killed while it wrote this line */
        json_error_t reason;
        json_t *event = json_loadb(start, (size_t)(end - start), JSON_REJECT_DUPLICATES, &reason);
        if (!event) return error_set(error, "%s:%ld:%d: %s", path, line, reason.column, reason.text);
        if (!json_is_object(event) || !run_metrics_text(event, "event")[0]) {
            json_decref(event);
            return error_set(error, "%s:%ld: no event of a run: is this a run's metrics.jsonl?", path, line);
        }
        add_event(metrics, event);
        json_decref(event);
        at = (size_t)(end - map->data) + 1;
    }
    if (!metrics->run) return error_set(error, "%s: no run has begun in it", path);
    return true;
}

bool run_metrics_read(struct run_metrics *metrics, const char *path, struct error *error) {
    *metrics = (struct run_metrics){0};
    bool folder = directory_exists(path);
    char *file = folder ? xformat("%s/metrics.jsonl", path) : xstrdup(path);
    const char *slash = strrchr(file, '/');
    metrics->folder = slash ? xstrdup(file) : xstrdup(".");
    if (slash) metrics->folder[slash - file + (slash == file)] = '\0';
    struct file_map map;
    bool read = file_map(&map, file, error);
    if (read) {
        read = read_lines(metrics, &map, file, error);
        file_unmap(&map);
    }
    free(file);
    if (!read) run_metrics_free(metrics);
    return read;
}

void run_metrics_free(struct run_metrics *metrics) {
    free(metrics->folder);
    json_decref(metrics->run);
    forget(&metrics->memory);
    forget(&metrics->memory_samples);
    forget(&metrics->communication);
    forget(&metrics->summary);
    free(metrics->steps);
    free(metrics->evaluations);
    *metrics = (struct run_metrics){0};
}

/* ---- what follows from the events ---- */

bool run_metrics_is_dry(const struct run_metrics *metrics) {
    return !strcmp(run_metrics_text(metrics->run, "backend"), "dry");
}

double run_metrics_updates_done(const struct run_metrics *metrics) {
    double steps = run_metrics_number(metrics->summary, "steps");
    if (!isnan(steps)) return steps;
    return metrics->step_count ? metrics->steps[metrics->step_count - 1].step : 0;
}

double run_metrics_updates_planned(const struct run_metrics *metrics) {
    return run_metrics_number(metrics->run, "updates");
}

double run_metrics_examples_per_update(const struct run_metrics *metrics) {
    return run_metrics_number(metrics->run, "world_size") *
           run_metrics_number(metrics->run, "settings.per_device_train_batch_size") *
           run_metrics_number(metrics->run, "settings.gradient_accumulation_steps");
}

double run_metrics_sent_bytes(const struct run_metrics *metrics) {
    double sum = 0, updates = run_metrics_number(metrics->communication, "updates");
    const char *name;
    json_t *line;
    json_object_foreach(metrics->communication, name, line) {
        double bytes = run_metrics_number(line, "bytes");
        if (bytes > 0) sum += bytes;
    }
    return updates >= 1 ? sum / updates : NAN;
}

double run_metrics_last_loss(const struct run_point *points, size_t count) {
    while (count && !isfinite(points[count - 1].loss)) count--;
    return count ? points[count - 1].loss : NAN;
}

/* The first update whose loss is no number, though it was not skipped; NULL where there is none. */
static const struct run_point *broken_update(const struct run_metrics *metrics) {
    for (size_t i = 0; i < metrics->step_count; i++)
        if (!isfinite(metrics->steps[i].loss) && !metrics->steps[i].skipped) return &metrics->steps[i];
    return NULL;
}

void run_metrics_state(const struct run_metrics *metrics, char text[96]) {
    const struct run_point *broken = broken_update(metrics);
    double done = run_metrics_updates_done(metrics), planned = run_metrics_updates_planned(metrics);
    if (broken)
        snprintf(text, 96, "no number: loss of update %.0f", broken->step);
    else if (!metrics->summary)
        snprintf(text, 96, "unfinished: %.0f of %.0f", done, planned);
    else if (done < planned)
        snprintf(text, 96, "stopped after %.0f of %.0f", done, planned);
    else
        snprintf(text, 96, "%s", run_metrics_is_dry(metrics) ? "dry run" : "finished");
}

bool run_metrics_is_odd(const struct run_metrics *metrics) {
    return broken_update(metrics) || !metrics->summary ||
           run_metrics_updates_done(metrics) < run_metrics_updates_planned(metrics);
}
