/*
 * ask DIR [QUESTION…] [--context TEXT | --context_file FILE | --sample N] [--max_new_tokens N] [--window N]
 *     [--precision fp32|bf16|fp16]
 *
 * See ask.h. Started by ./workshop ask, whose help explains it.
 */
#include "common/tools/ask.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/openmp.h"
#include "common/text/score.h"
#include "common/train/settings.h"

struct options {
    const char *directory;
    const char **questions; /* [count] */
    int count;
    const char *context, *context_file, *precision;
    int sample; /* paragraph of the sample, from 1; 0: none */
    struct ask_limits limits;
};

/* ---- arguments ---- */

static int read_number(const char *name, const char *text) {
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno || *end || number < 1 || number > 1 << 24) fail("%s %s: not a number from 1 on", name, text);
    return (int)number;
}

static void read_option(struct options *options, const char *name, const char *value) {
    static const char *const names[] = {"--context",        "--context_file", "--sample",
                                        "--max_new_tokens", "--window",       "--precision"};
    size_t which = 0;
    while (which < sizeof names / sizeof *names && strcmp(name, names[which]) != 0) which++;
    if (which == sizeof names / sizeof *names) fail("ask has no option '%s': ./workshop ask --help", name);
    if (!value || !value[0]) fail("%s needs a value: ./workshop ask --help", name);
    if (which == 0) options->context = value;
    if (which == 1) options->context_file = value;
    if (which == 2) options->sample = read_number(name, value);
    if (which == 3) options->limits.max_new_tokens = read_number(name, value);
    if (which == 4) options->limits.window = read_number(name, value);
    if (which == 5) options->precision = value;
}

static void read_arguments(struct options *options, int count, char **arguments) {
    options->questions = xcalloc((size_t)count, sizeof *options->questions);
    for (int i = 1; i < count; i++) {
        char *equals = strchr(arguments[i], '=');
        if (strncmp(arguments[i], "--", 2) != 0) {
            if (options->directory)
                options->questions[options->count++] = arguments[i];
            else
                options->directory = arguments[i];
        } else if (equals) {
            char *name = xformat("%.*s", (int)(equals - arguments[i]), arguments[i]);
            read_option(options, name, equals + 1);
            free(name);
        } else {
            read_option(options, arguments[i], i + 1 < count ? arguments[i + 1] : NULL);
            i++;
        }
    }
    if (!options->directory)
        fail("ask which model? For example: ./workshop ask runs/01-baseline-1 --sample 1");
    if (!!options->context + !!options->context_file + !!options->sample > 1)
        fail("--context, --context_file and --sample: give one of them");
}

/* ---- texts ---- */

static struct squad_text text_of(const char *text) {
    return (struct squad_text){.data = text, .bytes = strlen(text)};
}

/* The sample's validation file. */
struct sample {
    struct squad squad;
    int first, end; /* the questions of the paragraph at hand */
};

/* Opens it at a paragraph, from 1. */
static void sample_open(struct sample *sample, int paragraph) {
    struct error error;
    char *path = settings_data_path("common/sample/dev.json");
    if (!path) fail("common/sample/dev.json: not found beside the program; build or install the kit again");
    if (!squad_load(&sample->squad, path, 0, &error)) fail("%s", error.text);
    const struct squad *squad = &sample->squad;
    int number = 0;
    for (sample->end = 0; sample->end < squad->count && number < paragraph; number++) {
        const char *context = squad->examples[sample->end].context.data;
        sample->first = sample->end;
        while (sample->end < squad->count && squad->examples[sample->end].context.data == context)
            sample->end++;
    }
    if (number < paragraph) fail("--sample %d: %s has %d paragraphs", paragraph, path, number);
    free(path);
}

static struct squad_text sample_context(const struct sample *sample) {
    return sample->squad.examples[sample->first].context;
}

static void show_context(struct squad_text context) {
    fprintf(stderr, "Context: %.*s\n", (int)context.bytes, context.data);
}

