#include "common/text/batches.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/text/order.h"

struct batches {
    const struct examples *examples;
    struct batches_options options;
    bool shuffled;
    int32_t *order;  /* [examples->count] of the current epoch */
    long long epoch; /* whose order that is; −1: none yet */
    /* The current update, of all ranks: batches first_batch … first_batch + batch_count − 1 of the epoch. */
    int first_batch, batch_count;
    int packs;
};

static int ceiling(long long value, long long divisor) {
    return (int)((value + divisor - 1) / divisor);
}

/* Batches of an epoch, whoever computes them. */
static int epoch_batches(const struct batches *batches) {
    return ceiling(batches->examples->count, batches->options.batch);
}

/* Batches that one update takes. */
static long long update_batches(const struct batches *batches) {
    if (!batches->shuffled) return epoch_batches(batches);
    return (long long)batches->options.accumulation * batches->options.world_size;
}

static struct batches *open_batches(const struct examples *examples, const struct batches_options *options,
                                    bool shuffled) {
    struct batches *batches = xcalloc(1, sizeof *batches);
    *batches = (struct batches){
        .examples = examples, .options = *options, .shuffled = shuffled, .epoch = -1, .packs = 1};
    batches->order = xmalloc((size_t)examples->count * sizeof *batches->order);
    for (int i = 0; i < examples->count; i++) batches->order[i] = i;
    return batches;
}

struct batches *batches_open(const struct examples *examples, const struct batches_options *options) {
    return open_batches(examples, options, true);
}

struct batches *batches_open_evaluation(const struct examples *examples,
                                        const struct batches_options *options) {
    return open_batches(examples, options, false);
}

void batches_close(struct batches *batches) {
    if (!batches) return;
    free(batches->order);
    free(batches);
}

int batches_updates_per_epoch(const struct batches *batches) {
    return ceiling(epoch_batches(batches), update_batches(batches));
}

/* Most rows of a pack; every example fits. */
static int pack_limit(const struct batches *batches) {
    const struct batches_options *options = &batches->options;
    long long limit = options->pack_tokens > 0 ? options->pack_tokens
                                               : (long long)options->batch * options->layout.max_seq_length;
    if (limit < options->layout.max_seq_length) limit = options->layout.max_seq_length;
    if (limit > INT32_MAX)
        fail("a batch of %d × max_seq_length %d has more rows than a pack can; lower one of them",
             options->batch, options->layout.max_seq_length);
    return (int)limit;
}

/* Visits the examples of one rank in the current update, in order, and tells in which pack each goes. */
struct walk {
    const struct batches *batches;
    int batch;       /* of the epoch: the rank's next */
    int next;        /* index into the order, of the next example of the batch at work */
    int end;         /* behind that batch's last */
    int limit, used; /* rows of the pack at work */
    int pack;        /* the number of the pack at work, −1 before the first example */
    bool new_batch;
};

static struct walk walk_rank(const struct batches *batches, int rank) {
    return (struct walk){
        .batches = batches, .batch = batches->first_batch + rank, .limit = pack_limit(batches), .pack = -1};
}

/* The next example, −1 at the end; walk->pack is its pack. */
static int walk_next(struct walk *walk) {
    const struct batches *batches = walk->batches;
    const struct batches_options *options = &batches->options;
    if (walk->next == walk->end) {
        if (walk->batch >= batches->first_batch + batches->batch_count) return -1;
        long long first = (long long)walk->batch * options->batch, end = first + options->batch;
        walk->next = (int)first;
        walk->end = end < batches->examples->count ? (int)end : batches->examples->count;
        walk->batch += options->world_size;
        walk->new_batch = true;
    }
    int example = batches->order[walk->next++];
    int rows = layout_rows(&options->layout, examples_length(batches->examples, example));
    bool full = options->layout.pad_to_max_length ? walk->new_batch : rows > walk->limit - walk->used;
    if (walk->pack < 0 || full) {
        walk->pack++;
        walk->used = 0;
    }
    walk->used += rows;
    walk->new_batch = false;
    return example;
}

