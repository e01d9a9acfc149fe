/*
 * Rows of matrices: looked up, gathered, scattered, and the look-up's backward.
 */
#include "common/device/cuda/cuda.cuh"

/* ---- copies of whole rows, whatever their elements: in words of 16, 4, 2 or 1 bytes ---- */

enum { COPY_THREADS = 256 };

/* out row i = x row rows[i], or with SCATTER out row rows[i] = x row i; rows of `words` words. */
template <typename Word, bool SCATTER>
__global__ void __launch_bounds__(COPY_THREADS)
    copy_rows_kernel(Word *out, const Word *x, const int32_t *rows, size_t words, size_t count) {
    const size_t at = (size_t)blockIdx.x * COPY_THREADS + threadIdx.x;
    const size_t i = at / words, word = at % words;
    if (i >= count) return;
    const size_t row = (size_t)rows[i];
    out[(SCATTER ? row : i) * words + word] = x[(SCATTER ? i : row) * words + word];
}

template <typename Word, bool SCATTER>
static void copy_words(cudaStream_t on, void *out, const void *x, const int32_t *rows, size_t row_bytes,
                       size_t count) {
    const size_t words = row_bytes / sizeof(Word);
    copy_rows_kernel<Word, SCATTER><<<blocks_for(count * words, COPY_THREADS), COPY_THREADS, 0, on>>>(
        (Word *)out, (const Word *)x, rows, words, count);
}

template <bool SCATTER>
static void copy_rows(struct stream *stream, void *out, const void *x, const int32_t *rows, size_t row_bytes,
                      size_t count) {
    if (count == 0 || row_bytes == 0) return;
    cudaStream_t on = cuda_stream(stream);
    if (aligned16(out, x) && row_bytes % 16 == 0)
        copy_words<uint4, SCATTER>(on, out, x, rows, row_bytes, count);
    else if (row_bytes % 4 == 0 && (uintptr_t)out % 4 == 0 && (uintptr_t)x % 4 == 0)
        copy_words<uint32_t, SCATTER>(on, out, x, rows, row_bytes, count);
    else
        copy_words<uint16_t, SCATTER>(on, out, x, rows, row_bytes, count);
    CUDA_LAUNCHED("copy of rows");
}

void embedding_lookup(struct stream *stream, enum dtype dtype, void *out, const void *table,
                      const int32_t *ids, size_t n, size_t h) {
    work_embedding_lookup(stream, dtype, n, h);
    copy_rows<false>(stream, out, table, ids, h * dtype_size(dtype), n);
}

void gather_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                 size_t count, size_t h) {
    work_gather_rows(stream, dtype, count, h);
    copy_rows<false>(stream, out, x, rows, h * dtype_size(dtype), count);
}

void scatter_rows(struct stream *stream, enum dtype dtype, void *out, const void *x, const int32_t *rows,
                  size_t count, size_t n, size_t h) {
    work_scatter_rows(stream, dtype, count, n, h);
    const size_t row_bytes = h * dtype_size(dtype);
    if (n > 0) CUDA_CHECK(cudaMemsetAsync(out, 0, n * row_bytes, cuda_stream(stream)), "scatter_rows");
    copy_rows<true>(stream, out, x, rows, row_bytes, count);
}

/* ---- the look-up's backward ----
 *
 * by_id lists the tokens in the order of their ids, so those of one row of the table stand together. A block
 * looks at one place of by_id, and where a row's tokens begin there, it adds them up and adds the sum to the
 * row, once. Rows that occur often (padding) are the reason for GROUPS: group g of threads adds tokens g, g +
 * GROUPS, …, and then the groups' sums are added in their order. */

enum { GROUPS = 8, GROUP_THREADS = 64, EMBEDDING_THREADS = GROUPS * GROUP_THREADS };

/* The first place from `low` on whose id is `id` or more. */
__device__ inline size_t place_of(int64_t id, const int32_t *ids, const int32_t *by_id, size_t low,
                                  size_t n) {
    size_t high = n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (ids[by_id[middle]] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

template <typename T, int V>
__global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_kernel(T *table, size_t first_row, size_t rows, const T *dx, const int32_t *ids,
                     const int32_t *by_id, size_t n, size_t h) {
    __shared__ float sums[GROUPS][GROUP_THREADS * V];
    const size_t begin = blockIdx.x, id = (size_t)ids[by_id[begin]];
    if (id < first_row || id >= first_row + rows) return;
    if (begin > 0 && (size_t)ids[by_id[begin - 1]] == id) return;
    const size_t end = place_of((int64_t)id + 1, ids, by_id, begin, n);
    const unsigned lane = threadIdx.x, group = threadIdx.y;
    for (size_t first = 0; first < h; first += GROUP_THREADS * V) {
        const size_t column = first + lane * V;
        float sum[V] = {};
        if (column < h) {
#pragma unroll 4
            for (size_t i = begin + group; i < end; i += GROUPS) {
                float values[V];
                load_lanes(values, dx + (size_t)by_id[i] * h + column);
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += values[j];
            }
        }
#pragma unroll
        for (int j = 0; j < V; j++) sums[group][lane * V + j] = sum[j];
        __syncthreads();
        for (unsigned j = group * GROUP_THREADS + lane; j < GROUP_THREADS * V; j += EMBEDDING_THREADS) {
            if (first + j >= h) continue;
            float total = 0;
#pragma unroll
            for (int g = 0; g < GROUPS; g++) total += sums[g][j];
            T *out = table + (id - first_row) * h + first + j;
            store(out, load(out) + total);
        }
        __syncthreads();
    }
}

void embedding_backward(struct stream *stream, enum dtype dtype, void *dtable, size_t first_row, size_t rows,
                        const void *dx, const int32_t *ids, const int32_t *by_id, size_t n, size_t h) {
    work_embedding_backward(stream, dtype, rows, n, h);
    if (n == 0 || h == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const dim3 threads(GROUP_THREADS, GROUPS);
        cudaStream_t on = cuda_stream(stream);
        if (aligned16(dx) && h % LANES<T> == 0)
            embedding_kernel<T, LANES<T>><<<(unsigned)n, threads, 0, on>>>((T *)dtable, first_row, rows,
                                                                           (const T *)dx, ids, by_id, n, h);
        else
            embedding_kernel<T, 1><<<(unsigned)n, threads, 0, on>>>((T *)dtable, first_row, rows,
                                                                    (const T *)dx, ids, by_id, n, h);
    });
    CUDA_LAUNCHED("gradient of the embedding");
}
