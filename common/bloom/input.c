#include "common/bloom/input.h"

#include <string.h>

#include "common/base/error.h"

/* The arrays lie one behind the other; each starts at a multiple of 4 elements (16 bytes). */
static size_t padded(size_t count) {
    return (count + 3) / 4 * 4;
}

size_t input_bytes(struct pack_size capacity) {
    size_t tokens = padded((size_t)capacity.tokens);
    size_t labelled = padded((size_t)capacity.labelled);
    size_t sequences = padded((size_t)capacity.sequences + 1);
    return (2 * tokens + 3 * labelled + 2 * sequences) * sizeof(int32_t);
}

void input_open(struct input *input, struct device *device, struct pack_size capacity) {
    *input = (struct input){.device = device, .capacity = capacity};
    size_t tokens = padded((size_t)capacity.tokens);
    size_t labelled = padded((size_t)capacity.labelled);
    size_t sequences = padded((size_t)capacity.sequences + 1);
    input->bytes = input_bytes(capacity);
    int32_t *next = input->memory = device_alloc(device, ACTIVATIONS, input->bytes, "a pack's token ids");
    input->ids = next;
    input->by_id = next += tokens;
    input->rows = next += tokens;
    input->labels = next += labelled;
    input->weights = (float *)(next += labelled);
    input->sequences.starts = next += labelled;
    input->sequences.keys = next + sequences;
    for (int i = 0; i < 2; i++) {
        input->staging[i] = host_alloc(device, BUFFERS, input->bytes, true, "a pack's token ids");
        input->copied[i] = event_open(device);
    }
}

void input_close(struct input *input) {
    for (int i = 0; i < 2; i++) {
        host_free(input->device, input->staging[i]);
        event_close(input->copied[i]);
    }
    device_free(input->device, input->memory);
}

/* Places an array of the pack in the staging memory, where its device array lies in the device memory. */
static void place(const struct input *input, const void *array, const void *from, size_t count) {
    if (!count || !device_computes()) return;
    size_t offset = (size_t)((const char *)array - (const char *)input->memory);
    memcpy((char *)input->staging[input->turn] + offset, from, count * sizeof(int32_t));
}

void input_upload(struct input *input, struct stream *stream, const struct pack *pack) {
    if (pack->tokens > input->capacity.tokens || pack->labelled > input->capacity.labelled ||
        pack->sequences > input->capacity.sequences)
        fail("a pack of %d tokens is larger than the %d planned for; please report this", pack->tokens,
             input->capacity.tokens);
    size_t tokens = (size_t)pack->tokens, labelled = (size_t)pack->labelled,
           sequences = (size_t)pack->sequences;
    input->turn = !input->turn;
    event_synchronize(input->copied[input->turn]);
    place(input, input->ids, pack->ids, tokens);
    place(input, input->by_id, pack->by_id, tokens);
    place(input, input->rows, pack->rows, labelled);
    place(input, input->labels, pack->labels, labelled);
    place(input, input->weights, pack->weights, labelled);
    place(input, input->sequences.starts, pack->starts, sequences + 1);
    place(input, input->sequences.keys, pack->keys, sequences);
    copy_to_device(stream, input->memory, input->staging[input->turn], input->bytes);
    event_record(input->copied[input->turn], stream);

    input->tokens = pack->tokens;
    input->labelled = pack->labelled;
    input->sequences.count = pack->sequences;
    input->sequences.tokens = pack->tokens;
    input->sequences.longest = 0;
    input->sequences.pairs = 0;
    for (int s = 0; s < pack->sequences; s++) {
        int length = pack->starts[s + 1] - pack->starts[s], keys = pack->keys[s];
        if (length > input->sequences.longest) input->sequences.longest = length;
        /* Row i sees min(i + 1, keys) keys. */
        input->sequences.pairs += 0.5 * keys * (keys + 1.0) + (double)(length - keys) * keys;
    }
}
