/* Any bytes as a SQuAD file; and as JSON, for which the streaming reader must accept what jansson accepts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json_stream.h"
#include "common/text/squad.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const char *data, size_t size) {
    struct error error = {""};
    struct json_stream stream;
    json_stream_open(&stream, data, size, "fuzz.json", &error);
    bool accepted = json_stream_skip(&stream) && json_stream_end(&stream);
    json_stream_close(&stream);
    json_error_t reason = {0};
    json_t *tree = json_loadb(data, size, JSON_ALLOW_NUL | JSON_DECODE_ANY, &reason);
    if (accepted == (tree != NULL)) {
        json_decref(tree);
        return;
    }
    /* They differ on purpose: in what jansson cannot hold, in depth, and in a NUL behind a number, which
     * jansson overlooks. */
    enum json_error_code code = json_error_code(&reason);
    if (accepted && code != json_error_numeric_overflow && code != json_error_null_byte_in_key) abort();
    if (!accepted && !strstr(error.text, "nested too deeply") && !memchr(data, '\0', size)) abort();
    json_decref(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data;
    check_json(text, size);
    struct error error = {""};
    struct squad squad;
    size_t bytes = 0;
    if (squad_parse(&squad, text, size, "fuzz.json", size % 4 ? 0 : 2, &error)) {
        for (int i = 0; i < squad.count; i++) {
            const struct squad_example *example = &squad.examples[i];
            const struct squad_text texts[] = {example->question, example->context, example->answer};
            for (int t = 0; t < 3; t++)
                for (size_t b = 0; b < texts[t].bytes; b++)
                    bytes += texts[t].data[b] != 0; /* reads every byte */
        }
    } else if (!error.text[0] || strchr(error.text, '\n')) {
        abort();
    }
    squad_free(&squad);
    return bytes > SIZE_MAX / 2;
}
