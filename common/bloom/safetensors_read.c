#include "common/bloom/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"

enum {
    LENGTH_BYTES = 8,
    MOST_HEADER = 100 * 1000 * 1000, /* as the reference implementation: more is no header */
    MOST_DIMENSIONS = sizeof((struct safetensors_entry){0}.shape) / sizeof(size_t),
};

struct safetensors {
    struct file_map map; /* empty where the bytes are the caller's */
    char *path;
    struct safetensors_entry *entries; /* sorted by name */
    size_t count;
};

/* The format's types that take whole bytes. */
static const struct type {
    const char *name;
    size_t size;
    bool readable;
    enum dtype dtype;
} types[] = {
    {"F32", 4, true, FP32},  {"F16", 2, true, FP16},   {"BF16", 2, true, BF16},  {"F64", 8, true, FP64},
    {"I32", 4, true, INT32}, {"I64", 8, false, 0},     {"U64", 8, false, 0},     {"U32", 4, false, 0},
    {"I16", 2, false, 0},    {"U16", 2, false, 0},     {"I8", 1, false, 0},      {"U8", 1, false, 0},
    {"BOOL", 1, false, 0},   {"F8_E4M3", 1, false, 0}, {"F8_E5M2", 1, false, 0}, {"F8_E8M0", 1, false, 0},
    {"C64", 8, false, 0},
};

/* The tensors' bytes, while the header is read. */
struct body {
    const unsigned char *data;
    size_t size;
    const char *path;
    struct error *error;
};

static const struct type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name)) return &types[i];
    return NULL;
}

static bool bad_entry(const struct body *body, const char *name, const char *reason) {
    return error_set(body->error, "%s: tensor '%.200s': %s; the file is damaged, fetch or write it again",
                     body->path, name, reason);
}

static bool read_type(struct safetensors_entry *entry, const json_t *value, const struct body *body) {
    const char *name = json_string_value(json_object_get(value, "dtype"));
    if (!name) return bad_entry(body, entry->name, "no dtype");
    const struct type *type = find_type(name);
    if (!type)
        return error_set(body->error, "%s: tensor '%.200s': unknown dtype '%.40s'; expected F32, F16 or BF16",
                         body->path, entry->name, name);
    entry->type = type->name;
    entry->readable = type->readable;
    entry->dtype = type->dtype;
    entry->size = type->size; /* of one element; read_shape() multiplies */
    return true;
}

/* *product *= factor, false where that overflows. */
static bool multiply(size_t *product, size_t factor) {
    if (factor && *product > SIZE_MAX / factor) return false;
    *product *= factor;
    return true;
}

static bool read_shape(struct safetensors_entry *entry, const json_t *value, const struct body *body) {
    const json_t *shape = json_object_get(value, "shape");
    if (!json_is_array(shape)) return bad_entry(body, entry->name, "shape is no list");
    if (json_array_size(shape) > MOST_DIMENSIONS)
        return bad_entry(body, entry->name, "more than 8 dimensions");
    entry->count = 1;
    const json_t *number;
    size_t i;
    json_array_foreach(shape, i, number) {
        if (!json_is_integer(number) || json_integer_value(number) < 0)
            return bad_entry(body, entry->name, "shape has something else than whole numbers");
        entry->shape[i] = (size_t)json_integer_value(number);
        if (!multiply(&entry->count, entry->shape[i]))
            return bad_entry(body, entry->name, "shape has more elements than can be counted");
    }
    entry->dimensions = (int)json_array_size(shape);
    if (!multiply(&entry->size, entry->count))
        return bad_entry(body, entry->name, "shape has more bytes than can be counted");
    return true;
}

static bool read_place(struct safetensors_entry *entry, const json_t *value, const struct body *body) {
    const json_t *offsets = json_object_get(value, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return bad_entry(body, entry->name, "data_offsets is no pair of whole numbers");
    long long begin = json_integer_value(from), end = json_integer_value(to);
    if (begin < 0 || end < begin) return bad_entry(body, entry->name, "data_offsets do not ascend from 0");
    if ((unsigned long long)end > body->size)
        return error_set(
            body->error,
            "%s: tensor '%.200s' ends at byte %lld of %zu: the file is truncated, fetch it again", body->path,
            entry->name, end, body->size);
    if ((size_t)(end - begin) != entry->size)
        return error_set(
            body->error,
            "%s: tensor '%.200s': %s needs %zu bytes, data_offsets give %lld; the file is damaged, fetch "
            "or write it again",
            body->path, entry->name, safetensors_describe(entry).text, entry->size, end - begin);
    entry->data = body->data + begin;
    return true;
}

/* The reference implementation takes text values only, and so does PyTorch's loader of "format". */
static bool check_metadata(json_t *metadata, const struct body *body) {
    if (!json_is_object(metadata)) return error_set(body->error, "%s: __metadata__ is no object", body->path);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return error_set(body->error, "%s: __metadata__: '%.60s' is no text", body->path, key);
    }
    return true;
}

static bool read_entries(struct safetensors *file, json_t *header, const struct body *body) {
    file->entries = xcalloc(json_object_size(header), sizeof *file->entries);
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) {
        if (!strcmp(name, "__metadata__")) {
            if (!check_metadata(value, body)) return false;
            continue;
        }
        struct safetensors_entry *entry = &file->entries[file->count++];
        entry->name = xstrdup(name);
        if (!json_is_object(value)) return bad_entry(body, name, "no object");
        if (!read_type(entry, value, body) || !read_shape(entry, value, body) ||
            !read_place(entry, value, body))
            return false;
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    const struct safetensors_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int by_place(const void *a, const void *b) {
    const struct safetensors_entry *x = *(const struct safetensors_entry *const *)a;
    const struct safetensors_entry *y = *(const struct safetensors_entry *const *)b;
    const char *p = x->data, *q = y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->size > y->size) - (x->size < y->size); /* the empty ones first */
}

