/*
 * Attention on CUDA: what its files share. Private to them.
 *
 *   attention.cu           the two functions of kernels.h: which of the two ways is taken
 *   attention_forward.cu   on tensor cores: tiles of 64 keys, online softmax (Dao 2023, FlashAttention-2)
 *   attention_backward.cu  on tensor cores: probabilities computed again from the log-sum-exp
 *   attention_tiles.cuh    what these two are built from: tiles in shared memory, fragments, products
 *   attention_general.cu   any precision, head dimension and device: one warp a row
 */
#ifndef COMMON_DEVICE_CUDA_ATTENTION_CUH
#define COMMON_DEVICE_CUDA_ATTENTION_CUH

#include "common/device/cuda/cuda.cuh"

/* What a kernel needs to know of a pack. Row i of a sequence sees keys 0 … min(i, keys − 1). */
struct attention_pack {
    const int32_t *starts; /* [sequences + 1] */
    const int32_t *keys;   /* [sequences] */
    int tokens, heads;
};

/* ---- by tensor cores: dtype FP16 or BF16, head_dim 64, 80, 96 or 128, compute capability 8.0 or later ----
 */

/* As the functions of kernels.h, for at least one sequence. lse is in powers of two: log2 Σ 2^(score · log2
 * e), and ALiBi's term in it is slope · (key − last key that the row sees), the same for the softmax as slope
 * · key. */
void attention_forward_tiled(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                             const struct sequences *sequences, size_t heads, size_t head_dim);
void attention_backward_tiled(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                              const void *qkv, const void *out, const float *lse, float *scratch,
                              const struct sequences *sequences, size_t heads, size_t head_dim);

/* Calls `function` with a zero of dtype's storage type and head_dim as a compile-time constant. */
template <int D> struct head_dimension { static constexpr int value = D; };

template <typename Function> void for_tiled(enum dtype dtype, size_t head_dim, Function function) {
    const auto with_type = [&](auto dimension) {
        if (dtype == BF16)
            function(__nv_bfloat16{}, dimension);
        else
            function(__half{}, dimension);
    };
    if (head_dim == 64) with_type(head_dimension<64>{});
    if (head_dim == 80) with_type(head_dimension<80>{});
    if (head_dim == 96) with_type(head_dimension<96>{});
    if (head_dim == 128) with_type(head_dimension<128>{});
}

/* ---- the general way ---- */

void attention_forward_general(struct stream *stream, enum dtype dtype, void *out, float *lse,
                               const void *qkv, const struct sequences *sequences, size_t heads,
                               size_t head_dim);
void attention_backward_general(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                                const void *qkv, const void *out, const float *lse, float *scratch,
                                const struct sequences *sequences, size_t heads, size_t head_dim);

#endif
