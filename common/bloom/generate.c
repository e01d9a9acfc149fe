#include "common/bloom/generate.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/device/kernels.h"

/* Activations, used by one block after the other: nothing of them is needed again. n rows, s sequences. */
struct generator {
    struct device *device;
    struct stream *stream;
    struct unit_source source;
    struct generator_options options;
    const void *parameters; /* of the unit at work */
    const struct unit *unit;

    struct key_value_cache *caches; /* [layers] */
    void *x, *norm, *qkv, *context, *middle, *up, *wide;
    float *mean, *rstd;              /* [n] */
    void *selected, *normed;         /* [s,h] */
    void *logits;                    /* [s, padded vocabulary] */
    int32_t *next;                   /* [s] */
    int32_t *numbers, *host_numbers; /* what a pass must know of its rows: device memory, and its source */
    int32_t *chunk_rows; /* [chunks + 1] host: where a chunk's tokens begin among those by chunk */
    /* Parts of numbers. */
    int32_t *by_chunk;          /* [n] tokens sorted by the embedding's chunk they are in, as rows of it */
    int32_t *places;            /* [n] where a row's token stands among these */
    int32_t *slots, *positions; /* [n] */
    int32_t *last;              /* [s] */
};

/* ---- opening ---- */

static void *allocate(struct generator *g, size_t count, size_t size, const char *what) {
    return device_alloc(g->device, BUFFERS, count * size, what);
}

static void open_caches(struct generator *g) {
    const struct bloom_config *config = &g->options.layout->config;
    size_t capacity = (size_t)g->options.window;
    size_t elements = (size_t)g->options.sequences * capacity * config->hidden;
    g->caches = xcalloc(config->layers, sizeof *g->caches);
    for (size_t i = 0; i < config->layers; i++) {
        struct key_value_cache *cache = &g->caches[i];
        cache->capacity = capacity;
        cache->keys = allocate(g, elements, dtype_size(g->options.dtype), "keys of a generated text");
        cache->values = allocate(g, elements, dtype_size(g->options.dtype), "values of a generated text");
    }
}

static void open_activations(struct generator *g) {
    const struct layout *layout = g->options.layout;
    size_t n = (size_t)g->options.rows, s = (size_t)g->options.sequences, h = layout->config.hidden;
    size_t size = dtype_size(g->options.dtype);
    g->x = allocate(g, n * h, size, "a block's input");
    g->norm = allocate(g, n * h, size, "a layer norm's output");
    g->qkv = allocate(g, 3 * n * h, size, "queries, keys and values");
    g->context = allocate(g, n * h, size, "attention's output");
    g->middle = allocate(g, n * h, size, "a block's residual stream");
    g->up = allocate(g, 4 * n * h, size, "a block's wide activation");
    g->wide = allocate(g, 4 * n * h, size, "GELU's output");
    g->mean = allocate(g, n > s ? n : s, sizeof(float), "layer-norm statistics");
    g->rstd = allocate(g, n > s ? n : s, sizeof(float), "layer-norm statistics");
    g->selected = allocate(g, s * h, size, "last rows");
    g->normed = allocate(g, s * h, size, "the head's input");
    g->logits = allocate(g, s * layout->padded_vocabulary, size, "logits");
    g->next = allocate(g, s, sizeof(int32_t), "next tokens");
}

static void open_numbers(struct generator *g) {
    size_t n = (size_t)g->options.rows, s = (size_t)g->options.sequences, count = 4 * n + s;
    g->numbers = allocate(g, count, sizeof(int32_t), "numbers of tokens and rows");
    g->host_numbers = xcalloc(count, sizeof(int32_t));
    g->by_chunk = g->numbers;
    g->places = g->numbers + n;
    g->slots = g->numbers + 2 * n;
    g->positions = g->numbers + 3 * n;
    g->last = g->numbers + 4 * n;
    int chunks = g->options.layout->chunks_end - g->options.layout->chunks_begin;
    g->chunk_rows = xcalloc((size_t)chunks + 1, sizeof *g->chunk_rows);
}

