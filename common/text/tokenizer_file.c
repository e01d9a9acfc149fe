/*
 * tokenizer.json, as Hugging Face's tokenizers writes it:
 *
 *   {"version": "1.0", "added_tokens": [{"id": 2, "content": "</s>", …}, …], "normalizer": null,
 *    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
 *      {"type": "Split", "pattern": {"Regex": …}, …}, {"type": "ByteLevel", …}]},
 *    "post_processor": {"type": "ByteLevel", …}, "decoder": {"type": "ByteLevel", …},
 *    "model": {"type": "BPE", …, "vocab": {"Ġthe": 301, …}, "merges": ["Ġt he", …]}}
 *
 * Newer files write a merge as a pair, ["Ġt", "he"]. Whatever the file asks for and this code does not do is
 * an error. The vocabulary and the merges, nearly all of the file, are streamed; the rest is read as a tree.
 */
#include "common/text/tokenizer_file.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json_stream.h"
#include "common/base/utf8.h"
#include "common/text/byte_map.h"
#include "common/text/pretokenize.h"

/* No published vocabulary comes near; it bounds what a damaged file can make us allocate. */
enum { HIGHEST_ID = (1 << 22) - 1 };

struct reader {
    struct tokenizer_file *file;
    const char *name;
    struct error *error;
    struct json_stream stream;
    json_t *root;              /* the file's members without "model" */
    json_t *model;             /* the model's without "vocab" and "merges", or NULL: no model in the file */
    size_t vocabulary, merges; /* where those two begin in the stream; 0: absent */
    char *spelling;            /* [spelling_room] scratch: a merge's left token, then the merged one */
    size_t spelling_room;
};

static bool is_null(const json_t *value) {
    return !value || json_is_null(value);
}

static bool has_type(const json_t *object, const char *type) {
    const char *text = json_string_value(json_object_get(object, "type"));
    return text && !strcmp(text, type);
}

static bool refuse(const struct reader *reader, const char *key, const char *expected) {
    return error_set(reader->error, "%s: %s: only %s is supported; use the tokenizer.json of a BLOOM",
                     reader->name, key, expected);
}

/* ------------------------------------------------- everything around the model
 * ------------------------------- */

/* {"type": "Sequence", KEY: [one]} is that one. */
static const json_t *unwrap(const json_t *object, const char *key) {
    while (has_type(object, "Sequence") && json_array_size(json_object_get(object, key)) == 1)
        object = json_array_get(json_object_get(object, key), 0);
    return object;
}

static bool check_split(const struct reader *reader, const json_t *split) {
    const json_t *pattern = json_object_get(json_object_get(split, "pattern"), "Regex");
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    if (!has_type(split, "Split")) return refuse(reader, "pre_tokenizer.pretokenizers[0].type", "Split");
    if (!json_is_string(pattern) || strcmp(json_string_value(pattern), PRETOKENIZE_REGEX) != 0)
        return refuse(reader, "pre_tokenizer.pretokenizers[0].pattern",
                      "BLOOM's Regex, '" PRETOKENIZE_REGEX "',");
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return refuse(reader, "pre_tokenizer.pretokenizers[0].behavior", "Isolated");
    if (!json_is_false(json_object_get(split, "invert")))
        return refuse(reader, "pre_tokenizer.pretokenizers[0].invert", "false");
    return true;
}

static bool check_byte_level(const struct reader *reader, const json_t *level) {
    if (!has_type(level, "ByteLevel"))
        return refuse(reader, "pre_tokenizer.pretokenizers[1].type", "ByteLevel");
    if (!json_is_false(json_object_get(level, "add_prefix_space")))
        return refuse(reader, "pre_tokenizer.pretokenizers[1].add_prefix_space", "false");
    /* Absent means true. */
    if (!json_is_false(json_object_get(level, "use_regex")))
        return refuse(reader, "pre_tokenizer.pretokenizers[1].use_regex", "false");
    return true;
}

