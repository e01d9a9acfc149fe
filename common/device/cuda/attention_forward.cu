/*
 * Attention on tensor cores, forward (Dao 2023, FlashAttention-2; online softmax: Milakov and Gimelshein
 * 2018).
 *
 * A block owns a tile of queries of one head of one sequence; each of its warps owns sixteen of them. It
 * walks over the tiles of keys that they see, the next ones on their way to shared memory while the current
 * ones are worked on:
 *
 *     S = Q·Kᵀ + ALiBi      m = max(m, rows of S)      P = 2^(S − m)      O = O · 2^(m before − m) + P·V
 *
 * S and P stay in the registers where the tensor cores left them.
 */
#include "common/device/cuda/attention_tiles.cuh"

namespace {

/* Sizes that measured best on an H100. Two groups of warps that share a tile of queries and take the keys by
 * turns were slower: what they gain for the last queries they lose by coming together. */
template <int D> struct forward_shape {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS;
    static constexpr int QUERIES = 16 * WARPS, KEYS = D <= 80 ? 64 : 32; /* of a tile */
    static constexpr int BLOCKS = D == 80 ? 2 : 3; /* that a multiprocessor should hold: limits registers */
    static constexpr size_t SHARED_ELEMENTS = (size_t)(QUERIES + 4 * KEYS) * TILE_ROW<D>;
};

/* What a lane knows of its two rows, g and g + 8 of its warp's sixteen. */
template <int D> struct forward_rows {
    unsigned q[D / 16][4]; /* the sixteen queries, as left operands */
    float out[D / 8][4];   /* Σ P·V so far */
    float maximum[2];      /* the largest score so far, */
    float sum[2];          /* and Σ P so far, in the lane's columns alone */
    int last[2];           /* the last key that the row sees */
    int warp_last;         /* the last that any of the warp's rows sees */
};

/* s [16, KEYS] = Q·Kᵀ + slope · (key − last). Where MASKED, blocks of keys that no row sees are left out, and
 * keys that a row does not see get −infinity. */
template <typename T, int D, bool MASKED, int KEYS>
__device__ __forceinline__ void forward_scores(float (&s)[KEYS / 8][4], const forward_rows<D> &rows,
                                               unsigned k_tile, int first_key, const head_constants &head) {
    const int first_column = first_key + 2 * (warp_lane() % 4);
    const float bias[2] = {head.slope * (float)(first_column - rows.last[0]),
                           head.slope * (float)(first_column - rows.last[1])};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] = fmaf(head.slope, (float)(8 * n + e % 2), bias[e / 2]);
    }
    const unsigned k = k_tile + by_columns<D>();
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            if (MASKED && first_key + 16 * n > rows.warp_last) continue;
            unsigned b[4];
            load_matrices(b, k + block_at<D>(16 * n, 16 * step));
            multiply<T>(s[2 * n], rows.q[step], b[0], b[1]);
            multiply<T>(s[2 * n + 1], rows.q[step], b[2], b[3]);
        }
    }
    if constexpr (MASKED) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (first_column + 8 * n + e % 2 > rows.last[e / 2]) s[n][e] = -INFINITY;
        }
    }
}

/* s becomes 2^(s − maximum), of the maximum with these scores; what was summed before is brought to that
 * maximum. */
template <int D, int KEYS>
__device__ __forceinline__ void forward_softmax(float (&s)[KEYS / 8][4], forward_rows<D> &rows, float power) {
    float maximum[2] = {rows.maximum[0], rows.maximum[1]}, shift[2];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) maximum[e / 2] = fmaxf(maximum[e / 2], s[n][e]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) { /* over the four lanes that share a row */
        maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xffffffff, maximum[r], 1));
        maximum[r] = fmaxf(maximum[r], __shfl_xor_sync(0xffffffff, maximum[r], 2));
        /* A rounded product: the same shift for all that is summed, however large it is. Where all scores so
         * far are −infinity, any will do. */
        shift[r] = maximum[r] == -INFINITY ? 0 : __fmul_rn(maximum[r], power);
        const float shrink = power_of_two(__fsub_rn(__fmul_rn(rows.maximum[r], power), shift[r]));
        rows.maximum[r] = maximum[r];
        rows.sum[r] *= shrink;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            rows.out[n][2 * r] *= shrink;
            rows.out[n][2 * r + 1] *= shrink;
        }
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = power_of_two(fmaf(s[n][e], power, -shift[e / 2]));
            rows.sum[e / 2] += s[n][e];
        }
    }
}

/* One tile of keys: rows gain what it adds. */
template <typename T, int D, bool MASKED>
__device__ __forceinline__ void forward_tile(forward_rows<D> &rows, unsigned k_tile, unsigned v_tile,
                                             int first_key, const head_constants &head) {
    constexpr int KEYS = forward_shape<D>::KEYS;
    if (MASKED && first_key > rows.warp_last) return;
    float s[KEYS / 8][4];
    unsigned p[KEYS / 16][4];
    forward_scores<T, D, MASKED, KEYS>(s, rows, k_tile, first_key, head);
    forward_softmax<D, KEYS>(s, rows, head.power);
    to_left<T, KEYS / 8>(p, s);
    const unsigned v = v_tile + by_rows<D>();
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        if (MASKED && first_key + 16 * step > rows.warp_last) continue;
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            unsigned b[4];
            load_matrices_transposed(b, v + block_at<D>(16 * step, 16 * n));
            multiply<T>(rows.out[2 * n], p[step], b[0], b[1]);
            multiply<T>(rows.out[2 * n + 1], p[step], b[2], b[3]);
        }
    }
}