struct generator *generator_open(struct device *device, struct stream *stream,
                                 const struct unit_source *source, const struct generator_options *options) {
    struct generator *g = xcalloc(1, sizeof *g);
    *g = (struct generator){.device = device, .stream = stream, .source = *source, .options = *options};
    open_caches(g);
    open_activations(g);
    open_numbers(g);
    return g;
}

void generator_close(struct generator *g) {
    if (!g) return;
    for (size_t i = 0; i < g->options.layout->config.layers; i++) {
        device_free(g->device, g->caches[i].keys);
        device_free(g->device, g->caches[i].values);
    }
    void *const blocks[] = {g->x,    g->norm, g->qkv,      g->context, g->middle, g->up,   g->wide,
                            g->mean, g->rstd, g->selected, g->normed,  g->logits, g->next, g->numbers};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) device_free(g->device, blocks[i]);
    free(g->host_numbers);
    free(g->chunk_rows);
    free(g->caches);
    free(g);
}

/* ---- one pass ---- */

static void use(struct generator *g, int unit) {
    g->unit = &g->options.layout->units[unit];
    g->parameters = g->source.use(g->source.self, unit);
}

static void release(struct generator *g, int unit) {
    g->source.release(g->source.self, unit);
    g->parameters = NULL;
}

/* A tensor of the unit at work. */
static const void *parameter(const struct generator *g, int tensor) {
    return (const char *)g->parameters + g->unit->tensor[tensor].offset * dtype_size(g->options.dtype);
}

/* The host's copy of a part of the numbers. */
static int32_t *host(const struct generator *g, const int32_t *part) {
    return g->host_numbers + (part - g->numbers);
}

/* Sorts the tokens by chunk, stable: by_chunk, places and chunk_rows. */
static void sort_by_chunk(struct generator *g, const struct generator_rows *rows) {
    const struct layout *layout = g->options.layout;
    int chunks = layout->chunks_end - layout->chunks_begin, place = 0;
    int32_t chunk_rows = (int32_t)layout->chunk_rows;
    for (int c = 0; c < chunks; c++) {
        g->chunk_rows[c] = place;
        for (int r = 0; r < rows->count; r++) {
            if (rows->ids[r] / chunk_rows != c) continue;
            host(g, g->by_chunk)[place] = rows->ids[r] % chunk_rows;
            host(g, g->places)[r] = place++;
        }
    }
    g->chunk_rows[chunks] = place;
}

static void upload(struct generator *g, const struct generator_rows *rows) {
    size_t bytes = (size_t)rows->count * sizeof(int32_t);
    if (rows->count > g->options.rows || rows->last_count > g->options.sequences)
        fail("%d rows of %d texts are more than the generator's %d of %d; please report this", rows->count,
             rows->last_count, g->options.rows, g->options.sequences);
    sort_by_chunk(g, rows);
    if (rows->count) memcpy(host(g, g->slots), rows->slots, bytes);
    if (rows->count) memcpy(host(g, g->positions), rows->positions, bytes);
    if (rows->last_count) memcpy(host(g, g->last), rows->last, (size_t)rows->last_count * sizeof(int32_t));
    size_t count = 4 * (size_t)g->options.rows + (size_t)g->options.sequences;
    copy_to_device(g->stream, g->numbers, g->host_numbers, count * sizeof(int32_t));
}

/* The tokens' rows, chunk by chunk, as no more than one need be here; then in their order, and normed: x. */
static void embed(struct generator *g, const struct generator_rows *rows) {
    const struct layout *layout = g->options.layout;
    enum dtype dtype = g->options.dtype;
    size_t n = (size_t)rows->count, h = layout->config.hidden, row_bytes = h * dtype_size(dtype);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) {
        int first = g->chunk_rows[c - layout->chunks_begin],
            end = g->chunk_rows[c - layout->chunks_begin + 1];
        use(g, c);
        embedding_lookup(g->stream, dtype, (char *)g->wide + (size_t)first * row_bytes,
                         parameter(g, CHUNK_ROWS), g->by_chunk + first, (size_t)(end - first), h);
        release(g, c);
    }
    gather_rows(g->stream, dtype, g->norm, g->wide, g->places, n, h);
    use(g, 0);
    layernorm_forward(g->stream, dtype, g->x, g->mean, g->rstd, g->norm, parameter(g, NORM_WEIGHT),
                      parameter(g, NORM_BIAS), n, h, layout->config.layer_norm_epsilon);
    release(g, 0);
}

