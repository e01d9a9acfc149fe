/*
 * Layer norm: out = (x − mean) · rstd · weight + bias over rows of h elements, rstd = 1 / sqrt(variance +
 * eps).
 *
 * A block takes a row. Where rows are whole vectors of 16 bytes and not too long, each thread keeps its part
 * of the row in registers, so that memory is read once; other rows go through the same code an element at a
 * time, reading again.
 */
#include "common/device/cuda/columns.cuh"

enum { THREADS = 128 };

/* Calls function(number of the vector among this thread's, its first element) for each of a thread's vectors.
 */
template <int V, int CHUNKS, typename Function>
__device__ inline void each_vector(unsigned h, Function function) {
    if constexpr (CHUNKS == 0) {
        for (unsigned first = threadIdx.x * V; first < h; first += THREADS * V) function(0, first);
    } else {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const unsigned first = (threadIdx.x + (unsigned)chunk * THREADS) * V;
            if (first < h) function(chunk, first);
        }
    }
}

/* A thread's part of a row of h elements: vectors of V elements, number threadIdx.x, + THREADS, … With CHUNKS
 * > 0 there are no more than that of them, kept in registers; with 0 any number, loaded whenever they are
 * asked for. */
template <typename T, int V, int CHUNKS> struct row_part {
    const T *row;
    float kept[CHUNKS ? CHUNKS : 1][V];

    __device__ row_part(const T *row, unsigned h) : row(row) {
        if constexpr (CHUNKS > 0)
            each_vector<V, CHUNKS>(h,
                                   [&](int chunk, unsigned first) { load_lanes(kept[chunk], row + first); });
    }
    __device__ void get(float (&values)[V], int chunk, unsigned first) const {
        if constexpr (CHUNKS == 0) load_lanes(values, row + first);
#pragma unroll
        for (int i = 0; CHUNKS > 0 && i < V; i++) values[i] = kept[chunk][i];
    }
};

/* ---- forward ---- */

/* With RECOMPUTE mean and rstd are read, else written. */
template <typename T, int V, int CHUNKS, bool RECOMPUTE>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(T *out, float *means, float *rstds, const T *x, const T *weight, const T *bias, unsigned h,
                   float eps) {
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

/* Calls function with V and CHUNKS as constants. */
template <typename T, typename Function>
static void for_row_length(bool vectors, size_t h, Function function) {
    using std::integral_constant;
    constexpr int V = LANES<T>;
    const size_t chunks = (h / V + THREADS - 1) / THREADS;
    if (!vectors || h % V != 0)
        function(integral_constant<int, 1>{}, integral_constant<int, 0>{});
    else if (chunks <= 1)
        function(integral_constant<int, V>{}, integral_constant<int, 1>{});
    else if (chunks <= 2)
        function(integral_constant<int, V>{}, integral_constant<int, 2>{});
    else if (chunks <= 4)
        function(integral_constant<int, V>{}, integral_constant<int, 4>{});
    else
        function(integral_constant<int, V>{}, integral_constant<int, 0>{});
}

template <bool RECOMPUTE>
static void forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                    const void *x, const void *weight, const void *bias, size_t rows, size_t h, float eps) {
    work_layernorm_forward(stream, dtype, rows, h);
    if (rows == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        for_row_length<T>(aligned16(out, x, weight, bias), h, [&](auto v, auto chunks) {
            forward_kernel<T, decltype(v)::value, decltype(chunks)::value, RECOMPUTE>
                <<<(unsigned)rows, THREADS, 0, cuda_stream(stream)>>>(
                    (T *)out, mean, rstd, (const T *)x, (const T *)weight, (const T *)bias, (unsigned)h, eps);
        });
    });
    CUDA_LAUNCHED("layer norm, forward");
}

void layernorm_forward(struct stream *stream, enum dtype dtype, void *out, float *mean, float *rstd,
                       const void *x, const void *weight, const void *bias, size_t rows, size_t h,
                       float eps) {
    forward<false>(stream, dtype, out, mean, rstd, x, weight, bias, rows, h, eps);
}

void layernorm_recompute(struct stream *stream, enum dtype dtype, void *out, const float *mean,
                         const float *rstd, const void *x, const void *weight, const void *bias, size_t rows,
                         size_t h) {
    /* The statistics are only read. */
    forward<true>(stream, dtype, out, (float *)mean, (float *)rstd, x, weight, bias, rows, h, 0);
}

/* ---- backward ----
 *
 * With n = (x − mean) · rstd and g = dy · weight:
 *     dweight = Σ over rows of dy · n        dbias = Σ over rows of dy
 *     dx = rstd · (g − mean of g − n · mean of g·n), the means over the row */

template <typename T> struct backward_input {
    const T *dy, *x, *weight, *add;
    const float *mean, *rstd;
    size_t rows, h;
};

template <typename T> struct backward_output {
    T *dx, *dweight, *dbias;
    bool accumulate;
};

