#include "common/text/examples.h"

#include <stdlib.h>
#include <string.h>

#include "common/text/squad.h"
#include "common/text/synthetic.h"

bool examples_are_synthetic(const char *source) {
    return !strncmp(source, SYNTHETIC_PREFIX, strlen(SYNTHETIC_PREFIX));
}

void examples_free(struct examples *examples) {
    free(examples->starts);
    free(examples->tokens);
    *examples = (struct examples){0};
}

/* ------------------------------------------------- from a generator
 * ------------------------------------------ */

static bool generate(struct examples *examples, const char *source, const struct examples_options *options,
                     struct error *error) {
    struct synthetic synthetic;
    if (!synthetic_parse(&synthetic, source, error)) return false;
    if (synthetic.longest > options->max_seq_length)
        return error_set(error,
                         "%s: examples of %d tokens do not fit max_seq_length %d; raise it or ask for less",
                         source, synthetic.longest, options->max_seq_length);
    if (options->vocabulary <= SYNTHETIC_FIRST_ID)
        return error_set(error, "%s: a vocabulary of %d has no ids but the special ones; use a larger model",
                         source, options->vocabulary);
    examples->count = synthetic.count;
    examples->starts = xmalloc(((size_t)synthetic.count + 1) * sizeof *examples->starts);
    examples->starts[0] = 0;
    for (int i = 0; i < synthetic.count; i++)
        examples->starts[i + 1] =
            examples->starts[i] + (size_t)synthetic_length(&synthetic, options->seed, i);
    examples->tokens = xmalloc(examples->starts[synthetic.count] * sizeof *examples->tokens);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < synthetic.count; i++)
        synthetic_tokens(options->seed, i, options->vocabulary, examples->tokens + examples->starts[i],
                         examples_length(examples, i));
    return true;
}

/* --------------------------------------------------- from a file
 * --------------------------------------------- */

/* Examples are tokenized this many at a time, each lot into a list of its own; joined in order, the result
 * does not depend on which thread took which lot. */
enum { LOT = 64 };

struct text {
    char *data;
    size_t bytes, room;
};

static void append(struct text *text, const char *data, size_t bytes) {
    if (bytes >= text->room - text->bytes) {
        text->room = 2 * text->room + bytes + 1024;
        text->data = xrealloc(text->data, text->room);
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
}

static void write_prompt(struct text *text, const struct squad_example *example) {
    static const char question[] = "Question: ", context[] = " Context: ", answer[] = " Answer: ";
    text->bytes = 0;
    append(text, question, sizeof question - 1);
    append(text, example->question.data, example->question.bytes);
    append(text, context, sizeof context - 1);
    append(text, example->context.data, example->context.bytes);
    append(text, answer, sizeof answer - 1);
    append(text, example->answer.data, example->answer.bytes);
}

/* Appends the ids of examples first … end − 1 to `ids`, and writes each one's length to lengths[example]. */
static void tokenize_lot(const struct squad *squad, const struct tokenizer *tokenizer,
                         const struct examples_options *options, int first, int end, struct ids *ids,
                         size_t *lengths) {
    struct text text = {0};
    for (int i = first; i < end; i++) {
        size_t start = ids->count, longest = (size_t)options->max_seq_length;
        write_prompt(&text, &squad->examples[i]);
        tokenizer_encode(tokenizer, text.data, text.bytes, ids);
        if (ids->count - start > longest) ids->count = start + longest;
        if (options->append_eos && ids->count - start < longest) ids_append(ids, &options->eos_id, 1);
        lengths[i] = ids->count - start;
    }
    free(text.data);
}

static void tokenize(struct examples *examples, const struct squad *squad, const struct tokenizer *tokenizer,
                     const struct examples_options *options) {
    int lots = (squad->count + LOT - 1) / LOT;
    struct ids *ids = xcalloc((unsigned long)lots, sizeof *ids);
    examples->count = squad->count;
    examples->starts = xmalloc(((size_t)squad->count + 1) * sizeof *examples->starts);
    examples->starts[0] = 0;
#pragma omp parallel for schedule(dynamic, 1)
    for (int lot = 0; lot < lots; lot++) {
        int first = lot * LOT, end = squad->count - first < LOT ? squad->count : first + LOT;
        tokenize_lot(squad, tokenizer, options, first, end, &ids[lot], examples->starts + 1);
    }
    for (int i = 0; i < squad->count; i++) examples->starts[i + 1] += examples->starts[i];
    examples->tokens = xmalloc(examples->starts[squad->count] * sizeof *examples->tokens);
    for (int lot = 0; lot < lots; lot++) {
        memcpy(examples->tokens + examples->starts[lot * LOT], ids[lot].data,
               ids[lot].count * sizeof *ids[lot].data);
        ids_free(&ids[lot]);
    }
    free(ids);
}

static bool check_ids(const struct examples *examples, const char *source, int vocabulary,
                      struct error *error) {
    for (int i = 0; i < examples->count; i++)
        for (size_t t = examples->starts[i]; t < examples->starts[i + 1]; t++)
            if (examples->tokens[t] < 0 || examples->tokens[t] >= vocabulary)
                return error_set(
                    error,
                    "%s: question %d has token id %d, but the model's vocabulary has only %d; use the "
                    "tokenizer.json that belongs to the model",
                    source, i + 1, (int)examples->tokens[t], vocabulary);
    return true;
}

static bool read_file(struct examples *examples, const char *source, const struct tokenizer *tokenizer,
                      const struct examples_options *options, struct error *error) {
    if (!tokenizer)
        return error_set(error,
                         "%s: a file of questions needs a tokenizer.json beside the model; use one, or "
                         "synthetic:COUNTxLENGTH",
                         source);
    struct squad squad;
    if (!squad_load(&squad, source, options->subset_size, error)) return false;
    bool ok = squad.count > 0 || error_set(error, "%s: no example left: the file has no questions", source);
    if (ok) {
        tokenize(examples, &squad, tokenizer, options);
        ok = check_ids(examples, source, options->vocabulary, error);
        if (!ok) examples_free(examples);
    }
    squad_free(&squad);
    return ok;
}

bool examples_load(struct examples *examples, const char *source, const struct tokenizer *tokenizer,
                   const struct examples_options *options, struct error *error) {
    *examples = (struct examples){0};
    if (options->max_seq_length < 2)
        return error_set(error,
                         "max_seq_length %d: an example needs at least 2 tokens to predict one of them",
                         options->max_seq_length);
    if (examples_are_synthetic(source)) return generate(examples, source, options, error);
    return read_file(examples, source, tokenizer, options, error);
}
