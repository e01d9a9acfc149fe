#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/bloom/safetensors.h"

enum { LENGTH_BYTES = 8, HEADER_ALIGNMENT = 8, MOST_DIMENSIONS = 8 };

struct announced {
    size_t begin;        /* of its bytes, among all tensors' bytes */
    size_t count;        /* elements */
    size_t element_size; /* bytes */
    size_t written;      /* elements */
};

struct safetensors_writer {
    char *path, *part;
    json_t *header;
    struct announced *tensors;
    size_t count;
    size_t data_bytes; /* of all tensors */
    size_t data_begin; /* in the file, once the header is written */
    int file;          /* -1 while it is not open */
    bool created;
};

struct safetensors_writer *safetensors_writer_open(const char *path) {
    struct safetensors_writer *writer = xcalloc(1, sizeof *writer);
    writer->path = xstrdup(path);
    writer->part = xformat("%s.part", path);
    writer->file = -1;
    writer->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!writer->header) fail("out of host memory while %s was prepared", path);
    return writer;
}

static const char *type_name(enum dtype dtype) {
    switch (dtype) {
    case FP32:
        return "F32";
    case BF16:
        return "BF16";
    case FP16:
        return "F16";
    case FP64:
        return "F64";
    case INT32:
        return "I32";
    }
    fail("an element type %d cannot be written to a safetensors file", (int)dtype);
}

void safetensors_announce(struct safetensors_writer *writer, const char *name, enum dtype dtype,
                          int dimensions, const size_t *shape) {
    if (writer->file >= 0 || dimensions < 0 || dimensions > MOST_DIMENSIONS ||
        json_object_get(writer->header, name))
        fail("%s: tensor '%s' announced twice, too late, or with %d dimensions", writer->path, name,
             dimensions);
    struct announced tensor = {writer->data_bytes, 1, dtype_size(dtype), 0};
    json_t *dimension_list = json_array();
    for (int i = 0; i < dimensions; i++) {
        tensor.count *= shape[i];
        json_array_append_new(dimension_list, json_integer((json_int_t)shape[i]));
    }
    writer->data_bytes += tensor.count * tensor.element_size;
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(dtype), "shape", dimension_list,
                              "data_offsets", (json_int_t)tensor.begin, (json_int_t)writer->data_bytes);
    if (!entry || json_object_set_new(writer->header, name, entry) != 0)
        fail("%s: tensor '%s' cannot be announced: its name is no UTF-8", writer->path, name);

    size_t capacity = writer->count;
    if ((capacity & (capacity + 1)) == 0) /* 0, 1, 3, 7, …: full */
        writer->tensors = xrealloc(writer->tensors, (2 * capacity + 1) * sizeof *writer->tensors);
    writer->tensors[writer->count++] = tensor;
}

/* The file's first bytes: length and header, padded with spaces so that the data is aligned. The caller
 * frees. */
static char *header_bytes(const struct safetensors_writer *writer, size_t *size) {
    char *text = json_dumps(writer->header, JSON_COMPACT);
    if (!text) fail("out of host memory while the header of %s was written", writer->path);
    size_t length = strlen(text);
    size_t padded = (length + HEADER_ALIGNMENT - 1) / HEADER_ALIGNMENT * HEADER_ALIGNMENT;
    char *bytes = xmalloc(LENGTH_BYTES + padded);
    for (int i = 0; i < LENGTH_BYTES; i++) bytes[i] = (char)((uint64_t)padded >> 8 * i & 0xff);
    memcpy(bytes + LENGTH_BYTES, text, length);
    memset(bytes + LENGTH_BYTES + length, ' ', padded - length);
    free(text);
    *size = LENGTH_BYTES + padded;
    return bytes;
}

size_t safetensors_writer_bytes(const struct safetensors_writer *writer) {
    size_t header;
    free(header_bytes(writer, &header));
    return header + writer->data_bytes;
}

