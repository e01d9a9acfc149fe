/* Any bytes as a safetensors file: parsed, and what is accepted is read from first to last byte. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/bloom/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct safetensors_entry *entry) {
    volatile unsigned char sum = 0;
    for (size_t i = 0; i < entry->size; i++)
        sum = (unsigned char)(sum + ((const unsigned char *)entry->data)[i]);
    if (!entry->readable || entry->dtype == FP64 || entry->dtype == INT32) return;
    float values[64];
    size_t count = entry->count < 64 ? entry->count : 64;
    safetensors_to_float(entry, 0, count, values);
    safetensors_to_float(entry, entry->count - count, count, values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = {""};
    struct safetensors *file = safetensors_parse(data, size, "fuzz.safetensors", &error);
    if (!file) {
        if (!error.text[0] || strchr(error.text, '\n')) abort();
        return 0;
    }
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const struct safetensors_entry *entry = safetensors_at(file, i);
        if (safetensors_find(file, entry->name) != entry) abort();
        if (!safetensors_describe(entry).text[0]) abort();
        read_all(entry);
    }
    safetensors_close(file);
    return 0;
}
