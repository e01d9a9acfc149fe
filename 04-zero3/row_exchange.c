#include "04-zero3/row_exchange.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static size_t index_count(int ranks, struct pack_size capacity) {
    return ((size_t)ranks + 1) * (size_t)capacity.tokens;
}

size_t row_exchange_bytes(const struct layout *layout, struct pack_size capacity) {
    return index_count(layout->world_size, capacity) * sizeof(int32_t);
}

void row_exchange_open(struct row_exchange *x, struct device *device, struct comm *comm,
                       const struct collectives *collectives, const struct layout *layout,
                       struct pack_size capacity, size_t buffer_elements) {
    *x = (struct row_exchange){.device = device,
                               .comm = comm,
                               .layout = layout,
                               .ranks = comm_size(comm),
                               .rank = comm_rank(comm),
                               .capacity = capacity.tokens,
                               .buffer_rows = buffer_elements / layout->config.hidden};
    size_t bytes = row_exchange_bytes(layout, capacity), ranks = (size_t)x->ranks;
    if (x->buffer_rows < ranks)
        fail("the largest unit has %zu rows of the embedding, too few for %d ranks: start fewer ranks",
             x->buffer_rows, x->ranks);
    x->owners = xcalloc(ranks, sizeof *x->owners);
    for (int r = 0; r < x->ranks; r++) x->owners[slice_of(collectives, r)] = r;
    x->ids = xcalloc(ranks * ((size_t)capacity.tokens + 1), sizeof *x->ids);
    x->indices = device_alloc(device, ACTIVATIONS, bytes, "rows that ranks exchange");
    for (int i = 0; i < 2; i++) {
        x->staging[i] = host_alloc(device, BUFFERS, bytes, true, "rows that ranks exchange");
        x->copied[i] = event_open(device);
    }
}

void row_exchange_from_host(struct row_exchange *x, enum dtype dtype, bool pinned) {
    size_t rows = (size_t)x->ranks * (size_t)x->capacity; /* that all ranks together may ask me for */
    if (rows > x->buffer_rows) rows = x->buffer_rows;
    x->host_rows = host_alloc(x->device, BUFFERS, rows * x->layout->config.hidden * dtype_size(dtype), pinned,
                              "rows of the embedding");
    x->host_rows_copied = event_open(x->device);
}

void row_exchange_close(struct row_exchange *x) {
    if (x->host_rows) event_close(x->host_rows_copied);
    host_free(x->device, x->host_rows);
    for (int i = 0; i < 2; i++) {
        host_free(x->device, x->staging[i]);
        event_close(x->copied[i]);
    }
    device_free(x->device, x->indices);
    for (int i = 0; i < x->rounds_there; i++) {
        free(x->rounds[i].send_counts);
        free(x->rounds[i].recv_counts);
    }
    free(x->rounds);
    free(x->ids);
    free(x->owners);
}

/* Where a row of the embedding is. */
struct place {
    int owner;  /* the rank that has it */
    size_t row; /* and its number in that rank's slices of all chunks */
};

static struct place find_row(const struct row_exchange *x, int32_t id) {
    const struct layout *layout = x->layout;
    size_t chunk = (size_t)id / layout->chunk_rows, row = (size_t)id % layout->chunk_rows;
    size_t slice_rows = layout->units[layout->chunks_begin + (int)chunk].slice / layout->config.hidden;
    size_t before = chunk * (layout->chunk_rows / (size_t)x->ranks); /* in the chunks before this one */
    return (struct place){x->owners[row / slice_rows], before + row % slice_rows};
}

static const int32_t *ids_of(const struct row_exchange *x, int rank) {
    return x->ids + (size_t)rank * ((size_t)x->capacity + 1) + 1;
}

static int tokens_of(const struct row_exchange *x, int rank) {
    return ids_of(x, rank)[-1];
}

static void tell_ids(struct row_exchange *x, const struct pack *pack) {
    size_t count = (size_t)x->capacity + 1;
    int32_t *mine = xcalloc(count, sizeof *mine);
    mine[0] = pack->tokens;
    memcpy(mine + 1, pack->ids, (size_t)pack->tokens * sizeof *mine);
    comm_host_gather(x->comm, x->ids, mine, count * sizeof *mine);
    free(mine);
}

/* One more round, with all counts 0. */
static struct exchange_round *add_round(struct row_exchange *x, int begin) {
    size_t ranks = (size_t)x->ranks;
    if (x->round_count == x->rounds_there) {
        x->rounds = xrealloc(x->rounds, ((size_t)x->rounds_there + 1) * sizeof *x->rounds);
        x->rounds[x->rounds_there++] = (struct exchange_round){.send_counts = xcalloc(ranks, sizeof(size_t)),
                                                               .recv_counts = xcalloc(ranks, sizeof(size_t))};
    }
    struct exchange_round *round = &x->rounds[x->round_count++];
    round->begin = round->end = begin;
    memset(round->send_counts, 0, ranks * sizeof(size_t));
    memset(round->recv_counts, 0, ranks * sizeof(size_t));
    return round;
}

/* Cuts the packs into rounds in which nobody is asked for more rows than its buffer holds: the same rounds on
 * every rank. */
