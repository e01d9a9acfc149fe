/*
 * The kernels of BLOOM, its loss and its optimizer: everything that computes on device memory.
 *
 * Conventions:
 *   - Every pointer is device memory unless its comment says host. Work is queued on `stream`.
 *   - Matrices are row-major; [m,n] has n elements a row, unless a leading dimension `ld` is given.
 *   - `dtype` (FP32, BF16, FP16) is the storage of all `void *` operands; every sum is taken in fp32
 *     (or better) in a fixed order, so that the same call gives the same bits.
 *   - "accumulate" adds to what the output holds; without it the output is overwritten, also where the
 *     input has no rows: an empty pack (0 tokens) is legal everywhere.
 *   - Outputs may not overlap inputs, unless the comment says so.
 */
#ifndef COMMON_DEVICE_KERNELS_H
#define COMMON_DEVICE_KERNELS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/device/device.h"

/* ---- linear layers: y = x · wᵀ + b, with w [n,k] as PyTorch stores it (n outputs, k inputs) ---- */

/* y [m,n] (leading dimension ldy ≥ n) = x [m,k] · w [n,k]ᵀ + bias [n] + residual [m,n]; bias and residual may
 * be NULL. y may be the residual itself (ldy == n). */
void linear_forward(struct stream *stream, enum dtype dtype, void *y, size_t ldy, const void *x,
                    const void *w, const void *bias, const void *residual, size_t m, size_t n, size_t k);

/* pre [m,n] = x [m,k] · w [n,k]ᵀ + bias [n], out [m,n] = gelu(pre). */
void linear_gelu_forward(struct stream *stream, enum dtype dtype, void *out, void *pre, const void *x,
                         const void *w, const void *bias, size_t m, size_t n, size_t k);

/* dx [m,k] = dy [m,n] (leading dimension lddy) · w [n,k] + add [m,k]. dx and add are of dx_dtype (dtype or
 * FP32); add may be NULL, or dx itself, which accumulates. */
void linear_backward_input(struct stream *stream, enum dtype dtype, void *dx, enum dtype dx_dtype,
                           const void *dy, size_t lddy, const void *w, const void *add, size_t m, size_t n,
                           size_t k);

/* Backward of the linear that follows a GELU, down to the bias of the one before it: dpre [m,k] =
 * (dy [m,n] · w [n,k]) ∘ gelu'(pre [m,k]), dbias [k] (+)= column sums of dpre, and on the way, for w's own
 * gradient, active [m,k] = gelu(pre): what linear_gelu_forward gave, recomputed. */
void linear_gelu_backward_input(struct stream *stream, enum dtype dtype, void *dpre, void *dbias,
                                void *active, const void *dy, const void *w, const void *pre, size_t m,
                                size_t n, size_t k, bool accumulate);

/* dw [n,k] (+)= dy [m,n]ᵀ (leading dimension lddy) · x [m,k]; dbias [n] (+)= column sums of dy; dbias may be
 * NULL. */
void linear_backward_weight(struct stream *stream, enum dtype dtype, void *dw, void *dbias, const void *dy,
                            size_t lddy, const void *x, size_t m, size_t n, size_t k, bool accumulate);

/* out [count] = gelu(x), the tanh form: 0.5·x·(1 + tanh(0.79788456·x·(1 + 0.044715·x²))) (BLOOM's). */
void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count);

/* ---- layer norm (Ba et al. 2016), over rows of h elements; mean and rstd are fp32 [rows] ---- */

void layernorm_forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                       const void *x, const void *weight, const void *bias, size_t rows, size_t h, float eps);

/* out from saved statistics: what layernorm_forward gave, recomputed. */
void layernorm_recompute(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                         const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                         size_t h);

/* Where a layer norm's backward puts what it can tell from one reading of x. */
struct layernorm_gradients {
    void *dx;              /* [rows,h] = d(layer norm)/dx · dy + add */
    void *dweight, *dbias; /* [h] (+)= */
    void *dx_sums;         /* [h] (+)= column sums of dx: the gradient of a bias in x; may be NULL */
    void *out;             /* [rows,h] = what layernorm_forward gave, recomputed; may be NULL */
};

