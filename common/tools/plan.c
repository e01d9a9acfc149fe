/*
 * plan STAGE… [--ranks N,M,…] [--nodes N] [--device gpu|cpu] [--card CARD] [--host_memory SIZE] [--outside
 * SIZE]
 *     [--rates FILE] [--rate NAME=VALUE,…] [--json] [--output FILE] --programs DIR [--NAME VALUE …]
 *
 * Says what runs would need and how long they would take: see plan.h. Started by ./workshop plan, whose help
 * explains the options.
 */
#include "common/tools/plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/train/run_metrics.h"
#include "common/train/settings.h"

enum { MOST_WORLDS = 16, MOST_RANKS = 65536, NODE = 8, OUTSIDE_MIB = 1024 };
#define MOST_EXAMPLES 4e6 /* of an update: that many texts are made up */

struct request {
    struct plan_options options;
    json_t *stages;                        /* names */
    json_t *given;                         /* the user's words of settings */
    int ranks[MOST_WORLDS], worlds, nodes; /* nodes 0: of NODE ranks */
    bool has_card, json;
    struct plan_card card;
    double host_memory, outside; /* bytes; outside −1: the device's default */
    char *rates, *rate, *output;
    bool chosen; /* where things are is among the settings given */
    struct settings settings;
    json_t *document;
    struct plan_rates rates_used;
};

/* ---- arguments ---- */

static long read_count(const char *option, const char *text, char **end) {
    errno = 0;
    long count = *text >= '0' && *text <= '9' ? strtol(text, end, 10) : 0;
    if (count < 1 || count > MOST_RANKS || errno)
        fail("%s %s: not numbers from 1 to %d", option, text, MOST_RANKS);
    return count;
}

static void read_ranks(struct request *r, const char *text) {
    char *at = (char *)(size_t)text;
    for (r->worlds = 0; r->worlds < MOST_WORLDS; at++) {
        r->ranks[r->worlds++] = (int)read_count("--ranks", at, &at);
        if (!*at) return;
        if (*at != ',') fail("--ranks %s: not numbers of devices, such as 1,2,4", text);
    }
    fail("--ranks %s: more than %d numbers", text, MOST_WORLDS);
}

static void read_nodes(struct request *r, const char *text) {
    char *end;
    r->nodes = (int)read_count("--nodes", text, &end);
    if (*end) fail("--nodes %s: not a number of nodes", text);
}

static double read_size(const char *option, const char *text) {
    double bytes;
    if (!plan_size(text, &bytes)) fail("%s %s: not a size, such as 80GiB or 512MiB", option, text);
    return bytes;
}

static void read_card(struct request *r, const char *name) {
    struct error error;
    if (!plan_card_find(&r->card, name, &error)) fail("%s", error.text);
    r->has_card = true;
}

static void read_device(struct request *r, const char *name) {
    static const char *const names[] = {"gpu", "cpu"};
    r->options.device = NULL;
    for (int d = 0; d < 2; d++)
        if (!strcmp(name, names[d])) r->options.device = names[d];
    if (!r->options.device) fail("--device %s: memory is booked as on a gpu or a cpu", name);
}

static bool read_option(struct request *r, const char *name, const char *value) {
    static const char *const names[] = {"--programs", "--ranks", "--nodes", "--card",   "--host_memory",
                                        "--outside",  "--rates", "--rate",  "--output", "--device"};
    enum { OPTIONS = sizeof names / sizeof *names };
    int option = 0;
    while (option < OPTIONS && strcmp(name, names[option]) != 0) option++;
    if (option == OPTIONS) return false;
    if (!value || !value[0]) fail("%s needs a value: ./workshop plan --help", name);
    if (option == 0) r->options.programs = xstrdup(value);
    if (option == 1) read_ranks(r, value);
    if (option == 2) read_nodes(r, value);
    if (option == 3) read_card(r, value);
    if (option == 4) r->host_memory = read_size(name, value);
    if (option == 5) r->outside = read_size(name, value);
    if (option == 6) r->rates = xstrdup(value);
    if (option == 7) r->rate = xstrdup(value);
    if (option == 8) r->output = xstrdup(value);
    if (option == 9) read_device(r, value);
    return true;
}