static int most_packs(const struct batches *batches) {
    int packs = 1;
    for (int rank = 0; rank < batches->options.world_size; rank++) {
        struct walk walk = walk_rank(batches, rank);
        while (walk_next(&walk) >= 0) continue;
        if (walk.pack + 1 > packs) packs = walk.pack + 1;
    }
    return packs;
}

/* Makes `update` the current one, without looking at its packs. */
static void move_to(struct batches *batches, long long update) {
    long long per_epoch = batches_updates_per_epoch(batches);
    long long epoch = update / per_epoch;
    if (batches->shuffled && epoch != batches->epoch)
        shuffled_order(batches->order, batches->examples->count, batches->options.seed, (uint32_t)epoch);
    batches->epoch = epoch;
    long long first = update % per_epoch * update_batches(batches), left = epoch_batches(batches) - first;
    batches->first_batch = (int)first;
    batches->batch_count = (int)(left < update_batches(batches) ? left : update_batches(batches));
}

void batches_update(struct batches *batches, long long update, struct update *description) {
    const struct batches_options *options = &batches->options;
    move_to(batches, update);
    batches->packs = most_packs(batches);
    *description = (struct update){.packs = batches->packs};
    int first = batches->first_batch * options->batch;
    for (int i = 0; i < batches->batch_count * (long long)options->batch; i++) {
        if (i >= batches->examples->count - first) break;
        int length = examples_length(batches->examples, batches->order[first + i]);
        description->examples++;
        description->tokens += length;
        description->predicted += layout_predicted(&options->layout, length);
    }
    /* As the Trainer's: a step is what every rank does with one batch each. */
    int steps = ceiling(batches->first_batch + batches->batch_count, options->world_size);
    int epoch_steps = ceiling(epoch_batches(batches), options->world_size);
    description->epoch = (double)batches->epoch + (double)steps / (double)epoch_steps;
}

void batches_fill(struct batches *batches, int number, struct pack *pack) {
    struct walk walk = walk_rank(batches, batches->options.rank);
    pack_clear(pack);
    for (int example; (example = walk_next(&walk)) >= 0 && walk.pack <= number;)
        if (walk.pack == number)
            pack_add(pack, &batches->options.layout, examples_tokens(batches->examples, example),
                     examples_length(batches->examples, example), example);
    pack_finish(pack);
}

static void enlarge(struct pack_size *largest, const struct pack_size *size) {
    if (size->tokens > largest->tokens) largest->tokens = size->tokens;
    if (size->sequences > largest->sequences) largest->sequences = size->sequences;
    if (size->labelled > largest->labelled) largest->labelled = size->labelled;
}

static void enlarge_by_rank(const struct batches *batches, int rank, struct pack_size *largest) {
    struct walk walk = walk_rank(batches, rank);
    struct pack_size size = {0};
    int pack = 0;
    for (int example; (example = walk_next(&walk)) >= 0;) {
        if (walk.pack != pack) {
            enlarge(largest, &size);
            size = (struct pack_size){0};
            pack = walk.pack;
        }
        int length = examples_length(batches->examples, example);
        size.tokens += layout_rows(&batches->options.layout, length);
        size.labelled += layout_labelled(&batches->options.layout, length);
        size.sequences++;
    }
    enlarge(largest, &size);
}

struct pack_size batches_largest(const struct batches *batches, long long updates) {
    struct batches *walker = open_batches(batches->examples, &batches->options, batches->shuffled);
    struct pack_size largest = {0};
    for (long long update = 0; update < updates; update++) {
        move_to(walker, update);
        for (int rank = 0; rank < batches->options.world_size; rank++)
            enlarge_by_rank(walker, rank, &largest);
    }
    batches_close(walker);
    return largest;
}
