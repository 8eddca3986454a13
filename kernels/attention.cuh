// What the tensor-core attention kernels share: tiles in shared memory and products of them.
//
// A tile is ROWS rows of HD bf16 (HD 64 or 128). Its 16-byte chunks are permuted within each row so that eight rows'
// chunks of one column, which is what a matrix load reads, lie in different banks.
#pragma once

#include "common.cuh"

struct AttentionShape {
    int seq, heads, kv_heads;
    // Elements of a token in qkv.
    __device__ __forceinline__ long long row(int hd) const { return (long long)(heads + 2 * kv_heads) * hd; }
    // Column of the key of key/value head kv in qkv, and of its value.
    __device__ __forceinline__ int key(int kv, int hd) const { return (heads + kv) * hd; }
    __device__ __forceinline__ int value(int kv, int hd) const { return (heads + kv_heads + kv) * hd; }
};

constexpr float LOG2_E = 1.44269504f;
// 1 / sqrt(HD).
template <int HD> constexpr float SCALE = HD == 64 ? 0.125f : 0.0883883476f;

// A tile starts at a multiple of 256 bytes; TILE_ROW<HD> is the length of its rows in bytes.
template <int HD> constexpr int TILE_ROW = 2 * HD;

// Where a chunk of 8 numbers lies, in bytes from the tile's start.
template <int HD> __device__ __forceinline__ int place(int row, int chunk) {
    return row * TILE_ROW<HD> + (chunk ^ (row & 7)) * 16;
}

// Starts copying rows first..first + ROWS of a tensor of `rows` rows, `stride` elements apart; zeros beyond its end.
template <int HD, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(SharedAddress tile, const bf16 *from, long long stride, int first, int rows) {
    constexpr int CHUNKS = HD / 8, STEP = THREADS / CHUNKS;
    static_assert(ROWS % STEP == 0 && STEP % 8 == 0, "every thread copies as much, and the permutation repeats");
    int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    SharedAddress to = tile + place<HD>(row, chunk);
    from += (first + row) * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
        copy16_async(to + i * TILE_ROW<HD>, from, first + row + i < rows);
        from += STEP * stride;
    }
}

// The same for one f32 a row.
template <int ROWS, int THREADS>
__device__ __forceinline__ void load_numbers(SharedAddress to, const float *from, int first, int rows) {
    for (int row = threadIdx.x; row < ROWS; row += THREADS)
        copy4_async(to + 4 * row, from + first + row, first + row < rows);
}

// A warp reads 16 x 16 numbers of a tile at a time, always in one of two patterns of addresses. A lane's address for
// the tile's first 16 rows and columns; `at` leads to other ones. An exclusive or walks along a row because of the
// permutation.
//
// As a left factor, or as a right factor whose columns are the tile's columns.
template <int HD> __device__ __forceinline__ SharedAddress along_rows(SharedAddress tile) {
    int lane = threadIdx.x % WARP;
    return tile + place<HD>(lane % 16, lane / 16);
}
// As a right factor whose columns are the tile's rows.
template <int HD> __device__ __forceinline__ SharedAddress across_rows(SharedAddress tile) {
    int lane = threadIdx.x % WARP;
    return tile + place<HD>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}
// From there 16 `rows` down and 16 `columns` to the right.
template <int HD> __device__ __forceinline__ SharedAddress at(SharedAddress lane, int rows, int columns) {
    return (lane ^ (columns * 32)) + rows * 16 * TILE_ROW<HD>;
}

// c[m][n] = the product of rows row + 16 m.. of `left` and rows 8 n.. of `right`: MT x 16 times N scores of a warp.
template <int HD, int MT, int N>
__device__ __forceinline__ void row_products(float (&c)[MT][N / 8][4], SharedAddress left, int row,
                                             SharedAddress right) {
    left = along_rows<HD>(left + row * TILE_ROW<HD>);
    right = across_rows<HD>(right);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < HD / 16; k++) {
        unsigned a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            load_matrices(a[m], at<HD>(left, m, k));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            unsigned b[4];
            load_matrices(b, at<HD>(right, n, k));
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply_add(c[m][2 * n], a[m], b[0], b[1]);
                multiply_add(c[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// sum[m] += p[m] times rows 0..K of `right`, where p are MT x 16 times K numbers that a product left in registers:
// they lie there as a left factor wants them, but for rounding.
template <int HD, int MT, int K>
__device__ __forceinline__ void add_weighted(float (&sum)[MT][HD / 8][4], const float (&p)[MT][K / 8][4],
                                             SharedAddress right) {
    right = along_rows<HD>(right);
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        unsigned a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&from)[4] = p[m][2 * k + i / 2];
                a[m][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
            }
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            unsigned b[4];
            load_matrices_transposed(b, at<HD>(right, k, n));
#pragma unroll
            for (int m = 0; m < MT; m++) {
                multiply_add(sum[m][2 * n], a[m], b[0], b[1]);
                multiply_add(sum[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Row and column within a product of element i of c[m][n].
__device__ __forceinline__ int row_of(int m, int i) { return 16 * m + i / 2 * 8 + threadIdx.x % WARP / 4; }
__device__ __forceinline__ int column_of(int n, int i) { return 8 * n + threadIdx.x % 4 * 2 + i % 2; }

// Writes MT x 16 rows, those of half i times factor[m][i], to rows first.. of a tensor that has `rows`. On the way
// they lie in rows row.. of a tile that this warp alone uses and no longer needs.
template <int HD, int MT>
__device__ __forceinline__ void write_rows(const float (&x)[MT][HD / 8][4], const float (&factor)[MT][2],
                                           unsigned char *tile, int row, bf16 *to, long long stride, int first,
                                           int rows) {
    int lane = threadIdx.x % WARP;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<unsigned *>(tile + place<HD>(row + row_of(m, 2 * half), n) + 2 * column_of(0, 0)) =
                    pack_bf16(x[m][n][2 * half] * factor[m][half], x[m][n][2 * half + 1] * factor[m][half]);
    __syncwarp();
    constexpr int CHUNKS = HD / 8;
#pragma unroll 4
    for (int i = lane; i < MT * 16 * CHUNKS; i += WARP) {
        int r = i / CHUNKS, chunk = i % CHUNKS;
        if (first + r < rows)
            store16(to + (first + r) * stride + chunk * 8, load16(tile + place<HD>(row + r, chunk)));
    }
}
