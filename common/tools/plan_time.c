/*
 * The time of an update, from what the dry backend counted and from rates. It is a sum of few terms:
 *
 * compute: operations of products ÷ their rate + bytes of all kernels ÷ the memory's, one after the other, on
 * the rank that has the most to do, as the others wait for it.
 *
 * communication: bytes sent inside a node ÷ the rate inside, and what leaves a node ÷ the rate across. In
 * stage 06's two levels one after the other. In one level both go at once, so the longer counts; and with
 * GPUs NCCL's rings, in which all that a rank sends goes to one neighbour: one rank of a node sends it
 * across, not all of them, as the bytes of pairwise exchanges say.
 *
 * hidden: of it what goes on behind computation: reduce-scatters (and stage 01's all-reduce) behind the
 * backward that they belong to, all-gathers of stage 3 behind forward and backward, of stages 1 and 2 behind
 * AdamW on the CPU or the next forward. A second of it costs the computation a part of a second, the rate
 * `hidden`: it takes memory bandwidth, and NCCL's kernels take processor cores.
 *
 * exposed: the rest, and the rows of the look-up: nothing else is done meanwhile.
 *
 * link: copies between device and host in forward and backward. From pinned memory behind the computation, so
 * the longer of the two counts; from pageable memory one after the other.
 *
 * host: AdamW on the CPU: what it moves through host memory ÷ its rate, which a node's ranks share. In
 * forward and backward the same memory carries the copies, and gradients that the CPU adds up: where that
 * takes longest, it is what counts there.
 *
 * Left out are gaps between kernels, smaller products' lower rates, the first unit's gather, and the choice
 * of algorithms for products of a size that comes for the first time.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tools/plan.h"
#include "common/train/run_metrics.h"

/* What the settings of a run say that matters here. */
struct kind {
    int zero_stage;
    bool two_levels, rings; /* of collectives; the latter where NCCL does them */
    bool optimizer_on_host, gradients_on_host, parameters_on_host, pinned;
    double forward;    /* of the computation; the rest is backward */
    double element;    /* bytes of a parameter */
    double owned;      /* parameters whose optimizer state is this rank's */
    double node_ranks; /* ranks of a node */
};

static bool is_text(const json_t *settings, const char *key, const char *text) {
    return !strcmp(run_metrics_text(settings, key), text);
}

static struct kind kind_of(const struct plan_counts *counts, const struct plan_case *row) {
    const json_t *settings = json_object_get(counts->run, "settings");
    bool checkpointing = json_is_true(json_object_get(settings, "gradient_checkpointing"));
    bool pinned = json_is_true(json_object_get(settings, "pin_memory"));
    struct kind kind = {
        .zero_stage = (int)run_metrics_number(settings, "zero_stage"),
        .two_levels = atoi(row->stage) >= 6 && row->nodes > 1 && row->ranks > row->nodes,
        .rings = is_text(settings, "dry_device", "gpu"),
        .optimizer_on_host = is_text(settings, "offload_optimizer", "cpu"),
        .gradients_on_host = json_is_true(json_object_get(settings, "offload_gradients")),
        .parameters_on_host = is_text(settings, "offload_param", "cpu"),
        .pinned = is_text(settings, "offload_optimizer_pin_memory", "auto")
                      ? pinned
                      : is_text(settings, "offload_optimizer_pin_memory", "true"),
        .forward = checkpointing ? 1.0 / 4 : 1.0 / 3,
        .element = is_text(counts->run, "precision", "fp32") ? 4 : 2,
        .owned = run_metrics_number(counts->run, "parameters"),
        .node_ranks = (double)row->ranks / row->nodes,
    };
    if (kind.zero_stage > 0) kind.owned /= row->ranks;
    return kind;
}

/* ---- communication ---- */

static double collective_time(const struct plan_counts *counts, const struct kind *kind, int collective,
                              const struct plan_rates *rates) {
    double near = counts->inside[collective], far = counts->across[collective];
    bool ring = kind->rings && !kind->two_levels && collective != ALL_TO_ALL && far > 0;
    double inside = (ring ? near + far : near) / rates->values[RATE_INSIDE];
    double across = (ring ? near + far : far * kind->node_ranks) / rates->values[RATE_ACROSS];
    return kind->two_levels ? inside + across : fmax(inside, across);
}

