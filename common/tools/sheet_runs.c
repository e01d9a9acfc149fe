/* Which run a cell is about. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/report/run_settings.h"
#include "common/tools/sheet.h"

/* ---- finding it ---- */

static bool right_precision(const struct sheet_run *run, const struct wanted_run *wanted) {
    return !strcmp(wanted->precision, "*") ||
           !strcmp(wanted->precision, run_metrics_text(run->metrics.run, "precision"));
}

static bool right_program(const struct sheet_run *run, const struct wanted_run *wanted) {
    return !strcmp(wanted->stage, run_metrics_text(run->metrics.run, "stage")) &&
           wanted->dry == run_metrics_is_dry(&run->metrics);
}

static bool right_ranks(const struct sheet_run *run, const struct wanted_run *wanted) {
    return run_metrics_number(run->metrics.run, "world_size") == (double)wanted->ranks;
}

static bool is_wanted(const struct sheet_run *run, const struct wanted_run *wanted) {
    return right_program(run, wanted) && right_precision(run, wanted) && right_ranks(run, wanted) &&
           !settings_differ(json_object_get(run->metrics.run, "settings"), wanted->settings, NULL);
}

/* The newest run that is the one and has the number; NULL where there is none. */
static const struct sheet_run *find_run(const struct sheet *sheet, const struct wanted_run *wanted,
                                        const struct cell_part *part) {
    for (size_t r = 0; r < sheet->run_count; r++) {
        const struct sheet_run *run = &sheet->runs[r];
        if (is_wanted(run, wanted) && isfinite(run_number_value(part->number, &run->metrics, part->argument)))
            return run;
    }
    return NULL;
}

double part_other_value(const struct cell_part *part, const struct sheet_run *run,
                        const struct run_number *number, double argument) {
    return part->combination == ALONE ? part->times * run_number_value(number, &run->metrics, argument) : NAN;
}

static double combine(enum combination combination, double own, double other) {
    return combination == OVER ? own / other : combination == DIVIDING ? other / own : other - own;
}

struct part_value part_value(const struct sheet *sheet, const struct cell_part *part) {
    struct part_value result = {.value = NAN, .predicted = NAN};
    const struct sheet_run *run = find_run(sheet, &part->run, part), *other = NULL;
    bool alone = part->combination == ALONE;
    if (!alone) other = find_run(sheet, &part->other, part);
    if (!run) result.missing[result.missing_count++] = &part->run;
    if (!alone && !other) result.missing[result.missing_count++] = &part->other;
    if (result.missing_count) return result;
    result.run = run;
    result.value = part->times * run_number_value(part->number, &run->metrics, part->argument);
    result.predicted = part->times * run_number_predicted(part->number, &run->metrics);
    if (!alone) {
        result.value = combine(part->combination, result.value,
                               run_number_value(part->number, &other->metrics, part->argument));
        result.predicted = NAN;
    }
    return result;
}

/* ---- the command ---- */

char *run_command(const struct sheet *sheet, const struct wanted_run *wanted) {
    bool cuda = false; /* where GPUs compute, fp32 has to be asked for */
    for (size_t r = 0; r < sheet->run_count; r++)
        cuda |= !strcmp(run_metrics_text(sheet->runs[r].metrics.run, "backend"), "cuda");
    const char *precision = !strcmp(wanted->precision, "bf16")           ? " --bf16"
                            : !strcmp(wanted->precision, "fp16")         ? " --fp16"
                            : strcmp(wanted->precision, "fp32") || !cuda ? ""
                                                                         : " --fp16 false";
    char *settings = settings_command(wanted->changes), *ranks = xstrdup(""), *command;
    if (wanted->ranks > 1) {
        free(ranks);
        ranks = xformat(" --%s %ld", wanted->dry ? "dry_world_size" : "ranks", wanted->ranks);
    }
    command = wanted->dry ? xformat("build/dry/%s/train%s%s%s", wanted->stage, ranks, precision, settings)
                          : xformat("./workshop run %s%s%s%s", wanted->stage, ranks, precision, settings);
    free(settings);
    free(ranks);
    return command;
}