/* The tensors must cover the bytes from first to last, each byte once. */
static bool check_coverage(const struct safetensors *file, const struct body *body) {
    const struct safetensors_entry **order = xmalloc((file->count + 1) * sizeof(struct safetensors_entry *));
    for (size_t i = 0; i < file->count; i++) order[i] = &file->entries[i];
    qsort(order, file->count, sizeof *order, by_place);
    size_t covered = 0;
    bool ok = true;
    for (size_t i = 0; ok && i < file->count; i++) {
        size_t begin = (size_t)((const unsigned char *)order[i]->data - body->data);
        if (begin < covered) ok = bad_entry(body, order[i]->name, "overlaps the tensor before it");
        if (begin > covered) ok = bad_entry(body, order[i]->name, "there is a gap before it");
        covered = begin + order[i]->size;
    }
    free(order);
    if (ok && covered != body->size)
        return error_set(body->error,
                         "%s: %zu bytes follow the last tensor; the file is damaged, fetch or write it again",
                         body->path, body->size - covered);
    return ok;
}

static bool read_header(struct safetensors *file, const unsigned char *data, size_t size,
                        struct error *error) {
    if (size < LENGTH_BYTES)
        return error_set(error, "%s: %zu bytes are no safetensors file; fetch it again", file->path, size);
    uint64_t length = 0;
    for (int i = LENGTH_BYTES; i-- > 0;) length = length << 8 | data[i];
    if (length > MOST_HEADER)
        return error_set(error, "%s: a header of %" PRIu64 " bytes: this is no safetensors file", file->path,
                         length);
    if (length > size - LENGTH_BYTES)
        return error_set(
            error, "%s: header of %" PRIu64 " bytes in a file of %zu: the file is truncated, fetch it again",
            file->path, length, size);

    char *name = xformat("%s (header)", file->path);
    json_t *header = json_read_bytes((const char *)data + LENGTH_BYTES, (size_t)length, name, error);
    free(name);
    if (!header) return false;
    struct body body = {data + LENGTH_BYTES + length, size - LENGTH_BYTES - (size_t)length, file->path,
                        error};
    bool ok = json_is_object(header) || error_set(error, "%s: the header is no object {…}", file->path);
    ok = ok && read_entries(file, header, &body) && check_coverage(file, &body);
    json_decref(header);
    if (ok) qsort(file->entries, file->count, sizeof *file->entries, by_name);
    return ok;
}

struct safetensors *safetensors_parse(const void *data, size_t size, const char *name, struct error *error) {
    struct safetensors *file = xcalloc(1, sizeof *file);
    file->map.data = "";
    file->path = xstrdup(name);
    if (read_header(file, data, size, error)) return file;
    safetensors_close(file);
    return NULL;
}

struct safetensors *safetensors_open(const char *path, struct error *error) {
    struct file_map map;
    if (!file_map(&map, path, error)) return NULL;
    struct safetensors *file = safetensors_parse(map.data, map.size, path, error);
    if (file)
        file->map = map;
    else
        file_unmap(&map);
    return file;
}

void safetensors_close(struct safetensors *file) {
    if (!file) return;
    for (size_t i = 0; i < file->count; i++) free(file->entries[i].name);
    free(file->entries);
    free(file->path);
    file_unmap(&file->map);
    free(file);
}

const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name) {
    const struct safetensors_entry key = {.name = (char *)(size_t)name};
    return bsearch(&key, file->entries, file->count, sizeof key, by_name);
}

size_t safetensors_count(const struct safetensors *file) {
    return file->count;
}

const struct safetensors_entry *safetensors_at(const struct safetensors *file, size_t index) {
    return &file->entries[index];
}

const char *safetensors_path(const struct safetensors *file) {
    return file->path;
}

struct safetensors_text safetensors_describe(const struct safetensors_entry *entry) {
    struct safetensors_text out;
    size_t used = (size_t)snprintf(out.text, sizeof out.text, "%s [", entry->type);
    for (int i = 0; i < entry->dimensions; i++)
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%zu", i ? ", " : "",
                                 entry->shape[i]);
    snprintf(out.text + used, sizeof out.text - used, "]");
    return out;
}

void safetensors_to_float(const struct safetensors_entry *entry, size_t begin, size_t count, float *out) {
    if (begin > entry->count || count > entry->count - begin)
        fail("tensor '%s': elements %zu to %zu of %zu were asked for", entry->name, begin, begin + count,
             entry->count);
    const unsigned char *data = entry->data;
    if (entry->readable && entry->dtype == FP32) {
        if (count) memcpy(out, data + begin * sizeof *out, count * sizeof *out);
        return;
    }
    if (!entry->readable || (entry->dtype != FP16 && entry->dtype != BF16))
        fail("tensor '%s': %s cannot be read as numbers of fp32", entry->name,
             safetensors_describe(entry).text);
    /* By way of a small aligned buffer: the file's data may start anywhere. */
    uint16_t bits[512];
    const size_t most = sizeof bits / sizeof *bits;
    for (size_t done = 0; done < count;) {
        size_t n = count - done < most ? count - done : most;
        memcpy(bits, data + (begin + done) * sizeof *bits, n * sizeof *bits);
        (entry->dtype == FP16 ? fp16_to_floats : bf16_to_floats)(out + done, bits, n);
        done += n;
    }
}