static bool write_error(const struct safetensors_writer *writer, int reason, struct error *error) {
    if (reason == ENOSPC || reason == EDQUOT)
        return error_set(
            error,
            "%s: the disk is full: %zu bytes are needed, %lld free; make room or choose another output_dir",
            writer->path, safetensors_writer_bytes(writer), file_space(writer->path));
    return error_set(error, "%s: cannot be written: %s", writer->path, strerror(reason));
}

static bool write_at(const struct safetensors_writer *writer, size_t begin, const char *data, size_t size,
                     struct error *error) {
    const size_t most = (size_t)1 << 30; /* the system takes less than 2 GiB a call */
    while (size > 0) {
        ssize_t written = pwrite(writer->file, data, size < most ? size : most, (off_t)begin);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return write_error(writer, errno, error);
        if (written == 0) return write_error(writer, EIO, error);
        data += written;
        begin += (size_t)written;
        size -= (size_t)written;
    }
    return true;
}

/* Takes the space now; where the file system cannot, only sets the size. */
static bool reserve(const struct safetensors_writer *writer, size_t size, struct error *error) {
    int result;
    do {
        result = fallocate(writer->file, 0, 0, (off_t)size);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL))
        result = ftruncate(writer->file, (off_t)size);
    return result == 0 || write_error(writer, errno, error);
}

bool safetensors_begin(struct safetensors_writer *writer, struct error *error) {
    writer->file = open(writer->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->file < 0) return write_error(writer, errno, error);
    writer->created = true;
    char *header = header_bytes(writer, &writer->data_begin);
    bool ok = reserve(writer, writer->data_begin + writer->data_bytes, error) &&
              write_at(writer, 0, header, writer->data_begin, error);
    free(header);
    return ok;
}

bool safetensors_write(struct safetensors_writer *writer, size_t index, size_t begin, size_t count,
                       const void *values, struct error *error) {
    if (index >= writer->count || writer->file < 0)
        return error_set(error, "%s: tensor number %zu was not announced", writer->path, index);
    struct announced *tensor = &writer->tensors[index];
    if (begin > tensor->count || count > tensor->count - begin || count > tensor->count - tensor->written)
        return error_set(error,
                         "%s: tensor number %zu: elements %zu to %zu of %zu written beyond its end or twice",
                         writer->path, index, begin, begin + count, tensor->count);
    tensor->written += count;
    return write_at(writer, writer->data_begin + tensor->begin + begin * tensor->element_size, values,
                    count * tensor->element_size, error);
}

static bool all_written(const struct safetensors_writer *writer, struct error *error) {
    for (size_t i = 0; i < writer->count; i++)
        if (writer->tensors[i].written != writer->tensors[i].count)
            return error_set(error, "%s: tensor number %zu: only %zu of %zu elements were written",
                             writer->path, i, writer->tensors[i].written, writer->tensors[i].count);
    return true;
}

static bool sync_and_close(struct safetensors_writer *writer, struct error *error) {
    if (fsync(writer->file) != 0) return write_error(writer, errno, error);
    int file = writer->file;
    writer->file = -1;
    return close(file) == 0 ||
           write_error(writer, errno, error); /* network file systems report a full disk here */
}

static void free_writer(struct safetensors_writer *writer) {
    json_decref(writer->header);
    free(writer->tensors);
    free(writer->path);
    free(writer->part);
    free(writer);
}

bool safetensors_writer_finish(struct safetensors_writer *writer, struct error *error) {
    bool ok = writer->file >= 0 || error_set(error, "%s: finished before it was begun", writer->path);
    ok = ok && all_written(writer, error) && sync_and_close(writer, error);
    if (ok && rename(writer->part, writer->path) != 0) ok = write_error(writer, errno, error);
    if (ok)
        free_writer(writer);
    else
        safetensors_writer_abandon(writer);
    return ok;
}

void safetensors_writer_abandon(struct safetensors_writer *writer) {
    if (!writer) return;
    if (writer->file >= 0) close(writer->file);
    if (writer->created) unlink(writer->part);
    free_writer(writer);
}
