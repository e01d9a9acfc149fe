#include <math.h>
#include <stdlib.h>

#include "common/bloom/layout.h"
#include "common/tools/task.h"
#include "common/train/run_metrics.h"

/* Two runs: the participant's, and stage 01's. */
struct judged {
    const struct trial *trial;
    const struct variant *variant;
    struct layout layout;
    double element; /* bytes of a parameter */
    struct run_metrics run, reference;
    struct broken *broken;
};

/* Less than this is rounding. */
static double loss_bound(const struct trial *trial) {
    return trial->half ? 2e-3 : 1e-6;
}

static double off(double value, double expected) {
    return value == expected ? 0 : fabs(value / expected - 1);
}

static enum difference difference_of(double value, double expected) {
    if (!isfinite(value) || value == 0) return NOTHING;
    if (off(value, expected) < 1e-3) return LITTLE;
    return value < expected ? LESS : MORE;
}

static bool breaks(const struct judged *j, enum promise promise, int detail, enum difference difference,
                   char *text) {
    *j->broken = (struct broken){promise, detail, difference, text};
    return false;
}

/* ---- memory ---- */

static bool judge_heading(const struct judged *j, bool host, enum heading heading, double expected) {
    char path[64];
    snprintf(path, sizeof path, "%s.%s.peak_bytes", host ? "host" : "device", heading_name(heading));
    double bytes = run_metrics_number(j->run.memory, path);
    if (bytes == expected || (isnan(bytes) && expected == 0)) return true;
    enum difference difference = bytes > expected ? MORE : bytes > 0 ? LESS : NOTHING;
    return breaks(j, MEMORY, host ? HEADINGS + (int)heading : (int)heading, difference,
                  xformat("%s memory for %s: %.0f bytes at the most, promised %.0f (%s)",
                          host ? "host" : "device", heading_name(heading), isnan(bytes) ? 0 : bytes, expected,
                          expected == 0 ? "none" : "see the table in the lesson"));
}

static bool judge_memory(const struct judged *j) {
    const struct variant *v = j->variant;
    double whole = j->element * (double)j->layout.padded, mine = j->element * (double)j->layout.sliced;
    double parameters = v->zero < 3 ? whole : mine, gradients = v->zero < 2 ? whole : mine;
    double state = (v->host_optimizer || j->trial->half ? 12 : 8) * (double)j->layout.sliced;
    for (int host = 0; host < 2; host++)
        if (!judge_heading(j, host, PARAMETERS, host == v->host_parameters ? parameters : 0) ||
            !judge_heading(j, host, GRADIENTS, host ? 0 : gradients) ||
            !judge_heading(j, host, OPTIMIZER, host == v->host_optimizer ? state : 0))
            return false;
    return true;
}

/* Units ahead, and the one in use. */
static int depth_of(const struct judged *j) {
    return (int)run_metrics_number(j->run.run, "settings.stage3_prefetch") + 1;
}

static bool judge_buffers(const struct judged *j) {
    if (j->variant->host_optimizer) return true; /* loading goes through device memory there */
    double unit = j->element * (double)j->layout.largest;
    double most = j->variant->zero < 2 ? 0 : j->variant->zero == 2 ? 2 : 2 + depth_of(j);
    double added = run_metrics_number(j->run.memory, "device.buffers.peak_bytes") -
                   run_metrics_number(j->reference.memory, "device.buffers.peak_bytes");
    if (added <= most * unit) return true;
    return breaks(
        j, FEW_UNITS, 0, MORE,
        xformat(
            "device memory for buffers: %.1f of the largest units more than in stage 01, promised at most "
            "%.0f",
            added / unit, most));
}

/* ---- bytes ---- */

/* Elements that a rank sends to every other in an update, as its slices. */
static double slices_sent(const struct judged *j, enum collective collective) {
    const struct layout *layout = &j->layout;
    double sliced = (double)layout->sliced, packs = j->trial->packs, kept = 0;
    for (int i = 1; i <= depth_of(j) && i <= layout->count; i++)
        kept += (double)layout->units[layout->count - i].slice;
    if (collective == REDUCE_SCATTER) return j->variant->zero == 1 ? sliced : packs * sliced;
    return j->variant->zero == 3 ? packs * (2 * sliced - kept) : sliced;
}

