#include "common/base/json_stream.h"

#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/utf8.h"

enum { DEEPEST = 200 };

void json_stream_open(struct json_stream *stream, const char *data, size_t size, const char *name,
                      struct error *error) {
    *stream = (struct json_stream){.data = data, .size = size, .name = name, .error = error};
}

void json_stream_close(struct json_stream *stream) {
    free(stream->text);
    stream->text = NULL;
}

bool json_stream_refuse(struct json_stream *stream, const char *format, ...) {
    if (stream->failed) return false;
    stream->failed = true;
    int line = 1, column = 1;
    for (size_t i = 0; i < stream->value && i < stream->size; i++) {
        if (stream->data[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)stream->data[i] & 0xc0) != 0x80) {
            column++; /* characters, not bytes */
        }
    }
    char reason[900];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    return error_set(stream->error, "%s:%d:%d: %s", stream->name, line, column, reason);
}

static bool malformed(struct json_stream *stream, size_t at, const char *reason) {
    stream->value = at;
    return json_stream_refuse(stream, "malformed JSON: %s",
                              at < stream->size ? reason : "the file ends too early");
}

/* Skips white space; the byte there, or '\0' at the end and after an error. */
static char look(struct json_stream *stream) {
    if (stream->failed) return '\0';
    while (stream->at < stream->size) {
        char c = stream->data[stream->at];
        if (c != ' ' && c != '\n' && c != '\t' && c != '\r') return c;
        stream->at++;
    }
    return '\0';
}

char json_stream_peek(struct json_stream *stream) {
    char c = look(stream);
    if (stream->failed) return '\0';
    stream->value = stream->at;
    if (c == '-' || (c >= '0' && c <= '9')) return '0';
    if (c && strchr("{[\"tfn", c)) return c;
    malformed(stream, stream->at, "expected a value");
    return '\0';
}

/* ----------------------------------------------- objects and arrays
 * ------------------------------------------ */

struct json_list json_stream_begin(struct json_stream *stream, char open) {
    struct json_list list = {.close = open == '{' ? '}' : ']'};
    char c = json_stream_peek(stream);
    if (c == open)
        stream->at++;
    else
        json_stream_refuse(stream, "expected %s", open == '{' ? "an object" : "a list");
    return list;
}

bool json_stream_element(struct json_stream *stream, struct json_list *list) {
    char c = look(stream);
    if (stream->failed) return false;
    if (c == list->close) {
        stream->at++;
        return false;
    }
    if (!list->started) {
        list->started = true;
        return true;
    }
    if (c != ',')
        return malformed(stream, stream->at, list->close == '}' ? "expected , or }" : "expected , or ]");
    stream->at++;
    return true;
}

bool json_stream_member(struct json_stream *stream, struct json_list *list, const char **name,
                        size_t *bytes) {
    if (!json_stream_element(stream, list)) return false;
    if (look(stream) != '"') return malformed(stream, stream->at, "expected a member's name in quotes");
    if (!json_stream_string(stream, name, bytes)) return false;
    if (look(stream) != ':') return malformed(stream, stream->at, "expected :");
    stream->at++;
    return true;
}

/* ------------------------------------------------------ strings
 * ---------------------------------------------- */

