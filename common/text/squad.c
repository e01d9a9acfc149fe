#include "common/text/squad.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json_stream.h"

/* While a file is read, its texts grow in one block that moves, so they are noted by offset. */
struct span {
    size_t start, bytes;
};
struct draft {
    struct span question, context;
    size_t first_answer; /* of all answers read */
    int answer_count;
};

struct reader {
    struct json_stream stream;
    int limit; /* INT_MAX: none */
    int count, room;
    struct draft *drafts; /* [room] */
    struct span *answers; /* [answer_room] of all questions */
    size_t answer_count, answer_room;
    char *texts; /* [texts_room] */
    size_t texts_bytes, texts_room;
    /* Where the reader is: data[article].paragraphs[paragraph].qas[question].answers[answer]. */
    size_t article, paragraph, question, answer;
};

static const char no_answer[] = "No Answer";

static struct span keep(struct reader *reader, const char *text, size_t bytes) {
    if (bytes >= reader->texts_room - reader->texts_bytes) {
        reader->texts_room = 2 * reader->texts_room + bytes + 4096;
        reader->texts = xrealloc(reader->texts, reader->texts_room);
    }
    struct span span = {.start = reader->texts_bytes, .bytes = bytes};
    memcpy(reader->texts + span.start, text, bytes);
    reader->texts_bytes += bytes;
    return span;
}

/* How deep in the file an error is. */
enum level { TOP, ARTICLE, PARAGRAPH, QUESTION, ANSWER };

/* Sets the error "NAME:LINE:COLUMN: data[1].paragraphs[0].qas[2].question: reason", at the value last looked
 * at. */
static bool refuse(struct reader *reader, enum level level, const char *member, const char *reason) {
    size_t a = reader->article, p = reader->paragraph, q = reader->question;
    struct json_stream *stream = &reader->stream;
    switch (level) {
    case TOP:
        return json_stream_refuse(stream, "%s: %s", *member ? member + 1 : "the file", reason);
    case ARTICLE:
        return json_stream_refuse(stream, "data[%zu]%s: %s", a, member, reason);
    case PARAGRAPH:
        return json_stream_refuse(stream, "data[%zu].paragraphs[%zu]%s: %s", a, p, member, reason);
    case QUESTION:
        return json_stream_refuse(stream, "data[%zu].paragraphs[%zu].qas[%zu]%s: %s", a, p, q, member,
                                  reason);
    case ANSWER:
        return json_stream_refuse(stream, "data[%zu].paragraphs[%zu].qas[%zu].answers[%zu]%s: %s", a, p, q,
                                  reader->answer, member, reason);
    }
    return false;
}

static bool is(const char *name, size_t bytes, const char *word) {
    return bytes == strlen(word) && !memcmp(name, word, bytes);
}

/* A member that must be there once: `*at` is where its value begins, 0 while it was not met. */
struct place {
    const char *member; /* with a dot before it */
    size_t at;
};

/* Enters the object that comes next, notes where each of its members in `places` begins, and leaves it. */
static bool find_members(struct reader *reader, enum level level, struct place *places, int count) {
    struct json_stream *stream = &reader->stream;
    if (json_stream_peek(stream) != '{') return refuse(reader, level, "", "expected an object");
    size_t start = stream->value;
    struct json_list list = json_stream_begin(stream, '{');
    const char *name;
    size_t bytes;
    while (json_stream_member(stream, &list, &name, &bytes)) {
        struct place *place = NULL;
        for (int i = 0; i < count; i++)
            if (is(name, bytes, places[i].member + 1)) place = &places[i];
        if (place && place->at) return refuse(reader, level, place->member, "is there twice");
        if (!json_stream_skip(stream)) return false;
        if (place) place->at = stream->value;
    }
    stream->value = start;
    for (int i = 0; i < count; i++)
        if (!places[i].at) return refuse(reader, level, places[i].member, "is missing");
    return !stream->failed;
}

static bool read_text(struct reader *reader, enum level level, const struct place *place, struct span *span) {
    struct json_stream *stream = &reader->stream;
    const char *text;
    size_t bytes;
    stream->at = place->at;
    if (json_stream_peek(stream) != '"') return refuse(reader, level, place->member, "expected a string");
    if (!json_stream_string(stream, &text, &bytes)) return false;
    *span = keep(reader, text, bytes);
    return true;
}

/* Calls `read` for each element of the list at `place` until the limit is reached, counting in *index. What
 * `read` leaves behind it does not matter: it reads one object, whose end is found first. */
static bool read_list(struct reader *reader, enum level level, const struct place *place, size_t *index,
                      bool (*read)(struct reader *reader, struct span context), struct span context) {
    struct json_stream *stream = &reader->stream;
    stream->at = place->at;
    if (json_stream_peek(stream) != '[') return refuse(reader, level, place->member, "expected a list");
    struct json_list list = json_stream_begin(stream, '[');
    for (*index = 0; reader->count < reader->limit && json_stream_element(stream, &list); (*index)++)
        if (!read(reader, context)) return false;
    return !stream->failed;
}

static void keep_answer(struct reader *reader, struct span answer) {
    if (reader->answer_count == reader->answer_room) {
        reader->answer_room = 2 * reader->answer_room + 256;
        reader->answers = xrealloc(reader->answers, reader->answer_room * sizeof *reader->answers);
    }
    reader->answers[reader->answer_count++] = answer;
}