static bool check_pipeline(const struct reader *reader, const json_t *root) {
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return refuse(reader, "version", "1.0");
    if (!is_null(json_object_get(root, "normalizer"))) return refuse(reader, "normalizer", "null");
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *steps = json_object_get(pre, "pretokenizers");
    if (!has_type(pre, "Sequence") || json_array_size(steps) != 2)
        return refuse(reader, "pre_tokenizer", "a Sequence of Split and ByteLevel");
    if (!check_split(reader, json_array_get(steps, 0))) return false;
    if (!check_byte_level(reader, json_array_get(steps, 1))) return false;
    /* ByteLevel moves offsets and adds nothing; other post-processors add tokens. */
    const json_t *post = json_object_get(root, "post_processor");
    if (!is_null(post) && !has_type(unwrap(post, "processors"), "ByteLevel"))
        return refuse(reader, "post_processor", "ByteLevel or null");
    if (!has_type(unwrap(json_object_get(root, "decoder"), "decoders"), "ByteLevel"))
        return refuse(reader, "decoder", "ByteLevel");
    return true;
}

/* ---------------------------------------------------- the model
 * ---------------------------------------------- */

static bool check_model(const struct reader *reader, const json_t *model) {
    if (!json_is_object(model))
        return error_set(reader->error, "%s: model: expected an object", reader->name);
    /* The oldest files name no type: what has a vocabulary and merges is BPE. */
    if (json_object_get(model, "type") && !has_type(model, "BPE")) return refuse(reader, "model.type", "BPE");
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return refuse(reader, "model.dropout", "null");
    static const char *const affixes[][2] = {{"continuing_subword_prefix", "model.continuing_subword_prefix"},
                                             {"end_of_word_suffix", "model.end_of_word_suffix"}};
    for (int i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i][0]);
        if (!is_null(affix) && !(json_is_string(affix) && json_string_length(affix) == 0))
            return refuse(reader, affixes[i][1], "null");
    }
    static const char *const flags[][2] = {{"byte_fallback", "model.byte_fallback"},
                                           {"ignore_merges", "model.ignore_merges"}};
    for (int i = 0; i < 2; i++) {
        const json_t *flag = json_object_get(model, flags[i][0]);
        if (!is_null(flag) && !json_is_false(flag)) return refuse(reader, flags[i][1], "false");
    }
    /* unk_token and fuse_unk are about unknown characters: with all bytes in the vocabulary there are none.
     */
    return true;
}

int32_t tokenizer_file_id(const struct tokenizer_file *file, const char *spelling, size_t bytes) {
    int64_t number = string_table_find(&file->tokens, spelling, bytes, string_hash(spelling, bytes));
    return number < 0 ? -1 : file->ids[number];
}

static void insert_token(struct tokenizer_file *file, const char *spelling, size_t bytes, uint64_t hash,
                         int32_t id) {
    uint32_t number = string_table_insert(&file->tokens, spelling, bytes, hash);
    if (number == file->ids_room) {
        file->ids_room = 2 * file->ids_room + 1024;
        file->ids = xrealloc(file->ids, file->ids_room * sizeof *file->ids);
    }
    file->ids[number] = id;
    if (id >= file->size) file->size = id + 1;
}

/* How much of a token an error shows. */
static int shown(size_t bytes) {
    return bytes < 60 ? (int)bytes : 60;
}

static bool read_vocabulary(struct reader *reader) {
    struct tokenizer_file *file = reader->file;
    struct json_stream *stream = &reader->stream;
    stream->at = reader->vocabulary;
    struct json_list list = json_stream_begin(stream, '{');
    const char *token;
    size_t bytes;
    while (json_stream_member(stream, &list, &token, &bytes)) {
        uint64_t hash = string_hash(token, bytes);
        if (string_table_find(&file->tokens, token, bytes, hash) >= 0)
            return json_stream_refuse(stream, "model.vocab: '%.*s' is there twice", shown(bytes), token);
        long long id = -1;
        if (json_stream_peek(stream) == '0' && !json_stream_integer(stream, &id)) return false;
        if (id < 0 || id > HIGHEST_ID)
            return json_stream_refuse(stream, "model.vocab: '%.*s': expected an id from 0 to %d",
                                      shown(bytes), token, HIGHEST_ID);
        insert_token(file, token, bytes, hash, (int32_t)id);
    }
    return !stream->failed;
}

