/*
 * Work counted: what each kernel of kernels.h adds to device_work(), from its arguments alone. Every backend
 * counts by calling these, so that the counts are equal on all of them: the first line of a kernel is its
 * work_… call.
 *
 * - product_flops: 2·m·n·k for a product of [m,k] and [k,n]; attention as the products it is made of, over
 *   the pairs of query and key that its mask leaves.
 * - bytes: each operand once: an input read, an output written, an accumulated output both; statistics and
 *   indices too. What a kernel reads again, or keeps in a workspace, does not count.
 * - kernels: one a call, also where there are no rows.
 */
#ifndef COMMON_DEVICE_WORK_H
#define COMMON_DEVICE_WORK_H

#include "common/device/kernels.h"

/* The counters of the stream's device; every backend defines it. */
struct work *stream_work(struct stream *stream);

void work_linear_forward(struct stream *stream, enum dtype dtype, bool bias, bool residual, size_t m,
                         size_t n, size_t k);
void work_linear_gelu_forward(struct stream *stream, enum dtype dtype, size_t m, size_t n, size_t k);
void work_linear_backward_input(struct stream *stream, enum dtype dtype, enum dtype dx_dtype, bool add,
                                size_t m, size_t n, size_t k);
void work_linear_gelu_backward_input(struct stream *stream, enum dtype dtype, size_t m, size_t n, size_t k,
                                     bool accumulate);
void work_linear_backward_weight(struct stream *stream, enum dtype dtype, bool bias, size_t m, size_t n,
                                 size_t k, bool accumulate);
void work_gelu_forward(struct stream *stream, enum dtype dtype, size_t count);

/* layernorm_forward and layernorm_recompute. */
void work_layernorm_forward(struct stream *stream, enum dtype dtype, size_t rows, size_t h);
void work_layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                             bool add, size_t rows, size_t h, bool accumulate);

void work_attention_forward(struct stream *stream, enum dtype dtype, const struct sequences *sequences,
                            size_t heads, size_t head_dim);
void work_attention_backward(struct stream *stream, enum dtype dtype, const struct sequences *sequences,
                             size_t heads, size_t head_dim);
void work_attention_cached(struct stream *stream, enum dtype dtype, const struct cached_rows *rows,
                           size_t heads, size_t head_dim);

void work_embedding_lookup(struct stream *stream, enum dtype dtype, size_t n, size_t h);
/* How many of the n ids fall into these rows is not known from the arguments: counted as the most rows it may
 * touch. */
void work_embedding_backward(struct stream *stream, enum dtype dtype, size_t rows, size_t n, size_t h);
void work_gather_rows(struct stream *stream, enum dtype dtype, size_t count, size_t h);
void work_scatter_rows(struct stream *stream, enum dtype dtype, size_t count, size_t n, size_t h);

void work_cross_entropy(struct stream *stream, enum dtype dtype, size_t rows, size_t vocabulary, size_t ld,
                        bool gradient);
void work_largest_column(struct stream *stream, enum dtype dtype, size_t rows, size_t vocabulary);
void work_sum_values(struct stream *stream, size_t count);
void work_sum_of_squares(struct stream *stream, enum dtype dtype, size_t count);

void work_update_begin(struct stream *stream);
void work_update_prepare(struct stream *stream);
void work_adamw(struct stream *stream, enum dtype dtype, size_t count);

void work_convert(struct stream *stream, enum dtype out_dtype, enum dtype dtype, size_t count);
void work_add_elements(struct stream *stream, enum dtype dtype, size_t count);
/* fill_value and fill_normal. */
void work_fill(struct stream *stream, size_t count);

/* The copies and fills of device.h. */
void work_copy_host(struct stream *stream, size_t bytes);   /* between host and device, either way */
void work_copy_device(struct stream *stream, size_t bytes); /* copy_on_device */
void work_fill_zero(struct stream *stream, size_t bytes);

#endif