/* A warp's rows of out [16, D] and lse [16], of which there are `count`. `tile` is shared memory of its own.
 */
template <typename T, int D>
__device__ __forceinline__ void forward_store(T *out, size_t stride, float *lse, int count, T *tile,
                                              const forward_rows<D> &rows, float power) {
    const int lane = warp_lane();
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = rows.sum[r];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        inverse[r] = __fdividef(1, sum);
        const int row = lane / 4 + 8 * r;
        if (lane % 4 == 0 && row < count) lse[row] = __fmul_rn(rows.maximum[r], power) + __log2f(sum);
    }
    store_rows<T, D>(out, stride, count, 16, tile, rows.out, inverse);
}

/* Grid [heads, sequences, tiles of queries], the last tile, which sees most keys, first. */
template <typename T, int D>
__global__
__launch_bounds__(forward_shape<D>::THREADS,
                  forward_shape<D>::BLOCKS) void attention_forward_kernel(T *out, float *lse, const T *qkv,
                                                                          const attention_pack pack) {
    wait_for_earlier_work();
    using shape = forward_shape<D>;
    constexpr int KEYS = shape::KEYS;
    constexpr unsigned TILE_BYTES = KEYS * TILE_ROW<D> * 2;
    const int head = (int)blockIdx.x, start = pack.starts[blockIdx.y], keys = pack.keys[blockIdx.y];
    const int length = pack.starts[blockIdx.y + 1] - start;
    const int first_query = (int)(gridDim.z - 1 - blockIdx.z) * shape::QUERIES;
    if (first_query >= length) return;

    extern __shared__ __align__(16) unsigned char shared[];
    T *q_tile = reinterpret_cast<T *>(shared); /* [QUERIES], then twice: k [KEYS], v [KEYS] */
    const unsigned tiles = shared_address(q_tile) + shape::QUERIES * TILE_ROW<D> * 2;
    const size_t stride = (size_t)pack.heads * 3 * D;
    const T *q = qkv + (size_t)start * stride + (size_t)head * 3 * D;
    using loader = tile_loader<T, D, shape::THREADS>;
    loader q_loader(q + first_query * stride, stride, length - first_query);
    loader k_loader(q + D, stride, keys), v_loader(q + 2 * D, stride, keys);
    const auto load_keys = [&](int slot) {
        k_loader.template load<KEYS>(tiles + slot * 2 * TILE_BYTES);
        v_loader.template load<KEYS>(tiles + slot * 2 * TILE_BYTES + TILE_BYTES);
    };
    q_loader.template load<shape::QUERIES>(shared_address(q_tile));
    load_keys(0);

    const int warp_row = (int)threadIdx.x / 32 * 16, row = first_query + warp_row + warp_lane() / 4;
    const head_constants constants = constants_of<D>(head, pack.heads);
    forward_rows<D> rows = {};
    rows.maximum[0] = rows.maximum[1] = -INFINITY;
    rows.last[0] = min(row, keys - 1);
    rows.last[1] = min(row + 8, keys - 1);
    rows.warp_last = min(first_query + warp_row + 15, keys - 1);
    copies_wait();
    __syncthreads();
    load_left<D>(rows.q, shared_address(q_tile), warp_row);

    const int end = min(first_query + shape::QUERIES, keys); /* of the keys that any row sees */
    for (int first_key = 0, slot = 0; first_key < end; first_key += KEYS, slot ^= 1) {
        copies_wait();
        __syncthreads(); /* this tile is there, and all are done with the one before */
        if (first_key + KEYS < end) load_keys(slot ^ 1);
        const unsigned k_tile = tiles + slot * 2 * TILE_BYTES, v_tile = k_tile + TILE_BYTES;
        if (first_key + KEYS - 1 > min(first_query, keys - 1)) /* some row does not see all of it */
            forward_tile<T, D, true>(rows, k_tile, v_tile, first_key, constants);
        else
            forward_tile<T, D, false>(rows, k_tile, v_tile, first_key, constants);
    }

    const size_t out_stride = (size_t)pack.heads * D, token = (size_t)start + first_query + warp_row;
    forward_store<T, D>(out + token * out_stride + (size_t)head * D, out_stride,
                        lse + (size_t)head * pack.tokens + token, length - first_query - warp_row,
                        q_tile + warp_row * TILE_ROW<D>, rows, constants.power);
}

} // namespace

void attention_forward_tiled(struct stream *stream, enum dtype dtype, void *out, float *lse, const void *qkv,
                             const struct sequences *sequences, size_t heads, size_t head_dim) {
    const attention_pack pack = {sequences->starts, sequences->keys, sequences->tokens, (int)heads};
    for_tiled(dtype, head_dim, [&](auto zero, auto dimension) {
        using T = decltype(zero);
        constexpr int D = decltype(dimension)::value;
        using shape = forward_shape<D>;
        constexpr size_t shared = shape::SHARED_ELEMENTS * sizeof(T);
        allow_shared<shared>(attention_forward_kernel<T, D>);
        const dim3 grid((unsigned)heads, (unsigned)sequences->count,
                        blocks_for((size_t)sequences->longest, shape::QUERIES));
        launch(stream, attention_forward_kernel<T, D>, grid, shape::THREADS, shared, "attention_forward",
               (T *)out, lse, (const T *)qkv, pack);
    });
}
