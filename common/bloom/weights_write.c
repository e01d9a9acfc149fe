#include <stdlib.h>

#include "common/base/file.h"
#include "common/bloom/safetensors.h"
#include "common/bloom/weights.h"

struct weights_writer {
    const struct layout *layout;
    enum dtype dtype;
    struct safetensors_writer *file; /* its tensors' numbers are the parameters' */
};

static void announce(struct safetensors_writer *file, const struct layout *layout, enum dtype dtype,
                     int unit_number) {
    const struct unit *unit = &layout->units[unit_number];
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        bool matrix = tensor_is_matrix(unit, t);
        size_t rows = unit->kind == EMBEDDING_CHUNK ? layout->config.vocabulary : tensor->rows;
        char name[96];
        tensor_name(unit, t, name);
        safetensors_announce(file, name, dtype, matrix ? 2 : 1,
                             matrix ? (size_t[]){rows, tensor->columns} : (size_t[]){tensor->count});
    }
}

/* All parameters in the order of their numbers: the embedding, then the units as they are walked. */
static struct safetensors_writer *announce_all(const char *path, const struct layout *layout,
                                               enum dtype dtype) {
    struct safetensors_writer *file = safetensors_writer_open(path);
    announce(file, layout, dtype, layout->chunks_begin);
    for (int u = 0; u < layout->chunks_begin; u++) announce(file, layout, dtype, u);
    return file;
}

size_t weights_file_bytes(const struct layout *layout, enum dtype dtype) {
    struct safetensors_writer *file = announce_all("", layout, dtype);
    size_t bytes = safetensors_writer_bytes(file);
    safetensors_writer_abandon(file);
    return bytes;
}

struct weights_writer *weights_writer_open(const char *directory, const struct layout *layout,
                                           enum dtype dtype, struct error *error) {
    if (!directory_create(directory, error)) return NULL;
    char *path = xformat("%s/model.safetensors", directory);
    struct safetensors_writer *file = announce_all(path, layout, dtype);
    free(path);
    if (!safetensors_begin(file, error)) {
        safetensors_writer_abandon(file);
        return NULL;
    }
    struct weights_writer *writer = xcalloc(1, sizeof *writer);
    *writer = (struct weights_writer){layout, dtype, file};
    return writer;
}

bool weights_write_unit(struct weights_writer *writer, int unit_number, const void *values,
                        struct error *error) {
    const struct unit *unit = &writer->layout->units[unit_number];
    for (int t = 0; t < unit->tensors; t++) {
        const struct tensor *tensor = &unit->tensor[t];
        if (!safetensors_write(writer->file, parameter_number(writer->layout, unit, t),
                               parameter_begin(writer->layout, unit), tensor->count,
                               (const char *)values + tensor->offset * dtype_size(writer->dtype), error))
            return false;
    }
    return true;
}

bool weights_writer_finish(struct weights_writer *writer, struct error *error) {
    bool ok = safetensors_writer_finish(writer->file, error);
    free(writer);
    return ok;
}

void weights_writer_abandon(struct weights_writer *writer) {
    if (!writer) return;
    safetensors_writer_abandon(writer->file);
    free(writer);
}
