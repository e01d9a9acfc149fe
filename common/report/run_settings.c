#include "common/report/run_settings.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/train/settings.h"
#include "common/train/settings_table.h"

bool setting_matters(const char *name) {
    static const char *const others[] = {"fp16",
                                         "bf16",
                                         "train_batch_size",
                                         "deepspeed",
                                         "eval_strategy",
                                         "eval_steps",
                                         "eval_on_start",
                                         "save_strategy",
                                         "save_steps",
                                         "save_model",
                                         "save_total_limit",
                                         "save_on_signal",
                                         "output_dir",
                                         "logging_steps",
                                         "overwrite_output_dir",
                                         "resume_from_checkpoint",
                                         "disable_tqdm",
                                         "threads",
                                         "device_memory_limit",
                                         "share_device",
                                         "peer_copies",
                                         "time_phases",
                                         "network_interface",
                                         "communication_timeout",
                                         "dry_world_size",
                                         "memory_sample_interval",
                                         "predict_with_generate",
                                         "generation_max_new_tokens"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(name, others[i])) return false;
    return settings_find(name) != NULL;
}

/* ---- of a stage ---- */

static bool is_any(const json_t *value) {
    return json_is_string(value) && !strcmp(json_string_value(value), "*");
}

static bool read_stage(struct settings *settings, const char *stage, const json_t *changes,
                       struct error *error) {
    char *inside = xformat("%s/config.json", stage), *path = settings_data_path(inside);
    json_error_t reason;
    json_t *config = path ? json_load_file(path, JSON_REJECT_DUPLICATES, &reason) : json_object();
    bool read = config ? settings_read_json(settings, config, path ? path : inside, error)
                       : error_set(error, "%s:%d: %s", path, reason.line, reason.text);
    json_decref(config);
    free(inside);
    free(path);
    return read && settings_read_json(settings, changes, "settings", error) &&
           settings_check_stage(settings, stage, error);
}

json_t *stage_settings(const char *stage, const json_t *changes, struct error *error) {
    json_t *plain = json_object(), *all = NULL, *value;
    const char *name;
    json_object_foreach((json_t *)(size_t)changes, name, value) {
        if (!is_any(value))
            json_object_set(plain, name, value);
        else if (!settings_find(name))
            json_object_set(plain, name, value); /* what is no setting is said below */
    }
    struct settings settings;
    settings_default(&settings);
    if (read_stage(&settings, stage, plain, error)) {
        all = settings_json(&settings);
        json_object_foreach((json_t *)(size_t)changes, name, value) if (is_any(value))
            json_object_set(all, name, value);
    }
    settings_free(&settings);
    json_decref(plain);
    return all;
}

/* ---- beside each other ---- */

static const char *last_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static bool same(const json_t *a, const json_t *b) {
    if (is_any(a) || is_any(b)) return true;
    if (json_is_number(a) && json_is_number(b))
        return fabs(json_number_value(a) - json_number_value(b)) <= 1e-12 * fabs(json_number_value(a));
    if (json_is_string(a) && json_is_string(b))
        return !strcmp(last_name(json_string_value(a)), last_name(json_string_value(b)));
    return json_equal(a, b);
}

static char *value_text(const json_t *value) {
    if (json_is_string(value)) return xstrdup(json_string_value(value));
    char *dumped = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)),
         *text = xstrdup(dumped ? dumped : "?");
    free(dumped);
    return text;
}

static void append(char **text, const char *part) {
    char *longer = xformat("%s%s", *text ? *text : "", part);
    free(*text);
    *text = longer;
}

static void append_difference(char **text, int number, const char *name, const json_t *value,
                              const json_t *wanted) {
    enum { MOST = 3 };
    char *is = value_text(value), *should = value_text(wanted);
    char *part = number < MOST    ? xformat("%s%s %s, not %s", number ? "; " : "", name, is, should)
                 : number == MOST ? xstrdup("; …")
                                  : xstrdup("");
    append(text, part);
    free(is);
    free(should);
    free(part);
}

int settings_differ(const json_t *settings, const json_t *wanted, char **text) {
    const char *name;
    json_t *want;
    int count = 0;
    bool by_steps = json_integer_value(json_object_get(wanted, "max_steps")) >= 0;
    if (text) *text = xstrdup(json_is_object(settings) ? "" : "it does not say its settings");
    if (!json_is_object(settings)) return 1;
    json_object_foreach((json_t *)(size_t)wanted, name, want) {
        const json_t *value = json_object_get(settings, name);
        /* A run of an older version lacks a newer setting. */
        if (!value || !setting_matters(name) || same(value, want)) continue;
        if (by_steps && !strcmp(name, "num_train_epochs")) continue;
        if (text) append_difference(text, count, name, value, want);
        count++;
    }
    return count;
}

static void append_setting(char **text, const char *name, const json_t *value) {
    char *word = is_any(value) ? xstrdup("…") : value_text(value),
         *part = json_is_true(value) ? xformat(" --%s", name) : xformat(" --%s %s", name, word);
    append(text, part);
    free(word);
    free(part);
}

char *settings_command(const json_t *changes) {
    const char *name;
    json_t *value;
    char *text = xstrdup("");
    for (const struct setting *s = settings_table; s->name; s++)
        if ((value = json_object_get(changes, s->name))) append_setting(&text, s->name, value);
    /* What this version does not know. */
    json_object_foreach((json_t *)(size_t)changes, name, value) {
        if (!settings_find(name)) append_setting(&text, name, value);
    }
    return text;
}
