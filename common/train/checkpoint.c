#include "common/train/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/file.h"
#include "common/bloom/safetensors.h"
#include "common/bloom/weights.h"
#include "common/train/checkpoint_files.h"

/* ---- pieces: parts of the optimizer's state, named by what they are ---- */

struct piece {
    char name[48]; /* "block.3", "embedding", … */
    size_t begin;  /* first element of it, unpadded */
    size_t count;
};

/* What `slice` of a unit's padded buffer is, without the padding. */
static struct piece piece_of(const struct layout *layout, int u, struct slice slice) {
    const struct unit *unit = &layout->units[u];
    struct piece piece = {.begin = slice.begin, .count = slice.count};
    if (slice.begin >= unit->count)
        piece.count = 0;
    else if (slice.begin + slice.count > unit->count)
        piece.count = unit->count - slice.begin;
    switch (unit->kind) {
    case EMBEDDING_NORM:
        strcpy(piece.name, "embedding_norm");
        break;
    case BLOCK:
        snprintf(piece.name, sizeof piece.name, "block.%d", unit->layer);
        break;
    case FINAL_NORM:
        strcpy(piece.name, "final_norm");
        break;
    case EMBEDDING_CHUNK:
        strcpy(piece.name, "embedding");
        piece.begin += unit->first_row * layout->config.hidden;
        break;
    }
    return piece;
}

/* Master, m and v, or in fp32 m and v: the parameters are the masters. */
static const char *const state_names[] = {"m", "v", "master"};

static int states(const struct stage_state *stage) {
    return stage->dtype == FP32 ? 2 : 3;
}

static float *state_at(const struct stage_state *stage, int which, int u, size_t begin) {
    float *(*const at[])(void *, int, size_t) = {stage->m, stage->v, stage->master};
    return at[which](stage->self, u, begin);
}

/* ---- saving ---- */

enum { STAGING = 1 << 20 }; /* elements that go through the host at once */

/* `count` elements of the stage's state for the host to read: there, or brought to `staging`. */
static const float *fetch(const struct stage_state *stage, struct stream *stream, const float *state,
                          size_t count, float *staging) {
    if (stage->optimizer_on_host) return state;
    copy_to_host(stream, staging, state, count * sizeof(float));
    stream_synchronize(stream);
    return staging;
}

static void write_optimizer(const char *folder, const struct stage_state *stage, struct comm *comm,
                            struct stream *stream) {
    struct error error;
    const struct layout *layout = stage->layout;
    struct device *device = stream_device(stream);
    char *path = xformat("%s/optimizer-%05d-of-%05d.safetensors", folder, comm_rank(comm), comm_size(comm));
    struct safetensors_writer *writer = safetensors_writer_open(path);
    for (int u = 0; u < layout->count; u++) {
        struct piece piece = piece_of(layout, u, stage->owned(stage->self, u));
        for (int which = 0; which < states(stage) && piece.count; which++) {
            char name[96];
            snprintf(name, sizeof name, "%s.%zu.%s", piece.name, piece.begin, state_names[which]);
            safetensors_announce(writer, name, FP32, 1, &piece.count);
        }
    }
    if (!safetensors_begin(writer, &error)) fail("%s", error.text);
    float *staging = host_alloc(device, BUFFERS, STAGING * sizeof(float), true, "saving");
    size_t index = 0;
    for (int u = 0; u < layout->count; u++) {
        struct slice slice = stage->owned(stage->self, u);
        struct piece piece = piece_of(layout, u, slice);
        for (int which = 0; which < states(stage) && piece.count; which++, index++) {
            for (size_t done = 0; done < piece.count; done += STAGING) {
                size_t part = piece.count - done < STAGING ? piece.count - done : STAGING;
                const float *values =
                    fetch(stage, stream, state_at(stage, which, u, slice.begin + done), part, staging);
                if (!safetensors_write(writer, index, done, part, values, &error)) fail("%s", error.text);
            }
        }
    }
    host_free(device, staging);
    if (!safetensors_writer_finish(writer, &error)) fail("%s", error.text);
    free(path);
}