/* What goes on while a forward or a backward of the update has time for it. */
static void hide(struct plan_times *times, double communication, double window) {
    double hidden = fmin(communication, window);
    times->hidden += hidden;
    times->exposed += communication - hidden;
}

static void add_communication(struct plan_times *times, const struct plan_counts *counts,
                              const struct kind *kind, const struct plan_rates *rates) {
    double seconds[COLLECTIVES], packs = fmax(counts->packs, 1), pack = times->compute / packs;
    for (int c = 0; c < COLLECTIVES; c++) {
        seconds[c] = collective_time(counts, kind, c, rates);
        times->communication += seconds[c];
    }
    double reduce = seconds[ALL_REDUCE] + seconds[REDUCE_SCATTER], gather = seconds[ALL_GATHER];
    double reducing = kind->zero_stage >= 2 ? packs : 1; /* packs whose gradients are reduced */
    double forward = pack * kind->forward, backward = pack - forward;
    times->exposed += seconds[ALL_TO_ALL] + seconds[BROADCAST];
    if (kind->zero_stage == 3) {
        hide(times, gather / 2, packs * forward);
        hide(times, gather / 2 + reduce, packs * backward);
        return;
    }
    if (kind->optimizer_on_host)
        gather -= fmin(gather, times->host); /* behind AdamW on the CPU: for nothing */
    hide(times, gather, forward);
    hide(times, reduce, reducing * backward);
}

/* ---- offload ---- */

/* Seconds of copies each way at once where memory is pinned, else one after the other. */
static double copying(double up, double down, const struct kind *kind, const struct plan_rates *rates) {
    if (kind->pinned) return fmax(up, down) / rates->values[RATE_LINK];
    return (up + down) / rates->values[RATE_PAGEABLE];
}

static double host_rate(const struct kind *kind, const struct plan_rates *rates) {
    return fmin(kind->node_ranks * rates->values[RATE_HOST_RANK], rates->values[RATE_HOST]) /
           kind->node_ranks;
}

/* AdamW reads a gradient, reads and writes three fp32 numbers, and writes a parameter. With it go the copies
 * of gradients down and of parameters up, where these are not on the host anyway. */
static double host_update(const struct kind *kind, const struct plan_rates *rates) {
    double slice = kind->element * kind->owned;
    double moving = (24 * kind->owned + 2 * slice) / host_rate(kind, rates);
    double copies =
        copying(kind->parameters_on_host ? 0 : slice, kind->gradients_on_host ? 0 : slice, kind, rates);
    return kind->pinned ? fmax(moving, copies) : moving + copies;
}

/* Bytes copied in forward and backward, each way: all that were counted, but for the update's own. */
struct copies {
    double up, down;
};
static struct copies copies_of(const struct plan_counts *counts, const struct kind *kind) {
    double slice = kind->element * kind->owned;
    double down = kind->gradients_on_host ? counts->packs * slice : 0;
    double update = (kind->gradients_on_host ? 0 : slice) + (kind->parameters_on_host ? 0 : slice);
    return (struct copies){.up = fmax(counts->copied_bytes - update - down, 0), .down = down};
}

/* What host memory carries in forward and backward: the copies; and where gradients add up there, two reads
 * and a write for each pack but the first. */
static double carrying_time(const struct plan_counts *counts, const struct kind *kind, struct copies copies,
                            const struct plan_rates *rates) {
    double adding = kind->gradients_on_host ? (counts->packs - 1) * 3 * kind->element * kind->owned : 0;
    return (copies.up + copies.down + adding) / host_rate(kind, rates);
}

struct plan_times plan_time(const struct plan_counts *counts, const struct plan_case *row,
                            const struct plan_rates *rates) {
    struct kind kind = kind_of(counts, row);
    struct plan_times times = {.compute = counts->product_flops / rates->values[RATE_PRODUCTS] +
                                          counts->bytes / rates->values[RATE_MEMORY]};
    double carrying = 0;
    if (kind.optimizer_on_host) {
        struct copies copies = copies_of(counts, &kind);
        times.host = host_update(&kind, rates);
        times.link = copying(copies.up, copies.down, &kind, rates);
        carrying = carrying_time(counts, &kind, copies, rates);
    }
    add_communication(&times, counts, &kind, rates);
    double computing = fmax(times.compute + rates->values[RATE_HIDDEN] * times.hidden, carrying);
    double walk = kind.pinned ? fmax(computing, times.link) : computing + times.link;
    times.update = walk + times.exposed + times.host;
    return times;
}
