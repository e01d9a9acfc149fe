#include "02-zero1/optimizer_shard.h"

static float *open_state(const struct optimizer_shard *shard, const char *what) {
    return device_alloc(shard->device, OPTIMIZER, shard->layout->sliced * sizeof(float), what);
}

/* Task: What AdamW keeps of my slices, and of no others: m and v, both zero, and masters where parameters are
 * in half precision. */
void optimizer_shard_open(struct optimizer_shard *shard, struct device *device, struct stream *stream,
                          const struct layout *layout, const struct collectives *collectives,
                          enum dtype dtype) {
    *shard = (struct optimizer_shard){
        .device = device, .layout = layout, .slice = collectives->slice, .dtype = dtype};
    if (dtype != FP32) shard->master = open_state(shard, "master parameters, my slices");
    shard->m = open_state(shard, "AdamW's first moment, my slices");
    shard->v = open_state(shard, "AdamW's second moment, my slices");
    fill_zero(stream, shard->m, layout->sliced * sizeof(float));
    fill_zero(stream, shard->v, layout->sliced * sizeof(float));
}

void optimizer_shard_close(struct optimizer_shard *shard) {
    device_free(shard->device, shard->v);
    device_free(shard->device, shard->m);
    device_free(shard->device, shard->master);
}

double optimizer_shard_bytes(const struct layout *layout, enum dtype dtype) {
    return (dtype == FP32 ? 8.0 : 12.0) * (double)layout->parameters / layout->world_size;
}

struct slice optimizer_shard_slice(const struct optimizer_shard *shard, int unit) {
    return layout_slice(&shard->layout->units[unit], shard->slice);
}

/* Task: My slices of all units lie one behind the other; `element` counts from the unit's beginning. */
float *optimizer_shard_at(const struct optimizer_shard *shard, float *slices, int unit, size_t element) {
    size_t in_slice = element - optimizer_shard_slice(shard, unit).begin;
    return slices + shard->layout->units[unit].slice_offset + in_slice;
}

/* Task: adamw() on what is mine of the unit. It wants to know how many elements have weight decay: the unit's
 * first `decayed` have, and my slice begins somewhere. In fp32 the parameters are their own masters. */
void optimizer_shard_adamw(const struct optimizer_shard *shard, struct stream *stream, int unit,
                           void *parameters, const void *gradients, const struct update_state *state,
                           const struct update_rule *rule) {
    const struct unit *u = &shard->layout->units[unit];
    struct slice slice = optimizer_shard_slice(shard, unit);
    /* All, some or none of my slice's. */
    size_t decayed = u->decayed > slice.begin ? u->decayed - slice.begin : 0;
    if (decayed > slice.count) decayed = slice.count;
    float *master = shard->dtype == FP32 ? parameters : shard->master + u->slice_offset;
    adamw(stream, shard->dtype, parameters, master, shard->m + u->slice_offset, shard->v + u->slice_offset,
          gradients, slice.count, decayed, state, rule);
}
