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
 *     S  = left[0] · right[0]ᵀ        d_left[0] += dS · right[0]
 *     dP = left[1] · right[1]ᵀ        d_left[1] += P · right[1]       (blocks that own keys)
 *
 *     owns       left[0]   left[1]   right[0]   right[1]   S, P, dS     d_left[0]   d_left[1]
 *     queries    Q         dO        K          V          as above     dQ · √D
 *     keys       K         V         Q          dO         transposed   dK · √D     dV
 *
 * Each warp owns sixteen rows of left, and keeps them, S, dP and d_left in registers.
 */
#include "common/device/cuda/attention_tiles.cuh"

namespace {

/* Sizes that measured best on an H100 for sequences of some hundred tokens. (With thirty-two rows a warp,
 * sequences of thousands would be 4% faster, those 7% slower.) */
template <int D> struct backward_shape {
    static constexpr int WARPS = 4, THREADS = 32 * WARPS;
    static constexpr int LEFT = 16 * WARPS, RIGHT = D <= 80 ? 64 : 32; /* rows of the tiles */
    static constexpr int STEP = D == 80 ? 32 : 16; /* rows of right whose S and dP are there at a time */
    static constexpr int BLOCKS = D <= 64 ? 3 : 2; /* that a multiprocessor should hold: limits registers */
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
    int first;                    /* of the warp's sixteen, in the sequence */
    int row[2];                   /* the lane's */
    float lse[2], minus_delta[2]; /* of queries */
};

/* The tile that a block walks over at the moment. */
struct backward_columns {
    unsigned right[2];              /* where it is in shared memory */
    const float *lse, *minus_delta; /* of queries, in shared memory */
    int first;                      /* in the sequence */
    int keys;                       /* of the sequence */
};

/* Does any of the rows see any of the columns first … first + count − 1? */
template <int D, bool OWNS_KEYS>
__device__ inline bool backward_sees(const backward_rows<D, OWNS_KEYS> &rows, int first, int count,
                                     int keys) {
    return OWNS_KEYS ? rows.first <= first + count - 1 && rows.first < keys
                     : first <= min(rows.first + 15, keys - 1);
}

/* Before their products: s [16, STEP] is ALiBi's term, d_s [16, STEP] is −δ. The columns begin `at` into the
 * tile. */
template <int D, bool OWNS_KEYS, bool MASKED, int STEP>
__device__ __forceinline__ void backward_begin(float (&s)[STEP / 8][4], float (&d_s)[STEP / 8][4],
                                               const backward_rows<D, OWNS_KEYS> &rows,
                                               const backward_columns &columns, int at, float slope) {
    const int lane_column = at + 2 * (warp_lane() % 4), column = columns.first + lane_column;
    float bias[2], padding[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = rows.row[r];
        bias[r] = slope * (float)(OWNS_KEYS ? row - column : column - min(row, columns.keys - 1));
        padding[r] = slope * (float)(row - (columns.keys - 1)); /* the term of all queries that are padding */
    }
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
        float2 delta = {};
        if (OWNS_KEYS) delta = *reinterpret_cast<const float2 *>(columns.minus_delta + lane_column + 8 * n);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = fmaf(OWNS_KEYS ? -slope : slope, (float)(8 * n + e % 2), bias[e / 2]);
            if (OWNS_KEYS && MASKED) s[n][e] = fmaxf(s[n][e], padding[e / 2]);
            d_s[n][e] = !OWNS_KEYS ? rows.minus_delta[e / 2] : e % 2 ? delta.y : delta.x;
        }
    }
}

/* After their products: s becomes P, d_s becomes dS. */
template <int D, bool OWNS_KEYS, bool MASKED, int STEP>
__device__ __forceinline__ void backward_end(float (&s)[STEP / 8][4], float (&d_s)[STEP / 8][4],
                                             const backward_rows<D, OWNS_KEYS> &rows,
                                             const backward_columns &columns, int at, float power) {
    const int lane_column = at + 2 * (warp_lane() % 4);
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
        float2 lse = {};
        if (OWNS_KEYS) lse = *reinterpret_cast<const float2 *>(columns.lse + lane_column + 8 * n);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float shift = !OWNS_KEYS ? rows.lse[e / 2] : e % 2 ? lse.y : lse.x;
            float p = power_of_two(fmaf(s[n][e], power, -shift));
            if (MASKED) {
                const int column = columns.first + lane_column + 8 * n + e % 2, row = rows.row[e / 2];
                const int query = OWNS_KEYS ? column : row, key = OWNS_KEYS ? row : column;
                p = key <= min(query, columns.keys - 1) ? p : 0;
            }
            s[n][e] = p;
            d_s[n][e] *= p;
        }
    }
}

