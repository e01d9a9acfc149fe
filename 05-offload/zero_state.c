#include "05-offload/zero_state.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

/* ---- memory ---- */

static void open_parameters(struct zero_state *z, struct session *s) {
    const struct settings *settings = &s->settings;
    bool pinned = settings_pin_parameters(settings);
    int prefetch = (int)settings->stage3_prefetch;
    if (z->stage < 3) {
        z->whole_parameters =
            device_alloc(s->device, PARAMETERS, z->layout->padded * dtype_size(z->dtype), "parameters");
        z->gathering = xcalloc((size_t)z->layout->count, sizeof *z->gathering);
        return;
    }
    if (z->offload_parameters)
        host_parameters_open(&z->host_parameters, s->device, z->layout, z->dtype, pinned);
    parameter_shard_open_from(&z->parameter_shard, s->device, s->stream, s->comm, z->layout, z->collectives,
                              z->dtype, prefetch, z->offload_parameters ? &z->host_parameters.source : NULL);
    row_exchange_open(&z->rows, s->device, s->comm, z->collectives, z->layout, s->capacity,
                      z->layout->largest);
    if (z->offload_parameters) row_exchange_from_host(&z->rows, z->dtype, pinned);
}

static void open_gradients(struct zero_state *z, struct session *s) {
    size_t bytes = z->layout->padded * dtype_size(z->dtype);
    if (z->stage < 2) {
        z->whole_gradients = device_alloc(s->device, GRADIENTS, bytes, "gradients");
        z->reducing = xcalloc((size_t)z->layout->count, sizeof *z->reducing);
        fill_zero(s->stream, z->whole_gradients, bytes);
        return;
    }
    if (z->offload_gradients)
        host_gradients_open(&z->host_gradients, s->device, z->layout, z->dtype, s->update_state,
                            s->settings.gradient_accumulation_steps, settings_pin_optimizer(&s->settings));
    gradient_shard_open_to(&z->gradient_shard, s->device, s->stream, s->comm, z->layout, z->collectives,
                           z->dtype, z->offload_gradients ? &z->host_gradients.sink : NULL);
}

/* As if there were one rank: my slice of a unit is all of it, padding included. */
static void open_uncut(struct zero_state *z) {
    z->uncut = *z->layout;
    z->uncut.world_size = 1;
    z->uncut.sliced = z->layout->padded;
    z->uncut.units = xcalloc((size_t)z->layout->count, sizeof *z->uncut.units);
    for (int u = 0; u < z->layout->count; u++) {
        z->uncut.units[u] = z->layout->units[u];
        z->uncut.units[u].slice = z->layout->units[u].padded;
        z->uncut.units[u].slice_offset = z->layout->units[u].offset;
    }
    z->cut = &z->uncut;
    z->keeper = (struct collectives){.slices = 1, .slice = 0};
}

static void open_optimizer(struct zero_state *z, struct session *s) {
    z->cut = z->layout;
    z->keeper = *z->collectives;
    if (z->stage == 0) open_uncut(z);
    if (z->offload_optimizer)
        host_optimizer_open(&z->host_optimizer, s->device, s->stream, z->layout, z->collectives, z->dtype,
                            !z->offload_gradients, !z->offload_parameters,
                            settings_pin_optimizer(&s->settings));
    else
        optimizer_shard_open(&z->optimizer, s->device, s->stream, z->cut, &z->keeper, z->dtype);
}

void zero_state_open(struct zero_state *z, struct session *s, const struct collectives *collectives) {
    const struct settings *settings = &s->settings;
    *z = (struct zero_state){.session = s,
                             .layout = &s->layout,
                             .collectives = collectives,
                             .dtype = s->dtype,
                             .stage = (int)settings->zero_stage,
                             .offload_optimizer = settings->offload_optimizer == OFFLOAD_CPU,
                             .offload_gradients = settings->offload_gradients,
                             .offload_parameters = settings->offload_param == OFFLOAD_CPU};
    open_parameters(z, s);
    open_optimizer(z, s);
    open_gradients(z, s);
}

static void close_gradients(struct zero_state *z, struct device *device) {
    if (z->stage < 2) {
        free(z->reducing);
        device_free(device, z->whole_gradients);
        return;
    }
    gradient_shard_close(&z->gradient_shard);
    if (z->offload_gradients) host_gradients_close(&z->host_gradients);
}

