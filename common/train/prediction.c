#include "common/train/prediction.h"

#include <stdlib.h>

#include "common/bloom/generate.h"
#include "common/text/score.h"

/* In a stage that cuts parameters, all ranks generate as long as one of them has something to. */
static bool any_rank(void *self, bool mine) {
    struct session *s = self;
    double any = mine;
    if (device_computes()) comm_host_max(s->comm, &any, 1);
    return any > 0;
}

static int batch_size(const struct session *s) {
    return (int)s->settings.per_device_eval_batch_size;
}

static int batch_count(const struct session *s) {
    return (s->questions.prompts.count + batch_size(s) - 1) / batch_size(s);
}

/* Questions of a batch; none from the last batch on. */
static int batch_questions(const struct session *s, int batch) {
    int left = s->questions.prompts.count - batch * batch_size(s);
    return left < 0 ? 0 : left < batch_size(s) ? left : batch_size(s);
}

/* The most tokens that a batch's prompts have together: the rows of its first pass. */
static int largest_batch(const struct session *s) {
    const size_t *starts = s->questions.prompts.starts;
    size_t largest = 0;
    for (int batch = 0; batch < batch_count(s); batch++) {
        int first = batch * batch_size(s), end = first + batch_questions(s, batch);
        if (starts[end] - starts[first] > largest) largest = starts[end] - starts[first];
    }
    return (int)largest;
}

static struct generator *open_generator(struct session *s, const struct stage_state *stage) {
    struct unit_source source = {.self = stage->self, .use = stage->unit_use, .release = stage->unit_release};
    int questions = s->questions.prompts.count;
    struct generator_options options = {
        .layout = &s->layout,
        .dtype = s->dtype,
        .sequences = questions < batch_size(s) ? questions : batch_size(s),
        .window = s->questions.longest + (int)s->settings.generation_max_new_tokens,
        .rows = largest_batch(s),
    };
    return generator_open(s->device, s->stream, &source, &options);
}

/* Generates the answers of a batch, which may have no questions, and adds their scores: [2 · questions],
 * exact match and F1 of each. */
static void answer_batch(struct session *s, struct generator *generator, int batch, double *scores) {
    int first = batch * batch_size(s), count = batch_questions(s, batch);
    const struct examples *prompts = &s->questions.prompts;
    struct generation *answers = xcalloc((size_t)count, sizeof *answers);
    for (int i = 0; i < count; i++) {
        answers[i].prompt = examples_tokens(prompts, first + i);
        answers[i].prompt_tokens = examples_length(prompts, first + i);
    }
    struct generation_rule rule = {.max_new_tokens = (int)s->settings.generation_max_new_tokens,
                                   .eos = s->config.eos,
                                   .any = any_rank,
                                   .self = s};
    generate(generator, answers, count, &rule);
    for (int i = 0; i < count; i++) {
        const struct squad_example *question = &s->questions.squad.examples[first + i];
        size_t bytes;
        char *text = tokenizer_decode(s->tokenizer, answers[i].tokens.data, answers[i].tokens.count, &bytes);
        struct score score = score_answer(text, bytes, question->answers, question->answer_count);
        scores[2 * (first + i)] = score.exact_match;
        scores[2 * (first + i) + 1] = score.f1;
        free(text);
        ids_free(&answers[i].tokens);
    }
    free(answers);
}

struct prediction session_predict(struct session *s, const struct stage_state *stage) {
    int questions = s->questions.prompts.count;
    double *scores = xcalloc(2 * (size_t)questions, sizeof *scores);
    struct generator *generator = open_generator(s, stage);
    for (int batch = s->rank; batch - s->rank < batch_count(s); batch += s->world_size)
        answer_batch(s, generator, batch, scores);
    generator_close(generator);
    /* Each question is one rank's, and the others have 0: the sum is exact, and then the same everywhere. */
    comm_host_sum(s->comm, scores, 2 * (size_t)questions);
    struct prediction sum = {0, 0};
    for (int i = 0; i < questions; i++) {
        sum.exact_match += scores[2 * i];
        sum.f1 += scores[2 * i + 1];
    }
    free(scores);
    if (!device_computes()) return (struct prediction){0, 0};
    return (struct prediction){100 * sum.exact_match / questions, 100 * sum.f1 / questions};
}