/* Reads the four hexadecimal digits at `at`; −1 where they are not there. */
static long hexadecimal(const struct json_stream *stream, size_t at) {
    long value = 0;
    if (at > stream->size || stream->size - at < 4) return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = stream->data[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Decodes the escape whose backslash is at `*at` into `to` (4 bytes of room) and moves behind it; 0 after an
 * error. */
static size_t escape(struct json_stream *stream, size_t *at, char *to) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    size_t start = *at;
    char c = start + 1 < stream->size ? stream->data[start + 1] : '\0';
    const char *letter = c ? strchr(letters, c) : NULL;
    *at = start + 2;
    if (letter) {
        *to = meanings[letter - letters];
        return 1;
    }
    long character = c == 'u' ? hexadecimal(stream, *at) : -1;
    if (character < 0) {
        malformed(stream, start, "no such escape in a string");
        return 0;
    }
    *at += 4;
    if (character >= 0xd800 && character < 0xe000) {
        /* Beyond U+FFFF, a character is two escapes: a high surrogate, then a low one. */
        bool pair = character < 0xdc00 && stream->size - *at >= 6 && !memcmp(stream->data + *at, "\\u", 2);
        long low = pair ? hexadecimal(stream, *at + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff) {
            malformed(stream, start, "half a surrogate pair in a string");
            return 0;
        }
        *at += 6;
        character = 0x10000 + ((character - 0xd800) << 10) + (low - 0xdc00);
    }
    return utf8_write(to, (uint32_t)character);
}

/* The end of the run of bytes from `at` that stand for themselves: up to a quote, a backslash, or an error.
 */
static size_t plain_run(struct json_stream *stream, size_t at) {
    const char *data = stream->data;
    while (at < stream->size) {
        unsigned char c = (unsigned char)data[at];
        if (c == '"' || c == '\\') return at;
        if (c < 0x20) break;
        if (c < 0x80) {
            at++;
            continue;
        }
        uint32_t character;
        size_t length = utf8_read(data + at, stream->size - at, &character);
        if (character == UTF8_BROKEN) {
            malformed(stream, at, "a string that is not valid UTF-8");
            return at;
        }
        at += length;
    }
    malformed(stream, at, "a control character in a string");
    return at;
}

/* Copies a part of a string with escapes behind the `used` bytes that are there. */
static void keep(struct json_stream *stream, size_t used, const char *data, size_t bytes) {
    if (bytes == 0) return;
    if (bytes > stream->room - used) {
        stream->room = 2 * stream->room + bytes + 64;
        stream->text = xrealloc(stream->text, stream->room);
    }
    memcpy(stream->text + used, data, bytes);
}

bool json_stream_string(struct json_stream *stream, const char **text, size_t *bytes) {
    char c = json_stream_peek(stream);
    if (stream->failed) return false;
    if (c != '"') return json_stream_refuse(stream, "expected a string");
    size_t start = stream->value, at = start + 1, end = plain_run(stream, at), used = 0;
    if (!stream->failed && stream->data[end] == '"') {
        *text = stream->data + at;
        *bytes = end - at;
        stream->at = end + 1;
        return true;
    }
    while (!stream->failed) {
        keep(stream, used, stream->data + at, end - at);
        used += end - at;
        if (stream->data[end] == '"') {
            *text = stream->text;
            *bytes = used;
            stream->at = end + 1;
            stream->value = start;
            return true;
        }
        char character[4];
        size_t length = escape(stream, &end, character);
        keep(stream, used, character, length);
        used += length;
        at = end;
        if (!stream->failed) end = plain_run(stream, at);
    }
    return false;
}

/* ------------------------------------------------- numbers and the rest
 * -------------------------------------- */

static size_t digits(const struct json_stream *stream, size_t at) {
    while (at < stream->size && stream->data[at] >= '0' && stream->data[at] <= '9') at++;
    return at;
}

/* Checks the number at stream->at and moves behind it; *is_integer: neither fraction nor exponent. */
static bool read_number(struct json_stream *stream, bool *is_integer) {
    const char *data = stream->data;
    size_t at = stream->at;
    if (data[at] == '-') at++;
    size_t end = digits(stream, at);
    if (end == at || (data[at] == '0' && end > at + 1)) return malformed(stream, at, "not a number");
    *is_integer = true;
    if (end < stream->size && data[end] == '.') {
        at = end + 1;
        end = digits(stream, at);
        if (end == at) return malformed(stream, at, "expected a digit");
        *is_integer = false;
    }
    if (end < stream->size && (data[end] == 'e' || data[end] == 'E')) {
        at = end + 1;
        if (at < stream->size && (data[at] == '+' || data[at] == '-')) at++;
        end = digits(stream, at);
        if (end == at) return malformed(stream, at, "expected a digit");
        *is_integer = false;
    }
    stream->at = end;
    return true;
}

bool json_stream_integer(struct json_stream *stream, long long *value) {
    char c = json_stream_peek(stream);
    if (stream->failed) return false;
    bool is_integer = false;
    size_t start = stream->at;
    if (c == '0' && !read_number(stream, &is_integer)) return false;
    if (!is_integer) return json_stream_refuse(stream, "expected an integer");
    bool negative = stream->data[start] == '-';
    long long number = 0;
    for (size_t at = start + negative; at < stream->at; at++) {
        int digit = stream->data[at] - '0';
        if (number < (LLONG_MIN + digit) / 10) return json_stream_refuse(stream, "an integer beyond 64 bits");
        number = 10 * number - digit;
    }
    /* Summed up as a negative number, of which there is one more. */
    if (!negative && number == LLONG_MIN) return json_stream_refuse(stream, "an integer beyond 64 bits");
    *value = negative ? number : -number;
    return true;
}

static bool read_word(struct json_stream *stream, const char *word) {
    size_t length = strlen(word);
    if (stream->size - stream->at < length || memcmp(stream->data + stream->at, word, length) != 0)
        return malformed(stream, stream->at, "expected a value");
    stream->at += length;
    return true;
}

static bool skip(struct json_stream *stream, int depth) {
    const char *text;
    size_t bytes;
    bool is_integer;
    struct json_list list;
    char c = json_stream_peek(stream);
    if (stream->failed) return false;
    if (depth > DEEPEST) return json_stream_refuse(stream, "lists and objects nested too deeply");
    switch (c) {
    case '{':
        list = json_stream_begin(stream, c);
        while (json_stream_member(stream, &list, &text, &bytes) && skip(stream, depth + 1)) continue;
        return !stream->failed;
    case '[':
        list = json_stream_begin(stream, c);
        while (json_stream_element(stream, &list) && skip(stream, depth + 1)) continue;
        return !stream->failed;
    case '"':
        return json_stream_string(stream, &text, &bytes);
    case '0':
        return read_number(stream, &is_integer);
    case 't':
        return read_word(stream, "true");
    case 'f':
        return read_word(stream, "false");
    case 'n':
        return read_word(stream, "null");
    default:
        return false;
    }
}

bool json_stream_skip(struct json_stream *stream) {
    json_stream_peek(stream);
    size_t start = stream->at;
    bool ok = skip(stream, 0);
    if (ok) stream->value = start;
    return ok;
}

json_t *json_stream_tree(struct json_stream *stream) {
    if (!json_stream_skip(stream)) return NULL;
    json_error_t reason;
    json_t *tree = json_loadb(stream->data + stream->value, stream->at - stream->value,
                              JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &reason);
    if (!tree) json_stream_refuse(stream, "malformed JSON: %s", reason.text);
    return tree;
}

bool json_stream_end(struct json_stream *stream) {
    look(stream);
    if (stream->failed) return false;
    return stream->at == stream->size || malformed(stream, stream->at, "more behind the end");
}