static void close_parameters(struct zero_state *z, struct device *device) {
    if (z->stage < 3) {
        for (int u = 0; u < z->layout->count; u++) /* the last update's, which nothing has waited for */
            comm_wait(z->session->comm, z->session->stream, z->gathering[u]);
        free(z->gathering);
        device_free(device, z->whole_parameters);
        return;
    }
    row_exchange_close(&z->rows);
    parameter_shard_close(&z->parameter_shard);
    if (z->offload_parameters) host_parameters_close(&z->host_parameters);
}

void zero_state_close(struct zero_state *z) {
    struct device *device = z->session->device;
    close_gradients(z, device);
    if (z->offload_optimizer)
        host_optimizer_close(&z->host_optimizer);
    else
        optimizer_shard_close(&z->optimizer);
    free(z->uncut.units);
    close_parameters(z, device);
}

/* ---- formulas ---- */

void zero_state_predict(const struct zero_state *z, struct memory_prediction *prediction) {
    double whole = (double)z->layout->parameters * (double)dtype_size(z->dtype);
    double slices = whole / z->layout->world_size;
    double *parameters = z->offload_parameters ? prediction->host : prediction->device;
    double *gradients = z->offload_gradients ? prediction->host : prediction->device;
    for (int h = PARAMETERS; h <= OPTIMIZER; h++) prediction->device[h] = prediction->host[h] = 0;
    parameters[PARAMETERS] = z->stage < 3 ? whole : slices;
    gradients[GRADIENTS] = z->stage < 2 ? whole : slices;
    if (z->offload_optimizer)
        prediction->host[OPTIMIZER] = host_optimizer_bytes(z->layout);
    else
        prediction->device[OPTIMIZER] = optimizer_shard_bytes(z->cut, z->dtype);
    if (z->stage == 3)
        prediction->device[ACTIVATIONS] += (double)row_exchange_bytes(z->layout, z->session->capacity);
}

void zero_state_predict_sent(const struct zero_state *z, struct session *s) {
    double others = (double)(z->layout->world_size - 1) / z->layout->world_size;
    double model = (double)z->layout->parameters * (double)dtype_size(z->dtype) * others;
    if (z->stage == 0) s->sent_per_update[ALL_REDUCE] = 2 * model;
    if (z->stage == 1) s->sent_per_update[REDUCE_SCATTER] = model;
    if (z->stage >= 2) s->sent_per_pack[REDUCE_SCATTER] = model;
    if (z->stage == 1 || z->stage == 2) s->sent_per_update[ALL_GATHER] = model;
    if (z->stage < 3) return;
    s->sent_per_pack[ALL_GATHER] = model * parameter_shard_gathered(&z->parameter_shard);
    s->sent_per_row[ALL_TO_ALL] = (double)(z->layout->config.hidden * dtype_size(z->dtype)) * others;
}

/* ---- what is whose ---- */

struct slice zero_state_kept(const struct zero_state *z, int unit) {
    return layout_slice(&z->cut->units[unit], z->keeper.slice);
}

struct slice zero_state_saved(const struct zero_state *z, int unit) {
    return layout_slice(&z->layout->units[unit], z->collectives->slice);
}

/* What is kept of a unit, in a buffer of whole units. */
static void *kept_of_whole(const struct zero_state *z, char *buffer, int unit) {
    size_t first = z->layout->units[unit].offset + zero_state_kept(z, unit).begin;
    return buffer + first * dtype_size(z->dtype);
}

/* Parameters of what is kept, in device memory; NULL where they are in host memory. */
static void *my_parameters(const struct zero_state *z, int unit) {
    if (z->stage < 3) return kept_of_whole(z, z->whole_parameters, unit);
    return z->offload_parameters ? NULL : parameter_shard_slice(&z->parameter_shard, unit);
}

static void *my_host_parameters(const struct zero_state *z, int unit) {
    return z->offload_parameters ? host_parameters_slice(&z->host_parameters, unit) : NULL;
}

/* Gradients of what is kept, in device memory: not with offload_gradients. */
static void *my_gradients(const struct zero_state *z, int unit) {
    if (z->stage < 2) return kept_of_whole(z, z->whole_gradients, unit);
    return gradient_shard_slice(&z->gradient_shard, unit);
}

static const void *my_host_gradients(const struct zero_state *z, int unit) {
    return z->offload_gradients ? host_gradients_slice(&z->host_gradients, unit) : NULL;
}

/* Of master, m or v, which all have one slice of every unit. */
static float *state_at(const struct zero_state *z, float *slices, int unit, size_t element) {
    return slices + z->cut->units[unit].slice_offset + (element - zero_state_kept(z, unit).begin);
}