/* dweight and dbias, by blocks of THREADS. */
template <typename T, int V>
__device__ inline void backward_columns(unsigned block, const backward_output<T> &out,
                                        const backward_input<T> &in) {
    const column_place<V, 1, THREADS> place(block);
    float weight_part[V] = {}, bias_part[V] = {};
    if (place.column < in.h) {
#pragma unroll 8
        for (size_t r = place.first_row; r < in.rows; r += place.rows) {
            float dy[V], x[V];
            load_lanes(dy, in.dy + r * in.h + place.column);
            load_lanes(x, in.x + r * in.h + place.column);
            const float mean = in.mean[r], rstd = in.rstd[r];
#pragma unroll
            for (int i = 0; i < V; i++) {
                weight_part[i] += dy[i] * ((x[i] - mean) * rstd);
                bias_part[i] += dy[i];
            }
        }
    }
    finish_columns<1, THREADS>(block, weight_part, in.h, [&](size_t column, float sum) {
        T *to = &out.dweight[column];
        store(to, out.accumulate ? load(to) + sum : sum);
    });
    finish_columns<1, THREADS>(block, bias_part, in.h, [&](size_t column, float sum) {
        T *to = &out.dbias[column];
        store(to, out.accumulate ? load(to) + sum : sum);
    });
}

/* dx may be dy or add: each thread writes only what it alone has read. */
template <typename T, int V, int CHUNKS>
__device__ inline void backward_row(size_t row, const backward_output<T> &out, const backward_input<T> &in) {
    const size_t start = row * in.h;
    const unsigned h = (unsigned)in.h;
    const row_part<T, V, CHUNKS> dy(in.dy + start, h), x(in.x + start, h);
    const float mean = in.mean[row], rstd = in.rstd[row];
    float sum = 0, product = 0, slope[V], normal[V];
    auto get = [&](int chunk,
                   unsigned first) { /* g and n of a vector */
                                     float weight[V];
                                     dy.get(slope, chunk, first);
                                     x.get(normal, chunk, first);
                                     load_lanes(weight, in.weight + first);
#pragma unroll
                                     for (int i = 0; i < V; i++) {
                                         slope[i] = __fmul_rn(
                                             slope[i],
                                             weight[i]); /* rounded: the same in sums and differences */
                                         normal[i] = (normal[i] - mean) * rstd;
                                     }
    };
    each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
        get(chunk, first);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum += slope[i];
            product += slope[i] * normal[i];
        }
    });
    sum = block_sum<THREADS>(sum) / (float)h;
    product = block_sum<THREADS>(product) / (float)h;
    each_vector<V, CHUNKS>(h, [&](int chunk, unsigned first) {
        float result[V] = {};
        get(chunk, first);
        if (in.add) load_lanes(result, in.add + start + first);
#pragma unroll
        for (int i = 0; i < V; i++) result[i] += rstd * (slope[i] - sum - normal[i] * product);
        store_lanes(out.dx + start + first, result);
    });
}

/* The first `column_blocks` blocks sum columns, the others take a row each. */
template <typename T, int V, int CHUNKS>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(backward_output<T> out, backward_input<T> in, unsigned column_blocks) {
    if (blockIdx.x < column_blocks)
        backward_columns<T, V>(blockIdx.x, out, in);
    else
        backward_row<T, V, CHUNKS>(blockIdx.x - column_blocks, out, in);
}

template <typename T>
static void backward(cudaStream_t on, const backward_output<T> &out, const backward_input<T> &in) {
    const bool vectors = aligned16(out.dx, in.dy, in.x, in.weight, in.add);
    for_row_length<T>(vectors, in.h, [&](auto v, auto chunks) {
        constexpr int V = decltype(v)::value, CHUNKS = decltype(chunks)::value;
        const unsigned columns = column_blocks<V, 1>(in.h), rows = (unsigned)in.rows;
        if (out.dx != in.dy) {
            backward_kernel<T, V, CHUNKS><<<columns + rows, THREADS, 0, on>>>(out, in, columns);
            return;
        }
        /* The columns first: they read what the rows overwrite. */
        backward_kernel<T, V, CHUNKS><<<columns, THREADS, 0, on>>>(out, in, columns);
        if (rows) backward_kernel<T, V, CHUNKS><<<rows, THREADS, 0, on>>>(out, in, 0);
    });
}

void layernorm_backward(struct stream *stream, enum dtype dtype, void *dx, void *dweight, void *dbias,
                        const void *dy, const void *x, const void *weight, const float *mean,
                        const float *rstd, const void *add, size_t rows, size_t h, bool accumulate) {
    work_layernorm_backward(stream, dtype, add != NULL, rows, h, accumulate);
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const backward_input<T> in = {
            (const T *)dy, (const T *)x, (const T *)weight, (const T *)add, mean, rstd, rows, h};
        backward<T>(cuda_stream(stream), {(T *)dx, (T *)dweight, (T *)dbias, accumulate}, in);
    });
    CUDA_LAUNCHED("layer norm, backward");
}