/* As block_forward (forward.c), but for attention; x is replaced by the block's output. */
static void block(struct generator *g, int unit, const struct cached_rows *rows) {
    const struct bloom_config *config = &g->options.layout->config;
    struct stream *stream = g->stream;
    enum dtype dtype = g->options.dtype;
    size_t n = (size_t)rows->count, h = config->hidden;
    bool post = config->post_layernorm;
    use(g, unit);
    layernorm_forward(stream, dtype, g->norm, g->mean, g->rstd, g->x, parameter(g, INPUT_NORM_WEIGHT),
                      parameter(g, INPUT_NORM_BIAS), n, h, config->layer_norm_epsilon);
    linear_forward(stream, dtype, g->qkv, 3 * h, g->norm, parameter(g, QKV_WEIGHT), parameter(g, QKV_BIAS),
                   NULL, n, 3 * h, h);
    attention_cached(stream, dtype, g->context, &g->caches[g->unit->layer], g->qkv, rows, config->heads,
                     config->head_dim);
    linear_forward(stream, dtype, g->middle, h, g->context, parameter(g, DENSE_WEIGHT),
                   parameter(g, DENSE_BIAS), post ? g->norm : g->x, n, h, h);

    layernorm_forward(stream, dtype, g->norm, g->mean, g->rstd, g->middle, parameter(g, POST_NORM_WEIGHT),
                      parameter(g, POST_NORM_BIAS), n, h, config->layer_norm_epsilon);
    linear_gelu_forward(stream, dtype, g->wide, g->up, g->norm, parameter(g, UP_WEIGHT),
                        parameter(g, UP_BIAS), n, 4 * h, h);
    linear_forward(stream, dtype, g->x, h, g->wide, parameter(g, DOWN_WEIGHT), parameter(g, DOWN_BIAS),
                   post ? g->norm : g->middle, n, h, 4 * h);
    release(g, unit);
}

/* Logits of the last rows. */
static void head(struct generator *g, size_t count) {
    const struct layout *layout = g->options.layout;
    enum dtype dtype = g->options.dtype;
    size_t h = layout->config.hidden;
    gather_rows(g->stream, dtype, g->selected, g->x, g->last, count, h);
    use(g, layout->final_norm);
    layernorm_forward(g->stream, dtype, g->normed, g->mean, g->rstd, g->selected, parameter(g, NORM_WEIGHT),
                      parameter(g, NORM_BIAS), count, h, layout->config.layer_norm_epsilon);
    release(g, layout->final_norm);
    for (int c = layout->chunks_begin; c < layout->chunks_end; c++) {
        use(g, c);
        linear_forward(g->stream, dtype, (char *)g->logits + g->unit->first_row * dtype_size(dtype),
                       layout->padded_vocabulary, g->normed, parameter(g, CHUNK_ROWS), NULL, NULL, count,
                       g->unit->padded_rows, h);
        release(g, c);
    }
}

void generator_pass(struct generator *g, const struct generator_rows *rows, int32_t *next) {
    const struct layout *layout = g->options.layout;
    size_t last = (size_t)rows->last_count;
    struct cached_rows cached = {.count = rows->count, .slots = g->slots, .positions = g->positions};
    for (int r = 0; r < rows->count; r++) cached.keys += rows->positions[r] + 1;
    upload(g, rows);
    embed(g, rows);
    for (int u = layout->blocks_begin; u < layout->blocks_end; u++) block(g, u, &cached);
    head(g, last);
    largest_column(g->stream, g->options.dtype, g->next, g->logits, last, layout->config.vocabulary,
                   layout->padded_vocabulary);
    copy_to_host(g->stream, next, g->next, last * sizeof *next);
    stream_synchronize(g->stream);
}