float *zero_state_master(const struct zero_state *z, int unit, size_t element) {
    if (z->offload_optimizer) return state_at(z, z->host_optimizer.master, unit, element);
    if (z->dtype != FP32) return state_at(z, z->optimizer.master, unit, element);
    return (float *)my_parameters(z, unit) + (element - zero_state_kept(z, unit).begin);
}

float *zero_state_m(const struct zero_state *z, int unit, size_t element) {
    return state_at(z, z->offload_optimizer ? z->host_optimizer.m : z->optimizer.m, unit, element);
}

float *zero_state_v(const struct zero_state *z, int unit, size_t element) {
    return state_at(z, z->offload_optimizer ? z->host_optimizer.v : z->optimizer.v, unit, element);
}

/* ---- loading ---- */

void zero_state_load(struct zero_state *z, const struct weights *weights) {
    struct session *s = z->session;
    float *window = NULL;
    float *staging = host_alloc(s->device, BUFFERS, WEIGHTS_STAGING * sizeof(float), true, "loading");
    if (z->offload_optimizer)
        window = device_alloc(s->device, BUFFERS, WEIGHTS_WINDOW * sizeof(float), "loading");
    for (int u = 0; u < z->layout->count; u++) {
        struct slice part = zero_state_kept(z, u);
        float *master = zero_state_master(z, u, part.begin);
        if (z->offload_optimizer)
            weights_load_to_host(weights, s->stream, u, part.begin, part.count, master, window, staging);
        else
            weights_load(weights, s->stream, u, part.begin, part.count, master, staging);
    }
    stream_synchronize(s->stream);
    device_free(s->device, window);
    host_free(s->device, staging);
}

/* From masters on the host to parameters on the device, a piece after the other. */
static void send_rounded(struct zero_state *z, int unit, void *staging) {
    struct stream *stream = z->session->stream;
    size_t size = dtype_size(z->dtype), count = zero_state_kept(z, unit).count;
    for (size_t done = 0; done < count; done += WEIGHTS_WINDOW) {
        size_t some = count - done < WEIGHTS_WINDOW ? count - done : WEIGHTS_WINDOW;
        host_optimizer_round(&z->host_optimizer, unit, done, some, staging);
        copy_to_device(stream, (char *)my_parameters(z, unit) + done * size, staging, some * size);
        stream_synchronize(stream);
    }
}

/* A unit's parameters begin to become whole on all ranks again: each gives its slice. */
static void gather(struct zero_state *z, struct stream *stream, int unit) {
    if (z->stage != 1 && z->stage != 2) return;
    z->gathering[unit] = all_gather_start(
        z->collectives, stream, z->whole_parameters + z->layout->units[unit].offset * dtype_size(z->dtype),
        my_parameters(z, unit), z->layout->units[unit].slice, z->dtype);
    comm_progress(z->session->comm);
}

void zero_state_round(struct zero_state *z) {
    struct session *s = z->session;
    size_t bytes = WEIGHTS_WINDOW * dtype_size(z->dtype);
    void *staging =
        z->offload_optimizer ? host_alloc(s->device, BUFFERS, bytes, true, "rounded parameters") : NULL;
    for (int u = 0; u < z->layout->count; u++) {
        struct slice part = zero_state_kept(z, u);
        if (z->offload_parameters)
            host_optimizer_round(&z->host_optimizer, u, 0, part.count, my_host_parameters(z, u));
        else if (z->offload_optimizer)
            send_rounded(z, u, staging);
        else if (z->dtype != FP32)
            convert(s->stream, z->dtype, my_parameters(z, u), FP32, zero_state_master(z, u, part.begin),
                    part.count);
        gather(z, s->stream, u);
    }
    host_free(s->device, staging);
}

/* ---- the walk ---- */

static void await(struct zero_state *z, int unit) {
    comm_wait(z->session->comm, z->session->stream, z->gathering[unit]);
    z->gathering[unit] = (struct comm_request){0};
}

void zero_state_look_up(struct zero_state *z, void *out, void *received) {
    struct session *s = z->session;
    const struct layout *layout = z->layout;
    int first = layout->chunks_begin;
    if (z->stage == 3) {
        void *slices = z->offload_parameters ? my_host_parameters(z, first) : my_parameters(z, first);
        row_exchange_plan(&z->rows, s->stream, &s->pack);
        row_exchange_run(&z->rows, s->stream, z->dtype, out, slices,
                         parameter_shard_buffer(&z->parameter_shard), received);
        return;
    }
    for (int c = first; c < layout->chunks_end; c++) await(z, c);
    const char *table = z->whole_parameters + layout->units[first].offset * dtype_size(z->dtype);
    embedding_lookup(s->stream, z->dtype, out, table, s->input.ids, (size_t)s->input.tokens,
                     layout->config.hidden);
}

