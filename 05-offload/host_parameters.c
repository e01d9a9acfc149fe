#include "05-offload/host_parameters.h"

static void fetch(void *self, struct stream *stream, int unit, void *out) {
    struct host_parameters *p = self;
    copy_to_device(stream, out, host_parameters_slice(p, unit),
                   p->layout->units[unit].slice * dtype_size(p->dtype));
}

void host_parameters_open(struct host_parameters *p, struct device *device, const struct layout *layout,
                          enum dtype dtype, bool pinned) {
    *p = (struct host_parameters){
        .device = device, .layout = layout, .dtype = dtype, .source = {.self = p, .fetch = fetch}};
    p->slices =
        host_alloc(device, PARAMETERS, layout->sliced * dtype_size(dtype), pinned, "parameters, my slices");
}

void host_parameters_close(struct host_parameters *p) {
    host_free(p->device, p->slices);
}

double host_parameters_bytes(const struct layout *layout, enum dtype dtype) {
    return (double)dtype_size(dtype) * (double)layout->parameters / layout->world_size;
}

void *host_parameters_slice(const struct host_parameters *p, int unit) {
    return p->slices + p->layout->units[unit].slice_offset * dtype_size(p->dtype);
}
