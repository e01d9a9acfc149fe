#include "04-zero3/parameter_shard.h"

#include <stdlib.h>

#include "03-zero2/gradient_shard.h"
#include "common/base/error.h"

void parameter_shard_open(struct parameter_shard *shard, struct device *device, struct stream *stream,
                          struct comm *comm, const struct layout *layout,
                          const struct collectives *collectives, enum dtype dtype, int prefetch) {
    parameter_shard_open_from(shard, device, stream, comm, layout, collectives, dtype, prefetch, NULL);
}

void parameter_shard_open_from(struct parameter_shard *shard, struct device *device, struct stream *stream,
                               struct comm *comm, const struct layout *layout,
                               const struct collectives *collectives, enum dtype dtype, int prefetch,
                               const struct slice_source *source) {
    *shard = (struct parameter_shard){.device = device,
                                      .stream = stream,
                                      .comm = comm,
                                      .layout = layout,
                                      .collectives = collectives,
                                      .dtype = dtype,
                                      .source = source,
                                      .depth = source ? prefetch + 1 : rotation_depth(layout, prefetch + 1)};
    size_t size = dtype_size(dtype);
    if (source)
        shard->fetching = stream_open(device, "fetching parameters");
    else
        shard->slices = device_alloc(device, PARAMETERS, layout->sliced * size, "parameters, my slices");
    if (!source) comm_share(comm, shard->slices, layout->sliced * size);
    shard->rotation = xcalloc((size_t)shard->depth, sizeof *shard->rotation);
    for (int i = 0; i < shard->depth; i++) {
        struct whole_parameters *whole = &shard->rotation[i];
        whole->memory = device_alloc(device, BUFFERS, layout->largest * size, "a unit's whole parameters");
        whole->unit = -1;
        if (source) whole->fetched = event_open(device);
    }
}

void parameter_shard_close(struct parameter_shard *shard) {
    for (int i = 0; i < shard->depth; i++) {
        if (shard->source) event_close(shard->rotation[i].fetched);
        device_free(shard->device, shard->rotation[i].memory);
    }
    if (shard->source) stream_close(shard->fetching);
    free(shard->rotation);
    if (!shard->source) comm_unshare(shard->comm);
    device_free(shard->device, shard->slices);
}

void *parameter_shard_slice(const struct parameter_shard *shard, int unit) {
    return shard->slices + shard->layout->units[unit].slice_offset * dtype_size(shard->dtype);
}

static struct whole_parameters *find(const struct parameter_shard *shard, int unit) {
    for (int i = 0; i < shard->depth; i++)
        if (shard->rotation[i].unit == unit) return &shard->rotation[i];
    return NULL;
}

/* Task: A buffer whose unit is not among the `depth` ones from `unit` on. There always is one where one of
 * these is missing. */
static struct whole_parameters *free_buffer(const struct parameter_shard *shard, int unit, int direction) {
    for (int i = 0; i < shard->depth; i++) {
        struct whole_parameters *whole = &shard->rotation[i];
        int ahead = (whole->unit - unit) * direction;
        if (whole->unit < 0 || ahead < 0 || ahead >= shard->depth) return whole;
    }
    fail("no buffer is free for a unit's parameters: a mistake in this program");
}

/* Task: Work queued from now on finds in the buffer what is on its way there. */
static void await(struct parameter_shard *shard, struct whole_parameters *whole) {
    comm_wait(shard->comm, shard->stream, whole->gathering);
    whole->gathering = (struct comm_request){0};
    if (shard->source) stream_wait_event(shard->stream, whole->fetched);
}

/* My slice comes to its place in the whole, as soon as what was there has been used, and is gathered from
 * there. With one rank, that is all. */
static void fetch_and_gather(struct parameter_shard *shard, struct whole_parameters *whole) {
    const struct unit *unit = &shard->layout->units[whole->unit];
    char *mine =
        whole->memory + layout_slice(unit, shard->collectives->slice).begin * dtype_size(shard->dtype);
    event_record(whole->fetched, shard->stream);
    stream_wait_event(shard->fetching, whole->fetched);
    shard->source->fetch(shard->source->self, shard->fetching, whole->unit, mine);
    whole->gathering =
        all_gather_start(shard->collectives, shard->fetching, whole->memory, mine, unit->slice, shard->dtype);
    event_record(whole->fetched, shard->fetching);
}

/* Task: Begins to gather a unit, unless there is no such unit, or it is there already. `first` is the unit
 * that is going to be used now: its buffer and those of the ones after it stay. fetch_and_gather() does it
 * where a source brings my slice (stage 05); here it lies in my slices. */
static void gather(struct parameter_shard *shard, int unit, int first, int direction) {
    if (unit < 0 || unit >= shard->layout->count || find(shard, unit)) return;
    struct whole_parameters *whole = free_buffer(shard, first, direction);
    await(shard, whole); /* for one that was never used */
    whole->unit = unit;
    if (shard->source)
        fetch_and_gather(shard, whole);
    else
        whole->gathering = all_gather_start(shard->collectives, shard->stream, whole->memory,
                                            parameter_shard_slice(shard, unit),
                                            shard->layout->units[unit].slice, shard->dtype);
    comm_progress(shard->comm);
}

/* Task: As many units as there are buffers begin to be gathered, from this one on; this one is waited for. */
void *parameter_shard_use(struct parameter_shard *shard, int unit, int direction) {
    for (int ahead = 0; ahead < shard->depth; ahead++)
        gather(shard, unit + ahead * direction, unit, direction);
    struct whole_parameters *whole = find(shard, unit);
    await(shard, whole);
    return whole->memory;
}

/* Task: One of the rotation's, when nothing is on its way there; what it held is no unit any more. */
void *parameter_shard_buffer(struct parameter_shard *shard) {
    struct whole_parameters *whole = &shard->rotation[0];
    await(shard, whole);
    whole->unit = -1;
    return whole->memory;
}

/* Task: No buffer holds a unit from now on. */
void parameter_shard_forget(struct parameter_shard *shard) {
    for (int i = 0; i < shard->depth; i++) shard->rotation[i].unit = -1;
}

double parameter_shard_gathered(const struct parameter_shard *shard) {
    const struct layout *layout = shard->layout;
    double kept = 0;
    for (int i = 0; i < shard->depth && i < layout->count; i++)
        kept += (double)layout->units[layout->count - 1 - i].count;
    return 2 - kept / (double)layout->parameters;
}