/* d_left gains what one tile of right [RIGHT] adds. Where MASKED, steps of which nothing is seen are left
 * out, and what is not seen counts nothing. */
template <typename T, int D, bool OWNS_KEYS, bool MASKED>
__device__ __forceinline__ void backward_tile(backward_rows<D, OWNS_KEYS> &rows,
                                              const backward_columns &columns, const head_constants &head) {
    constexpr int RIGHT = backward_shape<D>::RIGHT, STEP = backward_shape<D>::STEP;
#pragma unroll
    for (int at = 0; at < RIGHT; at += STEP) {
        if (MASKED && !backward_sees<D, OWNS_KEYS>(rows, columns.first + at, STEP, columns.keys)) continue;
        float s[STEP / 8][4], d_s[STEP / 8][4];
        backward_begin<D, OWNS_KEYS, MASKED, STEP>(s, d_s, rows, columns, at, head.slope);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
#pragma unroll
            for (int n = 0; n < STEP / 16; n++) {
                const unsigned block = by_columns<D>() + block_at<D>(at + 16 * n, 16 * k);
                unsigned b[2][4];
                load_matrices(b[0], columns.right[0] + block);
                load_matrices(b[1], columns.right[1] + block);
                multiply<T>(s[2 * n], rows.left[0][k], b[0][0], b[0][1]);
                multiply<T>(s[2 * n + 1], rows.left[0][k], b[0][2], b[0][3]);
                multiply<T>(d_s[2 * n], rows.left[1][k], b[1][0], b[1][1]);
                multiply<T>(d_s[2 * n + 1], rows.left[1][k], b[1][2], b[1][3]);
            }
        }
        backward_end<D, OWNS_KEYS, MASKED, STEP>(s, d_s, rows, columns, at, head.power);
        unsigned p[STEP / 16][4], d_scores[STEP / 16][4];
        if (OWNS_KEYS) to_left<T, STEP / 8>(p, s);
        to_left<T, STEP / 8>(d_scores, d_s);
#pragma unroll
        for (int k = 0; k < STEP / 16; k++) {
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                const unsigned block = by_rows<D>() + block_at<D>(at + 16 * k, 16 * n);
                unsigned b[2][4];
                load_matrices_transposed(b[0], columns.right[0] + block);
                if (OWNS_KEYS) load_matrices_transposed(b[1], columns.right[1] + block);
                multiply<T>(rows.d_left[0][2 * n], d_scores[k], b[0][0], b[0][1]);
                multiply<T>(rows.d_left[0][2 * n + 1], d_scores[k], b[0][2], b[0][3]);
                if (!OWNS_KEYS) continue;
                multiply<T>(rows.d_left[OWNS_KEYS][2 * n], p[k], b[1][0], b[1][1]);
                multiply<T>(rows.d_left[OWNS_KEYS][2 * n + 1], p[k], b[1][2], b[1][3]);
            }
        }
    }
}

/* Queries that see a block's keys, or keys that its queries see: the first, and the one after the last. */
template <int D, bool OWNS_KEYS> __device__ inline int2 columns_of(int first_row, int length, int keys) {
    constexpr int LEFT = backward_shape<D>::LEFT;
    if (OWNS_KEYS) return first_row < keys ? make_int2(first_row, length) : make_int2(0, 0);
    return make_int2(0, min(first_row + LEFT, keys));
}

/* Is there, between the rows from first_row and the columns from first_column on, a pair that does not see
 * each other? */
