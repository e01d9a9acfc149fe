#include "common/text/questions.h"

#include <stdlib.h>
#include <string.h>

/* Copies a text behind `to`; returns what is behind it. */
static char *put(char *to, const char *text, size_t bytes) {
    if (bytes) memcpy(to, text, bytes);
    return to + bytes;
}

void question_prompt(const struct tokenizer *tokenizer, struct squad_text question, struct squad_text context,
                     struct ids *ids) {
    static const char before[] = "Question: ", between[] = " Context: ", after[] = " Answer:";
    char *text = xmalloc(sizeof before + question.bytes + sizeof between + context.bytes + sizeof after);
    char *end = put(text, before, sizeof before - 1);
    end = put(end, question.data, question.bytes);
    end = put(end, between, sizeof between - 1);
    end = put(end, context.data, context.bytes);
    end = put(end, after, sizeof after - 1);
    tokenizer_encode(tokenizer, text, (size_t)(end - text), ids);
    free(text);
}

static bool check_ids(const struct ids *ids, const char *path, int vocabulary, struct error *error) {
    for (size_t i = 0; i < ids->count; i++)
        if (ids->data[i] >= vocabulary)
            return error_set(error,
                             "%s: has token id %d, but the model's vocabulary has only %d; use the "
                             "tokenizer.json that belongs to the model",
                             path, (int)ids->data[i], vocabulary);
    return true;
}

bool questions_load(struct questions *questions, const char *path, const struct tokenizer *tokenizer,
                    int vocabulary, int limit, struct error *error) {
    *questions = (struct questions){0};
    if (!squad_load(&questions->squad, path, limit, error)) return false;
    const struct squad *squad = &questions->squad;
    struct examples *prompts = &questions->prompts;
    struct ids ids = {0};
    prompts->count = squad->count;
    prompts->starts = xmalloc(((size_t)squad->count + 1) * sizeof *prompts->starts);
    prompts->starts[0] = 0;
    for (int i = 0; i < squad->count; i++) {
        question_prompt(tokenizer, squad->examples[i].question, squad->examples[i].context, &ids);
        prompts->starts[i + 1] = ids.count;
        int length = examples_length(prompts, i);
        if (length > questions->longest) questions->longest = length;
    }
    bool ok = squad->count > 0 || error_set(error, "%s: the file has no questions", path);
    ok = ok && check_ids(&ids, path, vocabulary, error);
    prompts->tokens = ids.data; /* theirs from now on */
    if (!ok) questions_free(questions);
    return ok;
}

void questions_free(struct questions *questions) {
    examples_free(&questions->prompts);
    squad_free(&questions->squad);
    *questions = (struct questions){0};
}