/* A word of settings; those that plan sets itself are refused. */
static void add_given(struct request *r, const char *word) {
    static const char *const refused[] = {"--config", "--deepspeed", "--output_dir",
                                          "--resume_from_checkpoint"};
    static const char *const choosing[] = {"--zero_stage", "--offload_optimizer", "--offload_gradients",
                                           "--offload_param", "--zero_hpz_partition_size"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!strcmp(word, refused[i])) fail("plan takes no %s: give settings on the command line", word);
    if (!strncmp(word, "--dry_", 6)) fail("plan takes no %s: give --ranks, --nodes and --device", word);
    for (size_t i = 0; i < sizeof choosing / sizeof *choosing; i++) r->chosen |= !strcmp(word, choosing[i]);
    r->options.own_text |= !strcmp(word, "--train_file");
    json_t *text = json_string(word);
    if (!text) fail("a setting that is not UTF-8: plan cannot write it down");
    json_array_append_new(r->given, text);
}

static void read_arguments(struct request *r, int count, char **arguments) {
    int i = 1;
    for (; i < count && strncmp(arguments[i], "--", 2) != 0; i++)
        json_array_append_new(r->stages, json_string(arguments[i]));
    while (i < count) {
        char *name = xstrdup(arguments[i++]), *equals = strchr(name, '=');
        bool split = !strncmp(name, "--", 2) && equals;
        if (split) *equals = '\0';
        const char *value = split ? equals + 1 : i < count ? arguments[i] : NULL;
        if (!strcmp(name, "--json") && !split) {
            r->json = true;
        } else if (read_option(r, name, value)) {
            i += !split;
        } else {
            add_given(r, name);
            if (split) add_given(r, value);
        }
        free(name);
    }
    if (!r->options.programs) fail("plan needs --programs DIR: start it by ./workshop plan");
    if (!json_array_size(r->stages)) fail("plan needs a stage: start it by ./workshop plan");
    if (!r->worlds) r->ranks[r->worlds++] = 1;
}

static void check_stages(const struct request *r) {
    size_t index;
    json_t *stage;
    json_array_foreach(r->stages, index, stage) {
        const char *name = json_string_value(stage);
        char *path = xformat("%s/%s/train", r->options.programs, name ? name : "?");
        bool built = name && !strchr(name, '/') && access(path, X_OK) == 0;
        free(path);
        if (!built) fail("no stage '%s' is built in %s", name ? name : "?", r->options.programs);
    }
}

/* ---- settings ---- */

static bool on_gpu(const struct request *r) {
    return !strcmp(r->options.device, "gpu");
}

static void add_setting(json_t *words, const char *name, const char *value) {
    json_array_append_new(words, json_sprintf("--%s", name));
    json_array_append_new(words, json_string(value));
}

/* As bench's, but for one update. */
static json_t *default_settings(const struct request *r) {
    bool gpu = on_gpu(r);
    json_t *words = json_array();
    add_setting(words, "model_name_or_path", gpu ? "random:bloom-560m" : "random:tiny");
    add_setting(words, "max_seq_length", gpu ? "512" : "256");
    add_setting(words, "per_device_train_batch_size", "4");
    add_setting(words, "gradient_accumulation_steps", gpu ? "4" : "2");
    add_setting(words, "max_steps", "1");
    add_setting(words, "subset_size", "0");
    add_setting(words, "eval_strategy", "no");
    if (!r->options.own_text) add_setting(words, "pad_to_max_length", "true");
    return words;
}

static void parse_settings(struct request *r) {
    struct error error;
    size_t count = json_array_size(r->options.settings);
    char **words = xcalloc(count + 1, sizeof *words);
    for (size_t i = 0; i < count; i++)
        words[i] = xstrdup(json_string_value(json_array_get(r->options.settings, i)));
    settings_default(&r->settings);
    if (!settings_read_arguments(&r->settings, (int)count, words, &error) ||
        !settings_check(&r->settings, &error))
        fail("%s", error.text);
    for (size_t i = 0; i < count; i++) free(words[i]);
    free(words);
}

