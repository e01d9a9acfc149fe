#include "common/device/cuda/columns.cuh"
#include "common/device/cuda/gelu.cuh"

/* ---- forward ---- */

enum { THREADS = 256 };

/* V elements at a time; the last count % V one by one. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS) gelu_kernel(T *out, const T *x, size_t count) {
    wait_for_earlier_work();
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * V;
    if (first + V <= count) {
        float values[V];
        load_lanes(values, x + first);
#pragma unroll
        for (int i = 0; i < V; i++) values[i] = gelu<T>(values[i]);
        store_lanes(out + first, values);
    } else {
        for (size_t i = first; i < count; i++) store(&out[i], gelu<T>(load(&x[i])));
    }
}

void gelu_elements(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    if (count == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = LANES<T>;
        if (aligned16(out, x))
            launch(stream, gelu_kernel<T, V>, blocks_for(count, THREADS * V), THREADS, 0, "gelu", (T *)out,
                   (const T *)x, count);
        else
            launch(stream, gelu_kernel<T, 1>, blocks_for(count, THREADS), THREADS, 0, "gelu", (T *)out,
                   (const T *)x, count);
    });
}

void gelu_forward(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t count) {
    work_gelu_forward(stream, dtype, count);
    gelu_elements(stream, dtype, out, x, count);
}

/* ---- backward: everything that needs `pre`, which is large, in one reading of it ---- */

/* A block takes 32 vectors of columns, a warp's access, of ROWS rows or more; a thread has BATCH rows on
 * their way at a time. */
enum { WARPS = 8, BATCH = 4 };
constexpr size_t ROWS = 64;

template <typename T> struct gelu_backward_arguments {
    T *slope, *active;
    const T *pre;
    float *parts; /* [blocks of rows, columns] sums of the new slope */
    size_t rows, columns, rows_per_block;
};

/* Rows r, r + WARPS, …, COUNT of them, in the columns from `column` on; `sums` gains theirs. */
template <int COUNT, typename T, int V>
__device__ inline void gelu_backward_rows(const gelu_backward_arguments<T> &in, size_t r, size_t column,
                                          float (&sums)[V]) {
    lanes<T, V> pre[COUNT], slope[COUNT];
#pragma unroll
    for (int b = 0; b < COUNT; b++) {
        const size_t at = (r + b * WARPS) * in.columns + column;
        pre[b] = *reinterpret_cast<const lanes<T, V> *>(in.pre + at);
        slope[b] = *reinterpret_cast<const lanes<T, V> *>(in.slope + at);
    }
#pragma unroll
    for (int b = 0; b < COUNT; b++) {
        const size_t at = (r + b * WARPS) * in.columns + column;
        float active[V], product[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            const gelu_pair gelu = gelu_and_derivative<T>(to_float(pre[b].values[i]));
            active[i] = gelu.value;
            product[i] = to_float(slope[b].values[i]) * gelu.derivative;
            sums[i] += product[i];
        }
        store_lanes(in.active + at, active);
        store_lanes(in.slope + at, product);
    }
}

/* Grid [blocks of columns, blocks of rows]. */
template <typename T, int V>
__global__ void __launch_bounds__(32 * WARPS, 4) gelu_backward_kernel(gelu_backward_arguments<T> in) {
    wait_for_earlier_work();
    __shared__ float warps[WARPS][32 * V];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t first_column = (size_t)blockIdx.x * 32 * V, column = first_column + lane * V;
    const size_t first_row = blockIdx.y * in.rows_per_block;
    const size_t end = first_row + in.rows_per_block < in.rows ? first_row + in.rows_per_block : in.rows;
    float sums[V] = {};
    if (column < in.columns) {
        size_t r = first_row + warp;
        for (; r + (BATCH - 1) * WARPS < end; r += BATCH * WARPS)
            gelu_backward_rows<BATCH>(in, r, column, sums);
        for (; r < end; r += WARPS) gelu_backward_rows<1>(in, r, column, sums);
    }
#pragma unroll
    for (int i = 0; i < V; i++) warps[warp][lane * V + i] = sums[i];
    __syncthreads();
    if (threadIdx.x >= 32 * V || first_column + threadIdx.x >= in.columns) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += warps[w][threadIdx.x];
    in.parts[blockIdx.y * in.columns + first_column + threadIdx.x] = sum;
}

void gelu_backward(struct stream *stream, enum dtype dtype, void *slope, void *dbias, void *active,
                   const void *pre, size_t rows, size_t columns, bool accumulate) {
    if (columns == 0) return;
    const size_t least = (rows + MOST_PARTS - 1) / MOST_PARTS, each = least > ROWS ? least : ROWS;
    const unsigned parts = blocks_for(rows, each);
    float *const sums = (float *)cuda_workspace(stream);
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = LANES<T>;
        const gelu_backward_arguments<T> in = {(T *)slope, (T *)active, (const T *)pre, sums, rows,
                                               columns,    each};
        if (parts == 0) return;
        if (aligned16(slope, active, pre) && columns % V == 0)
            launch(stream, gelu_backward_kernel<T, V>, dim3(blocks_for(columns, 32 * V), parts), 32 * WARPS,
                   0, "gelu, backward", in);
        else
            launch(stream, gelu_backward_kernel<T, 1>, dim3(blocks_for(columns, 32), parts), 32 * WARPS, 0,
                   "gelu, backward", in);
    });
    const struct part_sums out = {{dbias}};
    add_parts(stream, dtype, &out, 1, sums, parts, columns, accumulate);
}
