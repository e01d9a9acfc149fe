#include "common/train/settings.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/deepspeed_config.h"
#include "common/train/settings_table.h"

/* Where a setting lies in the struct. */
static void *field(const struct settings *settings, const struct setting *setting) {
    return (char *)(size_t)settings + setting->offset;
}

void settings_default(struct settings *settings) {
    *settings = (struct settings){.notes = xstrdup("")};
    for (const struct setting *s = settings_table; s->name; s++)
        if (!settings_set(settings, s, s->initial, "default", NULL)) fail("bad default of %s", s->name);
}

void settings_free(struct settings *settings) {
    for (const struct setting *s = settings_table; s->name; s++)
        if (s->kind == SETTING_STRING) free(*(char **)field(settings, s));
    free(settings->notes);
}

static bool set_bool(bool *value, const char *text, const char *from, const char *name, struct error *error) {
    if (!strcmp(text, "true") || !strcmp(text, "false")) {
        *value = !strcmp(text, "true");
        return true;
    }
    return error_set(error, "%s: %s: '%s' is neither true nor false", from, name, text);
}

static bool set_choice(int *value, const struct setting *s, const char *text, const char *from,
                       struct error *error) {
    char known[256] = "";
    for (int i = 0; s->choices[i]; i++) {
        if (!strcmp(text, s->choices[i])) {
            *value = i;
            return true;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", s->choices[i]);
    }
    return error_set(error, "%s: %s: '%s' is none of %s", from, s->name, text, known);
}

/* strtod and strtoll also take spaces before a number, and strtod hexadecimal ones. */
static bool begins_a_number(const char *text) {
    const char *digits = text + (*text == '-' || *text == '+');
    if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X')) return false;
    return (*digits >= '0' && *digits <= '9') || (*digits == '.' && digits[1] >= '0' && digits[1] <= '9');
}

static bool set_integer(int64_t *value, const struct setting *s, const char *text, const char *from,
                        struct error *error) {
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (!begins_a_number(text) || *end || errno)
        return error_set(error, "%s: %s: '%s' is not an integer", from, s->name, text);
    if ((double)number < s->minimum || (double)number > s->maximum)
        return error_set(error, "%s: %s: %lld is not between %.15g and %.15g", from, s->name, number,
                         s->minimum, s->maximum);
    *value = number;
    return true;
}

static bool set_real(double *value, const struct setting *s, const char *text, const char *from,
                     struct error *error) {
    char *end;
    double number = strtod(text, &end);
    if (!begins_a_number(text) || *end || !isfinite(number))
        return error_set(error, "%s: %s: '%s' is not a number", from, s->name, text);
    if (number < s->minimum || number > s->maximum)
        return error_set(error, "%s: %s: %g is not between %g and %g", from, s->name, number, s->minimum,
                         s->maximum);
    *value = number;
    return true;
}

bool settings_set(struct settings *settings, const struct setting *s, const char *text, const char *from,
                  struct error *error) {
    switch (s->kind) {
    case SETTING_BOOL:
        return set_bool(field(settings, s), text, from, s->name, error);
    case SETTING_CHOICE:
        return set_choice(field(settings, s), s, text, from, error);
    case SETTING_INTEGER:
        return set_integer(field(settings, s), s, text, from, error);
    case SETTING_REAL:
        return set_real(field(settings, s), s, text, from, error);
    case SETTING_STRING: {
        char **value = field(settings, s);
        free(*value);
        *value = xstrdup(text);
        return true;
    }
    }
    return false;
}

/* Levenshtein's distance, for names of at most 63 letters. */
static int distance(const char *a, const char *b) {
    int row[64];
    int width = (int)strlen(b);
    if (width > 63 || strlen(a) > 63) return INT_MAX;
    for (int j = 0; j <= width; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= width; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[width];
}

static bool unknown(const char *name, const char *from, struct error *error) {
    const char *nearest = NULL;
    int least = INT_MAX;
    for (const struct setting *s = settings_table; s->name; s++) {
        int d = distance(name, s->name);
        if (d < least) {
            least = d;
            nearest = s->name;
        }
    }
    if (!nearest) return error_set(error, "%s: there is no setting '%.60s…'; --help lists all", from, name);
    return error_set(error, "%s: there is no setting '%.60s'; did you mean '%s'? (--help lists all)", from,
                     name, nearest);
}

bool settings_read_json(struct settings *settings, const json_t *object, const char *from,
                        struct error *error) {
    if (!json_is_object(object)) return error_set(error, "%s: expected an object of settings", from);
    const char *name;
    json_t *value;
    /* The macro drops const; nothing is changed. */
    json_object_foreach((json_t *)(size_t)object, name, value) {
        const struct setting *s = settings_find(name);
        if (!s) return unknown(name, from, error);
        if (json_is_null(value)) continue;
        char number[64];
        const char *text = number;
        bool fits;
        if (json_is_string(value)) {
            text = json_string_value(value);
            fits = s->kind == SETTING_STRING || s->kind == SETTING_CHOICE;
        } else if (json_is_boolean(value)) {
            text = json_is_true(value) ? "true" : "false";
            fits = s->kind == SETTING_BOOL || s->kind == SETTING_CHOICE ||
                   (s->kind == SETTING_STRING && !strcmp(s->name, "resume_from_checkpoint"));
        } else if (json_is_integer(value)) {
            snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
            fits = s->kind == SETTING_INTEGER || s->kind == SETTING_REAL;
        } else {
            snprintf(number, sizeof number, "%.17g", json_number_value(value));
            fits = json_is_real(value) && s->kind == SETTING_REAL;
        }
        if (!fits) return error_set(error, "%s: %s: expected %s", from, name, setting_kind_name(s));
        if (!settings_set(settings, s, text, from, error)) return false;
    }
    return true;
}

static bool read_file(struct settings *settings, const char *path, struct error *error) {
    json_t *object = json_read_file(path, error);
    if (!object) return false;
    bool ok = settings_read_json(settings, object, path, error);
    json_decref(object);
    return ok;
}

/* One setting of the command line. */
struct argument {
    char name[64];
    const struct setting *setting; /* NULL: --config */
    const char *value;
};

/* Takes one or two arguments from *i on, and moves it behind them. */
static bool next_argument(struct argument *argument, int *i, int count, char **arguments,
                          struct error *error) {
    const char *text = arguments[(*i)++];
    if (strncmp(text, "--", 2) != 0)
        return error_set(error, "command line: '%.60s': settings are written --name value (--help lists all)",
                         text);
    const char *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text - 2) : strlen(text + 2);
    *argument = (struct argument){.value = equals ? equals + 1 : NULL};
    if (length >= sizeof argument->name) return unknown(text + 2, "command line", error);
    memcpy(argument->name, text + 2, length);
    argument->setting = settings_find(argument->name);
    if (!argument->setting && strcmp(argument->name, "config") != 0)
        return unknown(argument->name, "command line", error);
    if (argument->value) return true;
    /* A boolean alone is true, also one that may be auto. */
    const struct setting *setting = argument->setting;
    bool alone = setting && (setting->kind == SETTING_BOOL ||
                             (setting->choices && !strcmp(setting->choices[AUTO_TRUE], "true")));
    if (*i < count && strncmp(arguments[*i], "--", 2) != 0)
        argument->value = arguments[(*i)++];
    else if (alone)
        argument->value = "true";
    return argument->value || error_set(error, "command line: --%s needs a value", argument->name);
}

bool settings_read_arguments(struct settings *settings, int count, char **arguments, struct error *error) {
    struct argument argument;
    for (int i = 0; i < count;)
        if (!next_argument(&argument, &i, count, arguments, error) ||
            (!argument.setting && !read_file(settings, argument.value, error)))
            return false;
    for (int i = 0; i < count;)
        if (!next_argument(&argument, &i, count, arguments, error) ||
            (argument.setting &&
             !settings_set(settings, argument.setting, argument.value, "command line", error)))
            return false;
    return true;
}

static bool check_offload(const struct settings *s, struct error *error) {
    if (s->zero_hpz_partition_size > 1 && (s->zero_stage != 3 || s->offload_param == OFFLOAD_CPU))
        return error_set(error, "settings: zero_hpz_partition_size keeps parameters of zero_stage 3 on the "
                                "device a second time: set it to 1 with another stage, or with offload_param "
                                "cpu");
    if (s->offload_param == OFFLOAD_CPU && s->zero_stage != 3)
        return error_set(error, "settings: offload_param cpu needs zero_stage 3, which alone cuts parameters "
                                "into slices; set one of the two otherwise");
    if (s->offload_param == OFFLOAD_CPU && s->offload_optimizer != OFFLOAD_CPU)
        return error_set(error,
                         "settings: offload_param cpu needs an optimizer that updates parameters where "
                         "they are: add --offload_optimizer cpu");
    if (s->offload_optimizer == OFFLOAD_CPU && s->zero_stage == 0)
        return error_set(error, "settings: offload_optimizer cpu needs zero_stage 1, 2 or 3; with one rank "
                                "zero_stage 1 is the same as 0");
    if (s->offload_gradients && s->offload_optimizer != OFFLOAD_CPU)
        return error_set(error, "settings: offload_gradients brings gradients to an optimizer in host "
                                "memory: add --offload_optimizer cpu");
    if (s->offload_gradients && s->zero_stage < 2)
        return error_set(error,
                         "settings: offload_gradients takes a rank's slices away after every micro-batch, "
                         "and zero_stage 1 keeps gradients whole until the last: use zero_stage 2 or 3");
    return true;
}

bool settings_check(const struct settings *s, struct error *error) {
    if (s->bf16 && s->fp16 == AUTO_TRUE)
        return error_set(error, "settings: bf16 and fp16 exclude each other; set one of them to false");
    if (s->label_padding && s->append_eos)
        return error_set(error, "settings: label_padding labels every </s> of the padding already; add "
                                "--append_eos false");
    if (!s->model_name_or_path[0])
        return error_set(error,
                         "settings: model_name_or_path is empty; give a directory, ORG/NAME or random:SHAPE");
    if (!s->train_file[0])
        return error_set(error, "settings: train_file is empty; give a SQuAD file or synthetic:COUNTxLENGTH");
    if (s->samples_per_device && s->subset_size)
        return error_set(error,
                         "settings: samples_per_device decides how many examples are used; set subset_size "
                         "to 0 with it");
    if (s->max_steps < 0 && s->num_train_epochs <= 0)
        return error_set(error, "settings: neither num_train_epochs nor max_steps asks for any update");
    if (s->warmup_steps && s->warmup_ratio > 0)
        return error_set(error,
                         "settings: warmup_steps and warmup_ratio exclude each other; set one of them to 0");
    if (s->dry_rank >= s->dry_world_size)
        return error_set(error, "settings: dry_rank %lld is not below dry_world_size %lld",
                         (long long)s->dry_rank, (long long)s->dry_world_size);
    return check_offload(s, error);
}

/* Is it what the table says it is at first? */
static bool is_initial(const struct settings *settings, const struct setting *s) {
    struct settings initial;
    settings_default(&initial);
    const void *value = field(settings, s), *other = field(&initial, s);
    bool same = s->kind == SETTING_BOOL ? *(const bool *)value == *(const bool *)other
                                        : *(const int *)value == *(const int *)other;
    settings_free(&initial);
    return same;
}

/* 01-baseline is 1; 0 for a name that has no number. */
static int stage_number(const char *stage) {
    char *end;
    long number = strtol(stage, &end, 10);
    return *end == '-' && number > 0 && number < 100 ? (int)number : 0;
}

enum { STAGE_WITH_ALL = 5, STAGE_DEFAULT = 2 }; /* 05 has all of ZeRO's stages */

bool settings_check_stage(struct settings *settings, const char *stage, struct error *error) {
    int number = stage_number(stage);
    if (!number) return true;
    for (const struct setting *s = settings_table; s->name; s++)
        if (number < s->since && !is_initial(settings, s))
            return error_set(error, "settings: %s: %s does not have this; stage %02d does", s->name, stage,
                             s->since);
    long long own = number < STAGE_WITH_ALL ? number - 1 : STAGE_DEFAULT;
    if (settings->zero_stage < 0) settings->zero_stage = own;
    if (number < STAGE_WITH_ALL && settings->zero_stage != own)
        return error_set(error,
                         "settings: zero_stage: %s is zero_stage %lld; for %lld use stage %02lld, or stage "
                         "%02d, which has all",
                         stage, own, (long long)settings->zero_stage, (long long)settings->zero_stage + 1,
                         STAGE_WITH_ALL);
    return true;
}

bool settings_fit_world(struct settings *s, int world_size, struct error *error) {
    int64_t total = s->train_batch_size, *batch = &s->per_device_train_batch_size,
            *accumulation = &s->gradient_accumulation_steps;
    if (!*batch && !*accumulation) *accumulation = 1;
    if (!*batch) *batch = total / (*accumulation * world_size);
    if (!*accumulation) *accumulation = total / (*batch * world_size);
    int64_t made = *batch * *accumulation * world_size;
    enum { MOST = 65536 }; /* as in the table */
    bool fits = *batch >= 1 && *batch <= MOST && *accumulation >= 1 && *accumulation <= MOST;
    if (fits && (!total || made == total)) return true;
    return error_set(error,
                     "settings: train_batch_size %lld is not what per_device_train_batch_size %lld × "
                     "gradient_accumulation_steps %lld × %d rank%s make, which is %lld; change one of them",
                     (long long)total, (long long)*batch, (long long)*accumulation, world_size,
                     world_size == 1 ? "" : "s", (long long)made);
}

enum dtype settings_dtype(const struct settings *settings) {
    if (settings->bf16) return BF16;
    bool gpu = !strcmp(WORKSHOP_BACKEND, "cuda");
    return settings->fp16 == AUTO_TRUE || (settings->fp16 == AUTO && gpu) ? FP16 : FP32;
}

bool settings_pin_optimizer(const struct settings *settings) {
    enum automatic own = settings->offload_optimizer_pin_memory;
    return own == AUTO ? settings->pin_memory : own == AUTO_TRUE;
}

bool settings_pin_parameters(const struct settings *settings) {
    enum automatic own = settings->offload_param_pin_memory;
    return own == AUTO ? settings->pin_memory : own == AUTO_TRUE;
}

void settings_note(struct settings *settings, const char *format, ...) {
    struct error line; /* cuts what a file says to a length, and keeps it on one line */
    char text[1024];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    error_set(&line, "%s", text);
    char *longer = xformat("%s%s\n", settings->notes, line.text);
    free(settings->notes);
    settings->notes = longer;
}

json_t *settings_json(const struct settings *settings) {
    json_t *object = json_object();
    for (const struct setting *s = settings_table; s->name; s++) {
        void *value = field(settings, s);
        json_t *item = NULL;
        switch (s->kind) {
        case SETTING_BOOL:
            item = json_boolean(*(bool *)value);
            break;
        case SETTING_INTEGER:
            item = json_integer(*(int64_t *)value);
            break;
        case SETTING_REAL:
            item = json_number(*(double *)value);
            break;
        case SETTING_STRING:
            item = json_string(*(char **)value);
            break;
        case SETTING_CHOICE:
            item = json_string(s->choices[*(int *)value]);
            break;
        }
        /* json_string gives NULL for what is not UTF-8: a path may be anything. */
        json_object_set_new(object, s->name, item ? item : json_string("(not UTF-8)"));
    }
    return object;
}

/* All of them in their order; no DeepSpeed file where it is NULL. */
static bool read_sources(struct settings *settings, const char *stage, const char *deepspeed, int count,
                         char **arguments, struct error *error) {
    char *inside = xformat("%s/config.json", stage);
    char *stage_file = settings_data_path(inside);
    bool ok = !stage_file || read_file(settings, stage_file, error);
    free(inside);
    free(stage_file);
    return ok && (!deepspeed || deepspeed_config_read(settings, deepspeed, error)) &&
           settings_read_arguments(settings, count, arguments, error);
}

bool settings_read(struct settings *settings, const char *stage, int count, char **arguments,
                   struct error *error) {
    settings_default(settings);
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--help") || !strcmp(arguments[i], "-h")) {
            settings_print_help(arguments[0]);
            exit(0);
        }
        if (!strcmp(arguments[i], "--version")) {
            printf("%s\n", WORKSHOP_VERSION);
            exit(0);
        }
    }
    bool ok = read_sources(settings, stage, NULL, count - 1, arguments + 1, error);
    /* Where all of them have spoken it is known which DeepSpeed file comes between them. */
    if (ok && settings->deepspeed[0]) {
        char *deepspeed = xstrdup(settings->deepspeed);
        settings_free(settings);
        settings_default(settings);
        ok = read_sources(settings, stage, deepspeed, count - 1, arguments + 1, error);
        free(deepspeed);
    }
    return ok && settings_check_stage(settings, stage, error) && settings_check(settings, error);
}

char *settings_data_path(const char *inside) {
    char program[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    /* An installed program is PREFIX/libexec/workshop/BACKEND/STAGE/train. */
    for (int up = 0; up < 5; up++) {
        char *slash = strrchr(program, '/');
        if (slash) *slash = '\0';
    }
    char *beside = xformat("%s/share/workshop", program);
    /* What was installed (or put aside for a job) with the program comes first: a clone may have changed
     * since. */
    const char *roots[] = {beside, WORKSHOP_SOURCE_DIR, WORKSHOP_INSTALL_DIR};
    char *found = NULL;
    for (int i = 0; i < 3 && !found; i++) {
        char *path = xformat("%s/%s", roots[i], inside);
        if (file_exists(path))
            found = path;
        else
            free(path);
    }
    free(beside);
    return found;
}
