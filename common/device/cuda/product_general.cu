/*
 * Products of any shape: a block computes a tile of the result from tiles of the operands in shared memory.
 * It serves shapes that no published model has (rows that are no multiple of 16 bytes), so it is simple, not
 * fast.
 */
#include "common/device/cuda/product.cuh"

enum { TILE = 16 };

/* Elements as the kernel finds them: (row, column) is at row · row_step + column · column_step. */
template <typename T> struct strided {
    const T *elements;
    size_t row_step, column_step;
};

template <typename T> static strided<T> strided_of(const struct operand &operand) {
    return {(const T *)operand.elements, operand.transposed ? 1 : operand.ld,
            operand.transposed ? operand.ld : 1};
}

template <typename T>
__device__ inline float element(const strided<T> &x, size_t row, size_t column, size_t rows, size_t columns) {
    return row < rows && column < columns ? load(x.elements + row * x.row_step + column * x.column_step)
                                          : 0.0f;
}

template <typename T, typename Out>
__global__ void __launch_bounds__(TILE *TILE)
    general_kernel(strided<T> a, strided<T> b, struct product product) {
    __shared__ float a_tile[TILE][TILE + 1], b_tile[TILE][TILE + 1];
    const size_t row = (size_t)blockIdx.y * TILE + threadIdx.y,
                 column = (size_t)blockIdx.x * TILE + threadIdx.x;
    float sum = 0;
    for (size_t first = 0; first < product.k; first += TILE) {
        a_tile[threadIdx.y][threadIdx.x] = element(a, row, first + threadIdx.x, product.m, product.k);
        b_tile[threadIdx.y][threadIdx.x] = element(b, first + threadIdx.y, column, product.k, product.n);
        __syncthreads();
        float part = 0; /* of TILE terms, so that long sums lose less */
#pragma unroll
        for (int i = 0; i < TILE; i++) part += a_tile[threadIdx.y][i] * b_tile[i][threadIdx.x];
        sum += part;
        __syncthreads();
    }
    if (row >= product.m || column >= product.n) return;
    if (product.bias) sum += load((const Out *)product.bias + column);
    if (product.add) sum += load((const Out *)product.add + row * product.ldadd + column);
    store((Out *)product.out + row * product.ldout + column, sum);
}

void multiply_general(struct stream *stream, const struct product *product) {
    const dim3 threads(TILE, TILE);
    const unsigned rows = blocks_for(product->m, TILE);
    if (rows > 65535)
        fail("a product of %zu rows in %s is not offered on GPUs: its rows are no whole vectors of 16 "
             "bytes; choose a hidden size that is a multiple of 8",
             product->m, dtype_name(product->dtype));
    const dim3 blocks(blocks_for(product->n, TILE), rows);
    for_dtype(product->dtype, [&](auto zero) {
        for_dtype(product->out_dtype, [&](auto out_zero) {
            using T = decltype(zero);
            using Out = decltype(out_zero);
            if constexpr (std::is_same_v<T, Out> || std::is_same_v<Out, float>)
                general_kernel<T, Out><<<blocks, threads, 0, cuda_stream(stream)>>>(
                    strided_of<T>(product->a), strided_of<T>(product->b), *product);
            else
                fail("products of %s are not offered in %s: a mistake in this program",
                     dtype_name(product->dtype), dtype_name(product->out_dtype));
        });
    });
    CUDA_LAUNCHED("product");
}