static bool read_answers(struct reader *reader, const struct place *answers, struct draft *draft) {
    struct json_stream *stream = &reader->stream;
    draft->first_answer = reader->answer_count;
    stream->at = answers->at;
    if (json_stream_peek(stream) != '[') return refuse(reader, QUESTION, answers->member, "expected a list");
    struct json_list list = json_stream_begin(stream, '[');
    for (reader->answer = 0; json_stream_element(stream, &list); reader->answer++) {
        struct place text = {".text", 0};
        struct span answer;
        if (!find_members(reader, ANSWER, &text, 1)) return false;
        size_t end = stream->at;
        if (!read_text(reader, ANSWER, &text, &answer)) return false;
        stream->at = end;
        keep_answer(reader, answer);
    }
    if (!reader->answer) keep_answer(reader, keep(reader, no_answer, strlen(no_answer)));
    draft->answer_count = (int)(reader->answer_count - draft->first_answer);
    return !stream->failed;
}

static bool read_question(struct reader *reader, struct span context) {
    struct place places[] = {{".question", 0}, {".answers", 0}};
    if (!find_members(reader, QUESTION, places, 2)) return false;
    size_t end = reader->stream.at;
    struct draft draft = {.context = context};
    if (!read_text(reader, QUESTION, &places[0], &draft.question)) return false;
    if (!read_answers(reader, &places[1], &draft)) return false;
    if (reader->count == reader->room) {
        if (reader->room > INT_MAX / 4)
            return refuse(reader, QUESTION, "", "more questions than can be counted");
        reader->room = 2 * reader->room + 256;
        reader->drafts = xrealloc(reader->drafts, (size_t)reader->room * sizeof *reader->drafts);
    }
    reader->drafts[reader->count++] = draft;
    reader->stream.at = end;
    return true;
}

static bool read_paragraph(struct reader *reader, struct span none) {
    (void)none;
    struct place places[] = {{".context", 0}, {".qas", 0}};
    if (!find_members(reader, PARAGRAPH, places, 2)) return false;
    size_t end = reader->stream.at;
    struct span context;
    if (!read_text(reader, PARAGRAPH, &places[0], &context)) return false;
    if (!read_list(reader, PARAGRAPH, &places[1], &reader->question, read_question, context)) return false;
    reader->stream.at = end;
    return true;
}

static bool read_article(struct reader *reader, struct span none) {
    struct place paragraphs = {".paragraphs", 0};
    if (!find_members(reader, ARTICLE, &paragraphs, 1)) return false;
    size_t end = reader->stream.at;
    if (!read_list(reader, ARTICLE, &paragraphs, &reader->paragraph, read_paragraph, none)) return false;
    reader->stream.at = end;
    return true;
}

static bool read_file(struct reader *reader) {
    struct place data = {".data", 0};
    const struct span none = {0, 0};
    /* Finding "data" reads through the whole file: a broken one is an error even if only its beginning is
     * wanted. */
    if (!find_members(reader, TOP, &data, 1) || !json_stream_end(&reader->stream)) return false;
    return read_list(reader, TOP, &data, &reader->article, read_article, none);
}

static struct squad_text text_of(const struct reader *reader, struct span span) {
    return (struct squad_text){.data = reader->texts + span.start, .bytes = span.bytes};
}

/* What has been read, once nothing moves any more. */
static void publish(struct squad *squad, const struct reader *reader) {
    squad->count = reader->count;
    squad->memory = reader->texts;
    squad->examples = xmalloc((size_t)reader->count * sizeof *squad->examples);
    squad->answers = xmalloc(reader->answer_count * sizeof *squad->answers);
    for (size_t i = 0; i < reader->answer_count; i++) squad->answers[i] = text_of(reader, reader->answers[i]);
    for (int i = 0; i < reader->count; i++) {
        const struct draft *draft = &reader->drafts[i];
        const struct squad_text *answers = squad->answers + draft->first_answer;
        squad->examples[i] = (struct squad_example){.question = text_of(reader, draft->question),
                                                    .context = text_of(reader, draft->context),
                                                    .answer = answers[0],
                                                    .answers = answers,
                                                    .answer_count = draft->answer_count};
    }
}

bool squad_parse(struct squad *squad, const char *data, size_t size, const char *name, int limit,
                 struct error *error) {
    struct reader reader = {.limit = limit > 0 ? limit : INT_MAX};
    *squad = (struct squad){0};
    json_stream_open(&reader.stream, data, size, name, error);
    bool ok = read_file(&reader);
    json_stream_close(&reader.stream);
    if (ok)
        publish(squad, &reader);
    else
        free(reader.texts);
    free(reader.drafts);
    free(reader.answers);
    return ok;
}

bool squad_load(struct squad *squad, const char *path, int limit, struct error *error) {
    struct file_map map;
    *squad = (struct squad){0};
    if (!file_map(&map, path, error)) return false;
    bool ok = squad_parse(squad, map.data, map.size, path, limit, error);
    file_unmap(&map);
    return ok;
}

void squad_free(struct squad *squad) {
    free(squad->examples);
    free(squad->answers);
    free(squad->memory);
    *squad = (struct squad){0};
}
