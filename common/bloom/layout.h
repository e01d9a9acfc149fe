/*
 * Units and slices: how a BLOOM's parameters are cut.
 *
 * A unit is what is gathered, reduced and released together: the embedding's layer norm, each transformer
 * block, the final layer norm, and the word embedding in chunks of rows no larger than a block. The units
 * stand in the order in which the forward pass meets them:
 *
 *     0                 embedding layer norm
 *     blocks_begin …    one unit a block
 *     final_norm        final layer norm
 *     chunks_begin …    chunks of the word embedding, which is also the output head
 *
 * A unit's tensors lie in one flat buffer, those with weight decay first, padded so that it divides evenly
 * among the ranks into slices of whole 16-byte pieces (a buffer of one slice of every unit has `sliced`
 * elements, and a unit's slice lies there at `slice_offset`). An embedding chunk is padded to whole rows per
 * rank; all chunks but the last have equally many rows and no padding, so that in a buffer of all units the
 * embedding is one matrix. Parameters, gradients and optimizer state all have this layout: `offset` places a
 * unit in a buffer of all units. All sizes are in elements.
 */
#ifndef COMMON_BLOOM_LAYOUT_H
#define COMMON_BLOOM_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/bloom/config.h"

/* The tensors of a block, in the order in which they lie in its unit; then those of the other units. */
enum tensor_kind {
    QKV_WEIGHT,   /* [3h, h] */
    DENSE_WEIGHT, /* [h, h] */
    UP_WEIGHT,    /* [4h, h]  mlp.dense_h_to_4h */
    DOWN_WEIGHT,  /* [h, 4h]  mlp.dense_4h_to_h */
    INPUT_NORM_WEIGHT,
    INPUT_NORM_BIAS, /* [h]; not decayed from here on */
    QKV_BIAS,        /* [3h] */
    DENSE_BIAS,      /* [h] */
    POST_NORM_WEIGHT,
    POST_NORM_BIAS, /* [h]  post_attention_layernorm */
    UP_BIAS,        /* [4h] */
    DOWN_BIAS,      /* [h] */
    BLOCK_TENSORS,
    NORM_WEIGHT = 0,
    NORM_BIAS = 1,
    NORM_TENSORS = 2, /* embedding and final layer norm */
    CHUNK_ROWS = 0,
    CHUNK_TENSORS = 1 /* [rows, h]; decayed */
};

enum unit_kind { EMBEDDING_NORM, BLOCK, FINAL_NORM, EMBEDDING_CHUNK };

struct tensor {
    size_t offset; /* in the unit */
    size_t count;
    size_t rows, columns; /* a vector: 1 × count */
};

struct unit {
    enum unit_kind kind;
    int layer;           /* BLOCK: 0 …; EMBEDDING_CHUNK: the chunk's number */
    size_t offset;       /* in a buffer of all units */
    size_t count;        /* parameters */
    size_t padded;       /* with padding: world_size · slice */
    size_t slice;        /* elements a rank owns, */
    size_t slice_offset; /* and where they lie in a buffer of one slice of every unit */
    size_t decayed;      /* elements before this one have weight decay */
    size_t first_row;    /* EMBEDDING_CHUNK: row of the whole embedding at which it starts */
    size_t rows;         /* EMBEDDING_CHUNK: rows with parameters */
    size_t padded_rows;  /* EMBEDDING_CHUNK: rows with padding */
    int tensors;
    struct tensor tensor[BLOCK_TENSORS];
};

struct layout {
    struct bloom_config config;
    int world_size;
    int count; /* units */
    int blocks_begin, blocks_end;
    int final_norm;
    int chunks_begin, chunks_end;
    size_t chunk_rows;        /* rows of every chunk but the last, and at most of that */
    size_t padded_vocabulary; /* rows of all chunks with padding */
    size_t parameters;        /* Ψ: without padding */
    size_t padded;            /* elements of a buffer of all units */
    size_t sliced;            /* elements of a buffer of one slice of every unit */
    size_t largest;           /* the largest unit's padded size */
    struct unit *units;
};

/* Cuts a model for a number of ranks. The caller closes the layout. */
void layout_open(struct layout *layout, const struct bloom_config *config, int world_size);
void layout_close(struct layout *layout);

/* The part [begin, begin + count) of a unit's padded buffer that slice number `slice` of world_size covers.
 */
struct slice {
    size_t begin, count;
};
struct slice layout_slice(const struct unit *unit, int slice);

/* A parameter's number, whatever the cut: the word embedding is 0 (every chunk's tensor is a part of it),
 * then come the embedding layer norm's, the blocks' and the final layer norm's tensors. */
size_t parameter_number(const struct layout *layout, const struct unit *unit, int tensor);
size_t parameter_count(const struct layout *layout);
/* Where the unit's tensor begins in its parameter: 0, but for the chunks. In elements. */
size_t parameter_begin(const struct layout *layout, const struct unit *unit);
/* True for weight matrices and the embedding, which have weight decay; the others are vectors. */
bool tensor_is_matrix(const struct unit *unit, int tensor);

/* A parameter's name as BloomForCausalLM has it ("transformer.h.3.mlp.dense_h_to_4h.weight"), written into
 * `name`; every chunk's tensor is a part of "transformer.word_embeddings.weight". */
void tensor_name(const struct unit *unit, int tensor, char name[96]);
/* For people: "block 3", "embedding chunk 2". */
void unit_name(const struct unit *unit, char name[32]);

#endif