/* Unit by unit, so that a stage which gathers them never holds two; the leader writes. */
static void write_model(const char *folder, const struct stage_state *stage,
                        const struct model_sources *sources, struct comm *comm, struct stream *stream) {
    struct error error;
    const struct layout *layout = stage->layout;
    struct device *device = stream_device(stream);
    struct weights_writer *writer = NULL;
    if (comm_is_leader(comm)) {
        if (!model_directory_write(folder, sources, &layout->config, stage->dtype, &error))
            fail("%s", error.text);
        if (!(writer = weights_writer_open(folder, layout, stage->dtype, &error))) fail("%s", error.text);
    }
    size_t size = dtype_size(stage->dtype);
    void *staging = writer ? host_alloc(device, BUFFERS, layout->largest * size, true, "saving") : NULL;
    for (int u = 0; u < layout->count; u++) {
        const void *parameters = stage->unit_use(stage->self, u);
        if (writer) {
            copy_to_host(stream, staging, parameters, layout->units[u].count * size);
            stream_synchronize(stream);
            if (!weights_write_unit(writer, u, staging, &error)) fail("%s", error.text);
        }
        stage->unit_release(stage->self, u);
    }
    if (writer && !weights_writer_finish(writer, &error)) fail("%s", error.text);
    host_free(device, staging);
}

