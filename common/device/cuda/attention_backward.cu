/*
 * Attention on tensor cores, backward: probabilities are computed again, tile by tile, from the forward's
 * log-sum-exp (Dao 2023, FlashAttention-2). Sums over keys and over queries have blocks of their own, so that
 * each has one place and one order, and none needs atomics: seven products a tile, where sharing S and dP
 * would leave five.
 *
 *     P = 2^(S − lse)      dP = dO·Vᵀ      dS = P ∘ (dP − δ)      δ = Σ dO ∘ O of each row
 *
 * A block that owns queries walks over the keys that they see, one that owns keys over the queries that see
 * them. With left, what it owns, and right, what it walks over, both do the same:
 *
 *                          left[0]  left[1]    right[0]  right[1]     S and dP     d_left[0] += d_left[1] +=
 *     it owns queries      Q        dO         K         V            as above     dQ: dS · K / √D
 *     it owns keys         K        V          Q         dO           transposed   dK: dSᵀ · Q / √D     dV:
 * Pᵀ · dO
 *
 * that is S (or Sᵀ) = left[0] · right[0]ᵀ, dP = left[1] · right[1]ᵀ, d_left[0] += dS · right[0], d_left[1] +=
 * P · right[1]. Each warp owns sixteen rows of left, and keeps them, S, dP and d_left in registers.
 */
#include "common/device/cuda/attention_tiles.cuh"

namespace {

template <int D> struct backward_shape {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS;
    static constexpr int LEFT = 16 * WARPS, RIGHT = D <= 80 ? 64 : 32; /* rows of the tiles */
    static constexpr int STEP =
        D <= 80 ? 32 : 16; /* rows of right that S and dP are computed for at a time */
    static constexpr int BLOCKS = D <= 64 ? 3 : 2; /* that a multiprocessor should hold: limits registers */
    static_assert(2 * RIGHT <= THREADS, "a thread copies one number");
    static_assert(2 * RIGHT <= THREADS, "a thread copies one number");
    static constexpr size_t SHARED_BYTES =
        (size_t)(2 * LEFT + 4 * RIGHT) * TILE_ROW<D> * 2 + (size_t)4 * RIGHT * sizeof(float);
};

/* A head of a sequence. */
template <typename T> struct backward_head {
    const T *left[2], *right[2]; /* row 0 */
    size_t left_strides[2], right_strides[2];
    const float *lse, *minus_delta; /* of query 0 */
    int length, keys;
    head_constants constants;
};

/* What a lane knows of its two rows, g and g + 8 of its warp's sixteen. */
template <int D, bool OWNS_KEYS> struct backward_rows {
    unsigned left[2][D / 16][4];
    float d_left[OWNS_KEYS ? 2 : 1][D / 8][4];
    int row[2];
    int last[2];                  /* queries: the last key that the row sees */
    float lse[2], minus_delta[2]; /* queries */
    int warp_first, warp_last;    /* keys: the warp's first row; queries: the last key that any row sees */
};

/* s [16, STEP], d_s [16, STEP] before their products: ALiBi's term, −δ. The columns begin at first_column of
 * the sequence; minus_delta is that of the columns, for blocks that own keys. */
template <int D, bool OWNS_KEYS, int STEP>
__device__ __forceinline__ void backward_begin(float (&s)[STEP / 8][4], float (&d_s)[STEP / 8][4],
                                               const backward_rows<D, OWNS_KEYS> &rows, int first_column,
                                               const float *minus_delta, int keys, float slope) {
    const int t = warp_lane() % 4, column = first_column + 2 * t;
    float bias[2], largest[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bias[r] = slope * (float)(OWNS_KEYS ? rows.row[r] - column : column - rows.last[r]);
        largest[r] = slope * (float)(rows.row[r] - (keys - 1)); /* a key's distance to padding's last key */
    }
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
        if (OWNS_KEYS) {
            const float2 delta = *reinterpret_cast<const float2 *>(minus_delta + 8 * n + 2 * t);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[n][e] = fmaxf(fmaf(-slope, (float)(8 * n + e % 2), bias[e / 2]), largest[e / 2]);
                d_s[n][e] = e % 2 ? delta.y : delta.x;
            }
        } else {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[n][e] = fmaf(slope, (float)(8 * n + e % 2), bias[e / 2]);
                d_s[n][e] = rows.minus_delta[e / 2];
            }
        }
    }
}

