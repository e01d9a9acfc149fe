#include "common/text/examples.h"

#include <stdlib.h>
#include <string.h>

#include "common/text/lines.h"
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

/* What a file holds: questions, or plain lines. */
struct texts {
    int count;
    bool plain;
    struct squad squad; /* where not plain */
    struct lines lines; /* where plain */
};

static bool texts_load(struct texts *texts, const char *path, int limit, struct error *error) {
    *texts = (struct texts){.plain = lines_are_in(path)};
    bool ok = texts->plain ? lines_load(&texts->lines, path, limit, error)
                           : squad_load(&texts->squad, path, limit, error);
    texts->count = texts->plain ? texts->lines.count : texts->squad.count;
    return ok;
}

static void texts_free(struct texts *texts) {
    if (texts->plain)
        lines_free(&texts->lines);
    else
        squad_free(&texts->squad);
}

static void write_prompt(struct text *text, const struct squad_example *example) {
    static const char question[] = "Question: ", context[] = " Context: ", answer[] = " Answer: ";
    append(text, question, sizeof question - 1);
    append(text, example->question.data, example->question.bytes);
    append(text, context, sizeof context - 1);
    append(text, example->context.data, example->context.bytes);
    append(text, answer, sizeof answer - 1);
    append(text, example->answer.data, example->answer.bytes);
}

static void write_text(struct text *text, const struct texts *texts, int i) {
    text->bytes = 0;
    if (texts->plain)
        append(text, texts->lines.lines[i].data, texts->lines.lines[i].bytes);
    else
        write_prompt(text, &texts->squad.examples[i]);
}

/* Appends the ids of examples first … end − 1 to `ids`, and writes each one's length to lengths[example]. */
static void tokenize_lot(const struct texts *texts, const struct tokenizer *tokenizer,
                         const struct examples_options *options, int first, int end, struct ids *ids,
                         size_t *lengths) {
    struct text text = {0};
    for (int i = first; i < end; i++) {
        size_t start = ids->count, longest = (size_t)options->max_seq_length;
        write_text(&text, texts, i);
        tokenizer_encode(tokenizer, text.data, text.bytes, ids);
        if (ids->count - start > longest) ids->count = start + longest;
        if (options->append_eos && ids->count - start < longest) ids_append(ids, &options->eos_id, 1);
        lengths[i] = ids->count - start;
    }
    free(text.data);
}

static void tokenize(struct examples *examples, const struct texts *texts, const struct tokenizer *tokenizer,
                     const struct examples_options *options) {
    int lots = (texts->count + LOT - 1) / LOT;
    struct ids *ids = xcalloc((unsigned long)lots, sizeof *ids);
    examples->count = texts->count;
    examples->starts = xmalloc(((size_t)texts->count + 1) * sizeof *examples->starts);
    examples->starts[0] = 0;
#pragma omp parallel for schedule(dynamic, 1)
    for (int lot = 0; lot < lots; lot++) {
        int first = lot * LOT, end = texts->count - first < LOT ? texts->count : first + LOT;
        tokenize_lot(texts, tokenizer, options, first, end, &ids[lot], examples->starts + 1);
    }
    for (int i = 0; i < texts->count; i++) examples->starts[i + 1] += examples->starts[i];
    examples->tokens = xmalloc(examples->starts[texts->count] * sizeof *examples->tokens);
    for (int lot = 0; lot < lots; lot++) {
        memcpy(examples->tokens + examples->starts[lot * LOT], ids[lot].data,
               ids[lot].count * sizeof *ids[lot].data);
        ids_free(&ids[lot]);
    }
    free(ids);
}

/* Every example predicts something: a question always does, a line may be too short for that. */
static bool check_lengths(const struct examples *examples, const char *source, struct error *error) {
    for (int i = 0; i < examples->count; i++)
        if (examples_length(examples, i) < 2)
            return error_set(error,
                             "%s: text %d is a single token, after which there is nothing to predict; make "
                             "it longer, or set append_eos",
                             source, i + 1);
    return true;
}

static bool check_ids(const struct examples *examples, const char *source, const char *kind, int vocabulary,
                      struct error *error) {
    for (int i = 0; i < examples->count; i++)
        for (size_t t = examples->starts[i]; t < examples->starts[i + 1]; t++)
            if (examples->tokens[t] < 0 || examples->tokens[t] >= vocabulary)
                return error_set(error,
                                 "%s: %s %d has token id %d, but the model's vocabulary has only %d; use the "
                                 "tokenizer.json that belongs to the model",
                                 source, kind, i + 1, (int)examples->tokens[t], vocabulary);
    return true;
}

static bool read_file(struct examples *examples, const char *source, const struct tokenizer *tokenizer,
                      const struct examples_options *options, struct error *error) {
    if (!tokenizer)
        return error_set(error,
                         "%s: a file of text needs a tokenizer.json beside the model; use one, or "
                         "synthetic:COUNTxLENGTH",
                         source);
    struct texts texts;
    if (!texts_load(&texts, source, options->subset_size, error)) return false;
    bool ok = texts.count > 0 || error_set(error, "%s: no example left: the file has no %s", source,
                                           texts.plain ? "text" : "questions");
    if (ok) {
        tokenize(examples, &texts, tokenizer, options);
        ok = check_lengths(examples, source, error) &&
             check_ids(examples, source, texts.plain ? "text" : "question", options->vocabulary, error);
        if (!ok) examples_free(examples);
    }
    texts_free(&texts);
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