static void write_state(const char *folder, const json_t *state) {
    struct error error;
    char *path = xformat("%s/state.json", folder);
    char *text = json_dumps(state, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (!file_write(path, text, strlen(text), &error)) fail("%s", error.text);
    free(text);
    free(path);
}

/* The moment at which the checkpoint comes to be: everything before it is on the disk. */
static void publish(const char *output_dir, const char *part, const char *folder) {
    struct error error;
    if (!manifest_write(part, &error)) fail("%s", error.text);
    char *old = xformat("%s.old.part", folder);
    /* A run that resumed from an earlier checkpoint comes by here again. */
    if (directory_exists(folder) && rename(folder, old) != 0)
        fail("%s: cannot be replaced: %s", folder, strerror(errno));
    if (rename(part, folder) != 0) fail("%s: cannot be renamed to %s: %s", part, folder, strerror(errno));
    if (!directory_sync(output_dir, &error) || !directory_remove(old, &error)) fail("%s", error.text);
    free(old);
}

void checkpoint_save(const char *output_dir, long long update, int limit, const struct stage_state *stage,
                     const struct model_sources *sources, const json_t *state, struct comm *comm,
                     struct stream *stream) {
    struct error error;
    char *folder = xformat("%s/checkpoint-%lld", output_dir, update);
    char *part = xformat("%s.part", folder);
    if (comm_is_leader(comm) && (!directory_remove(part, &error) || !directory_create(part, &error)))
        fail("%s", error.text);
    comm_barrier(comm);
    write_model(part, stage, sources, comm, stream);
    write_optimizer(part, stage, comm, stream);
    comm_barrier(comm);
    if (comm_is_leader(comm)) {
        write_state(part, state);
        publish(output_dir, part, folder);
        checkpoint_prune(output_dir, limit);
    }
    comm_barrier(comm);
    free(part);
    free(folder);
}

void checkpoint_save_model(const char *output_dir, const struct stage_state *stage,
                           const struct model_sources *sources, struct comm *comm, struct stream *stream) {
    write_model(output_dir, stage, sources, comm, stream);
    comm_barrier(comm);
}

/* ---- loading ---- */

struct found_piece {
    const struct safetensors_entry *entry;
    struct piece piece;
    int which; /* of state_names */
};

struct optimizer_files {
    struct safetensors **files;
    int file_count;
    struct found_piece *pieces;
    size_t count;
};

/* "block.3.65536.m": what it is, where it begins, which state. */
static bool parse_piece(const struct safetensors_entry *entry, struct found_piece *found) {
    char name[96];
    if (snprintf(name, sizeof name, "%s", entry->name) >= (int)sizeof name) return false;
    char *state = strrchr(name, '.');
    if (!state) return false;
    *state++ = '\0';
    char *begin = strrchr(name, '.');
    if (!begin || strlen(name) >= sizeof found->piece.name + 16) return false;
    *begin++ = '\0';
    char *end;
    errno = 0;
    unsigned long long first = strtoull(begin, &end, 10);
    if (end == begin || *end || errno || strlen(name) >= sizeof found->piece.name) return false;
    *found = (struct found_piece){
        .entry = entry, .piece = {.begin = (size_t)first, .count = entry->count}, .which = -1};
    strcpy(found->piece.name, name);
    for (int i = 0; i < 3; i++)
        if (!strcmp(state, state_names[i])) found->which = i;
    return found->which >= 0 && entry->dtype == FP32;
}

static void open_optimizer_file(struct optimizer_files *files, const char *path) {
    struct error error;
    struct safetensors *file = safetensors_open(path, &error);
    if (!file) fail("%s", error.text);
    files->files = xrealloc(files->files, (size_t)(files->file_count + 1) * sizeof(struct safetensors *));
    files->files[files->file_count++] = file;
    size_t entries = safetensors_count(file);
    files->pieces = xrealloc(files->pieces, (files->count + entries) * sizeof *files->pieces);
    for (size_t i = 0; i < entries; i++)
        if (!parse_piece(safetensors_at(file, i), &files->pieces[files->count++]))
            fail("%s: %s: not a piece of optimizer state; the checkpoint is damaged, use another one", path,
                 safetensors_at(file, i)->name);
}

static int by_place(const void *a, const void *b) {
    const struct found_piece *x = a, *y = b;
    int order = strcmp(x->piece.name, y->piece.name);
    if (order) return order;
    if (x->which != y->which) return x->which - y->which;
    return (x->piece.begin > y->piece.begin) - (x->piece.begin < y->piece.begin);
}

/* Pieces must not overlap: an element that is there twice would hide one that is missing. */
static void check_pieces(struct optimizer_files *files, const char *folder) {
    if (files->count) qsort(files->pieces, files->count, sizeof *files->pieces, by_place);
    for (size_t i = 0; i + 1 < files->count; i++) {
        const struct found_piece *piece = &files->pieces[i], *next = piece + 1;
        if (!strcmp(piece->piece.name, next->piece.name) && piece->which == next->which &&
            next->piece.begin - piece->piece.begin < piece->piece.count)
            fail("%s: the optimizer's state holds %s twice; the checkpoint is damaged, use another one",
                 folder, next->entry->name);
    }
}

static void open_optimizer_files(struct optimizer_files *files, const char *folder) {
    struct error error;
    *files = (struct optimizer_files){0};
    json_t *manifest = manifest_check(folder, &error);
    if (!manifest) fail("%s", error.text);
    const char *name;
    json_t *size;
    json_object_foreach(json_object_get(manifest, "files"), name, size) {
        if (strncmp(name, "optimizer-", 10) != 0) continue;
        char *path = xformat("%s/%s", folder, name);
        open_optimizer_file(files, path);
        free(path);
    }
    json_decref(manifest);
    check_pieces(files, folder);
}

static void close_optimizer_files(struct optimizer_files *files) {
    for (int i = 0; i < files->file_count; i++) safetensors_close(files->files[i]);
    free(files->files);
    free(files->pieces);
}

static void load_part(const struct stage_state *stage, const struct safetensors_entry *entry, size_t begin,
                      size_t count, float *state, float *staging, struct stream *stream) {
    if (stage->optimizer_on_host) {
        safetensors_to_float(entry, begin, count, state);
        return;
    }
    for (size_t done = 0; done < count; done += STAGING) {
        size_t part = count - done < STAGING ? count - done : STAGING;
        safetensors_to_float(entry, begin + done, part, staging);
        copy_to_device(stream, state + done, staging, part * sizeof(float));
        stream_synchronize(stream);
    }
}

static void clear(const struct stage_state *stage, float *state, size_t count, struct stream *stream) {
    if (!stage->optimizer_on_host)
        fill_zero(stream, state, count * sizeof(float));
    else if (count)
        memset(state, 0, count * sizeof(float));
}

/* Puts one state of a unit's held slice together from all pieces that overlap it. */
static void load_state(const struct optimizer_files *files, const struct stage_state *stage, int which, int u,
                       float *staging, struct stream *stream, const char *folder) {
    struct slice slice = stage->held(stage->self, u);
    struct piece wanted = piece_of(stage->layout, u, slice);
    float *state = slice.count ? state_at(stage, which, u, slice.begin) : NULL;
    size_t loaded = 0;
    clear(stage, state, slice.count, stream); /* the padding */
    for (size_t i = 0; i < files->count; i++) {
        const struct found_piece *found = &files->pieces[i];
        if (found->which != which || strcmp(found->piece.name, wanted.name) != 0) continue;
        size_t first = found->piece.begin > wanted.begin ? found->piece.begin : wanted.begin;
        size_t found_end = found->piece.begin + found->piece.count, wanted_end = wanted.begin + wanted.count;
        size_t last = found_end < wanted_end ? found_end : wanted_end;
        if (first >= last) continue;
        load_part(stage, found->entry, first - found->piece.begin, last - first,
                  state + (first - wanted.begin), staging, stream);
        loaded += last - first;
    }
    if (loaded != wanted.count)
        fail("%s: the optimizer's state of %s is not whole (%zu of %zu elements of %s): use another "
             "checkpoint",
             folder, wanted.name, loaded, wanted.count, state_names[which]);
}

/* A checkpoint of another model must not be loaded even where its pieces would fit. */
static void check_model(const char *folder, const struct bloom_config *config) {
    struct error error;
    struct bloom_config saved;
    char *path = xformat("%s/config.json", folder);
    if (!bloom_config_read(&saved, path, &error)) fail("%s", error.text);
    if (saved.vocabulary != config->vocabulary || saved.hidden != config->hidden ||
        saved.layers != config->layers || saved.heads != config->heads ||
        saved.post_layernorm != config->post_layernorm ||
        saved.layer_norm_epsilon != config->layer_norm_epsilon)
        fail("%s: is of another model (%zu layers, %zu wide, %zu heads, vocabulary %zu) than this run's "
             "(%zu, %zu, "
             "%zu, %zu): give the model_name_or_path that the checkpoint's run had",
             path, saved.layers, saved.hidden, saved.heads, saved.vocabulary, config->layers, config->hidden,
             config->heads, config->vocabulary);
    free(path);
}

/* In fp32: masters are the model's parameters. */
static void load_masters(const struct stage_state *stage, const struct weights *weights, float *staging,
                         struct stream *stream) {
    struct device *device = stream_device(stream);
    float *window = NULL;
    if (stage->optimizer_on_host)
        window = device_alloc(device, BUFFERS, WEIGHTS_WINDOW * sizeof(float), "loading");
    for (int u = 0; u < stage->layout->count; u++) {
        struct slice slice = stage->held(stage->self, u);
        if (!slice.count) continue;
        float *master = stage->master(stage->self, u, slice.begin);
        if (window)
            weights_load_to_host(weights, stream, u, slice.begin, slice.count, master, window, staging);
        else
            weights_load(weights, stream, u, slice.begin, slice.count, master, staging);
    }
    stream_synchronize(stream);
    device_free(device, window);
}

void checkpoint_load(const char *folder, const struct stage_state *stage, struct stream *stream) {
    struct error error;
    struct device *device = stream_device(stream);
    struct optimizer_files files;
    check_model(folder, &stage->layout->config);
    open_optimizer_files(&files, folder);
    float *staging = host_alloc(device, BUFFERS, STAGING * sizeof(float), true, "loading");
    for (int u = 0; u < stage->layout->count; u++)
        for (int which = 0; which < states(stage); which++)
            load_state(&files, stage, which, u, staging, stream, folder);
    if (stage->dtype == FP32) {
        struct weights *weights = weights_open(folder, stage->layout, &error);
        if (!weights) fail("%s", error.text);
        load_masters(stage, weights, staging, stream);
        weights_close(weights);
    }
    stream_synchronize(stream);
    host_free(device, staging);
    close_optimizer_files(&files);
}

/* ---- sizes ---- */

/* What model_directory_write() copies or makes. */
static size_t other_files_bytes(const struct model_sources *sources) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"};
    size_t bytes = 64 << 10; /* configuration, state, manifest */
    for (size_t i = 0; sources->tokenizer && i < sizeof names / sizeof *names; i++) {
        struct stat status;
        char *path = xformat("%s/%s", sources->tokenizer, names[i]);
        if (stat(path, &status) == 0) bytes += (size_t)status.st_size;
        free(path);
    }
    return bytes;
}

size_t checkpoint_model_bytes(const struct layout *layout, enum dtype dtype,
                              const struct model_sources *sources) {
    return weights_file_bytes(layout, dtype) + other_files_bytes(sources);
}

size_t checkpoint_bytes(const struct layout *layout, enum dtype dtype, const struct model_sources *sources) {
    size_t copies = dtype == FP32 ? 2 : 3;
    /* Beside the elements, every rank's file has a header with a line for each of its pieces. */
    size_t header = 160 * copies * (size_t)layout->count + 4096;
    return checkpoint_model_bytes(layout, dtype, sources) + copies * layout->parameters * sizeof(float) +
           (size_t)layout->world_size * header;
}
