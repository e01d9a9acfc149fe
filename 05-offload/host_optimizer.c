#include "05-offload/host_optimizer.h"

#include <string.h>

static void open_lane(struct host_lane *lane, struct device *device, const char *name, size_t bytes,
                      bool pinned) {
    lane->stream = stream_open(device, name);
    for (int i = 0; i < 2; i++) {
        lane->slices[i] = host_alloc(device, BUFFERS, bytes, pinned, name);
        lane->moved[i] = event_open(device);
    }
}

static void close_lane(struct host_lane *lane, struct device *device) {
    if (!lane->stream) return;
    stream_close(lane->stream); /* waits for what is under way */
    for (int i = 0; i < 2; i++) {
        event_close(lane->moved[i]);
        host_free(device, lane->slices[i]);
    }
}

/* Zero, each piece touched first by a thread as it will be in AdamW: on machines with several memories that
 * decides where it lies. */
static float *open_state(const struct host_optimizer *optimizer, const char *what) {
    enum { PIECE = 1 << 18 };
    size_t count = optimizer->layout->sliced;
    float *state = host_alloc(optimizer->device, OPTIMIZER, count * sizeof *state, false, what);
    if (!device_computes()) return state;
#pragma omp parallel for schedule(static) num_threads(optimizer->threads)
    for (size_t at = 0; at < count; at += PIECE)
        memset(state + at, 0, (count - at < PIECE ? count - at : PIECE) * sizeof *state);
    return state;
}

void host_optimizer_open(struct host_optimizer *o, struct device *device, struct stream *stream,
                         const struct layout *layout, const struct collectives *collectives, enum dtype dtype,
                         bool brings, bool sends, bool pinned) {
    *o = (struct host_optimizer){.device = device,
                                 .stream = stream,
                                 .layout = layout,
                                 .slice = collectives->slice,
                                 .dtype = dtype,
                                 .threads = device_cores(device)};
    o->master = open_state(o, "master parameters, my slices");
    o->m = open_state(o, "AdamW's first moment, my slices");
    o->v = open_state(o, "AdamW's second moment, my slices");
    o->state = host_alloc(device, BUFFERS, sizeof *o->state, true, "the update's state");
    o->known = event_open(device);
    size_t largest = layout->largest / (size_t)layout->world_size * dtype_size(dtype);
    if (brings) open_lane(&o->down, device, "gradients coming down", largest, pinned);
    if (sends) open_lane(&o->up, device, "parameters going up", largest, pinned);
}

void host_optimizer_close(struct host_optimizer *o) {
    close_lane(&o->up, o->device);
    close_lane(&o->down, o->device);
    event_close(o->known);
    host_free(o->device, o->state);
    host_free(o->device, o->v);
    host_free(o->device, o->m);
    host_free(o->device, o->master);
}

double host_optimizer_bytes(const struct layout *layout) {
    return 12.0 * (double)layout->parameters / layout->world_size;
}

/* Bytes of my slice of a unit. */
static size_t slice_bytes(const struct host_optimizer *o, int unit) {
    return o->layout->units[unit].slice * dtype_size(o->dtype);
}

/* Task: The lane `down` copies it, behind what is queued on the compute stream, into the slice whose turn it
 * is; `moved` says when it is there. */
void host_optimizer_bring(struct host_optimizer *o, int unit, const void *gradient) {
    struct host_lane *lane = &o->down;
    unsigned turn = lane->started++ % 2;
    event_record(lane->moved[turn], o->stream);
    stream_wait_event(lane->stream, lane->moved[turn]);
    copy_to_host(lane->stream, lane->slices[turn], gradient, slice_bytes(o, unit));
    event_record(lane->moved[turn], lane->stream);
}

/* Task: The update's state comes to the host. Of a skipped update nobody will ask for the gradients brought.
 * (On the dry backend there is nothing to read in it: it skips none.) */
bool host_optimizer_begin(struct host_optimizer *o, const struct update_state *state) {
    copy_to_host(o->stream, o->state, state, sizeof *state);
    event_record(o->known, o->stream);
    event_synchronize(o->known);
    bool skipped = device_computes() && o->state->skip;
    if (skipped) o->down.taken = o->down.started; /* nobody is going to ask for them */
    return !skipped;
}

/* Task: The gradient that was brought first of those that have not been asked for, when it is there. */
static const void *arrived(struct host_lane *lane) {
    unsigned turn = lane->taken++ % 2;
    event_synchronize(lane->moved[turn]);
    return lane->slices[turn];
}

/* Task: A slice that may be filled for the way up: its last copy is done. send() is to follow. */
static void *free_slice(struct host_lane *lane) {
    unsigned turn = lane->started % 2;
    event_synchronize(lane->moved[turn]);
    return lane->slices[turn];
}

/* Task: The slice that free_slice() gave starts for the device, and the next one has its turn. */
static void send(struct host_lane *lane, void *device, size_t bytes) {
    unsigned turn = lane->started++ % 2;
    copy_to_device(lane->stream, device, lane->slices[turn], bytes);
    event_record(lane->moved[turn], lane->stream);
}

/* Task: host_adamw() on my slice of the unit, which may begin before or behind the end of the unit's decayed
 * elements. Without `gradient` it is the one that has arrived; without `parameters` they go up. */
void host_optimizer_adamw(struct host_optimizer *o, int unit, const void *gradient, void *parameters,
                          void *device, const struct update_rule *rule) {
    const struct unit *u = &o->layout->units[unit];
    struct slice slice = layout_slice(u, o->slice);
    size_t decayed = u->decayed > slice.begin ? u->decayed - slice.begin : 0;
    if (decayed > slice.count) decayed = slice.count;
    bool sends = !parameters;
    if (!gradient) gradient = arrived(&o->down);
    if (sends) parameters = free_slice(&o->up);
    host_adamw(o->threads, o->dtype, parameters, o->master + u->slice_offset, o->m + u->slice_offset,
               o->v + u->slice_offset, o->dtype, gradient, slice.count, decayed, o->state, rule);
    if (sends) send(&o->up, device, slice_bytes(o, unit));
}

/* Task: The stream waits for the last copy on the way up, if there was any: they are in order. */
void host_optimizer_wait(struct host_optimizer *o, struct stream *stream) {
    if (o->up.started) stream_wait_event(stream, o->up.moved[(o->up.started - 1) % 2]);
}

void host_optimizer_round(const struct host_optimizer *o, int unit, size_t begin, size_t count,
                          void *parameters) {
    const float *master = o->master + o->layout->units[unit].slice_offset + begin;
    uint16_t *half = parameters;
    if (!device_computes()) return;
    if (o->dtype == FP32) {
        memcpy(parameters, master, count * sizeof *master);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(o->threads)
    for (size_t i = 0; i < count; i++)
        half[i] = o->dtype == BF16 ? bf16_from_float(master[i]) : fp16_from_float(master[i]);
}
