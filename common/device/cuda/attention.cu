/* Attention: by tensor cores where they fit, else the general way. Forward and backward of a call always take
 * the same, as they share lse. */
#include "common/device/cuda/attention.cuh"

static bool is_tiled(const struct stream *stream, enum dtype dtype, size_t head_dim) {
    const bool dimension = head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128;
    return dtype != FP32 && dimension && cuda_code(stream_device(stream)) >= 80;
}

/* Tiles are copied 16 bytes at a time. */
static void check_aligned(bool aligned) {
    if (!aligned) fail("attention: a tensor is not aligned to 16 bytes: a mistake in this program");
}

void attention_forward(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                       const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_forward(stream, dtype, sequences, heads, head_dim);
    if (sequences->tokens == 0) return;
    if (!is_tiled(stream, dtype, head_dim)) {
        attention_forward_general(stream, dtype, out, lse, qkv, sequences, heads, head_dim);
        return;
    }
    check_aligned(aligned16(out, qkv));
    attention_forward_tiled(stream, dtype, out, lse, qkv, sequences, heads, head_dim);
}

void attention_backward(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                        const void *qkv, const void *out, const float *lse, float *scratch,
                        const struct sequences *sequences, size_t heads, size_t head_dim) {
    work_attention_backward(stream, dtype, sequences, heads, head_dim);
    if (sequences->tokens == 0) return;
    if (!is_tiled(stream, dtype, head_dim)) {
        attention_backward_general(stream, dtype, dqkv, dout, qkv, out, lse, scratch, sequences, heads,
                                   head_dim);
        return;
    }
    check_aligned(aligned16(dqkv, dout, qkv, out));
    attention_backward_tiled(stream, dtype, dqkv, dout, qkv, out, lse, scratch, sequences, heads, head_dim);
}
