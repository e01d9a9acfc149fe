/*
 * tokenizer.json, as Hugging Face's tokenizers writes it:
 *
 *   {"version": "1.0", "added_tokens": [{"id": 2, "content": "</s>", …}, …], "normalizer": null,
 *    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", …}, {"type": "ByteLevel",
 * …}]}, "post_processor": {"type": "ByteLevel", …}, "decoder": {"type": "ByteLevel", …}, "model": {"type":
 * "BPE", …, "vocab": {"Ġthe": 301, …}, "merges": ["Ġt he", …]}}
 *
 * Newer files write a merge as a pair, ["Ġt", "he"]. Whatever the file asks for and this code does not do is
 * an error.
 */
#include "common/text/tokenizer_file.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/text/byte_map.h"
#include "common/text/pretokenize.h"
#include "common/text/utf8.h"

/* No published vocabulary comes near; it bounds what a damaged file can make us allocate. */
enum { HIGHEST_ID = (1 << 22) - 1 };

struct reader {
    struct tokenizer_file *file;
    const char *name;
    struct error *error;
    char *spelling; /* [spelling_room] scratch for a merged token */
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

static bool read_vocabulary(const struct reader *reader, json_t *vocabulary) {
    struct tokenizer_file *file = reader->file;
    if (!json_is_object(vocabulary))
        return error_set(reader->error, "%s: model.vocab: expected an object of tokens and ids",
                         reader->name);
    file->ids = xmalloc((json_object_size(vocabulary) + 1) * sizeof *file->ids);
    const char *token;
    json_t *value;
    json_object_foreach(vocabulary, token, value) {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id > HIGHEST_ID)
            return error_set(reader->error, "%s: model.vocab: '%.60s': expected an id from 0 to %d",
                             reader->name, token, HIGHEST_ID);
        size_t bytes = strlen(token);
        /* jansson has refused duplicate keys. */
        file->ids[string_table_insert(&file->tokens, token, bytes, string_hash(token, bytes))] = (int32_t)id;
        if (id >= file->size) file->size = (int)id + 1;
    }
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

static bool no_such_token(const struct reader *reader, size_t rank, const char *token, size_t bytes) {
    return error_set(reader->error, "%s: model.merges[%zu]: '%.*s' is not in model.vocab", reader->name, rank,
                     bytes < 60 ? (int)bytes : 60, token);
}

static bool add_merge(struct reader *reader, size_t rank, const char *left, size_t left_bytes,
                      const char *right, size_t right_bytes) {
    struct tokenizer_file *file = reader->file;
    int32_t left_id = tokenizer_file_id(file, left, left_bytes);
    if (left_id < 0) return no_such_token(reader, rank, left, left_bytes);
    int32_t right_id = tokenizer_file_id(file, right, right_bytes);
    if (right_id < 0) return no_such_token(reader, rank, right, right_bytes);
    size_t bytes = left_bytes + right_bytes;
    if (bytes > reader->spelling_room) {
        reader->spelling_room = 2 * bytes;
        reader->spelling = xrealloc(reader->spelling, reader->spelling_room);
    }
    if (left_bytes) memcpy(reader->spelling, left, left_bytes);
    if (right_bytes) memcpy(reader->spelling + left_bytes, right, right_bytes);
    int32_t merged = tokenizer_file_id(file, reader->spelling, bytes);
    if (merged < 0) return no_such_token(reader, rank, reader->spelling, bytes);
    bpe_add(&file->bpe, left_id, right_id, (uint32_t)rank, merged);
    return true;
}

static bool read_merge(struct reader *reader, size_t rank, const json_t *merge) {
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge);
        size_t bytes = json_string_length(merge);
        /* The header of the merges.txt that some older files were made from. */
        if (!strncmp(text, "#version", 8)) return true;
        const char *space = memchr(text, ' ', bytes);
        const char *right = space ? space + 1 : NULL;
        size_t right_bytes = space ? bytes - (size_t)(right - text) : 0;
        if (space && !memchr(right, ' ', right_bytes))
            return add_merge(reader, rank, text, (size_t)(space - text), right, right_bytes);
    } else if (json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right))
            return add_merge(reader, rank, json_string_value(left), json_string_length(left),
                             json_string_value(right), json_string_length(right));
    }
    return error_set(reader->error, "%s: model.merges[%zu]: expected \"left right\" or [\"left\", \"right\"]",
                     reader->name, rank);
}

static bool read_merges(struct reader *reader, const json_t *merges) {
    if (!json_is_array(merges) || json_array_size(merges) > 1u << 28)
        return error_set(reader->error, "%s: model.merges: expected a list of pairs", reader->name);
    bpe_open(&reader->file->bpe, (uint32_t)json_array_size(merges));
    bool ok = true;
    size_t rank;
    const json_t *merge;
    json_array_foreach(merges, rank, merge) if (!(ok = read_merge(reader, rank, merge))) break;
    free(reader->spelling);
    return ok;
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
        if (known == id) {
            string_table_insert(&file->tokens, content, bytes, string_hash(content, bytes));
            file->ids = xrealloc(file->ids, (file->tokens.count + 1ul) * sizeof *file->ids);
            file->ids[file->tokens.count - 1] = known;
            if (known >= file->size) file->size = known + 1;
        }
    }
    if (known != id)
        return error_set(reader->error, "%s: added_tokens[%zu].id: %lld, but '%.*s' has id %d", reader->name,
                         index, (long long)id, bytes < 60 ? (int)bytes : 60, content, (int)known);
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

bool tokenizer_file_read(struct tokenizer_file *file, const char *data, size_t size, const char *name,
                         struct error *error) {
    *file = (struct tokenizer_file){0};
    struct reader reader = {.file = file, .name = name, .error = error};
    json_t *root = json_read_bytes(data, size, name, error);
    if (!root) return false;
    const json_t *model = json_object_get(root, "model");
    bool ok = check_pipeline(&reader, root) && check_model(&reader, model) &&
              read_vocabulary(&reader, json_object_get(model, "vocab")) &&
              read_merges(&reader, json_object_get(model, "merges")) &&
              read_added_tokens(&reader, json_object_get(root, "added_tokens")) && number_ids(&reader);
    json_decref(root);
    return ok;
}

void tokenizer_file_free(struct tokenizer_file *file) {
    string_table_free(&file->tokens);
    free(file->ids);
    free(file->numbers);
    bpe_close(&file->bpe);
    for (int pass = 0; pass < 2; pass++) added_tokens_free(&file->added[pass]);
}