static bool find_bytes(const struct reader *reader) {
    struct tokenizer_file *file = reader->file;
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelling[4];
        size_t bytes = utf8_write(spelling, byte_map_character((unsigned char)byte));
        file->bpe.bytes[byte] = tokenizer_file_id(file, spelling, bytes);
        if (file->bpe.bytes[byte] < 0)
            return error_set(reader->error,
                             "%s: model.vocab: '%.*s', the token of byte 0x%02x, is missing; a byte-level "
                             "vocabulary has all 256",
                             reader->name, (int)bytes, spelling, byte);
    }
    return true;
}

/* Appends to the `used` bytes in reader->spelling. */
static void spell(struct reader *reader, size_t used, const char *text, size_t bytes) {
    if (used + bytes >= reader->spelling_room) {
        reader->spelling_room = 2 * (used + bytes) + 64;
        reader->spelling = xrealloc(reader->spelling, reader->spelling_room);
    }
    memcpy(reader->spelling + used, text, bytes);
}

/* The id of a merge's token; −1 after an error. */
static int32_t merge_id(struct reader *reader, uint32_t rank, const char *token, size_t bytes) {
    int32_t id = tokenizer_file_id(reader->file, token, bytes);
    if (id < 0)
        json_stream_refuse(&reader->stream, "model.merges[%u]: '%.*s' is not in model.vocab", rank,
                           shown(bytes), token);
    return id;
}

/* The left token lies in reader->spelling. */
static bool add_merge(struct reader *reader, uint32_t rank, size_t left_bytes, const char *right,
                      size_t right_bytes) {
    int32_t left_id = merge_id(reader, rank, reader->spelling, left_bytes);
    if (left_id < 0) return false;
    int32_t right_id = merge_id(reader, rank, right, right_bytes);
    if (right_id < 0) return false;
    spell(reader, left_bytes, right, right_bytes);
    int32_t merged = merge_id(reader, rank, reader->spelling, left_bytes + right_bytes);
    if (merged < 0) return false;
    bpe_add(&reader->file->bpe, left_id, right_id, rank, merged);
    return true;
}

static bool no_merge(struct reader *reader, uint32_t rank) {
    return json_stream_refuse(&reader->stream,
                              "model.merges[%u]: expected \"left right\" or [\"left\", \"right\"]", rank);
}

/* "left right" */
static bool read_merge_string(struct reader *reader, uint32_t rank) {
    const char *text;
    size_t bytes;
    if (!json_stream_string(&reader->stream, &text, &bytes)) return false;
    /* The header of the merges.txt that some older files were made from. */
    if (bytes >= 8 && !memcmp(text, "#version", 8)) return true;
    const char *space = memchr(text, ' ', bytes);
    if (!space) return no_merge(reader, rank);
    size_t left_bytes = (size_t)(space - text), right_bytes = bytes - left_bytes - 1;
    if (memchr(space + 1, ' ', right_bytes)) return no_merge(reader, rank);
    spell(reader, 0, text, left_bytes);
    return add_merge(reader, rank, left_bytes, space + 1, right_bytes);
}

/* ["left", "right"] */
static bool read_merge_pair(struct reader *reader, uint32_t rank) {
    struct json_stream *stream = &reader->stream;
    struct json_list pair = json_stream_begin(stream, '[');
    const char *text = "";
    size_t bytes[2] = {0};
    for (int side = 0; side < 2; side++) {
        if (!json_stream_element(stream, &pair) || json_stream_peek(stream) != '"')
            return no_merge(reader, rank);
        if (!json_stream_string(stream, &text, &bytes[side])) return false;
        if (side == 0) spell(reader, 0, text, bytes[0]);
    }
    if (!add_merge(reader, rank, bytes[0], text, bytes[1])) return false;
    if (json_stream_element(stream, &pair)) return no_merge(reader, rank);
    return !stream->failed;
}