template <int D, bool OWNS_KEYS>
__device__ inline bool backward_masked(int first_row, int first_column, int length, int keys) {
    constexpr int LEFT = backward_shape<D>::LEFT, RIGHT = backward_shape<D>::RIGHT;
    const int first_query = OWNS_KEYS ? first_column : first_row;
    const int last_key = OWNS_KEYS ? first_row + LEFT - 1 : first_column + RIGHT - 1;
    const bool padding =
        OWNS_KEYS && keys < length && first_column + RIGHT > keys; /* which ALiBi has a limit for */
    return padding || last_key > min(first_query, keys - 1);
}

/* Brings what a block walks over to shared memory, tile after tile: right[0], right[1] and, for blocks that
 * own keys, lse and −δ of the queries. Two tiles have a place there, used by turns. */
template <typename T, int D, bool OWNS_KEYS> struct backward_loader {
    static constexpr int RIGHT = backward_shape<D>::RIGHT, THREADS = backward_shape<D>::THREADS;
    static constexpr unsigned TILE_BYTES = RIGHT * TILE_ROW<D> * 2;
    tile_loader<T, D, THREADS> right0, right1;
    const float *statistic; /* lse or −δ: what this thread copies next */
    int statistics;         /* left, from there on */

    __device__ backward_loader(const backward_head<T> &head, int first, int rows)
        : right0(head.right[0] + first * head.right_strides[0], head.right_strides[0], rows - first),
          right1(head.right[1] + first * head.right_strides[1], head.right_strides[1], rows - first) {
        const int i = (int)threadIdx.x;
        statistic = (i < RIGHT ? head.lse : head.minus_delta) + first + i % RIGHT;
        statistics = i < 2 * RIGHT ? rows - first - i % RIGHT : 0;
    }

    __device__ void load(unsigned tiles, unsigned lse_and_delta) {
        right0.template load<RIGHT>(tiles);
        right1.template load<RIGHT>(tiles + TILE_BYTES);
        if (!OWNS_KEYS) return;
        if (threadIdx.x < 2 * RIGHT) copy4_later(lse_and_delta + 4 * threadIdx.x, statistic, statistics > 0);
        statistic += RIGHT;
        statistics -= RIGHT;
    }
};

/* Which rows these are, and their lse and −δ if they are queries. */
template <typename T, int D, bool OWNS_KEYS>
__device__ __forceinline__ void backward_statistics(backward_rows<D, OWNS_KEYS> &rows,
                                                    const backward_head<T> &head, int first) {
    rows.first = first;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = rows.row[r] = first + warp_lane() / 4 + 8 * r;
        if (OWNS_KEYS || row >= head.length) continue;
        rows.lse[r] = head.lse[row];
        rows.minus_delta[r] = head.minus_delta[row];
    }
}

/* What the warps have summed, to the block's rows of d_left; keys that are padding get zeros. `tiles` is
 * shared memory of the block's rows, of which each warp uses its own. */
template <typename T, int D, bool OWNS_KEYS>
__device__ __forceinline__ void backward_store(T *d_left0, T *d_left1,
                                               const backward_rows<D, OWNS_KEYS> &rows,
                                               const backward_head<T> &head, T *tiles) {
    const int warp_row = (int)threadIdx.x / 32 * 16, left = head.length - rows.first;
    const int zeros_from = OWNS_KEYS ? head.keys - rows.first : 16;
    const float scale[2] = {head.constants.scale, head.constants.scale}, one[2] = {1, 1};
    const size_t stride = head.left_strides[0], offset = warp_row * stride;
    T *staging = tiles + warp_row * TILE_ROW<D>;
    store_rows<T, D>(d_left0 + offset, stride, left, zeros_from, staging, rows.d_left[0], scale);
    if (OWNS_KEYS)
        store_rows<T, D>(d_left1 + offset, stride, left, zeros_from, staging, rows.d_left[OWNS_KEYS], one);
}