static bool judge_collective(const struct judged *j, enum collective collective) {
    char path[64];
    snprintf(path, sizeof path, "%s.bytes", collective_name(collective));
    double bytes = run_metrics_number(j->run.communication, path);
    if (isnan(bytes)) bytes = 0;
    double expected = 32.0 * j->trial->ranks * TASK_UPDATES; /* two fp64, and pieces of them */
    if (collective == ALL_REDUCE && bytes <= expected) return true;
    if (collective != ALL_REDUCE)
        expected = slices_sent(j, collective) * j->element * (j->trial->ranks - 1) * TASK_UPDATES;
    if (bytes == expected) return true;
    return breaks(j, SENT, (int)collective,
                  bytes > expected ? MORE
                  : bytes > 0      ? LESS
                                   : NOTHING,
                  xformat("%s: rank 0 has sent %.0f bytes in %d updates, promised %s%.0f (%.3g times that)",
                          collective_name(collective), bytes, TASK_UPDATES,
                          collective == ALL_REDUCE ? "at most " : "", expected, bytes / expected));
}

static bool judge_sent(const struct judged *j) {
    return j->trial->ranks == 1 || (judge_collective(j, REDUCE_SCATTER) && judge_collective(j, ALL_GATHER) &&
                                    judge_collective(j, ALL_REDUCE));
}

/* ---- numbers ---- */

static bool judge_number(const struct judged *j, enum promise promise, const char *what, double step,
                         double value, double expected, double bound) {
    if (off(value, expected) <= bound || (isnan(value) && isnan(expected))) return true;
    char *ratio = isfinite(value) ? xformat(" (%.3g times that)", value / expected) : xstrdup("");
    char *text = xformat("%s %.0f: %.9g, stage 01 has %.9g%s", what, step, value, expected, ratio);
    free(ratio);
    return breaks(j, promise, 0, difference_of(value, expected), text);
}

static bool judge_evaluation(const struct judged *j, enum promise promise, size_t number) {
    if (j->run.evaluation_count <= number || j->reference.evaluation_count <= number)
        return breaks(j, promise, 0, NOTHING, xformat("an evaluation is missing"));
    const struct run_point *run = &j->run.evaluations[number], *expected = &j->reference.evaluations[number];
    return judge_number(j, promise,
                        promise == START ? "evaluation before training, update" : "evaluation after update",
                        run->step, run->loss, expected->loss, loss_bound(j->trial));
}

/* The loss, and the norm of the gradient, of update number `i` + 1. */
static bool judge_update(const struct judged *j, size_t i) {
    if (j->run.step_count <= i) return breaks(j, LOSSES, 0, NOTHING, xformat("update %zu is missing", i + 1));
    const struct run_point *run = &j->run.steps[i], *expected = &j->reference.steps[i];
    bool first = i == 0;
    if (!judge_number(j, first ? FIRST_LOSS : LOSSES, "loss of update", run->step, run->loss, expected->loss,
                      loss_bound(j->trial)))
        return false;
    if (run->skipped != expected->skipped)
        return breaks(j, SKIPS, 0, run->skipped ? MORE : NOTHING,
                      xformat("update %.0f is %s, but %sin stage 01", run->step,
                              run->skipped ? "skipped" : "not skipped", run->skipped ? "not " : ""));
    if (expected->skipped) return true;
    return judge_number(j, first ? FIRST_NORM : LOSSES, "grad_norm of update", run->step, run->grad_norm,
                        expected->grad_norm, j->trial->half ? 0.05 : 1e-5);
}

static bool judge_numbers(const struct judged *j) {
    size_t last = j->reference.evaluation_count - 1;
    if (!judge_evaluation(j, START, 0)) return false;
    for (size_t i = 0; i < j->reference.step_count; i++)
        if (!judge_update(j, i)) return false;
    return judge_evaluation(j, EVALUATION, last);
}

bool task_judge(const struct trial *trial, const struct variant *variant, const struct bloom_config *config,
                const char *run, const char *reference, struct broken *broken) {
    struct judged j = {.trial = trial, .variant = variant, .element = trial->half ? 2 : 4, .broken = broken};
    struct error error;
    if (!run_metrics_read(&j.reference, reference, &error)) fail("%s", error.text);
    if (!run_metrics_read(&j.run, run, &error)) {
        run_metrics_free(&j.reference);
        return breaks(&j, ENDS, 0, MORE, xformat("%s", error.text));
    }
    layout_open(&j.layout, config, trial->ranks);
    bool kept = trial->resumes ? judge_numbers(&j)
                               : judge_memory(&j) && judge_buffers(&j) && judge_sent(&j) && judge_numbers(&j);
    layout_close(&j.layout);
    run_metrics_free(&j.run);
    run_metrics_free(&j.reference);
    return kept;
}