static bool read_merges(struct reader *reader) {
    struct json_stream *stream = &reader->stream;
    stream->at = reader->merges;
    bpe_open(&reader->file->bpe);
    struct json_list list = json_stream_begin(stream, '[');
    for (uint32_t rank = 0; json_stream_element(stream, &list); rank++) {
        if (rank == 1u << 30) return json_stream_refuse(stream, "model.merges: more than 2^30");
        char kind = json_stream_peek(stream);
        if (kind != '"' && kind != '[') return no_merge(reader, rank);
        if (!(kind == '"' ? read_merge_string(reader, rank) : read_merge_pair(reader, rank))) return false;
    }
    return !stream->failed;
}

/* -------------------------------------------------- added tokens
 * --------------------------------------------- */

/* A token that the vocabulary lacks gets the next free id, as in Hugging Face's library whatever the file
 * says: where the file says otherwise, one of the two is wrong. */
static bool enter_added(const struct reader *reader, size_t index, const char *content, size_t bytes,
                        json_int_t id, int *next) {
    struct tokenizer_file *file = reader->file;
    int32_t known = tokenizer_file_id(file, content, bytes);
    if (known < 0) {
        known = *next;
        if (known == id) insert_token(file, content, bytes, string_hash(content, bytes), known);
    }
    if (known != id)
        return error_set(reader->error, "%s: added_tokens[%zu].id: %lld, but '%.*s' has id %d", reader->name,
                         index, (long long)id, shown(bytes), content, (int)known);
    if (known >= *next) *next = known + 1;
    return true;
}

static bool read_added_token(const struct reader *reader, size_t index, const json_t *token, int *next) {
    const json_t *content = json_object_get(token, "content"), *id = json_object_get(token, "id");
    if (!json_is_string(content) || json_string_length(content) == 0)
        return error_set(reader->error, "%s: added_tokens[%zu].content: expected a string, not empty",
                         reader->name, index);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > HIGHEST_ID)
        return error_set(reader->error, "%s: added_tokens[%zu].id: expected an id from 0 to %d", reader->name,
                         index, HIGHEST_ID);
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    for (int i = 0; i < 3; i++) {
        const json_t *flag = json_object_get(token, flags[i]);
        if (!is_null(flag) && !json_is_false(flag))
            return error_set(reader->error, "%s: added_tokens[%zu].%s: only false is supported", reader->name,
                             index, flags[i]);
    }
    const json_t *normalized = json_object_get(token, "normalized");
    if (!is_null(normalized) && !json_is_boolean(normalized))
        return error_set(reader->error, "%s: added_tokens[%zu].normalized: expected true or false",
                         reader->name, index);
    const char *text = json_string_value(content);
    size_t bytes = json_string_length(content);
    if (!enter_added(reader, index, text, bytes, json_integer_value(id), next)) return false;
    added_tokens_add(&reader->file->added[json_is_true(normalized)], text, bytes,
                     (int32_t)json_integer_value(id));
    return true;
}

static bool read_added_tokens(const struct reader *reader, const json_t *tokens) {
    if (!is_null(tokens) && !json_is_array(tokens))
        return error_set(reader->error, "%s: added_tokens: expected a list", reader->name);
    int next = (int)reader->file->tokens.count;
    size_t index;
    const json_t *token;
    json_array_foreach(tokens, index, token) if (!read_added_token(reader, index, token, &next)) return false;
    for (int pass = 0; pass < 2; pass++) added_tokens_sort(&reader->file->added[pass]);
    return true;
}

/* ---------------------------------------------------- all of it
 * ---------------------------------------------- */

static bool number_ids(const struct reader *reader) {
    struct tokenizer_file *file = reader->file;
    file->numbers = xmalloc((size_t)file->size * sizeof *file->numbers);
    for (int id = 0; id < file->size; id++) file->numbers[id] = TOKENIZER_NO_TOKEN;
    for (uint32_t n = 0; n < file->tokens.count; n++) {
        uint32_t *number = &file->numbers[file->ids[n]];
        if (*number != TOKENIZER_NO_TOKEN)
            return error_set(
                reader->error, "%s: model.vocab: '%.*s' and another token both have id %d", reader->name,
                string_table_bytes(&file->tokens, n) < 60 ? (int)string_table_bytes(&file->tokens, n) : 60,
                string_table_data(&file->tokens, n), (int)file->ids[n]);
        *number = n;
    }
    return true;
}

