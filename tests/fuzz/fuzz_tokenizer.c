/* Any bytes as a tokenizer.json, and as a text for one that is sound: what is decoded must be what was
 * encoded. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/utf8.h"
#include "common/text/byte_map.h"
#include "common/text/pretokenize.h"
#include "common/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All 256 bytes, an added token, and merges that overlap: letters a and b up to four long, a space before
 * them, and the halves of é. */
static struct tokenizer *make_tokenizer(void) {
    static const char *const merges[][2] = {{"a", "b"}, {"b", "a"},  {"ab", "ab"},
                                            {"a", "a"}, {"aa", "b"}, {"\u0120", "a"},
                                            {"b", "b"}, {"ba", "b"}, {"\u00c3", "\u00a9"}};
    char *vocabulary = xstrdup("\"</s>\": 256"), *rules = xstrdup("");
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelling[5] = "";
        spelling[utf8_write(spelling, byte_map_character((unsigned char)byte))] = '\0';
        const char *escape = byte == '"' || byte == '\\' ? "\\" : "";
        char *longer = xformat("%s, \"%s%s\": %u", vocabulary, escape, spelling, byte);
        free(vocabulary);
        vocabulary = longer;
    }
    for (unsigned i = 0; i < sizeof merges / sizeof *merges; i++) {
        char *longer = xformat("%s, \"%s%s\": %u", vocabulary, merges[i][0], merges[i][1], 257 + i);
        char *more = xformat("%s%s\"%s %s\"", rules, i ? ", " : "", merges[i][0], merges[i][1]);
        free(vocabulary);
        free(rules);
        vocabulary = longer;
        rules = more;
    }
    char *file = xformat(
        "{\"added_tokens\": [{\"id\": 256, \"content\": \"</s>\"}], \"pre_tokenizer\": {\"type\": "
        "\"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\" ?[^(\\\\s|[.,!?…。，、।۔،])]+\"}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": "
        "\"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, \"decoder\": {\"type\": "
        "\"ByteLevel\"}, \"model\": {\"vocab\": {%s}, \"merges\": [%s]}}",
        vocabulary, rules);
    struct error error;
    struct tokenizer *tokenizer = tokenizer_parse(file, strlen(file), "sound.json", &error);
    if (!tokenizer) fail("%s", error.text);
    free(vocabulary);
    free(rules);
    free(file);
    return tokenizer;
}

static void check_text(const struct tokenizer *tokenizer, const char *text, size_t bytes, bool sound) {
    struct ids first = {0}, second = {0};
    tokenizer_encode(tokenizer, text, bytes, &first);
    tokenizer_encode(tokenizer, text, bytes, &second);
    if (first.count != second.count) abort();
    for (size_t i = 0; i < first.count; i++)
        if (first.data[i] != second.data[i] || first.data[i] < 0 ||
            first.data[i] >= tokenizer_size(tokenizer))
            abort();
    size_t length;
    char *back = tokenizer_decode(tokenizer, first.data, first.count, &length);
    /* Walk both: equal characters, or U+FFFD for what is broken. */
    size_t at = 0, to = 0;
    while (sound && at < bytes) {
        uint32_t character, decoded;
        at += utf8_read(text + at, bytes - at, &character);
        if (to >= length) abort();
        to += utf8_read(back + to, length - to, &decoded);
        if (decoded != (character == UTF8_BROKEN ? 0xfffd : character)) abort();
    }
    if ((sound && to != length) || back[length]) abort();
    free(back);
    ids_free(&first);
    ids_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct tokenizer *sound;
    if (!sound) sound = make_tokenizer();
    const char *text = (const char *)data;
    check_text(sound, text, size, true);
    struct error error = {""};
    struct tokenizer *tokenizer = tokenizer_parse(text, size, "fuzz.json", &error);
    if (!tokenizer && (!error.text[0] || strchr(error.text, '\n'))) abort();
    if (tokenizer) check_text(tokenizer, text, size, false);
    tokenizer_free(tokenizer);
    return 0;
}