static void cut_rounds(struct row_exchange *x) {
    size_t *asked = xcalloc((size_t)x->ranks, sizeof *asked); /* of each owner, in this round */
    int longest = 0;
    for (int r = 0; r < x->ranks; r++)
        if (tokens_of(x, r) > longest) longest = tokens_of(x, r);
    x->round_count = 0;
    struct exchange_round *round = add_round(x, 0);
    for (int i = 0; i < longest; i++) {
        bool full = false;
        for (int owner = 0; owner < x->ranks; owner++)
            full = full || asked[owner] + (size_t)x->ranks > x->buffer_rows;
        if (full) {
            memset(asked, 0, (size_t)x->ranks * sizeof *asked);
            round = add_round(x, i);
        }
        for (int r = 0; r < x->ranks; r++)
            if (i < tokens_of(x, r)) asked[find_row(x, ids_of(x, r)[i]).owner]++;
        round->end = i + 1;
    }
    free(asked);
}

/* The rows that I send in a round: for each rank those of its tokens that I own, in the order of its tokens.
 */
static int32_t *plan_sending(const struct row_exchange *x, struct exchange_round *round, int32_t *rows) {
    int32_t *next = rows;
    for (int r = 0; r < x->ranks; r++)
        for (int i = round->begin; i < round->end && i < tokens_of(x, r); i++) {
            struct place place = find_row(x, ids_of(x, r)[i]);
            if (place.owner != x->rank) continue;
            *next++ = (int32_t)place.row;
            round->send_counts[r] += x->layout->config.hidden;
        }
    round->sent = (size_t)(next - rows);
    return next;
}

/* Where each of my tokens' rows comes to lie among those received in a round, which come sorted by owner. */
static void plan_receiving(const struct row_exchange *x, struct exchange_round *round, int32_t *places) {
    const int32_t *ids = ids_of(x, x->rank);
    int end = round->end < tokens_of(x, x->rank) ? round->end : tokens_of(x, x->rank);
    size_t *next = xcalloc((size_t)x->ranks + 1, sizeof *next); /* rows before the next one of each owner */
    for (int i = round->begin; i < end; i++) next[find_row(x, ids[i]).owner + 1]++;
    for (int r = 0; r < x->ranks; r++) {
        round->recv_counts[r] = next[r + 1] * x->layout->config.hidden;
        next[r + 1] += next[r];
    }
    for (int i = round->begin; i < end; i++) places[i] = (int32_t)next[find_row(x, ids[i]).owner]++;
    free(next);
}

void row_exchange_plan(struct row_exchange *x, struct stream *stream, const struct pack *pack) {
    tell_ids(x, pack);
    cut_rounds(x);
    size_t count = (size_t)(x->ranks + 1) * (size_t)x->capacity;
    int32_t *indices = xmalloc(count * sizeof *indices), *places = indices + count - (size_t)x->capacity;
    int32_t *next = indices;
    for (int i = 0; i < x->round_count; i++) {
        next = plan_sending(x, &x->rounds[i], next);
        plan_receiving(x, &x->rounds[i], places);
    }
    x->turn = 1 - x->turn;
    event_synchronize(x->copied[x->turn]);
    size_t rows = (size_t)(next - indices), tokens = (size_t)pack->tokens;
    size_t first_place = (size_t)(places - indices);
    int32_t *staging = x->staging[x->turn];
    if (device_computes()) {
        memcpy(staging, indices, rows * sizeof *indices);
        memcpy(staging + first_place, places, tokens * sizeof *indices);
    }
    copy_to_device(stream, x->indices, staging, rows * sizeof *indices);
    copy_to_device(stream, x->indices + first_place, staging + first_place, tokens * sizeof *indices);
    event_record(x->copied[x->turn], stream);
    free(indices);
}

/* The host picks a round's rows out of its slices; the device gets them behind each other in `buffer`. */
static void bring_rows(struct row_exchange *x, struct stream *stream, enum dtype dtype, void *buffer,
                       const char *slices, const int32_t *rows, size_t count) {
    size_t bytes = x->layout->config.hidden * dtype_size(dtype);
    event_synchronize(x->host_rows_copied);
    if (device_computes())
#pragma omp parallel for schedule(static) if (count > 64)
        for (size_t i = 0; i < count; i++)
            memcpy(x->host_rows + i * bytes, slices + (size_t)rows[i] * bytes, bytes);
    copy_to_device(stream, buffer, x->host_rows, count * bytes);
    event_record(x->host_rows_copied, stream);
}

void row_exchange_run(struct row_exchange *x, struct stream *stream, enum dtype dtype, void *out,
                      const void *embedding_slices, void *buffer, void *received) {
    size_t h = x->layout->config.hidden;
    const int32_t *rows = x->indices, *places = x->indices + (size_t)x->ranks * (size_t)x->capacity;
    const int32_t *host_rows = x->staging[x->turn]; /* the same as rows, and there until the next plan */
    for (int i = 0; i < x->round_count; i++) {
        const struct exchange_round *round = &x->rounds[i];
        int end = round->end < tokens_of(x, x->rank) ? round->end : tokens_of(x, x->rank);
        if (x->host_rows)
            bring_rows(x, stream, dtype, buffer, embedding_slices, host_rows, round->sent);
        else
            gather_rows(stream, dtype, buffer, embedding_slices, rows, round->sent, h);
        comm_all_to_all(x->comm, stream, received, round->recv_counts, buffer, round->send_counts, dtype);
        if (end > round->begin)
            gather_rows(stream, dtype, (char *)out + (size_t)round->begin * h * dtype_size(dtype), received,
                        places + round->begin, (size_t)(end - round->begin), h);
        rows += round->sent;
        host_rows += round->sent;
    }
}