/* All settings but the text; the precision is a GPU's default there, as runs have it. */
static void open_settings(struct request *r) {
    r->options.settings = default_settings(r);
    json_array_extend(r->options.settings, r->given);
    parse_settings(r);
    if (r->settings.fp16 == AUTO && !r->settings.bf16)
        add_setting(r->options.settings, "fp16", on_gpu(r) ? "true" : "false");
    settings_free(&r->settings);
    parse_settings(r);
    if (r->settings.max_steps == 0) fail("--max_steps 0: an update is needed to plan one");
    if (r->has_card && r->settings.bf16 && !r->card.bf16)
        fail("--card %s has no bf16: use --fp16", r->card.name);
}

/* Text of one update, each example as long as it may be. */
static json_t *with_text(const struct request *r, int ranks) {
    json_t *words = json_copy(r->options.settings);
    const struct settings *s = &r->settings;
    if (r->options.own_text) return words;
    double examples = (double)ranks * (double)s->per_device_train_batch_size *
                      (double)s->gradient_accumulation_steps * (double)(s->max_steps > 0 ? s->max_steps : 1);
    if (examples > MOST_EXAMPLES)
        fail("%.0f examples on %d ranks: plan makes up %.0f at most: give a smaller "
             "gradient_accumulation_steps or max_steps",
             examples, ranks, MOST_EXAMPLES);
    char *text = xformat("synthetic:%.0fx%lld", examples, (long long)s->max_seq_length);
    add_setting(words, "train_file", text);
    free(text);
    return words;
}

static int nodes_of(const struct request *r, int ranks) {
    int nodes = r->nodes ? r->nodes : ranks <= NODE ? 1 : (ranks + NODE - 1) / NODE;
    if (ranks % nodes) fail("%d devices in %d nodes: not equally many in each: give --nodes", ranks, nodes);
    return nodes;
}

/* ---- rates ---- */

static void measure_rates(struct request *r, const char *precision) {
    struct error error;
    json_t *document = json_read_file(r->rates, &error);
    if (!document) fail("%s", error.text);
    const char *backend = run_metrics_text(document, "backend");
    bool fits = !backend[0] || !strcmp(backend, on_gpu(r) ? "cuda" : "cpu");
    if (!fits)
        error_set(&error, "%s: was measured by the %s backend: give --device %s", r->rates, backend,
                  strcmp(backend, "cuda") ? "cpu" : "gpu");
    fits = fits && plan_rates_measured(&r->rates_used, &r->options, r->rates, document, precision, &error);
    json_decref(document);
    if (!fits) fail("%s", error.text);
}

static void open_rates(struct request *r) {
    struct error error;
    const char *precision = dtype_name(settings_dtype(&r->settings));
    r->rates_used = plan_rates_default(r->options.device);
    if (r->has_card && r->card.known) plan_rates_of_card(&r->rates_used, &r->card, strcmp(precision, "fp32"));
    if (r->rate && !plan_rates_given(&r->rates_used, r->rate, &error)) fail("%s", error.text);
    if (r->rates) measure_rates(r, precision);
    if (r->rate) plan_rates_given(&r->rates_used, r->rate, &error); /* they win */
}

static json_t *rates_json(const struct plan_rates *rates) {
    json_t *json = json_object();
    for (int i = 0; i < RATES; i++) {
        enum plan_rate rate = (enum plan_rate)i;
        json_t *line = json_object();
        json_object_set_new(line, "value", json_number(rates->values[i] / plan_rate_scale(rate)));
        json_object_set_new(line, "unit", json_string(plan_rate_unit(rate)));
        json_object_set_new(line, "source", json_string(rates->sources[i]));
        json_object_set_new(json, plan_rate_name(rate), line);
    }
    return json;
}

/* ---- all of it ---- */

static void describe(struct request *r, const json_t *run) {
    const struct settings *s = &r->settings;
    json_t *d = r->document;
    json_object_set(d, "model", json_object_get(run, "model"));
    json_object_set(d, "parameters", json_object_get(run, "parameters"));
    json_object_set(d, "precision", json_object_get(run, "precision"));
    json_object_set_new(d, "micro_batch", json_integer(s->per_device_train_batch_size));
    json_object_set_new(d, "accumulation", json_integer(s->gradient_accumulation_steps));
    json_object_set_new(d, "sequence_length", json_integer(s->max_seq_length));
    json_object_set_new(d, "gradient_checkpointing", json_boolean(s->gradient_checkpointing));
}