/* dy, x and add are [rows,h]; add may be NULL or dx itself, dx may be dy itself. */
void layernorm_backward(struct stream *stream, enum dtype dtype, const struct layernorm_gradients *to,
                        const void *dy, const void *x, const void *weight, const void *bias,
                        const float *mean, const float *rstd, const void *add, size_t rows, size_t h,
                        bool accumulate);

/* ---- attention (fused: no T×T matrix in memory; Dao et al. 2022) with ALiBi (Press et al. 2022) ---- */

/* Sequences packed end to end. Row i of sequence s (its token starts[s] + i) attends to that sequence's rows
 * 0 … min(i, keys[s] − 1): causal, and never to padding, which are the rows from keys[s] on. */
struct sequences {
    int count;             /* sequences; 0 is legal */
    int tokens;            /* rows of all sequences together: starts[count] */
    int longest;           /* rows of the longest sequence */
    double pairs;          /* query-key pairs, for counting work */
    const int32_t *starts; /* [count + 1] */
    const int32_t *keys;   /* [count], each ≥ 1 */
};

/* out [tokens, heads·head_dim] of qkv [tokens, heads, 3, head_dim] (for each head its q, then k, then v);
 * lse [heads, tokens] fp32: the log-sum-exp of each row's scores, for the backward of the same backend alone
 * (it may leave out what is the same in all of a row's scores). score(q,k) = q·k / sqrt(head_dim) +
 * slope(head) · position(k); slopes by alibi_slope(). */
void attention_forward(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                       const struct sequences *sequences, size_t heads, size_t head_dim);

/* dqkv like qkv, from dout, and qkv, out, lse of the forward; `scratch` is fp32 [heads, tokens]. */
void attention_backward(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                        const void *qkv, const void *out, const float *lse, float *scratch,
                        const struct sequences *sequences, size_t heads, size_t head_dim);

/* Keys and values of rows that went through a block before, so that later rows attend to them without their
 * being computed again: [slots, heads, capacity, head_dim] each. A slot holds one sequence, its row i at
 * position i. */
struct key_value_cache {
    void *keys, *values;
    size_t capacity; /* positions of a slot */
};

/* Rows that come now: row r is position positions[r] (below the capacity) of the sequence in slots[r]. The
 * same position may come only once in a call, and all before it must have come, now or earlier. */
struct cached_rows {
    int count;                        /* 0 is legal */
    double keys;                      /* positions seen by all rows together, for counting work */
    const int32_t *slots, *positions; /* [count] */
};

/* attention_forward with a cache: stores the keys and values of qkv [count, heads, 3, head_dim], then out
 * [count, heads·head_dim] is each row's attention to positions 0 … positions[r] of its slot. */
void attention_cached(struct stream *stream, enum dtype dtype, void *out, const struct key_value_cache *cache,
                      const void *qkv, const struct cached_rows *rows, size_t heads, size_t head_dim);

/* Slope of a head (0-based) among `heads`: bloom.md's rule, also for numbers that are no power of two. Host
 * code. */
float alibi_slope(size_t head, size_t heads);

/* ---- embedding, rows ---- */

/* out [n,h]: row i is row ids[i] of table [·,h]; ids are checked by the host when the text is read. */
void embedding_lookup(struct stream *stream, enum dtype dtype, void *out, const void *table,
                      const int32_t *ids, size_t n, size_t h);

/* dtable [rows,h], the rows first_row … first_row+rows−1 of the table: each row gains the sum (in fp32, in
 * an order that by_id alone decides, added once) of dx [n,h]'s rows whose id it is. by_id [n] holds the token
 * rows sorted by id, stable. No atomics. */
void embedding_backward(struct stream *stream, enum dtype dtype, void *dtable, size_t first_row, size_t rows,
                        const void *dx, const int32_t *ids, const int32_t *by_id, size_t n, size_t h);

/* out [count,h]: x's rows rows[0] … rows[count−1]. */
void gather_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                 size_t count, size_t h);
/* The reverse: out [n,h] is zero but for those rows (distinct). */
void scatter_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                  size_t count, size_t n, size_t h);

/* ---- loss ---- */

/* logits [rows, ld], of which the first `vocabulary` columns of a row count: losses[r] (fp32) = weights[r] ·
 * cross entropy of row r with labels[r]. With `gradient`, logits become in place their gradients, weights[r]
 * · (softmax − onehot) · *loss_scale · inverse_positions (columns from `vocabulary` on: 0); loss_scale is on
 * the device. A row of weight 0 has loss and gradient exactly 0. */