/* What is different of a run of the same program, in words; how many settings, ranks and precision counting
 * as one each. The caller frees the text. */
static int differences(const struct sheet_run *run, const struct wanted_run *wanted, char **text) {
    char *settings;
    int count = settings_differ(json_object_get(run->metrics.run, "settings"), wanted->settings, &settings);
    char ranks[64] = "", precision[64] = "";
    if (!right_ranks(run, wanted))
        snprintf(ranks, sizeof ranks, "%.0f ranks, not %ld; ",
                 run_metrics_number(run->metrics.run, "world_size"), wanted->ranks);
    if (!right_precision(run, wanted))
        snprintf(precision, sizeof precision, "%.8s, not %.8s; ",
                 run_metrics_text(run->metrics.run, "precision"), wanted->precision);
    *text = xformat("%s%s%s", ranks, precision, settings);
    size_t length = strlen(*text);
    if (length > 2 && !strcmp(*text + length - 2, "; ")) (*text)[length - 2] = '\0';
    free(settings);
    return count + (ranks[0] != '\0') + (precision[0] != '\0');
}

char *nearest_run(const struct sheet *sheet, const struct wanted_run *wanted) {
    enum { NEAR = 2 };
    int least = NEAR + 1;
    char *nearest = xstrdup("");
    for (size_t r = 0; r < sheet->run_count; r++) {
        const struct sheet_run *run = &sheet->runs[r];
        char *text, state[96];
        if (!right_program(run, wanted)) continue;
        int count = differences(run, wanted, &text);
        if (count < least) {
            least = count;
            free(nearest);
            run_metrics_state(&run->metrics, state);
            nearest = count ? xformat("%s: %s", run->folder, text)
                            : xformat("%s has not got the number: %s", run->folder, state);
        }
        free(text);
    }
    return nearest;
}

/* ---- what is missing ---- */

static struct missing *find_missing(struct missing_list *list, const char *command) {
    for (size_t i = 0; i < list->count; i++)
        if (!strcmp(list->items[i].command, command)) return &list->items[i];
    list->items = xrealloc(list->items, (list->count + 1) * sizeof *list->items);
    list->items[list->count] = (struct missing){.command = xstrdup(command), .questions = xstrdup("")};
    return &list->items[list->count++];
}

static void missing_add(struct missing_list *list, const struct sheet *sheet, const struct wanted_run *wanted,
                        int question) {
    char *command = run_command(sheet, wanted);
    struct missing *item = find_missing(list, command);
    item->cells++;
    item->dry = wanted->dry;
    if (!item->near) item->near = nearest_run(sheet, wanted);
    if (item->last_question != question) {
        char *questions = xformat("%s%s%d", item->questions, item->questions[0] ? ", " : "", question);
        free(item->questions);
        item->questions = questions;
        item->last_question = question;
    }
    free(command);
}

void missing_add_all(struct missing_list *list, const struct sheet *sheet, const struct part_value *value,
                     int question) {
    for (int i = 0; i < value->missing_count; i++) missing_add(list, sheet, value->missing[i], question);
}

void missing_print(const struct missing_list *list) {
    bool dry = false;
    for (size_t i = 0; i < list->count; i++) {
        const struct missing *item = &list->items[i];
        printf("  %zu cell%s of question %s\n      %s\n", item->cells, item->cells == 1 ? "" : "s",
               item->questions, item->command);
        if (item->near[0]) printf("      (%s)\n", item->near);
        dry |= item->dry;
    }
    if (dry) printf("  build/dry/ is what ./workshop build --device dry makes\n");
}

void missing_free(struct missing_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].command);
        free(list->items[i].near);
        free(list->items[i].questions);
    }
    free(list->items);
}
