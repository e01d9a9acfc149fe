#include "05-offload/host_gradients.h"

#include "common/base/error.h"

static char *slice_at(const struct host_gradients *g, int unit) {
    return g->slices + g->layout->units[unit].slice_offset * dtype_size(g->dtype);
}

/* The CPU adds what has come, or is still coming, into a staging slice. */
static void settle(struct host_gradients *g, int number) {
    int unit = g->staging[number].unit;
    if (unit < 0) return;
    event_synchronize(g->staging[number].copied);
    double squares = host_accumulate(g->threads, g->dtype, slice_at(g, unit), g->dtype,
                                     g->staging[number].slice, g->layout->units[unit].slice, true);
    if (g->staging[number].last) g->squares += squares;
    g->staging[number].unit = -1;
}

static void take(void *self, struct stream *stream, int unit, const void *sum, bool adds) {
    struct host_gradients *g = self;
    size_t count = g->layout->units[unit].slice, bytes = count * dtype_size(g->dtype);
    bool last = g->taken++ / g->layout->count == g->packs - 1;
    if (!adds) {
        if (last) sum_of_squares(stream, g->dtype, &g->state->square_sum, sum, count);
        copy_to_host(stream, slice_at(g, unit), sum, bytes);
        return;
    }
    g->turn = 1 - g->turn;
    settle(g, g->turn);
    copy_to_host(stream, g->staging[g->turn].slice, sum, bytes);
    event_record(g->staging[g->turn].copied, stream);
    g->staging[g->turn].unit = unit;
    g->staging[g->turn].last = last;
}

void host_gradients_open(struct host_gradients *g, struct device *device, const struct layout *layout,
                         enum dtype dtype, struct update_state *state, long long packs, bool pinned) {
    *g = (struct host_gradients){.device = device,
                                 .layout = layout,
                                 .dtype = dtype,
                                 .threads = device_cores(device),
                                 .sink = {.self = g, .take = take},
                                 .state = state};
    size_t size = dtype_size(dtype), largest = layout->largest / (size_t)layout->world_size * size;
    g->slices = host_alloc(device, GRADIENTS, layout->sliced * size, pinned, "gradients, my slices");
    g->going_up = host_alloc(device, BUFFERS, sizeof *g->going_up, true, "the sum of squares");
    for (int i = 0; i < 2; i++) {
        if (packs > 1)
            g->staging[i].slice = host_alloc(device, BUFFERS, largest, pinned, "gradients coming down");
        g->staging[i].copied = event_open(device);
        g->staging[i].unit = -1;
    }
}

void host_gradients_close(struct host_gradients *g) {
    for (int i = 0; i < 2; i++) {
        event_close(g->staging[i].copied);
        host_free(g->device, g->staging[i].slice);
    }
    host_free(g->device, g->going_up);
    host_free(g->device, g->slices);
}

double host_gradients_bytes(const struct layout *layout, enum dtype dtype) {
    return (double)dtype_size(dtype) * (double)layout->parameters / layout->world_size;
}

void host_gradients_begin(struct host_gradients *g, int packs) {
    if (packs > 1 && !g->staging[0].slice)
        fail("an update has %d packs, but there is no room to add them: a mistake in this program", packs);
    g->packs = packs;
    g->taken = 0;
    g->squares = 0;
}

void host_gradients_finish(struct host_gradients *g, struct stream *stream) {
    settle(g, 1 - g->turn); /* in the order in which they came */
    settle(g, g->turn);
    if (g->packs < 2) return; /* the device has summed them */
    if (device_computes()) *g->going_up = g->squares;
    copy_to_device(stream, &g->state->square_sum, g->going_up, sizeof *g->going_up);
}

const void *host_gradients_slice(const struct host_gradients *g, int unit) {
    return slice_at(g, unit);
}
