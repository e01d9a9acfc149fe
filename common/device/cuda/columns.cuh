/*
 * Sums over the rows of a matrix, column by column: gradients of biases and of layer norms.
 *
 * A block takes WIDE vectors of V elements (2: 32 bytes of a row, what memory gives at least; 1 where blocks
 * would be too few) of all rows, so that one launch is enough and no sum depends on the device. Each thread
 * adds the rows of its place, then the warp's are added, then the block's.
 *
 * Kernels that sum columns while they do something else take some rows each instead, and leave their sums as
 * parts, one behind the other; add_parts() then adds these up.
 */
#ifndef COMMON_DEVICE_CUDA_COLUMNS_CUH
#define COMMON_DEVICE_CUDA_COLUMNS_CUH

#include "common/device/cuda/cuda.cuh"

/* Which of its rows and columns a thread of block number `block` takes: rows first_row, first_row + rows, …;
 * V columns.
 */
template <int V, int WIDE, int THREADS> struct column_place {
    static constexpr unsigned rows = THREADS / WIDE;
    unsigned vector = threadIdx.x % WIDE, first_row = threadIdx.x / WIDE;
    size_t column;
    __device__ explicit column_place(unsigned block) : column(((size_t)block * WIDE + vector) * V) {
    }
};

/* Sums each thread's parts over the block and hands each column's to put(column, sum), on one thread. All
 * threads of the block call it; those beyond the last column have parts of 0. */
template <int WIDE, int THREADS, int V, typename Put>
__device__ inline void finish_columns(unsigned block, float (&parts)[V], size_t columns, Put put) {
    __shared__ float warps[THREADS / 32][WIDE * V];
    __syncthreads(); /* the last call's have been read */
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < V; i++) {
#pragma unroll
        for (int distance = 16; distance >= WIDE; distance /= 2)
            parts[i] += __shfl_xor_sync(0xffffffff, parts[i], distance);
        if (lane < WIDE) warps[threadIdx.x / 32][lane * V + i] = parts[i];
    }
    __syncthreads();
    const size_t column = (size_t)block * WIDE * V + threadIdx.x;
    if (threadIdx.x >= WIDE * V || column >= columns) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < THREADS / 32; w++) sum += warps[w][threadIdx.x];
    put(column, sum);
}

/* Blocks for a matrix of so many columns. */
template <int V, int WIDE> static inline unsigned column_blocks(size_t columns) {
    return blocks_for(columns, WIDE * V);
}

/* out [columns] (+)= the sums of x's columns, x [rows, columns] with leading dimension ld. */
void column_sums(struct stream *stream, enum dtype dtype, void *out, const void *x, size_t ld, size_t rows,
                 size_t columns, bool accumulate);

/* Most parts of a sum: what bounds the memory that they take. */
enum { MOST_PARTS = 128 };

/* sums[i] [columns] (+)= Σ over p of parts [count][outputs][columns] at [p][i], in the order of p; a NULL
 * among the sums is left out. Parts are summed in fp32, added once. */
struct part_sums {
    void *sums[3];
};
void add_parts(struct stream *stream, enum dtype dtype, const struct part_sums *out, int outputs,
               const float *parts, size_t count, size_t columns, bool accumulate);

#endif
