#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/device/kernels.h"
#include "common/tools/ask.h"

enum { MOST_ROWS = 512 }; /* of a pass: a longer prompt takes several, and so no more memory */

/* ---- loading ---- */

static enum dtype dtype_of(const char *precision) {
    static const enum dtype offered[] = {FP32, BF16, FP16};
    if (!precision) return strcmp(device_backend(), "cuda") ? FP32 : FP16;
    for (int i = 0; i < 3; i++)
        if (!strcmp(precision, dtype_name(offered[i]))) return offered[i];
    fail("--precision %s: fp32, bf16 or fp16", precision);
}

static void read_files(struct ask_model *m, const char *name) {
    struct error error;
    m->directory = weights_find(name, &error);
    if (!m->directory) fail("%s", error.text);
    char *config = xformat("%s/config.json", m->directory);
    if (!bloom_config_read(&m->config, config, &error)) fail("%s", error.text);
    free(config);
    char *tokenizer = xformat("%s/tokenizer.json", m->directory);
    if (!file_exists(tokenizer))
        fail("%s: there is none: a model cannot be asked without its tokenizer; copy the one that it was "
             "trained with there",
             tokenizer);
    m->tokenizer = tokenizer_load(tokenizer, &error);
    if (!m->tokenizer) fail("%s", error.text);
    free(tokenizer);
}

/* Unit by unit: fp32, as the files are read, then the precision wanted. */
static void load_parameters(struct ask_model *m) {
    struct error error;
    const struct layout *layout = &m->layout;
    size_t size = dtype_size(m->dtype);
    struct weights *weights = weights_open(m->directory, layout, &error);
    if (!weights) fail("%s", error.text);
    m->parameters = device_alloc(m->device, PARAMETERS, layout->padded * size, "parameters");
    float *staging = host_alloc(m->device, BUFFERS, WEIGHTS_STAGING * sizeof(float), true, "loading");
    float *unit = device_alloc(m->device, BUFFERS, layout->largest * sizeof(float), "loading a unit");
    for (int u = 0; u < layout->count; u++) {
        size_t count = layout->units[u].padded;
        void *place = m->parameters + layout->units[u].offset * size;
        weights_load(weights, m->stream, u, 0, count, m->dtype == FP32 ? place : unit, staging);
        if (m->dtype != FP32) convert(m->stream, m->dtype, place, FP32, unit, count);
    }
    stream_synchronize(m->stream);
    device_free(m->device, unit);
    host_free(m->device, staging);
    weights_close(weights);
}

void ask_model_open(struct ask_model *m, const char *name, const char *precision) {
    *m = (struct ask_model){.dtype = dtype_of(precision)};
    read_files(m, name);
    m->device = device_open(&(struct device_options){.world_size = 1, .node_size = 1, .dtype = m->dtype});
    m->stream = stream_open(m->device, "compute");
    layout_open(&m->layout, &m->config, 1);
    load_parameters(m);
}

void ask_model_close(struct ask_model *m) {
    device_free(m->device, m->parameters);
    layout_close(&m->layout);
    stream_close(m->stream);
    device_close(m->device);
    tokenizer_free(m->tokenizer);
    free(m->directory);
}

/* ---- answering ---- */

static const void *use(void *self, int unit) {
    struct ask_model *m = self;
    return m->parameters + m->layout.units[unit].offset * dtype_size(m->dtype);
}

static void release(void *self, int unit) {
    (void)self, (void)unit;
}

/* An answer on its way to the terminal. */
struct answer {
    const struct tokenizer *tokenizer;
    struct ids ids;
    size_t written; /* bytes of its text */
};

/* Its text without the space that its first token begins with. */
static char *answer_text(const struct answer *answer, size_t *bytes) {
    char *text = tokenizer_decode(answer->tokenizer, answer->ids.data, answer->ids.count, bytes);
    if (text[0] != ' ') return text;
    memmove(text, text + 1, *bytes); /* and the NUL */
    (*bytes)--;
    return text;
}

/* Writes what is new, but for `kept` bytes at the end. */
static void write_answer(struct answer *answer, const char *text, size_t bytes) {
    if (bytes <= answer->written) return;
    fwrite(text + answer->written, 1, bytes - answer->written, stdout);
    fflush(stdout);
    answer->written = bytes;
}

/* A token may end within a character, which then reads as U+FFFD: that is held back until more has come. */
static void told(void *self, int number, int32_t token) {
    (void)number;
    struct answer *answer = self;
    ids_append(&answer->ids, &token, 1);
    size_t bytes, whole;
    char *text = answer_text(answer, &bytes);
    for (whole = bytes; whole >= 3 && !memcmp(text + whole - 3, "\xef\xbf\xbd", 3);) whole -= 3;
    write_answer(answer, text, whole);
    free(text);
}

/* The prompt's tokens, fit for the model and the window. */
static bool make_prompt(const struct ask_model *m, struct squad_text question, struct squad_text context,
                        const struct ask_limits *limits, struct ids *prompt, struct error *error) {
    question_prompt(m->tokenizer, question, context, prompt);
    for (size_t i = 0; i < prompt->count; i++)
        if ((size_t)prompt->data[i] >= m->config.vocabulary)
            fail("%s: its tokenizer.json has token id %d, but the model's vocabulary only %zu; use the one "
                 "that belongs to the model",
                 m->directory, (int)prompt->data[i], m->config.vocabulary);
    if (prompt->count < (size_t)limits->window) return true;
    return error_set(error,
                     "question and context have %zu tokens, which leaves no room for an answer in a window "
                     "of %d; shorten the context, or raise --window",
                     prompt->count, limits->window);
}

char *ask_model_answer(struct ask_model *m, struct squad_text question, struct squad_text context,
                       const struct ask_limits *limits, struct error *error) {
    struct ids prompt = {0};
    if (!make_prompt(m, question, context, limits, &prompt, error)) {
        ids_free(&prompt);
        return NULL;
    }
    int count = (int)prompt.count, room = limits->window - count;
    int most = limits->max_new_tokens < room ? limits->max_new_tokens : room;
    struct unit_source source = {.self = m, .use = use, .release = release};
    struct generator *generator =
        generator_open(m->device, m->stream, &source,
                       &(struct generator_options){.layout = &m->layout,
                                                   .dtype = m->dtype,
                                                   .sequences = 1,
                                                   .window = count + most,
                                                   .rows = count < MOST_ROWS ? count : MOST_ROWS});
    struct generation text = {.prompt = prompt.data, .prompt_tokens = count};
    struct answer answer = {.tokenizer = m->tokenizer};
    generate(generator, &text, 1,
             &(struct generation_rule){
                 .max_new_tokens = most, .eos = m->config.eos, .told = told, .self = &answer});
    generator_close(generator);
    size_t bytes;
    char *all = answer_text(&answer, &bytes);
    write_answer(&answer, all, bytes);
    putchar('\n');
    fflush(stdout);
    if (!text.ended) fprintf(stderr, "(cut after %d tokens: the model did not say </s>)\n", most);
    ids_free(&answer.ids);
    ids_free(&text.tokens);
    ids_free(&prompt);
    return all;
}
