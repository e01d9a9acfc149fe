#include "06-multinode/hierarchical_collectives.h"

/* A unit's parts, as many as a node has ranks. */
struct part {
    char *memory;
    size_t count; /* elements: the slices of all nodes */
};

/* The part of `whole` that is this rank's on its node; `count` elements are a slice. */
static struct part my_part(const struct topology *t, void *whole, size_t count, enum dtype dtype) {
    size_t part = (size_t)t->nodes * count;
    return (struct part){(char *)whole + (size_t)t->local_rank * part * dtype_size(dtype), part};
}

static int slice_of_rank(const void *self, int rank) {
    const struct hierarchy *hierarchy = self;
    return topology_slice_of(hierarchy->topology, rank);
}

static struct comm_request two_level_reduce_scatter(void *self, struct stream *stream, void *out, void *in,
                                                    size_t count, enum dtype dtype) {
    const struct hierarchy *hierarchy = self;
    const struct topology *t = hierarchy->topology;
    struct part mine = my_part(t, in, count, dtype);
    const struct comm_step steps[] = {{t->inside, REDUCE_SCATTER, mine.memory, in, mine.count},
                                      {t->across, REDUCE_SCATTER, out, mine.memory, count}};
    return comm_chain_start(stream, REDUCE_SCATTER, steps, 2, dtype);
}

static struct comm_request two_level_all_gather(void *self, struct stream *stream, void *out, const void *in,
                                                size_t count, enum dtype dtype) {
    const struct hierarchy *hierarchy = self;
    const struct topology *t = hierarchy->topology;
    struct part mine = my_part(t, out, count, dtype);
    const void *kept = secondary_shard_find(hierarchy->secondary, in);
    if (kept) return comm_all_gather_start(t->inside, stream, out, kept, mine.count, dtype);
    const struct comm_step steps[] = {{t->across, ALL_GATHER, mine.memory, in, count},
                                      {t->inside, ALL_GATHER, out, mine.memory, mine.count}};
    return comm_chain_start(stream, ALL_GATHER, steps, 2, dtype);
}

static struct comm_request two_level_all_reduce(void *self, struct stream *stream, void *buffer, size_t count,
                                                enum dtype dtype) {
    const struct hierarchy *hierarchy = self;
    const struct topology *t = hierarchy->topology;
    struct part mine = my_part(t, buffer, count, dtype);
    const struct comm_step steps[] = {{t->inside, REDUCE_SCATTER, mine.memory, buffer, mine.count},
                                      {t->across, ALL_REDUCE, mine.memory, mine.memory, mine.count},
                                      {t->inside, ALL_GATHER, buffer, mine.memory, mine.count}};
    return comm_chain_start(stream, ALL_REDUCE, steps, 3, dtype);
}

struct collectives hierarchical_collectives(struct hierarchy *hierarchy) {
    const struct topology *t = hierarchy->topology;
    if (!t->two_levels) return collectives_flat(t->world);
    return (struct collectives){.self = hierarchy,
                                .slices = comm_size(t->world),
                                .slice = topology_slice_of(t, comm_rank(t->world)),
                                .slice_of = slice_of_rank,
                                .all_reduce_start = two_level_all_reduce,
                                .reduce_scatter_start = two_level_reduce_scatter,
                                .all_gather_start = two_level_all_gather};
}

struct level_bytes hierarchical_bytes(const struct topology *topology, double bytes) {
    double ranks = comm_size(topology->world), nodes = topology->nodes, local = topology->ranks_per_node;
    if (!topology->two_levels)
        return (struct level_bytes){(local - 1) / ranks * bytes, (ranks - local) / ranks * bytes};
    return (struct level_bytes){(local - 1) / local * bytes, (nodes - 1) / ranks * bytes};
}

void hierarchical_predict_sent(const struct hierarchy *hierarchy, struct session *session) {
    const struct topology *t = hierarchy->topology;
    struct session *s = session;
    struct level_bytes levels = hierarchical_bytes(t, 1);
    double together = levels.inside + levels.across; /* (N − 1)/N */
    s->across_predicted = true;
    for (int c = ALL_REDUCE; c <= ALL_GATHER && together > 0; c++) {
        s->across_per_update[c] = s->sent_per_update[c] * levels.across / together;
        s->across_per_pack[c] = s->sent_per_pack[c] * levels.across / together;
    }
    if (!secondary_shard_keeps(hierarchy->secondary)) return;
    double model = (double)s->layout.parameters * (double)dtype_size(s->dtype);
    s->sent_per_pack[ALL_GATHER] *= levels.inside / together;
    s->across_per_pack[ALL_GATHER] = 0;
    s->sent_per_update[ALL_GATHER] += model * levels.across;
    s->across_per_update[ALL_GATHER] += model * levels.across;
}