void cross_entropy(struct stream *stream, enum dtype dtype, void *logits, float *losses,
                   const int32_t *labels, const float *weights, size_t rows, size_t vocabulary, size_t ld,
                   bool gradient, const float *loss_scale, float inverse_positions);

/* out [rows]: the column of the largest among the first `vocabulary` of each row of logits [rows, ld], the
 * first one of equals; NaNs are passed over, and a row that has nothing else gets 0. */
void largest_column(struct stream *stream, enum dtype dtype, int32_t *out, const void *logits, size_t rows,
                    size_t vocabulary, size_t ld);

/* *total (fp64) += Σ values [count] fp32, in a fixed order. */
void sum_values(struct stream *stream, double *total, const float *values, size_t count);
/* *total (fp64) += Σ x² of x [count], in a fixed order; not finite where an element is not. */
void sum_of_squares(struct stream *stream, enum dtype dtype, double *total, const void *x, size_t count);

/* ---- the update ---- */

/* What an update needs to know and no host waits for; in device memory. The host copies it back late. */
struct update_state {
    double loss_sum;      /* Σ of weighted token cross-entropies of this update, of this rank, then of all */
    double square_sum;    /* Σ of squares of the (scaled) gradients, of this rank, then of all */
    double learning_rate; /* used by this update */
    double grad_norm;     /* of the whole model's gradients, unscaled, before clipping */
    float loss_scale;     /* 1 unless fp16 */
    float used_loss_scale;     /* the scale of this update's gradients */
    float gradient_multiplier; /* 1 / loss scale · clipping */
    float correction1;         /* 1 − β₁^t */
    float correction2;         /* 1 − β₂^t */
    int32_t clean_updates;     /* since the loss scale last changed */
    int32_t applied;           /* updates applied: Adam's t, and the position in the schedule */
    int32_t skip;              /* this update is skipped: a gradient overflowed (fp16) */
};
/* One all-reduce of two elements sums both. */
static_assert(offsetof(struct update_state, square_sum) ==
                  offsetof(struct update_state, loss_sum) + sizeof(double),
              "square_sum follows loss_sum");

struct update_rule {
    double max_grad_norm; /* 0: no clipping */
    double beta1, beta2, epsilon, weight_decay;
    bool dynamic_loss_scale; /* fp16: halve on overflow and skip, double after scale_window clean updates */
    int scale_window;
};

/* Clears the sums: before the first micro-batch of an update. */
void update_begin(struct stream *stream, struct update_state *state);

/* After the sums are complete: norm, overflow, loss scale, clipping as torch.nn.utils.clip_grad_norm_
 * (max_norm / (norm + 1e-6), at most 1), learning_rates[applied] (fp64, device, one a planned update), Adam's
 * t. */
void update_prepare(struct stream *stream, struct update_state *state, const struct update_rule *rule,
                    const double *learning_rates);

/* AdamW (Loshchilov and Hutter 2019) as torch.optim.AdamW, on `count` elements of a flat buffer of which the
 * first `decayed` have weight decay: gradient [count] of dtype, master, m, v fp32. `parameters` (dtype)
 * receives the master rounded; in FP32 it is the master itself (pass the same pointer). Does nothing where
 * state->skip is set. */
void adamw(struct stream *stream, enum dtype dtype, void *parameters, float *master, float *m, float *v,
           const void *gradient, size_t count, size_t decayed, const struct update_state *state,
           const struct update_rule *rule);

/* ---- adding, filling and converting ---- */

/* out [count] += x [count], rounded once. */
void add_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count);

/* out [count] of out_dtype from x [count] of dtype: rounded to nearest even. */
void convert(struct stream *stream, enum dtype out_dtype, void *out, enum dtype dtype, const void *x,
             size_t count);
/* out [count] fp32 = value. */
void fill_value(struct stream *stream, float *out, float value, size_t count);
/* out [count] fp32: elements first … first+count−1 of a tensor of normal(0, deviation) values, each a
 * function of (seed, tensor, index) alone: the same however the tensor is cut. */
void fill_normal(struct stream *stream, float *out, uint64_t seed, uint64_t tensor, size_t first,
                 size_t count, float deviation);

#endif
