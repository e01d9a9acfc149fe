#include "common/device/cuda/layernorm.cuh"

enum { THREADS = LAYERNORM_THREADS };

/* With RECOMPUTE mean and rstd are read, else written. */
template <typename T, int V, int CHUNKS, bool RECOMPUTE>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(T *out, float *means, float *rstds, const T *x, const T *weight, const T *bias, unsigned h,
                   float eps) {
    wait_for_earlier_work();
    const size_t r = blockIdx.x;
    const row_part<T, V, CHUNKS> row(x + r * h, h);
    float mean, rstd;
    if (RECOMPUTE) {
        mean = means[r];
        rstd = rstds[r];
    } else {
        float sum = 0, squares = 0, values[V];
        each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
            row.get(values, chunk, first);
#pragma unroll
            for (int i = 0; i < V; i++) sum += values[i];
        });
        mean = block_sum<THREADS>(sum) / (float)h;
        each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
            row.get(values, chunk, first);
#pragma unroll
            for (int i = 0; i < V; i++) squares += (values[i] - mean) * (values[i] - mean);
        });
        rstd = 1.0f / sqrtf(block_sum<THREADS>(squares) / (float)h + eps);
        if (threadIdx.x == 0) {
            means[r] = mean;
            rstds[r] = rstd;
        }
    }
    each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
        float values[V], w[V], b[V];
        row.get(values, chunk, first);
        load_lanes(w, weight + first);
        load_lanes(b, bias + first);
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = (values[i] - mean) * rstd * w[i] + b[i];
        store_lanes(out + r * h + first, values);
    });
}

template <bool RECOMPUTE>
static void forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                    const void *x, const void *weight, const void *bias, size_t rows, size_t h, float eps) {
    if (rows == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        for_row_length<T>(aligned16(out, x, weight, bias), h, [&](auto v, auto chunks) {
            launch(stream, forward_kernel<T, decltype(v)::value, decltype(chunks)::value, RECOMPUTE>,
                   (unsigned)rows, THREADS, 0, "layer norm, forward", (T *)out, mean, rstd, (const T *)x,
                   (const T *)weight, (const T *)bias, (unsigned)h, eps);
        });
    });
}

void layernorm_forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                       const void *x, const void *weight, const void *bias, size_t rows, size_t h,
                       float eps) {
    work_layernorm_forward(stream, dtype, rows, h);
    forward<false>(stream, dtype, out, mean, rstd, x, weight, bias, rows, h, eps);
}

void layernorm_elements(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                        const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                        size_t h) {
    /* The statistics are only read. */
    forward<true>(stream, dtype, out, (float *)mean, (float *)rstd, x, weight, bias, rows, h, 0);
}

void layernorm_recompute(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                         const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                         size_t h) {
    work_layernorm_forward(stream, dtype, rows, h);
    layernorm_elements(stream, dtype, out, mean, rstd, x, weight, bias, rows, h);
}
