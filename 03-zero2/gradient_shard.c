#include "03-zero2/gradient_shard.h"

#include "common/base/error.h"

int rotation_depth(const struct layout *layout, int wanted) {
    size_t saved = layout->padded - layout->sliced; /* what is not kept whole */
    int depth = wanted;
    while (depth > 1 && (size_t)depth * layout->largest >= saved) depth--;
    return depth;
}

/* Where even one buffer is as large as all that is not kept, which takes a model of very few units. */
static void warn_unless_saving(const struct layout *layout) {
    if (layout->world_size == 1 || layout->largest < layout->padded - layout->sliced) return;
    int largest = 0;
    while (layout->units[largest].padded < layout->largest) largest++;
    char name[32];
    unit_name(&layout->units[largest], name);
    warn("%s has %.0f%% of the model's parameters: a buffer for it takes as much as %d ranks save that keep "
         "slices; do not expect less memory than in the stage before",
         name, 100.0 * (double)layout->units[largest].count / (double)layout->parameters, layout->world_size);
}

void gradient_shard_open(struct gradient_shard *shard, struct device *device, struct stream *stream,
                         struct comm *comm, const struct layout *layout,
                         const struct collectives *collectives, enum dtype dtype) {
    gradient_shard_open_to(shard, device, stream, comm, layout, collectives, dtype, NULL);
}

void gradient_shard_open_to(struct gradient_shard *shard, struct device *device, struct stream *stream,
                            struct comm *comm, const struct layout *layout,
                            const struct collectives *collectives, enum dtype dtype,
                            const struct gradient_sink *sink) {
    *shard = (struct gradient_shard){.device = device,
                                     .stream = stream,
                                     .comm = comm,
                                     .layout = layout,
                                     .collectives = collectives,
                                     .dtype = dtype,
                                     .sink = sink,
                                     .depth = GRADIENT_ROTATION};
    warn_unless_saving(layout);
    size_t size = dtype_size(dtype);
    shard->adding = stream_open(device, "adding gradients");
    if (!sink) {
        shard->depth = rotation_depth(layout, GRADIENT_ROTATION);
        shard->slices = device_alloc(device, GRADIENTS, layout->sliced * size, "gradients, my slices");
    }
    for (int i = 0; i < shard->depth; i++) {
        struct whole_gradient *whole = &shard->rotation[i];
        whole->memory = device_alloc(device, BUFFERS, layout->largest * size, "a unit's whole gradient");
        whole->unit = -1;
        whole->settled = event_open(device);
    }
}

void gradient_shard_close(struct gradient_shard *shard) {
    for (int i = 0; i < shard->depth; i++) {
        event_close(shard->rotation[i].settled);
        device_free(shard->device, shard->rotation[i].memory);
    }
    device_free(shard->device, shard->slices);
    stream_close(shard->adding);
}

void gradient_shard_begin(struct gradient_shard *shard, bool first) {
    shard->accumulate = !first;
}

/* Is the reduction to add to my slice what it sums? Else that is done when it is complete. */
static bool adds_on_the_way(const struct gradient_shard *shard, const struct whole_gradient *whole) {
    return whole->adds && !shard->sink && reduce_scatter_can_add(shard->collectives);
}

/* Task: Where the reduction of a whole gradient puts my slice: where it stays, or, to be added or taken,
 * where it lies in the whole. */
static void *reduced(const struct gradient_shard *shard, const struct whole_gradient *whole) {
    struct slice slice = layout_slice(&shard->layout->units[whole->unit], shard->collectives->slice);
    if (!shard->sink && (!whole->adds || adds_on_the_way(shard, whole)))
        return gradient_shard_slice(shard, whole->unit);
    return whole->memory + slice.begin * dtype_size(shard->dtype);
}

/* Task: Queues, on a stream that nothing else waits for, what is to be done when the reduction is complete:
 * the sink takes my slice, or it is added to those before it. `settled` is recorded behind that. */
static void add(struct gradient_shard *shard, struct whole_gradient *whole) {
    stream_wait_event(shard->adding, whole->settled); /* one rank has nothing to reduce, and to wait for */
    comm_wait(shard->comm, shard->adding, whole->reducing);
    if (shard->sink)
        shard->sink->take(shard->sink->self, shard->adding, whole->unit, reduced(shard, whole), whole->adds);
    else if (whole->adds && !adds_on_the_way(shard, whole))
        add_elements(shard->adding, shard->dtype, gradient_shard_slice(shard, whole->unit),
                     reduced(shard, whole), shard->layout->units[whole->unit].slice);
    event_record(whole->settled, shard->adding);
    whole->added = true;
}

/* Task: The buffer is free again, for work queued from now on: its gradient is reduced and added. Nobody's is
 * free already. */
static void settle(struct gradient_shard *shard, struct whole_gradient *whole) {
    if (whole->unit < 0) return;
    if (!whole->added) add(shard, whole);
    stream_wait_event(shard->stream, whole->settled);
    whole->unit = -1;
    whole->added = false;
}

/* Task: The buffer whose turn is next becomes this unit's, once the gradient that was in it is settled. */
void *gradient_shard_whole(struct gradient_shard *shard, int unit) {
    const struct unit *u = &shard->layout->units[unit];
    size_t size = dtype_size(shard->dtype);
    shard->turn = (shard->turn + 1) % shard->depth;
    struct whole_gradient *whole = &shard->rotation[shard->turn];
    settle(shard, whole);
    whole->unit = unit;
    whole->adds = shard->accumulate;
    /* No backward writes the padding of a unit, and the unit that was here before had none or another. */
    if (u->kind != EMBEDDING_CHUNK && u->padded > u->count)
        fill_zero(shard->stream, whole->memory + u->count * size, (u->padded - u->count) * size);
    return whole->memory;
}

/* Task: The reduction starts, and with it what is to be done then, where that can be queued. */
void gradient_shard_reduce(struct gradient_shard *shard, int unit) {
    struct whole_gradient *whole = &shard->rotation[shard->turn];
    size_t count = shard->layout->units[unit].slice;
    void *out = reduced(shard, whole);
    whole->reducing = adds_on_the_way(shard, whole)
                          ? reduce_scatter_add_start(shard->collectives, shard->stream, out, whole->memory,
                                                     count, shard->dtype)
                          : reduce_scatter_start(shard->collectives, shard->stream, out, whole->memory, count,
                                                 shard->dtype);
    event_record(whole->settled, shard->stream);             /* so far; again when it is added */
    if (comm_wait_is_queued(shard->comm)) add(shard, whole); /* else it would wait here for the reduction */
    comm_progress(shard->comm);
}

/* Task: All that is still under way, in the order in which it was started. */
void gradient_shard_finish(struct gradient_shard *shard) {
    /* Oldest first: the one whose turn is next. */
    for (int i = 1; i <= shard->depth; i++) settle(shard, &shard->rotation[(shard->turn + i) % shard->depth]);
}

void *gradient_shard_slice(const struct gradient_shard *shard, int unit) {
    return shard->slices + shard->layout->units[unit].slice_offset * dtype_size(shard->dtype);
}