/* After their products: s becomes P, d_s becomes dS. lse is that of the columns, for blocks that own keys. */
template <int D, bool OWNS_KEYS, bool MASKED, int STEP>
__device__ __forceinline__ void backward_end(float (&s)[STEP / 8][4], float (&d_s)[STEP / 8][4],
                                             const backward_rows<D, OWNS_KEYS> &rows, int first_column,
                                             const float *lse, int keys, float power) {
    const int t = warp_lane() % 4;
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
        float2 column_lse = {};
        if (OWNS_KEYS) column_lse = *reinterpret_cast<const float2 *>(lse + 8 * n + 2 * t);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float shift = !OWNS_KEYS ? rows.lse[e / 2] : e % 2 ? column_lse.y : column_lse.x;
            float p = power_of_two(fmaf(s[n][e], power, -shift));
            if (MASKED) {
                const int column = first_column + 8 * n + 2 * t + e % 2;
                const bool seen =
                    OWNS_KEYS ? rows.row[e / 2] <= min(column, keys - 1) : column <= rows.last[e / 2];
                p = seen ? p : 0;
            }
            s[n][e] = p;
            d_s[n][e] *= p;
        }
    }
}

/* d_left gains what one tile of right [RIGHT] adds. Where MASKED, steps of which nothing is seen are left
 * out, and what is not seen counts nothing. lse and minus_delta [RIGHT] are in shared memory, for blocks that
 * own keys. */
template <typename T, int D, bool OWNS_KEYS, bool MASKED>
__device__ __forceinline__ void backward_tile(backward_rows<D, OWNS_KEYS> &rows, unsigned right0,
                                              unsigned right1, const float *lse, const float *minus_delta,
                                              int first_column, int keys, const head_constants &head) {
    constexpr int RIGHT = backward_shape<D>::RIGHT, STEP = backward_shape<D>::STEP;
#pragma unroll
    for (int at = 0; at < RIGHT; at += STEP) {
        const int first = first_column + at;
        if (MASKED && (OWNS_KEYS ? first + STEP - 1 < rows.warp_first : first > rows.warp_last)) continue;
        float s[STEP / 8][4], d_s[STEP / 8][4];
        backward_begin<D, OWNS_KEYS, STEP>(s, d_s, rows, first, minus_delta + at, keys, head.slope);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
#pragma unroll
            for (int n = 0; n < STEP / 16; n++) {
                const unsigned block = by_columns<D>() + block_at<D>(at + 16 * n, 16 * k);
                unsigned b[4];
                load_matrices(b, right0 + block);
                multiply<T>(s[2 * n], rows.left[0][k], b[0], b[1]);
                multiply<T>(s[2 * n + 1], rows.left[0][k], b[2], b[3]);
                load_matrices(b, right1 + block);
                multiply<T>(d_s[2 * n], rows.left[1][k], b[0], b[1]);
                multiply<T>(d_s[2 * n + 1], rows.left[1][k], b[2], b[3]);
            }
        }
        backward_end<D, OWNS_KEYS, MASKED, STEP>(s, d_s, rows, first, lse + at, keys, head.power);
        unsigned p[STEP / 16][4], d_scores[STEP / 16][4];
        if (OWNS_KEYS) to_left<T, STEP / 8>(p, s);
        to_left<T, STEP / 8>(d_scores, d_s);
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                const unsigned block = by_rows<D>() + block_at<D>(at + 16 * k, 16 * n);
                unsigned b[4];
                if (OWNS_KEYS) {
                    load_matrices_transposed(b, right1 + block);
                    multiply<T>(rows.d_left[OWNS_KEYS][2 * n], p[k], b[0], b[1]);
                    multiply<T>(rows.d_left[OWNS_KEYS][2 * n + 1], p[k], b[2], b[3]);
                }
                load_matrices_transposed(b, right0 + block);
                multiply<T>(rows.d_left[0][2 * n], d_scores[k], b[0], b[1]);
                multiply<T>(rows.d_left[0][2 * n + 1], d_scores[k], b[2], b[3]);
            }
        }
    }
}

/* Queries that see the keys from first_row on, or keys that the queries from first_row on see: first and end.
 */
template <int D, bool OWNS_KEYS> __device__ inline int2 columns_of(int first_row, int length, int keys) {
    constexpr int LEFT = backward_shape<D>::LEFT;
    if (OWNS_KEYS) return first_row < keys ? make_int2(first_row, length) : make_int2(0, 0);
    return make_int2(0, min(first_row + LEFT, keys));
}

