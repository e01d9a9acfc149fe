#include "common/device/cuda/columns.cuh"

/* ---- of a matrix ---- */

enum { COLUMN_THREADS = 1024, FEW_BLOCKS = 128 };

template <typename T, int V, int WIDE>
__global__ void __launch_bounds__(COLUMN_THREADS)
    column_sums_kernel(T *out, const T *x, size_t ld, size_t rows, size_t columns, bool accumulate) {
    wait_for_earlier_work();
    const column_place<V, WIDE, COLUMN_THREADS> place(blockIdx.x);
    float parts[V] = {};
    if (place.column < columns) {
#pragma unroll 4
        for (size_t r = place.first_row; r < rows; r += place.rows) {
            float values[V];
            load_lanes(values, x + r * ld + place.column);
#pragma unroll
            for (int i = 0; i < V; i++) parts[i] += values[i];
        }
    }
    finish_columns<WIDE, COLUMN_THREADS>(blockIdx.x, parts, columns, [&](size_t column, float sum) {
        store(&out[column], accumulate ? load(&out[column]) + sum : sum);
    });
}

void column_sums(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t ld, size_t rows,
                 size_t columns, bool accumulate) {
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        constexpr int V = LANES<T>;
        const auto sum = [&](auto kernel, unsigned blocks) {
            launch(stream, kernel, blocks, COLUMN_THREADS, 0, "sums of columns", (T *)out, (const T *)x, ld,
                   rows, columns, accumulate);
        };
        if (!aligned16(x) || ld % V != 0 || columns % V != 0)
            sum(column_sums_kernel<T, 1, 2>, column_blocks<1, 2>(columns));
        else if (column_blocks<V, 2>(columns) < FEW_BLOCKS)
            sum(column_sums_kernel<T, V, 1>, column_blocks<V, 1>(columns));
        else
            sum(column_sums_kernel<T, V, 2>, column_blocks<V, 2>(columns));
    });
}

/* ---- of parts ---- */

enum { COLUMNS = 32, GROUPS = 16 }; /* a block's columns; threads that share one */

template <typename T>
__global__ void __launch_bounds__(COLUMNS *GROUPS)
    add_parts_kernel(struct part_sums out, const float *parts, size_t count, size_t columns,
                     bool accumulate) {
    wait_for_earlier_work();
    __shared__ float groups[GROUPS][COLUMNS];
    const unsigned lane = threadIdx.x % COLUMNS, group = threadIdx.x / COLUMNS;
    const size_t column = (size_t)blockIdx.x * COLUMNS + lane, part = gridDim.y * columns;
    T *const to = (T *)out.sums[blockIdx.y];
    if (!to) return;
    float sum = 0;
    if (column < columns) {
#pragma unroll 8
        for (size_t p = group; p < count; p += GROUPS) sum += parts[p * part + blockIdx.y * columns + column];
    }
    groups[group][lane] = sum;
    __syncthreads();
    if (group > 0 || column >= columns) return;
    sum = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++) sum += groups[g][lane];
    store(&to[column], accumulate ? load(&to[column]) + sum : sum);
}

void add_parts(struct stream *stream, enum dtype dtype, const struct part_sums *out, int outputs,
               const float *parts, size_t count, size_t columns, bool accumulate) {
    const dim3 blocks(blocks_for(columns, COLUMNS), (unsigned)outputs);
    for_dtype(dtype, [&](auto zero) {
        launch(stream, add_parts_kernel<decltype(zero)>, blocks, COLUMNS * GROUPS, 0, "sums of columns", *out,
               parts, count, columns, accumulate);
    });
}