static bool is(const char *name, size_t bytes, const char *word) {
    return bytes == strlen(word) && !memcmp(name, word, bytes);
}

/* Reads a member into a tree and sets it in `object`. No name that means anything is longer than the buffer.
 */
static bool keep_member(struct json_stream *stream, json_t *object, const char *name, size_t bytes) {
    char key[64];
    if (bytes >= sizeof key || memchr(name, '\0', bytes)) return json_stream_skip(stream);
    memcpy(key, name, bytes);
    key[bytes] = '\0';
    if (json_object_get(object, key)) return json_stream_refuse(stream, "%s is there twice", key);
    json_t *value = json_stream_tree(stream);
    if (!value) return false;
    if (json_object_set_new(object, key, value) != 0) fail("out of host memory: reading a tokenizer.json");
    return true;
}

/* Notes where a large member begins, and skips it: what it needs may come later in the file. */
static bool note_member(struct json_stream *stream, char open, size_t *at, const char *key) {
    if (*at) return json_stream_refuse(stream, "%s is there twice", key);
    if (json_stream_peek(stream) != open)
        return json_stream_refuse(stream, "%s: expected %s", key, open == '{' ? "an object" : "a list");
    if (!json_stream_skip(stream)) return false;
    *at = stream->value;
    return true;
}

static bool read_model_members(struct reader *reader) {
    struct json_stream *stream = &reader->stream;
    if (reader->model) return json_stream_refuse(stream, "model is there twice");
    if (json_stream_peek(stream) != '{') return json_stream_refuse(stream, "model: expected an object");
    reader->model = json_object();
    struct json_list list = json_stream_begin(stream, '{');
    const char *name;
    size_t bytes;
    while (json_stream_member(stream, &list, &name, &bytes)) {
        if (is(name, bytes, "vocab"))
            note_member(stream, '{', &reader->vocabulary, "model.vocab");
        else if (is(name, bytes, "merges"))
            note_member(stream, '[', &reader->merges, "model.merges");
        else
            keep_member(stream, reader->model, name, bytes);
    }
    return !stream->failed;
}

static bool read_members(struct reader *reader) {
    struct json_stream *stream = &reader->stream;
    reader->root = json_object();
    struct json_list list = json_stream_begin(stream, '{');
    const char *name;
    size_t bytes;
    while (json_stream_member(stream, &list, &name, &bytes)) {
        if (is(name, bytes, "model"))
            read_model_members(reader);
        else
            keep_member(stream, reader->root, name, bytes);
    }
    if (!json_stream_end(stream)) return false;
    if (!reader->model || !reader->vocabulary || !reader->merges)
        return error_set(reader->error, "%s: %s is missing; use the tokenizer.json of a BLOOM", reader->name,
                         !reader->model        ? "model"
                         : !reader->vocabulary ? "model.vocab"
                                               : "model.merges");
    return true;
}

bool tokenizer_file_read(struct tokenizer_file *file, const char *data, size_t size, const char *name,
                         struct error *error) {
    *file = (struct tokenizer_file){0};
    struct reader reader = {.file = file, .name = name, .error = error};
    json_stream_open(&reader.stream, data, size, name, error);
    bool ok = read_members(&reader) && check_pipeline(&reader, reader.root) &&
              check_model(&reader, reader.model) && read_vocabulary(&reader) && find_bytes(&reader) &&
              read_merges(&reader) &&
              read_added_tokens(&reader, json_object_get(reader.root, "added_tokens")) && number_ids(&reader);
    json_stream_close(&reader.stream);
    json_decref(reader.root);
    json_decref(reader.model);
    free(reader.spelling);
    return ok;
}

void tokenizer_file_free(struct tokenizer_file *file) {
    string_table_free(&file->tokens);
    free(file->ids);
    free(file->numbers);
    bpe_close(&file->bpe);
    for (int pass = 0; pass < 2; pass++) added_tokens_free(&file->added[pass]);
}
