/*
 * Parameters from and to files, cut into units (layout.h).
 *
 * In: a Hugging Face directory — model.safetensors or its sharded index; F32, F16 or BF16; names with or
 * without the "transformer." prefix — memory-mapped, so that a rank which asks only for slices reads only
 * those; or random values, a function of seed, tensor and index alone. Out: model.safetensors as
 * AutoModelForCausalLM.from_pretrained reads it, written unit by unit.
 */
#ifndef COMMON_BLOOM_WEIGHTS_H
#define COMMON_BLOOM_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/bloom/layout.h"
#include "common/device/device.h"

struct weights; /* an opened source of parameters; its layout must outlive it */

/* Opens and checks a checkpoint directory against the layout: every tensor there, of the right shape and
 * type, inside its file; a present lm_head.weight equal to the embedding. NULL with the tensor and file in
 * `error`. */
struct weights *weights_open(const char *directory, const struct layout *layout, struct error *error);
/* Random weights: normal(0, initializer_range) for matrices and embedding, 0 for biases, 1 and 0 for layer
 * norms. */
struct weights *weights_random(uint64_t seed, const struct layout *layout);
void weights_close(struct weights *weights);

/* Elements [begin, begin + count) of unit `unit`'s padded buffer, as fp32, into device memory `out`; padding
 * is 0. `staging` is fp32 host memory of at least WEIGHTS_STAGING elements, free again when the call returns
 * (the call synchronises the stream where it has to). */
enum { WEIGHTS_STAGING = 1 << 20 };
void weights_load(const struct weights *weights, struct stream *stream, int unit, size_t begin, size_t count,
                  float *out, float *staging);

/* The same into host memory, a window after the other: `window` is device memory of WEIGHTS_WINDOW elements.
 * The elements are there when the call returns. */
enum { WEIGHTS_WINDOW = 1 << 18 };
void weights_load_to_host(const struct weights *weights, struct stream *stream, int unit, size_t begin,
                          size_t count, float *out, float *window, float *staging);

/* Writes `directory`/model.safetensors. The tensors are announced in one header, then written as their units
 * come: weights_write_unit() in any order, each unit once, [count] elements of host memory in `dtype` (FP32,
 * BF16, FP16: as announced). False with `error` set where the disk is full or not writable. finish() syncs
 * and closes; abandon() closes and removes the file. */
struct weights_writer;
struct weights_writer *weights_writer_open(const char *directory, const struct layout *layout,
                                           enum dtype dtype, struct error *error);
bool weights_write_unit(struct weights_writer *writer, int unit, const void *values, struct error *error);
bool weights_writer_finish(struct weights_writer *writer, struct error *error);
void weights_writer_abandon(struct weights_writer *writer);
/* Bytes that such a file will have. */
size_t weights_file_bytes(const struct layout *layout, enum dtype dtype);

/* A model argument to a directory: a directory with a config.json is itself; "ORG/NAME" is looked up in the
 * Hugging Face cache (HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub;
 * revision main). The caller frees the result; NULL with what to do (./workshop fetch ORG/NAME) in `error`.
 */
char *weights_find(const char *name, struct error *error);

#endif
