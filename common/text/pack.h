/*
 * A pack: the examples of one pass through the model, end to end, without padding.
 *
 * Example: "a b c" and "d e" make a pack of 5 rows in 2 sequences:
 *
 *   row            0  1  2 | 3  4       ids      a b c d e
 *   predicts       b  c  – | e  –       starts   0 3 5
 *   labelled row   0  1    | 2          rows     0 1 3         labels   b c e
 *
 * A row is a position of a sequence: one row of every [tokens, hidden] activation. A labelled row is one that
 * predicts something: the output head runs on these only. Its weight is the number of predicted positions it
 * stands for (1, but see label_padding). The loss of an update is the sum of weight × cross-entropy over its
 * labelled rows, divided by the sum of weights.
 *
 * How one example of T tokens becomes rows is its layout, L being max_seq_length (T ≤ L):
 *
 * - Default: T rows; row i < T − 1 predicts token i + 1.
 * - label_padding: the labels of the workshop that this kit re-creates. Its loader pads to L with </s> and
 *   labels the padding too, by an oversight. All padding positions see the same keys (the real tokens) and so
 *   compute the same values: where T < L − 1, one more row with id </s>, label </s> and weight L − 1 − T
 *   stands for all of them (the last position predicts nothing). Where T < L, the last real token predicts
 *   </s>, too.
 * - pad_to_max_length: L rows, for comparison with programs that compute on padding. Rows T … L − 1 have
 *   pad_id; every row is a labelled row, with weight 0 and label 0 where it predicts nothing.
 * - Both: the same with </s> for pad_id, and rows T − 1 … L − 2 predict </s> with weight 1 each.
 */
#ifndef COMMON_TEXT_PACK_H
#define COMMON_TEXT_PACK_H

#include <stdbool.h>
#include <stdint.h>

struct pack_layout {
    int max_seq_length;
    bool pad_to_max_length;
    bool label_padding;
    int32_t pad_id; /* of padding rows without label_padding */
    int32_t eos_id; /* </s>, of padding rows with label_padding */
};

/* What one example of `length` tokens takes: rows, labelled rows, predicted positions (its weights' sum). */
int layout_rows(const struct pack_layout *layout, int length);
int layout_labelled(const struct pack_layout *layout, int length);
int layout_predicted(const struct pack_layout *layout, int length);

/* How large packs get: what activations and a pack's own arrays are sized by. */
struct pack_size {
    int tokens, sequences, labelled;
};

/* All arrays are in host memory, allocated once for the capacity; an empty pack (all counts 0, starts[0] 0)
 * is legal. */
struct pack {
    int tokens, sequences, labelled;
    int32_t *ids;          /* [tokens] token id of each row */
    int32_t *starts;       /* [sequences + 1] sequence s is rows starts[s] … starts[s + 1] − 1 */
    int32_t *keys;         /* [sequences] real tokens, at least 1: row i of a sequence attends to its rows
                              0 … min(i, keys − 1), so a padding row sees all real tokens and not itself */
    int32_t *examples;     /* [sequences] which example it is */
    int32_t *rows;         /* [labelled] row of each labelled row, ascending */
    int32_t *row_sequence; /* [labelled] its sequence */
    int32_t *labels;       /* [labelled] the id it predicts */
    float *weights;        /* [labelled] predicted positions it stands for: 0, 1 or more */
    int32_t *by_id;        /* [tokens] rows sorted by token id, equal ids by row: the embedding's gradient is
                              summed in this order, so always with the same bits */
    struct pack_size capacity;
    uint64_t *sorting; /* [2 × tokens] scratch of pack_finish */
};

/* Allocates for packs up to `capacity`; the caller calls pack_close. */
void pack_open(struct pack *pack, struct pack_size capacity);
void pack_close(struct pack *pack);

/* To refill a pack: clear it, add examples, finish it (which sorts by_id). Adding what exceeds the capacity
 * is a program's mistake and fail()s. */
void pack_clear(struct pack *pack);
void pack_add(struct pack *pack, const struct pack_layout *layout, const int32_t *tokens, int length,
              int example);
void pack_finish(struct pack *pack);

#endif