/* A line of standard input without its end, which the caller frees; NULL at the end of input. */
static char *read_line(const char *prompt) {
    char *line = NULL;
    size_t room = 0;
    if (isatty(STDIN_FILENO)) fprintf(stderr, "%s", prompt);
    ssize_t bytes = getline(&line, &room, stdin);
    if (bytes < 0) {
        if (isatty(STDIN_FILENO)) fputc('\n', stderr);
        free(line);
        return NULL;
    }
    while (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) line[--bytes] = '\0';
    return line;
}

/* ---- asking ---- */

static void answer_or_fail(struct ask_model *model, struct squad_text question, struct squad_text context,
                           const struct ask_limits *limits) {
    struct error error;
    char *answer = ask_model_answer(model, question, context, limits, &error);
    if (!answer) fail("%s", error.text);
    free(answer);
}

/* The paragraph's own questions, whose answers are known. */
static void ask_sample(struct ask_model *model, const struct sample *sample,
                       const struct ask_limits *limits) {
    int right = 0;
    for (int i = sample->first; i < sample->end; i++) {
        struct error error;
        const struct squad_example *example = &sample->squad.examples[i];
        printf("%.*s\n  ", (int)example->question.bytes, example->question.data);
        char *answer = ask_model_answer(model, example->question, example->context, limits, &error);
        if (!answer) fail("%s", error.text);
        bool exact =
            score_answer(answer, strlen(answer), example->answers, example->answer_count).exact_match > 0;
        if (!exact) printf("  (in the file: %.*s)\n", (int)example->answer.bytes, example->answer.data);
        right += exact;
        free(answer);
    }
    printf("%d of %d as in the file\n", right, sample->end - sample->first);
}

/* Questions from standard input, a line each, until an empty one or its end. */
static void ask_on(struct ask_model *model, struct squad_text context, const struct ask_limits *limits) {
    for (char *line; (line = read_line("Question: ")); free(line)) {
        struct error error;
        if (!line[0]) {
            free(line);
            return;
        }
        char *answer = ask_model_answer(model, text_of(line), context, limits, &error);
        if (!answer) warn("%s", error.text);
        free(answer);
    }
}

/* The context and, without questions among the arguments, the questions from standard input. */
static void converse(struct ask_model *model, const struct options *options, struct sample *sample) {
    struct error error;
    struct file_map file = {0};
    struct squad_text context = {0};
    char *line = NULL;
    if (options->context) context = text_of(options->context);
    if (options->context_file) {
        if (!file_map(&file, options->context_file, &error)) fail("%s", error.text);
        context = (struct squad_text){.data = file.data, .bytes = file.size};
        while (context.bytes && context.data[context.bytes - 1] == '\n') context.bytes--;
    }
    if (!options->context && !options->context_file && !options->sample) {
        if (!options->count) line = read_line("Context (a line; empty: a paragraph of the sample): ");
        if (line && line[0]) context = text_of(line);
    }
    if (!context.data) {
        if (!options->sample) sample_open(sample, 1);
        context = sample_context(sample);
        show_context(context);
    }
    for (int i = 0; i < options->count; i++)
        answer_or_fail(model, text_of(options->questions[i]), context, &options->limits);
    if (!options->count) ask_on(model, context, &options->limits);
    if (options->context_file) file_unmap(&file);
    free(line);
}

int main(int argc, char **argv) {
    struct options options = {.limits = {.max_new_tokens = 64, .window = 2048}};
    struct ask_model model;
    struct sample sample = {.squad = {0}};
    openmp_wait_briefly(argv);
    read_arguments(&options, argc, argv);
    if (!device_computes()) fail("the dry backend computes nothing: ask with another one");
    if (options.sample) sample_open(&sample, options.sample);
    ask_model_open(&model, options.directory, options.precision);
    if (options.sample && !options.count) {
        show_context(sample_context(&sample));
        ask_sample(&model, &sample, &options.limits);
    } else {
        converse(&model, &options, &sample);
    }
    ask_model_close(&model);
    squad_free(&sample.squad);
    free(options.questions);
    return 0;
}