static void add_row(void *to, struct plan_case row) {
    struct request *r = to;
    struct error error;
    struct plan_counts counts;
    if (!plan_dry(&counts, &r->options, &row, &error)) fail("%s: %s", row.stage, error.text);
    struct plan_times times = plan_time(&counts, &row, &r->rates_used);
    if (!json_object_get(r->document, "model")) describe(r, counts.run);
    json_array_append_new(json_object_get(r->document, "rows"), plan_row(&row, &counts, &times, r->outside));
    plan_counts_free(&counts);
}

static void add_rows(struct request *r, int ranks) {
    size_t index;
    json_t *stage, *settings = r->options.settings;
    int nodes = nodes_of(r, ranks);
    r->options.settings = with_text(r, ranks);
    json_array_foreach(r->stages, index, stage)
        plan_cases_of(json_string_value(stage), ranks, nodes, r->chosen, add_row, r);
    json_decref(r->options.settings);
    r->options.settings = settings;
}

static void make_document(struct request *r) {
    json_t *d = r->document = json_object();
    json_object_set_new(d, "format", json_integer(1));
    json_object_set_new(d, "device", json_string(r->options.device));
    json_object_set(d, "given", r->given);
    json_object_set_new(d, "card",
                        r->has_card
                            ? json_pack("{s:s, s:f}", "name", r->card.name, "memory_bytes", r->card.memory)
                            : json_null());
    json_object_set_new(d, "host_memory_bytes",
                        r->host_memory > 0 ? json_number(r->host_memory) : json_null());
    json_object_set_new(d, "rates", rates_json(&r->rates_used));
    json_object_set_new(d, "rows", json_array());
    for (int w = 0; w < r->worlds; w++) add_rows(r, r->ranks[w]);
    plan_judge(json_object_get(d, "rows"), r->has_card ? r->card.memory : 0, r->host_memory);
}

static void write_document(const struct request *r) {
    struct error error;
    char *text = json_dumps(r->document, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!text) fail("the plan cannot be written as JSON; please report this");
    if (r->output && !file_write(r->output, text, strlen(text), &error)) fail("%s", error.text);
    if (r->json) printf("%s\n", text);
    free(text);
}

static void make_folder(struct request *r) {
    const char *temporary = getenv("TMPDIR");
    r->options.folder = xformat("%s/workshop-plan-XXXXXX", temporary && temporary[0] ? temporary : "/tmp");
    if (!mkdtemp(r->options.folder)) fail("%s: no temporary folder: %s", r->options.folder, strerror(errno));
}

static char *folder_to_remove; /* also where fail() ends the program */
static void remove_folder(void) {
    struct error ignored;
    if (folder_to_remove && !directory_remove(folder_to_remove, &ignored)) warn("%s", ignored.text);
    free(folder_to_remove);
    folder_to_remove = NULL;
}

static void free_request(struct request *r) {
    settings_free(&r->settings);
    plan_rates_free(&r->rates_used);
    json_decref(r->options.settings);
    json_decref(r->stages);
    json_decref(r->given);
    json_decref(r->document);
    free(r->options.programs);
    free(r->rates);
    free(r->rate);
    free(r->output);
}

int main(int argc, char **argv) {
    struct request request = {.stages = json_array(), .given = json_array(), .outside = -1}, *r = &request;
    r->options.device = "gpu";
    read_arguments(r, argc, argv);
    check_stages(r);
    if (r->outside < 0) r->outside = on_gpu(r) ? OUTSIDE_MIB * 1048576.0 : 0;
    open_settings(r);
    make_folder(r);
    folder_to_remove = r->options.folder;
    atexit(remove_folder);
    open_rates(r);
    make_document(r);
    write_document(r);
    if (!r->json) plan_print(r->document);
    if (r->output && !r->json) printf("\nwritten to %s\n", r->output);
    free_request(r);
    return 0;
}
