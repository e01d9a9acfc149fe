/*
 * Greedy generation: the most probable token after a text, again and again.
 *
 * Without a cache each new token would take a forward pass over the whole text. But of the rows before it,
 * all that the new row needs are their keys and values in every block, and these do not change, as a row sees
 * only what is before it. So they are kept, and a pass computes new rows only: once the whole prompt, then
 * one row a token. What a token then costs is reading all parameters once, and the cache: that is why several
 * sequences are generated at a time, which share the reading.
 *
 *     struct generator *generator = generator_open(device, stream, &source, &options);
 *     struct generation texts[2] = {{.prompt = …, .prompt_tokens = …}, …};
 *     generate(generator, texts, 2, &rule);          // texts[i].tokens are the new ones
 *
 * Parameters come unit by unit from whoever has them (struct unit_source), so that a model that is cut among
 * ranks generates as well: each pass gathers each unit, the embedding twice (for the look-up and for the
 * head).
 *
 * Memory, in elements of the run's precision: a cache of 2 · layers · hidden for every position of the window
 * of every sequence, 15 · hidden for every row of a pass, a row of logits a sequence. ALiBi knows no longest
 * text, so the window is the caller's choice.
 */
#ifndef COMMON_BLOOM_GENERATE_H
#define COMMON_BLOOM_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/bloom/layout.h"
#include "common/device/device.h"
#include "common/text/ids.h"

/* Where a unit's whole parameters come from: device memory, valid until release(). A pass uses the chunks,
 * then all units in their order. Where ranks share the parameters, all of them make the same passes. */
struct unit_source {
    void *self;
    const void *(*use)(void *self, int unit);
    void (*release)(void *self, int unit);
};

struct generator_options {
    const struct layout *layout; /* must outlive the generator */
    enum dtype dtype;
    int sequences; /* at a time */
    int window;    /* positions of each: its prompt and what follows */
    int rows;      /* of a pass, at most; a longer prompt takes several */
};

struct generator;

/* Books its memory under the heading buffers. */
struct generator *generator_open(struct device *device, struct stream *stream,
                                 const struct unit_source *source, const struct generator_options *options);
void generator_close(struct generator *generator); /* NULL is fine */

/* Rows of one pass, host memory: row r is token ids[r] (below the vocabulary) at position positions[r] of the
 * sequence in slots[r]; what was before it came earlier, or comes in this pass. */
struct generator_rows {
    int count; /* at most options.rows; 0 is legal */
    const int32_t *ids, *slots, *positions;
    int last_count;      /* at most options.sequences */
    const int32_t *last; /* rows whose next token is asked for */
};

/* One pass: next [last_count] (host memory) are the most probable tokens after those rows, there when the
 * call returns. */
void generator_pass(struct generator *generator, const struct generator_rows *rows, int32_t *next);
/* The logits of the last pass, device memory [last_count, padded vocabulary]: for tests. */
const void *generator_logits(const struct generator *generator);

/* One text to go on with. */
struct generation {
    const int32_t *prompt; /* at least one token, and less than the window */
    int prompt_tokens;
    struct ids tokens; /* what came: starts as {0}, the caller calls ids_free. </s> is not among them */
    bool ended;        /* by </s>; else by max_new_tokens or the window's end */
};

struct generation_rule {
    int max_new_tokens;
    int32_t eos; /* </s> */
    /* Called with each token as it comes; NULL: nobody is told. */
    void (*told)(void *self, int text, int32_t token);
    /* Whether any rank has rows for another pass, where ranks share the parameters; NULL: this one alone. */
    bool (*any)(void *self, bool mine);
    void *self;
};

/* Goes on with `count` texts (at most options.sequences; 0 is legal where others generate) until each ended.
 */
void generate(struct generator *generator, struct generation *texts, int count,
              const struct generation_rule *rule);

#endif