/* A block's rows of d_left[0] and d_left[1]; they begin at first_row of the sequence. */
template <typename T, int D, bool OWNS_KEYS>
__device__ __forceinline__ void backward_block(T *d_left0, T *d_left1, const backward_head<T> &head,
                                               int first_row) {
    using shape = backward_shape<D>;
    using loader = backward_loader<T, D, OWNS_KEYS>;
    constexpr int THREADS = shape::THREADS, LEFT = shape::LEFT, RIGHT = shape::RIGHT;
    extern __shared__ __align__(16) unsigned char shared[];
    T *left_tiles = reinterpret_cast<T *>(shared);
    T *right_tiles = left_tiles + 2 * LEFT * TILE_ROW<D>;
    float *statistics =
        reinterpret_cast<float *>(right_tiles + 4 * RIGHT * TILE_ROW<D>); /* [2][lse, −δ][RIGHT] */
    const unsigned left0 = shared_address(left_tiles), left1 = left0 + LEFT * TILE_ROW<D> * 2;
    const unsigned right = shared_address(right_tiles);

    const int left_rows = OWNS_KEYS ? head.keys : head.length;
    const int2 range = columns_of<D, OWNS_KEYS>(first_row, head.length, head.keys);
    loader right_loader(head, range.x, OWNS_KEYS ? head.length : head.keys);
    const auto load_right = [&](int slot) {
        right_loader.load(right + slot * 2 * loader::TILE_BYTES,
                          shared_address(statistics + 2 * RIGHT * slot));
    };
    if (range.x < range.y) {
        tile_loader<T, D, THREADS>(head.left[0] + first_row * head.left_strides[0], head.left_strides[0],
                                   left_rows - first_row)
            .template load<LEFT>(left0);
        tile_loader<T, D, THREADS>(head.left[1] + first_row * head.left_strides[1], head.left_strides[1],
                                   left_rows - first_row)
            .template load<LEFT>(left1);
        load_right(0);
    }

    const int warp_row = (int)threadIdx.x / 32 * 16;
    backward_rows<D, OWNS_KEYS> rows = {};
    backward_statistics(rows, head, first_row + warp_row);
    copies_wait();
    __syncthreads();
    load_left<D>(rows.left[0], left0, warp_row);
    load_left<D>(rows.left[1], left1, warp_row);

    int slot = 0;
    for (int first = range.x; first < range.y; first += RIGHT, slot ^= 1) {
        copies_wait();
        __syncthreads(); /* this tile is there, and all are done with the one before */
        if (first + RIGHT < range.y) load_right(slot ^ 1);
        const unsigned tiles = right + slot * 2 * loader::TILE_BYTES;
        const float *lse = statistics + 2 * RIGHT * slot;
        const backward_columns columns = {
            {tiles, tiles + loader::TILE_BYTES}, lse, lse + RIGHT, first, head.keys};
        if (backward_masked<D, OWNS_KEYS>(first_row, first, head.length, head.keys))
            backward_tile<T, D, OWNS_KEYS, true>(rows, columns, head.constants);
        else
            backward_tile<T, D, OWNS_KEYS, false>(rows, columns, head.constants);
    }

    backward_store<T, D, OWNS_KEYS>(d_left0, d_left1, rows, head, left_tiles);
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
    wait_for_earlier_work();
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
    wait_for_earlier_work();
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

void attention_backward_tiled(struct stream *stream, enum dtype dtype, void *dqkv, const void *dout,
                              const void *qkv, const void *out, const float *lse, float *scratch,
                              const struct sequences *sequences, size_t heads, size_t head_dim) {
    const attention_pack pack = {sequences->starts, sequences->keys, sequences->tokens, (int)heads};
    for_tiled(dtype, head_dim, [&](auto zero, auto dimension) {
        using T = decltype(zero);
        constexpr int D = decltype(dimension)::value;
        using shape = backward_shape<D>;
        const dim3 delta_grid(blocks_for((size_t)pack.tokens, DELTA_THREADS / DELTA_LANES), (unsigned)heads);
        launch(stream, attention_delta_kernel<T, D>, delta_grid, DELTA_THREADS, 0,
               "attention_backward's delta", scratch, (const T *)dout, (const T *)out, pack);

        allow_shared<shape::SHARED_BYTES>(attention_backward_kernel<T, D>);
        const dim3 grid((unsigned)heads, (unsigned)sequences->count,
                        2 * blocks_for((size_t)sequences->longest, shape::LEFT));
        launch(stream, attention_backward_kernel<T, D>, grid, shape::THREADS, shape::SHARED_BYTES,
               "attention_backward", (T *)dqkv, (const T *)dout, (const T *)qkv, lse, scratch, pack);
    });
}
