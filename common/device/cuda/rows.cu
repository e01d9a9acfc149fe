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
 * looks at places of by_id, far from each other, and where a row's tokens begin, it adds them up and adds the
 * sum to the row, once. Rows that occur often (padding) are the reason for GROUPS: group g of threads adds
 * tokens g, g + GROUPS, …, and then the groups' sums are added in their order. */

enum { GROUPS = 8, GROUP_THREADS = 64, EMBEDDING_THREADS = GROUPS * GROUP_THREADS, EMBEDDING_BLOCKS = 256 };

template <typename T> struct embedding_arguments {
    T *table;
    size_t first_row, rows;
    const T *dx;
    const int32_t *ids, *by_id;
    size_t n, h;
};

/* Do the tokens of a row that is asked for begin at this place? */
template <typename T> __device__ inline bool begins_row(const embedding_arguments<T> &in, size_t place) {
    const size_t id = (size_t)in.ids[in.by_id[place]];
    if (id < in.first_row || id >= in.first_row + in.rows) return false;
    return place == 0 || (size_t)in.ids[in.by_id[place - 1]] != id;
}

/* The place after the last token of the row that begins at `begin`. All threads of the block look, each at a
 * place. */
template <typename T>
__device__ inline size_t end_of_row(const embedding_arguments<T> &in, size_t begin, int32_t id) {
    for (size_t first = begin + 1;; first += EMBEDDING_THREADS) {
        const size_t place = first + threadIdx.x;
        const int same = __syncthreads_count(place < in.n && in.ids[in.by_id[place]] == id);
        if (same < EMBEDDING_THREADS) return first + same;
    }
}

/* By all threads of the block. */
template <typename T, int V> __device__ inline void add_row(const embedding_arguments<T> &in, size_t begin) {
    __shared__ float sums[GROUPS][GROUP_THREADS * V];
    const int32_t id = in.ids[in.by_id[begin]];
    const size_t end = end_of_row(in, begin, id);
    const unsigned lane = threadIdx.x % GROUP_THREADS, group = threadIdx.x / GROUP_THREADS;
    T *const row = in.table + ((size_t)id - in.first_row) * in.h;
    for (size_t first = 0; first < in.h; first += GROUP_THREADS * V) {
        const size_t column = first + lane * V;
        float sum[V] = {};
        if (column < in.h) {
#pragma unroll 4
            for (size_t i = begin + group; i < end; i += GROUPS) {
                float values[V];
                load_lanes(values, in.dx + (size_t)in.by_id[i] * in.h + column);
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] += values[j];
            }
        }
#pragma unroll
        for (int j = 0; j < V; j++) sums[group][lane * V + j] = sum[j];
        __syncthreads();
        for (unsigned j = threadIdx.x; j < GROUP_THREADS * V && first + j < in.h; j += EMBEDDING_THREADS) {
            float total = 0;
#pragma unroll
            for (int g = 0; g < GROUPS; g++) total += sums[g][j];
            store(&row[first + j], load(&row[first + j]) + total);
        }
        __syncthreads();
    }
}

template <typename T, int V>
__global__ void __launch_bounds__(EMBEDDING_THREADS) embedding_kernel(embedding_arguments<T> in) {
    wait_for_earlier_work();
    __shared__ unsigned found[EMBEDDING_THREADS / 32]; /* a bit a place */
    for (size_t first = blockIdx.x; first < in.n; first += (size_t)EMBEDDING_THREADS * gridDim.x) {
        const size_t place = first + (size_t)threadIdx.x * gridDim.x;
        const unsigned bits = __ballot_sync(0xffffffff, place < in.n && begins_row(in, place));
        if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = bits;
        __syncthreads();
        for (unsigned word = 0; word < EMBEDDING_THREADS / 32; word++)
            for (unsigned left = found[word]; left; left &= left - 1)
                add_row<T, V>(in, first + (size_t)(word * 32 + (unsigned)__ffs((int)left) - 1) * gridDim.x);
        __syncthreads();
    }
}

void embedding_backward(struct stream *stream, enum dtype dtype, void *dtable, size_t first_row, size_t rows,
                        const void *dx, const int32_t *ids, const int32_t *by_id, size_t n, size_t h) {
    work_embedding_backward(stream, dtype, rows, n, h);
    if (n == 0 || h == 0) return;
    for_dtype(dtype, [&](auto zero) {
        using T = decltype(zero);
        const embedding_arguments<T> in = {(T *)dtable, first_row, rows, (const T *)dx, ids, by_id, n, h};
        const unsigned blocks = blocks_for(n, 1, EMBEDDING_BLOCKS);
        if (aligned16(dx) && h % LANES<T> == 0)
            launch(stream, embedding_kernel<T, LANES<T>>, blocks, EMBEDDING_THREADS, 0,
                   "gradient of the embedding", in);
        else
            launch(stream, embedding_kernel<T, 1>, blocks, EMBEDDING_THREADS, 0, "gradient of the embedding",
                   in);
    });
}