/* d_left[0], d_left[1] (row first_row of the sequence on, `strides` apart) of a block. */
template <typename T, int D, bool OWNS_KEYS>
__device__ __forceinline__ void backward_block(T *d_left0, T *d_left1, const backward_head<T> &head,
                                               int first_row) {
    using shape = backward_shape<D>;
    constexpr int THREADS = shape::THREADS, LEFT = shape::LEFT, RIGHT = shape::RIGHT;
    constexpr int LEFT_TILE = LEFT * TILE_ROW<D>, RIGHT_TILE = RIGHT * TILE_ROW<D>;
    extern __shared__ __align__(16) unsigned char shared[];
    T *left_tiles = reinterpret_cast<T *>(shared), *right_tiles = left_tiles + 2 * LEFT_TILE;
    float *statistics = reinterpret_cast<float *>(right_tiles + 4 * RIGHT_TILE); /* [2][lse, −δ][RIGHT] */

    const int left_rows = OWNS_KEYS ? head.keys : head.length,
              right_rows = OWNS_KEYS ? head.length : head.keys;
    const int2 columns = columns_of<D, OWNS_KEYS>(first_row, head.length, head.keys);
    const auto load_right = [&](int first, int slot) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            load_tile<T, D, RIGHT, THREADS>(right_tiles + (2 * slot + i) * RIGHT_TILE,
                                            head.right[i] + first * head.right_strides[i],
                                            head.right_strides[i], right_rows - first);
        const int i = (int)threadIdx.x, query = first + i % RIGHT;
        if (OWNS_KEYS && i < 2 * RIGHT) {
            const bool valid = query < head.length;
            const float *from = i < RIGHT ? head.lse : head.minus_delta;
            copy4_later(statistics + 2 * RIGHT * slot + i, from + (valid ? query : 0), valid);
        }
    };
    if (columns.x < columns.y) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            load_tile<T, D, LEFT, THREADS>(left_tiles + i * LEFT_TILE,
                                           head.left[i] + first_row * head.left_strides[i],
                                           head.left_strides[i], left_rows - first_row);
        load_right(columns.x, 0);
    }

    const int lane = warp_lane(), warp_row = (int)threadIdx.x / 32 * 16;
    backward_rows<D, OWNS_KEYS> rows = {};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        rows.row[r] = first_row + warp_row + lane / 4 + 8 * r;
        rows.last[r] = min(rows.row[r], head.keys - 1);
        if (OWNS_KEYS || rows.row[r] >= head.length) continue;
        rows.lse[r] = head.lse[rows.row[r]];
        rows.minus_delta[r] = head.minus_delta[rows.row[r]];
    }
    rows.warp_first = first_row + warp_row;
    rows.warp_last = min(rows.warp_first + 15, head.keys - 1);

    int slot = 0;
    for (int first = columns.x; first < columns.y; first += RIGHT, slot ^= 1) {
        copies_wait();
        __syncthreads(); /* this tile is there, and all are done with the one before */
        if (first == columns.x) {
            load_left<D>(rows.left[0], shared_address(left_tiles), warp_row);
            load_left<D>(rows.left[1], shared_address(left_tiles + LEFT_TILE), warp_row);
        }
        if (first + RIGHT < columns.y) load_right(first + RIGHT, slot ^ 1);
        const unsigned right0 = shared_address(right_tiles + 2 * slot * RIGHT_TILE);
        const unsigned right1 = right0 + RIGHT_TILE * sizeof(T);
        const float *lse = statistics + 2 * RIGHT * slot, *minus_delta = lse + RIGHT;
        const bool masked = OWNS_KEYS ? first < first_row + LEFT - 1 || first_row + LEFT > head.keys
                                      : first + RIGHT - 1 > min(first_row, head.keys - 1);
        if (masked)
            backward_tile<T, D, OWNS_KEYS, true>(rows, right0, right1, lse, minus_delta, first, head.keys,
                                                 head.constants);
        else
            backward_tile<T, D, OWNS_KEYS, false>(rows, right0, right1, lse, minus_delta, first, head.keys,
                                                  head.constants);
    }

    const int left = head.length - first_row - warp_row,
              zeros_from = OWNS_KEYS ? head.keys - first_row - warp_row : 16;
    const float scale[2] = {head.constants.scale, head.constants.scale}, one[2] = {1, 1};
    T *staging = left_tiles + warp_row * TILE_ROW<D>;
    const size_t stride = head.left_strides[0], offset = warp_row * stride;
    store_rows<T, D>(d_left0 + offset, stride, left, zeros_from, staging, rows.d_left[0], scale);
    if (OWNS_KEYS)
        store_rows<T, D>(d_left1 + offset, stride, left, zeros_from, staging, rows.d_left[OWNS_KEYS], one);
}

/* Grid [heads, sequences, 2 · tiles]: tiles of keys and of queries by turns, those with the most work first:
 * the first keys, which all queries see, and the last queries. */