const void *generator_logits(const struct generator *g) {
    return g->logits;
}

/* ---- whole texts ---- */

/* How far a text is: `passed` of its tokens, prompt and new ones, went through the model. */
struct progress {
    int passed;
    bool done;
};

/* A pass's rows being put together. */
struct draft {
    struct generator_rows rows;
    int32_t *ids, *slots, *positions, *last, *next;
    int *texts; /* [last_count] whose next tokens come */
};

static struct draft draft_open(const struct generator *g) {
    size_t n = (size_t)g->options.rows, s = (size_t)g->options.sequences;
    struct draft d = {.ids = xmalloc(n * sizeof *d.ids),
                      .slots = xmalloc(n * sizeof *d.slots),
                      .positions = xmalloc(n * sizeof *d.positions),
                      .last = xmalloc(s * sizeof *d.last),
                      .next = xmalloc(s * sizeof *d.next),
                      .texts = xmalloc(s * sizeof *d.texts)};
    d.rows =
        (struct generator_rows){.ids = d.ids, .slots = d.slots, .positions = d.positions, .last = d.last};
    return d;
}

static void draft_close(struct draft *d) {
    free(d->ids);
    free(d->slots);
    free(d->positions);
    free(d->last);
    free(d->next);
    free(d->texts);
}

/* Adds what is known of a text and has not been through the model, as far as there is room. */
static void add_rows(struct draft *d, int room, const struct generation *text, struct progress *progress,
                     int number) {
    int known = text->prompt_tokens + (int)text->tokens.count;
    while (progress->passed < known && d->rows.count < room) {
        int at = progress->passed++, row = d->rows.count++;
        d->ids[row] =
            at < text->prompt_tokens ? text->prompt[at] : text->tokens.data[at - text->prompt_tokens];
        d->slots[row] = number;
        d->positions[row] = at;
        if (progress->passed < known) continue;
        d->texts[d->rows.last_count] = number;
        d->last[d->rows.last_count++] = row;
    }
}

/* The token that came for a text: taken, or its end. */
static void take(const struct generator *g, struct generation *text, struct progress *progress, int number,
                 int32_t token, const struct generation_rule *rule) {
    text->ended = token == rule->eos;
    progress->done = text->ended;
    if (text->ended) return;
    ids_append(&text->tokens, &token, 1);
    if (rule->told) rule->told(rule->self, number, token);
    progress->done = (int)text->tokens.count >= rule->max_new_tokens ||
                     text->prompt_tokens + (int)text->tokens.count >= g->options.window;
}

static void check_text(const struct generator *g, const struct generation *text, int number) {
    if (text->prompt_tokens < 1 || text->prompt_tokens >= g->options.window)
        fail("text %d to generate from has %d tokens: at least 1 and less than %d are possible", number + 1,
             text->prompt_tokens, g->options.window);
}

void generate(struct generator *g, struct generation *texts, int count, const struct generation_rule *rule) {
    struct progress *progress = xcalloc((size_t)count, sizeof *progress);
    struct draft d = draft_open(g);
    for (int i = 0; i < count; i++) {
        check_text(g, &texts[i], i);
        progress[i].done = rule->max_new_tokens <= 0;
    }
    for (;;) {
        d.rows.count = d.rows.last_count = 0;
        for (int i = 0; i < count; i++)
            if (!progress[i].done) add_rows(&d, g->options.rows, &texts[i], &progress[i], i);
        bool mine = d.rows.count > 0;
        if (!(rule->any ? rule->any(rule->self, mine) : mine)) break;
        generator_pass(g, &d.rows, d.next);
        for (int i = 0; i < d.rows.last_count; i++)
            take(g, &texts[d.texts[i]], &progress[d.texts[i]], d.texts[i], d.next[i], rule);
    }
    draft_close(&d);
    free(progress);
}
