/*
 * Tiles in shared memory, fragments in registers, products on tensor cores: what attention's forward and
 * backward are built from.
 *
 * A tile is [rows][D + 8] elements of 16 bits: the 8 spare ones make a row an odd number of 16-byte pieces
 * long, so that eight rows' pieces at one column lie in different banks, and no access of a fragment has a
 * conflict.
 *
 * Products are the instruction mma.m16n8k16: c [16,8] += a [16,16] · b [16,8], done by a warp, whose lanes
 * hold these elements of the three (with g = lane / 4 and t = lane % 4; PTX ISA, "Matrix Fragments for
 * mma.m16n8k16"):
 *
 *     c[0], c[1]   row g,      columns 2t, 2t + 1            a[0]   row g,      columns 2t, 2t + 1
 *     c[2], c[3]   row g + 8,  columns 2t, 2t + 1            a[1]   row g + 8,  columns 2t, 2t + 1
 *                                                            a[2]   row g,      columns 2t + 8, 2t + 9
 *     b[0]   rows 2t, 2t + 1,      column g                  a[3]   row g + 8,  columns 2t + 8, 2t + 9
 *     b[1]   rows 2t + 8, 2t + 9,  column g
 *
 * So two neighbouring c, columns 0 … 7 and 8 … 15, rounded to 16 bits, are an a: what one product gives is
 * the left operand of the next without leaving its registers.
 *
 * ldmatrix fetches four 8 × 8 matrices; its lanes 8i … 8i + 7 say where the rows of matrix i begin. Lane l
 * receives of each the elements 2t, 2t + 1 of row g, or, transposed, of column g: half of what is above.
 */
#ifndef COMMON_DEVICE_CUDA_ATTENTION_TILES_CUH
#define COMMON_DEVICE_CUDA_ATTENTION_TILES_CUH

#include "common/device/cuda/attention.cuh"

/* Of a tile, in elements from one row to the next. */
template <int D> constexpr int TILE_ROW = D + 8;

__device__ inline int warp_lane() {
    return (int)(threadIdx.x % 32);
}

/* ---- instructions; devices before 8.0 lack most of them, and no kernel is launched with them there ---- */

__device__ inline unsigned shared_address(const void *pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

/* Copies 16 (4) bytes to shared memory, later: see copies_wait(). Writes zeros, and reads nothing, unless
 * `valid`. */
__device__ inline void copy16_later(unsigned to, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
#endif
}
__device__ inline void copy4_later(unsigned to, const void *from, bool valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0)
                 : "memory");
#endif
}

/* Waits for all copies of this thread; those of others are seen after __syncthreads(). */
__device__ inline void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

__device__ inline void load_matrices(unsigned (&f)[4], unsigned address) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(address));
#endif
}
__device__ inline void load_matrices_transposed(unsigned (&f)[4], unsigned address) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3])
                 : "r"(address));
#endif
}

/* d = a · b + c; d may be c. */
template <typename T>
__device__ inline void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                                const float (&c)[4]);
template <>
__device__ inline void multiply<__half>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                                        const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
#endif
}
template <>
__device__ inline void multiply<__nv_bfloat16>(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                               unsigned b1, const float (&c)[4]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
#endif
}
template <typename T>
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply<T>(c, a, b0, b1, c);
}

/* 2^x, relative error 2^-22; 2^-infinity is 0. */
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two values rounded to 16 bits, the first in the low half. */
template <typename T> __device__ inline unsigned pack(float low, float high);
template <> __device__ inline unsigned pack<__half>(float low, float high) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned *>(&both);
}
template <> __device__ inline unsigned pack<__nv_bfloat16>(float low, float high) {
#if __CUDA_ARCH__ >= 800
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned *>(&both);
#else
    return 0;
#endif
}

/* ---- between global memory and tiles ---- */

/* Brings tiles of a matrix [·, D] to shared memory, one after the other. Eight threads copy a row, 16 bytes
 * each, all THREADS of the block one pass. What a thread needs to know is kept, as finding it anew costs as
 * much as a tile's other work. */
template <typename T, int D, int THREADS> struct tile_loader {
    static constexpr int PASS = THREADS / 8; /* rows */
    const T *from;                           /* what this thread copies next */
    size_t step;                             /* elements from there to what it copies after */
    int rows;                                /* of the matrix, from that row on */
    unsigned at;                             /* where it goes, in bytes from the tile's first element */

    /* x: the first tile's first element; rows are `stride` elements apart, and there are `count`. */
    __device__ tile_loader(const T *x, size_t stride, int count) {
        const int row = (int)threadIdx.x / 8, column = (int)threadIdx.x % 8 * 8;
        from = x + row * stride + column;
        step = PASS * stride;
        rows = count - row;
        at = (unsigned)(2 * (row * TILE_ROW<D> + column));
    }

    /* The tile at this address in shared memory gets the next ROWS rows, later; where there are no more,
     * zeros. */
    template <int ROWS> __device__ void load(unsigned tile) {
        static_assert(ROWS % PASS == 0, "whole passes");
#pragma unroll
        for (int row = 0; row < ROWS; row += PASS) {
#pragma unroll
            for (int column = 0; column < D; column += 64)
                if (column + 64 <= D || (int)threadIdx.x % 8 * 8 + column < D)
                    copy16_later(tile + at + 2 * (row * TILE_ROW<D> + column), from + column, row < rows);
            from += step;
        }
        rows -= ROWS;
    }
};