template <typename T, int D>
__global__
__launch_bounds__(backward_shape<D>::THREADS,
                  backward_shape<D>::BLOCKS) void attention_backward_kernel(T *dqkv, const T *dout,
                                                                            const T *qkv, const float *lse,
                                                                            const float *minus_delta,
                                                                            const attention_pack pack) {
    const int start = pack.starts[blockIdx.y], length = pack.starts[blockIdx.y + 1] - start;
    const int turn = (int)blockIdx.z / 2, tiles = (int)gridDim.z / 2;
    const bool owns_keys = blockIdx.z % 2 == 0;
    const int first_row = (owns_keys ? turn : tiles - 1 - turn) * backward_shape<D>::LEFT;
    if (first_row >= length) return;

    const size_t stride = (size_t)pack.heads * 3 * D, out_stride = (size_t)pack.heads * D, head = blockIdx.x;
    const T *q = qkv + start * stride + head * 3 * D, *d_out = dout + start * out_stride + head * D;
    T *d_rows = dqkv + (start + (size_t)first_row) * stride + head * 3 * D; /* dq, dk, dv of first_row */
    const size_t statistic = head * (size_t)pack.tokens + start;
    backward_head<T> h = {};
    h.lse = lse + statistic, h.minus_delta = minus_delta + statistic;
    h.length = length, h.keys = pack.keys[blockIdx.y];
    h.constants = constants_of<D>((int)head, pack.heads);
    if (owns_keys) {
        h.left[0] = q + D, h.left[1] = q + 2 * D, h.left_strides[0] = h.left_strides[1] = stride;
        h.right[0] = q, h.right[1] = d_out, h.right_strides[0] = stride, h.right_strides[1] = out_stride;
        backward_block<T, D, true>(d_rows + D, d_rows + 2 * D, h, first_row);
    } else {
        h.left[0] = q, h.left[1] = d_out, h.left_strides[0] = stride, h.left_strides[1] = out_stride;
        h.right[0] = q + D, h.right[1] = q + 2 * D, h.right_strides[0] = h.right_strides[1] = stride;
        backward_block<T, D, false>(d_rows, nullptr, h, first_row);
    }
}

constexpr int DELTA_THREADS = 256, DELTA_LANES = 8; /* lanes that share a row */

/* minus_delta [heads, tokens] = −Σ dout ∘ out over head_dim. Grid [blocks of tokens, heads]. */
template <typename T, int D>
__global__ __launch_bounds__(DELTA_THREADS) void attention_delta_kernel(float *minus_delta, const T *dout,
                                                                        const T *out,
                                                                        const attention_pack pack) {
    const int lane = (int)threadIdx.x % DELTA_LANES, head = (int)blockIdx.y;
    const int token = (int)(blockIdx.x * (DELTA_THREADS / DELTA_LANES) + threadIdx.x / DELTA_LANES);
    float sum = 0;
    if (token < pack.tokens) {
        const size_t row = ((size_t)token * pack.heads + head) * D;
#pragma unroll
        for (int i = 8 * lane; i < D; i += 8 * DELTA_LANES) {
            float a[8], b[8];
            load_lanes(a, dout + row + i);
            load_lanes(b, out + row + i);
#pragma unroll
            for (int j = 0; j < 8; j++) sum = fmaf(a[j], b[j], sum);
        }
    }
#pragma unroll
    for (int distance = DELTA_LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, distance);
    if (token < pack.tokens && lane == 0) minus_delta[(size_t)head * pack.tokens + token] = -sum;
}

} // namespace

void attention_backward_tiled(cudaStream_t stream, enum dtype dtype, void *dqkv, const void *dout,
                              const void *qkv, const void *out, const float *lse, float *scratch,
                              const struct sequences *sequences, size_t heads, size_t head_dim) {
    const attention_pack pack = {sequences->starts, sequences->keys, sequences->tokens, (int)heads};
    for_tiled(dtype, head_dim, [&](auto zero, auto dimension) {
        using T = decltype(zero);
        constexpr int D = decltype(dimension)::value;
        using shape = backward_shape<D>;
        const dim3 delta_grid(blocks_for((size_t)pack.tokens, DELTA_THREADS / DELTA_LANES), (unsigned)heads);
        attention_delta_kernel<T, D>
            <<<delta_grid, DELTA_THREADS, 0, stream>>>(scratch, (const T *)dout, (const T *)out, pack);
        CUDA_LAUNCHED("attention_backward's delta");

        allow_shared<shape::SHARED_BYTES>(attention_backward_kernel<T, D>);
        const dim3 grid((unsigned)heads, (unsigned)sequences->count,
                        2 * blocks_for((size_t)sequences->longest, shape::LEFT));
        attention_backward_kernel<T, D><<<grid, shape::THREADS, shape::SHARED_BYTES, stream>>>(
            (T *)dqkv, (const T *)dout, (const T *)qkv, lse, scratch, pack);
        CUDA_LAUNCHED("attention_backward");
    });
}
