#include "common/device/cuda/gelu.cuh"

enum { THREADS = 256 };

/* Calls function(out, x) with V elements at a time; the last count % V one by one. */
template <typename T, int V, bool DERIVATIVE>
__global__ void __launch_bounds__(THREADS) gelu_kernel(T *out, const T *x, size_t count) {
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (first + V <= count) {
        float in[V], result[V];
        load_lanes(in, x + first);
        if (DERIVATIVE) load_lanes(result, out + first);
#pragma unroll
        for (int i = 0; i < V; i++) result[i] = DERIVATIVE ? result[i] * gelu_derivative(in[i]) : gelu(in[i]);
        store_lanes(out + first, result);
    } else {
        for (size_t i = first; i < count; i++)
            store(&out[i], DERIVATIVE ? load(&out[i]) * gelu_derivative(load(&x[i])) : gelu(load(&x[i])));
    }
}

template <bool DERIVATIVE>
static void launch(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    if (count == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = LANES<T>;
        cudaStream_t on = cuda_stream(stream);
        if (aligned16(out, x))
            gelu_kernel<T, V, DERIVATIVE>
                <<<blocks_for(count, THREADS * V), THREADS, 0, on>>>((T *)out, (const T *)x, count);
        else
            gelu_kernel<T, 1, DERIVATIVE>
                <<<blocks_for(count, THREADS), THREADS, 0, on>>>((T *)out, (const T *)x, count);
    });
    CUDA_LAUNCHED("gelu");
}

void gelu_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    launch<false>(stream, dtype, out, x, count);
}

void gelu_multiply_derivative(struct stream *stream, enum dtype dtype, void *x, const void *pre,
                              size_t count) {
    launch<true>(stream, dtype, x, pre, count);
}

void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_gelu_forward(stream, dtype, count);
    gelu_elements(stream, dtype, out, x, count);
}