/* A warp's sixteen rows: c [16, D] · factor, rounded, to the first `rows` rows of x; zeros to rows from
 * `zeros_from` on. They pass through `tile`, sixteen rows of shared memory that no other warp uses, to be
 * written 16 bytes at a time. factor[0] is for row g, factor[1] for row g + 8. */
template <typename T, int D>
__device__ inline void store_rows(T *x, size_t stride, int rows, int zeros_from, T *tile,
                                  const float (&c)[D / 8][4], const float (&factor)[2]) {
    constexpr int PIECES = D / 8;
    const int lane = warp_lane(), g = lane / 4, t = lane % 4;
    __syncwarp(); /* what the warp read of these rows before, it has */
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
#pragma unroll
        for (int half = 0; half < 2; half++)
            *reinterpret_cast<unsigned *>(tile + (g + 8 * half) * TILE_ROW<D> + 8 * n + 2 * t) =
                pack<T>(c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PIECES / 2; i++) {
        const int piece = i * 32 + lane, row = piece / PIECES, column = piece % PIECES * 8;
        if (row >= rows) continue;
        uint4 values = *reinterpret_cast<const uint4 *>(tile + row * TILE_ROW<D> + column);
        if (row >= zeros_from) values = make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4 *>(x + row * stride + column) = values;
    }
}

/* ---- fragments of tiles ----
 *
 * A lane's address within a 16 × 16 block, in bytes; block_at() of the block comes on top.
 *
 *     by_rows      fetches rows 0 … 7 and 8 … 15 of columns 0 … 7, then of columns 8 … 15.
 *                  As they come, they are a[0 … 3] of the block. Transposed, they are b[0] and b[1] of
 *                  columns 0 … 7 and then of columns 8 … 15, where b is the block.
 *
 *     by_columns   fetches columns 0 … 7 and 8 … 15 of rows 0 … 7, then of rows 8 … 15.
 *                  As they come, they are b[0] and b[1] of rows 0 … 7 and then of rows 8 … 15, where b is
 *                  the block transposed.
 */
template <int D> __device__ inline unsigned by_rows() {
    const int lane = warp_lane();
    return (unsigned)(2 * (lane % 16 * TILE_ROW<D> + lane / 16 * 8));
}
template <int D> __device__ inline unsigned by_columns() {
    const int lane = warp_lane();
    return (unsigned)(2 * ((lane % 8 + lane / 16 * 8) * TILE_ROW<D> + lane / 8 % 2 * 8));
}
template <int D> __device__ constexpr unsigned block_at(int row, int column) {
    return (unsigned)(2 * (row * TILE_ROW<D> + column));
}

/* A warp's sixteen rows of a tile [·, D] as left operands, one for every sixteen columns. */
template <int D> __device__ inline void load_left(unsigned (&a)[D / 16][4], unsigned tile, int row) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) load_matrices(a[k], tile + by_rows<D>() + block_at<D>(row, 16 * k));
}

/* c [16, 8·COLUMNS] rounded to 16 bits: a left operand for every sixteen columns. */
template <typename T, int COLUMNS>
__device__ inline void to_left(unsigned (&a)[COLUMNS / 2][4], const float (&c)[COLUMNS][4]) {
#pragma unroll
    for (int k = 0; k < COLUMNS / 2; k++) {
        a[k][0] = pack<T>(c[2 * k][0], c[2 * k][1]);
        a[k][1] = pack<T>(c[2 * k][2], c[2 * k][3]);
        a[k][2] = pack<T>(c[2 * k + 1][0], c[2 * k + 1][1]);
        a[k][3] = pack<T>(c[2 * k + 1][2], c[2 * k + 1][3]);
    }
}

/* Lets a kernel have more than 48 KiB of shared memory, and as many blocks at a time as fit. Once a kernel:
 * its device does not change. (Host code.) */
template <size_t BYTES, typename Kernel> void allow_shared(Kernel *kernel) {
    static Kernel *allowed = nullptr;
    if (allowed == kernel) return;
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)BYTES),
               "asking for attention's shared memory");
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared),
               "asking for attention's shared memory");
    allowed = kernel;
}

/* ---- ALiBi ---- */

/* A head's constants. Scores are kept as q·k + slope · (key − last), with the slope divided by the scale
 * 1/√D, and so need one multiplication to become powers of two: 2^(power · score) = e^(score / √D). */
struct head_constants {
    float slope, power, scale;
};

/* The slope as alibi_slope() has it; its divisor is a power of two. */
template <int D> __device__ inline head_constants constants_of(int head, int heads) {
    const int exponent = 31 - __clz(heads), m = 1 << exponent;
    const float fraction =
        (float)(head < m ? 2 * (head + 1) : 2 * (head - m) + 1) * power_of_two(-(float)exponent);
    const float root = sqrtf((float)D);
    return {exp2f(-4 * fraction) * root, 1.44269504f / root, 1 / root};
}

#endif