void *zero_state_use(struct zero_state *z, int unit, int direction) {
    if (z->stage == 3) return parameter_shard_use(&z->parameter_shard, unit, direction);
    await(z, unit);
    return z->whole_parameters + z->layout->units[unit].offset * dtype_size(z->dtype);
}

void zero_state_forget(struct zero_state *z) {
    if (z->stage == 3) parameter_shard_forget(&z->parameter_shard);
}

bool zero_state_begin(struct zero_state *z, int pack, int packs) {
    z->last_pack = pack == packs - 1;
    if (z->stage < 2) return pack > 0;
    gradient_shard_begin(&z->gradient_shard, pack == 0);
    if (z->offload_gradients && pack == 0) host_gradients_begin(&z->host_gradients, packs);
    return false;
}

void *zero_state_gradient(struct zero_state *z, int unit) {
    if (z->stage >= 2) return gradient_shard_whole(&z->gradient_shard, unit);
    return z->whole_gradients + z->layout->units[unit].offset * dtype_size(z->dtype);
}

/* Whole gradients add up until the last pack. */
static void reduce_whole(struct zero_state *z, int unit) {
    struct stream *stream = z->session->stream;
    size_t slice = z->layout->units[unit].slice;
    void *whole = zero_state_gradient(z, unit);
    if (z->stage == 0)
        z->reducing[unit] = all_reduce_start(z->collectives, stream, whole, slice, z->dtype);
    else
        z->reducing[unit] =
            reduce_scatter_start(z->collectives, stream, my_gradients(z, unit), whole, slice, z->dtype);
}

void zero_state_reduce(struct zero_state *z, int unit) {
    if (z->stage >= 2)
        gradient_shard_reduce(&z->gradient_shard, unit);
    else if (z->last_pack)
        reduce_whole(z, unit);
    comm_progress(z->session->comm);
}

/* ---- the update ---- */

/* The unit that is updated as number i: with whole parameters, which are gathered behind the update, first
 * what the next forward needs first. */
static int unit_at(const struct zero_state *z, int i) {
    return z->stage < 3 ? (z->layout->chunks_begin + i) % z->layout->count : i;
}

/* The gradient for update number i starts for the host. */
static void bring(struct zero_state *z, int i) {
    if (z->offload_gradients || i >= z->layout->count) return;
    host_optimizer_bring(&z->host_optimizer, unit_at(z, i), my_gradients(z, unit_at(z, i)));
}

void zero_state_finish(struct zero_state *z) {
    struct session *s = z->session;
    if (z->stage >= 2) gradient_shard_finish(&z->gradient_shard);
    if (z->offload_gradients) {
        host_gradients_finish(&z->host_gradients, s->stream);
        return;
    }
    for (int u = 0; u < z->layout->count; u++) {
        if (z->stage < 2) comm_wait(s->comm, s->stream, z->reducing[u]);
        sum_of_squares(s->stream, z->dtype, &s->update_state->square_sum, my_gradients(z, u),
                       zero_state_kept(z, u).count);
    }
    for (int i = 0; i < 2 && z->offload_optimizer; i++) bring(z, i); /* while the ranks find the norm */
}

size_t zero_state_open_sums(const struct zero_state *z) {
    return z->stage == 0 ? 1 : 2;
}

static void update_on_device(struct zero_state *z) {
    struct session *s = z->session;
    for (int i = 0; i < z->layout->count; i++) {
        int u = unit_at(z, i);
        optimizer_shard_adamw(&z->optimizer, s->stream, u, my_parameters(z, u), my_gradients(z, u),
                              s->update_state, &s->rule);
        gather(z, s->stream, u);
    }
}

static void update_on_host(struct zero_state *z) {
    struct session *s = z->session;
    struct host_optimizer *optimizer = &z->host_optimizer;
    bool applies = host_optimizer_begin(optimizer, s->update_state);
    for (int i = 0; i < z->layout->count; i++) {
        int u = unit_at(z, i);
        if (applies) {
            host_optimizer_adamw(optimizer, u, my_host_gradients(z, u), my_host_parameters(z, u),
                                 my_parameters(z, u), &s->rule);
            bring(z, i + 2);
        }
        gather(z, optimizer->up.stream, u); /* behind the way up; of a skipped update, too, as elsewhere */
    }
    if (!z->offload_parameters) host_optimizer_wait(optimizer, s->stream);
}

void zero_state_update(struct zero_state *z) {
    if (z->offload_optimizer)
        update_on_host(z);
    else
        update_on_device(z);
}
