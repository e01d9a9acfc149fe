#include "common/text/pack.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

/* ----------------------------------------------------- layouts
 * ----------------------------------------------- */

/* Whether one more row stands for all padding positions of an example. */
static bool has_padding_row(const struct pack_layout *layout, int length) {
    return layout->label_padding && !layout->pad_to_max_length && length < layout->max_seq_length - 1;
}

int layout_rows(const struct pack_layout *layout, int length) {
    if (layout->pad_to_max_length) return layout->max_seq_length;
    return length + has_padding_row(layout, length);
}

int layout_labelled(const struct pack_layout *layout, int length) {
    if (layout->pad_to_max_length) return layout->max_seq_length;
    if (!layout->label_padding || length == layout->max_seq_length) return length - 1;
    return length + has_padding_row(layout, length);
}

int layout_predicted(const struct pack_layout *layout, int length) {
    return (layout->label_padding ? layout->max_seq_length : length) - 1;
}

/* ------------------------------------------------------ packs
 * ------------------------------------------------ */

void pack_open(struct pack *pack, struct pack_size capacity) {
    size_t tokens = (size_t)capacity.tokens, sequences = (size_t)capacity.sequences;
    size_t labelled = (size_t)capacity.labelled;
    *pack = (struct pack){.capacity = capacity};
    pack->ids = xmalloc(tokens * sizeof *pack->ids);
    pack->starts = xmalloc((sequences + 1) * sizeof *pack->starts);
    pack->keys = xmalloc(sequences * sizeof *pack->keys);
    pack->examples = xmalloc(sequences * sizeof *pack->examples);
    pack->rows = xmalloc(labelled * sizeof *pack->rows);
    pack->row_sequence = xmalloc(labelled * sizeof *pack->row_sequence);
    pack->labels = xmalloc(labelled * sizeof *pack->labels);
    pack->weights = xmalloc(labelled * sizeof *pack->weights);
    pack->by_id = xmalloc(tokens * sizeof *pack->by_id);
    pack->sorting = xmalloc(2 * tokens * sizeof *pack->sorting);
    pack_clear(pack);
}

void pack_close(struct pack *pack) {
    free(pack->ids);
    free(pack->starts);
    free(pack->keys);
    free(pack->examples);
    free(pack->rows);
    free(pack->row_sequence);
    free(pack->labels);
    free(pack->weights);
    free(pack->by_id);
    free(pack->sorting);
    *pack = (struct pack){0};
}

void pack_clear(struct pack *pack) {
    pack->tokens = pack->sequences = pack->labelled = 0;
    pack->starts[0] = 0;
}

static void add_labelled(struct pack *pack, int row, int32_t label, int weight) {
    pack->rows[pack->labelled] = row;
    pack->row_sequence[pack->labelled] = pack->sequences;
    pack->labels[pack->labelled] = label;
    pack->weights[pack->labelled] = (float)weight;
    pack->labelled++;
}

/* Labels of an example of `length` tokens whose first row is `first`, row by row. */
static void label_rows(struct pack *pack, const struct pack_layout *layout, const int32_t *tokens, int length,
                       int first) {
    int longest = layout->max_seq_length;
    for (int i = 0; i < length - 1; i++) add_labelled(pack, first + i, tokens[i + 1], 1);
    if (layout->pad_to_max_length) {
        /* Position i predicts position i + 1; the last one nothing. */
        for (int i = length - 1; i < longest; i++) {
            bool predicts = layout->label_padding && i < longest - 1;
            add_labelled(pack, first + i, predicts ? layout->eos_id : 0, predicts);
        }
    } else if (layout->label_padding && length < longest) {
        add_labelled(pack, first + length - 1, layout->eos_id, 1);
        if (has_padding_row(layout, length))
            add_labelled(pack, first + length, layout->eos_id, longest - 1 - length);
    }
}

void pack_add(struct pack *pack, const struct pack_layout *layout, const int32_t *tokens, int length,
              int example) {
    int rows = layout_rows(layout, length), labelled = layout_labelled(layout, length);
    if (length < 1 || length > layout->max_seq_length)
        fail("example %d has %d tokens, which does not fit max_seq_length %d", example, length,
             layout->max_seq_length);
    if (rows > pack->capacity.tokens - pack->tokens || pack->sequences == pack->capacity.sequences ||
        labelled > pack->capacity.labelled - pack->labelled)
        fail("example %d of %d rows does not fit a pack with %d of %d rows and %d of %d sequences in use",
             example, rows, pack->tokens, pack->capacity.tokens, pack->sequences, pack->capacity.sequences);
    int first = pack->tokens;
    memcpy(pack->ids + first, tokens, (size_t)length * sizeof *tokens);
    for (int i = length; i < rows; i++)
        pack->ids[first + i] = layout->label_padding ? layout->eos_id : layout->pad_id;
    label_rows(pack, layout, tokens, length, first);
    pack->keys[pack->sequences] = length;
    pack->examples[pack->sequences] = example;
    pack->tokens += rows;
    pack->sequences++;
    pack->starts[pack->sequences] = pack->tokens;
}

/* Radix sort by eleven bits at a time, lowest first: stable, and two passes do for every published
 * vocabulary. */
void pack_finish(struct pack *pack) {
    enum { BITS = 11, BUCKETS = 1 << BITS };
    int count = pack->tokens;
    uint64_t *from = pack->sorting, *to = from + count;
    uint32_t all = 0;
    for (int row = 0; row < count; row++) {
        from[row] = (uint64_t)(uint32_t)pack->ids[row] << 32 | (uint32_t)row;
        all |= (uint32_t)pack->ids[row];
    }
    for (int shift = 0; shift < 32 && all >> shift; shift += BITS) {
        int starts[BUCKETS + 1] = {0};
        for (int i = 0; i < count; i++) starts[(from[i] >> (32 + shift) & (BUCKETS - 1)) + 1]++;
        for (int bucket = 0; bucket < BUCKETS; bucket++) starts[bucket + 1] += starts[bucket];
        for (int i = 0; i < count; i++) to[starts[from[i] >> (32 + shift) & (BUCKETS - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    for (int i = 0; i < count; i++) pack->by_id[i] = (int32_t)(uint32_t)from[i];
}
