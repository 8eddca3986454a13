// Causal attention on tensor cores (bf16, heads of 64 or 128), backward, in two ways.
//
// In one order, in two kernels without atomics: one has the keys and values and lets queries pass by, the other the
// reverse. Scores are taken anew in both, which costs 7 products where 5 would do, and makes every sum one thread's.
//
// In any order, after FlashAttention-2: the first kernel also adds its keys' part of the gradient of the queries that
// pass by to sums in f32, atomically, and another rounds those at the end.
//
// With p = exp(scores - lse), delta = out . dout and ds = p (dout . values - delta):
//   dvalues = p^t dout,  dkeys = scale ds^t queries,  dqueries = scale ds keys.
#include "attention.cuh"

// Sizes of a kernel: warps of a block, 16-row products of a warp, rows of the tiles that pass by.
template <int W, int M, int P> struct Sizes {
    static constexpr int WARPS = W, MT = M, PASSING = P;
    static constexpr int THREADS = W * WARP, MINE = M * 16, KEPT = W * M * 16;
};
// A thread has the gradients of its keys and values, so that few rows of long heads fit.
template <int HD> struct KeySizes;
template <> struct KeySizes<64> : Sizes<4, 2, 32> {};
template <> struct KeySizes<128> : Sizes<8, 1, 64> {};
template <int HD> struct QuerySizes;
template <> struct QuerySizes<64> : Sizes<4, 2, 32> {};
template <> struct QuerySizes<128> : Sizes<4, 2, 32> {};

template <int MT, int N> __device__ __forceinline__ void clear_sum(float (&sum)[MT][N][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[m][n][i] = 0;
}

// The tile of changes, ds^t of a block, has rows of QUERIES bf16: where a chunk of 8 of them lies, so that those of eight
// rows lie in different banks.
template <int QUERIES> __device__ __forceinline__ int change_place(int row, int chunk) {
    return row * 2 * QUERIES + (chunk ^ (row * QUERIES / 64 & (QUERIES / 8 - 1))) * 16;
}

// Writes a warp's changes to rows row.. of their tile.
template <int MT, int QUERIES>
__device__ __forceinline__ void write_changes(const float (&ds)[MT][QUERIES / 8][4], unsigned char *tile, int row) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = change_place<QUERIES>(row + row_of(m, 2 * half), n) + 2 * column_of(0, 0);
                *reinterpret_cast<unsigned *>(tile + at) = pack_bf16(ds[m][n][2 * half], ds[m][n][2 * half + 1]);
            }
}

// Adds ds keys, over the first `seen` of the block's keys, to the sums of the queries query.. at `to`, whose rows are
// `width` apart. A warp does 16 queries and COLUMNS columns of the head.
template <int HD, class S>
__device__ __forceinline__ void add_queries(float *to, long long width, int query, int seq, SharedAddress changes,
                                            SharedAddress keys, int seen) {
    constexpr int GROUPS = S::PASSING / 16, COLUMNS = HD / (S::WARPS / GROUPS);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, group = warp % GROUPS, part = warp / GROUPS;
    // The changes' columns are rows of the left factor: they are read transposed.
    SharedAddress left = changes + change_place<S::PASSING>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    SharedAddress right = along_rows<HD>(keys);
    left ^= group * 32;
    float sum[1][COLUMNS / 8][4];
    clear_sum(sum);
    for (int k = 0; k < seen / 16; k++) {
        unsigned a[4];
        load_matrices_transposed(a, left + k * 16 * 2 * S::PASSING);
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            unsigned b[4];
            load_matrices_transposed(b, at<HD>(right, k, part * (COLUMNS / 16) + n));
            multiply_add(sum[0][2 * n], a, b[0], b[1]);
            multiply_add(sum[0][2 * n + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = query + 16 * group + row_of(0, 2 * half);
        if (row < seq)
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++)
                atomic_add2(to + row * width + part * COLUMNS + column_of(n, 0), sum[0][n][2 * half],
                            sum[0][n][2 * half + 1]);
    }
}

// Gradients of keys and values: a block keeps those of KEPT tokens and one key/value head. Products have keys as rows
// and queries as columns, so that p^t and ds^t lie in registers as left factors. WITH_QUERIES also adds to d_queries,
// f32 [tokens, heads * HD], without the factor `scale`.
template <int HD, bool WITH_QUERIES>
__device__ __forceinline__ void key_gradient(const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta,
                                             float *d_queries, bf16 *dqkv, AttentionShape shape) {
    using S = KeySizes<HD>;
    constexpr int MT = S::MT, THREADS = S::THREADS, QUERIES = S::PASSING;
    SHARED_AT_LAUNCH(memory);
    constexpr int KEPT_BYTES = S::KEPT * TILE_ROW<HD>, BYTES = QUERIES * TILE_ROW<HD>;
    SharedAddress keys = shared_address(memory), values = keys + KEPT_BYTES, passing = values + KEPT_BYTES;
    // Two buffers, each of queries and of gradients; then of both numbers of their rows.
    const float *numbers = reinterpret_cast<const float *>(memory + 2 * KEPT_BYTES + 4 * BYTES);
    unsigned char *changes = memory + 2 * KEPT_BYTES + 4 * BYTES + 16 * QUERIES;
    int first = blockIdx.x * S::KEPT, kv = blockIdx.y, seq = shape.seq, group = shape.heads / shape.kv_heads;
    int mine = threadIdx.x / WARP * S::MINE, first_mine = first + mine;
    long long row = shape.row(HD), width = (long long)(shape.heads) * HD, token = (long long)(blockIdx.z) * seq;
    const bf16 *from = qkv + token * row;
    int first_tile = first / QUERIES, tiles = (seq + QUERIES - 1) / QUERIES - first_tile;
    constexpr float scale = SCALE<HD>;
    float d_keys[MT][HD / 8][4], d_values[MT][HD / 8][4];
    clear_sum(d_keys);
    clear_sum(d_values);

    // Passing by: for each head of the group its queries from the first key on.
    auto fetch = [&](int step) {
        int head = kv * group + step / tiles, query = (first_tile + step % tiles) * QUERIES;
        long long at = ((long long)(blockIdx.z) * shape.heads + head) * seq;
        SharedAddress queries = passing + step % 2 * 2 * BYTES;
        SharedAddress rows = passing + 4 * BYTES + step % 2 * 8 * QUERIES;
        load_tile<HD, QUERIES, THREADS>(queries, from + head * HD, row, query, seq);
        load_tile<HD, QUERIES, THREADS>(queries + BYTES, dout + token * width + head * HD, width, query, seq);
        load_numbers<QUERIES, THREADS>(rows, lse + at, query, seq);
        load_numbers<QUERIES, THREADS>(rows + 4 * QUERIES, delta + at, query, seq);
    };
    load_tile<HD, S::KEPT, THREADS>(keys, from + shape.key(kv, HD), row, first, seq);
    load_tile<HD, S::KEPT, THREADS>(values, from + shape.value(kv, HD), row, first, seq);
    fetch(0);
    copy_commit();
    for (int step = 0; step < group * tiles; step++) {
        copy_wait<0>();
        __syncthreads(); // this step's tiles are there, and nobody needs those of the step before
        if (step + 1 < group * tiles)
            fetch(step + 1);
        copy_commit();
        int query = (first_tile + step % tiles) * QUERIES;
        SharedAddress queries = passing + step % 2 * 2 * BYTES, douts = queries + BYTES;
        // Warps whose keys all come after the tile only help with what is everyone's.
        if (query + QUERIES > first_mine) {
            const float *rows = numbers + step % 2 * 2 * QUERIES;
            // Queries beyond the end are zeros, with zeros as their numbers: they add zeros.
            float p[MT][QUERIES / 8][4];
            row_products<HD, MT, QUERIES>(p, keys, mine, queries);
            bool edge = query < first_mine + S::MINE;
#pragma unroll
            for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float offset = rows[column_of(n, i)] * LOG2_E;
#pragma unroll
                    for (int m = 0; m < MT; m++)
#pragma unroll
                        for (int j = i; j < 4; j += 2) {
                            float weight = fast_exp2(fmaf(p[m][n][j], scale * LOG2_E, -offset));
                            bool hidden = edge && first_mine + row_of(m, j) > query + column_of(n, i);
                            p[m][n][j] = hidden ? 0.0f : weight;
                        }
                }
            add_weighted<HD, MT, QUERIES>(d_values, p, douts);
            float ds[MT][QUERIES / 8][4];
            row_products<HD, MT, QUERIES>(ds, values, mine, douts);
#pragma unroll
            for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float offset = rows[QUERIES + column_of(n, i)];
#pragma unroll
                    for (int m = 0; m < MT; m++)
#pragma unroll
                        for (int j = i; j < 4; j += 2)
                            ds[m][n][j] = p[m][n][j] * (ds[m][n][j] - offset);
                }
            if constexpr (WITH_QUERIES)
                write_changes<MT, QUERIES>(ds, changes, mine);
            add_weighted<HD, MT, QUERIES>(d_keys, ds, queries);
        }
        if constexpr (WITH_QUERIES) {
            __syncthreads(); // all warps' changes are there
            float *to = d_queries + token * width + (kv * group + step / tiles) * HD;
            int seen = min(S::KEPT, query + QUERIES - first);
            add_queries<HD, S>(to, width, query, seq, shared_address(changes), keys, seen);
        }
    }
    if constexpr (WITH_QUERIES)
        __syncthreads(); // nobody needs the keys
    float one[MT][2], scales[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        one[m][0] = one[m][1] = 1.0f;
        scales[m][0] = scales[m][1] = scale;
    }
    bf16 *to = dqkv + token * row;
    write_rows<HD, MT>(d_keys, scales, memory, mine, to + shape.key(kv, HD), row, first_mine, seq);
    write_rows<HD, MT>(d_values, one, memory + KEPT_BYTES, mine, to + shape.value(kv, HD), row, first_mine, seq);
}

// Gradient of the queries: a block keeps those of KEPT tokens and one head.
template <int HD>
__device__ __forceinline__ void query_gradient(const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta,
                                               bf16 *dqkv, AttentionShape shape) {
    using S = QuerySizes<HD>;
    constexpr int MT = S::MT, THREADS = S::THREADS, KEYS = S::PASSING;
    SHARED_AT_LAUNCH(memory);
    constexpr int KEPT_BYTES = S::KEPT * TILE_ROW<HD>, BYTES = KEYS * TILE_ROW<HD>;
    SharedAddress queries = shared_address(memory), douts = queries + KEPT_BYTES, passing = douts + KEPT_BYTES;
    // The last queries see most keys: they start first.
    int first = (gridDim.x - 1 - blockIdx.x) * S::KEPT, head = blockIdx.y, seq = shape.seq;
    int kv = head / (shape.heads / shape.kv_heads);
    int mine = threadIdx.x / WARP * S::MINE, first_mine = first + mine;
    long long row = shape.row(HD), width = (long long)(shape.heads) * HD, token = (long long)(blockIdx.z) * seq;
    long long at = ((long long)(blockIdx.z) * shape.heads + head) * seq;
    const bf16 *from = qkv + token * row;
    int tiles = (min(first + S::KEPT, seq) + KEYS - 1) / KEYS;
    constexpr float scale = SCALE<HD>;
    float sum[MT][HD / 8][4], offset[MT][2], deltas[MT][2];
    clear_sum(sum);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = first_mine + row_of(m, 2 * half);
            offset[m][half] = query < seq ? lse[at + query] * LOG2_E : 0.0f;
            deltas[m][half] = query < seq ? delta[at + query] : 0.0f;
        }
    auto fetch = [&](int tile) {
        SharedAddress keys = passing + tile % 2 * 2 * BYTES;
        load_tile<HD, KEYS, THREADS>(keys, from + shape.key(kv, HD), row, tile * KEYS, seq);
        load_tile<HD, KEYS, THREADS>(keys + BYTES, from + shape.value(kv, HD), row, tile * KEYS, seq);
    };
    load_tile<HD, S::KEPT, THREADS>(queries, from + head * HD, row, first, seq);
    load_tile<HD, S::KEPT, THREADS>(douts, dout + token * width + head * HD, width, first, seq);
    fetch(0);
    copy_commit();
    for (int tile = 0; tile < tiles; tile++) {
        copy_wait<0>();
        __syncthreads(); // this tile is there, and nobody needs the one before
        if (tile + 1 < tiles)
            fetch(tile + 1);
        copy_commit();
        int key = tile * KEYS;
        if (key >= first_mine + S::MINE)
            continue;
        SharedAddress keys = passing + tile % 2 * 2 * BYTES, values = keys + BYTES;
        float p[MT][KEYS / 8][4], ds[MT][KEYS / 8][4];
        row_products<HD, MT, KEYS>(p, queries, mine, keys);
        row_products<HD, MT, KEYS>(ds, douts, mine, values);
        bool edge = key + KEYS > first_mine + 1;
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float weight = fast_exp2(fmaf(p[m][n][i], scale * LOG2_E, -offset[m][i / 2]));
                    bool hidden = edge && key + column_of(n, i) > first_mine + row_of(m, i);
                    ds[m][n][i] = hidden ? 0.0f : weight * (ds[m][n][i] - deltas[m][i / 2]);
                }
        add_weighted<HD, MT, KEYS>(sum, ds, keys);
    }
    float scales[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
        scales[m][0] = scales[m][1] = scale;
    write_rows<HD, MT>(sum, scales, memory, mine, dqkv + token * row + head * HD, row, first_mine, seq);
}

// qkv, dqkv [tokens, row], dout[tokens, heads * HD], lse, delta [micro, heads, seq]; all but these two aligned to 16
// bytes.
// attention_flash_key: grid ceil(seq / 128), kv_heads, micro; shared memory 49664 bytes at 64, 132096 at 128.
// attention_flash_all: the same grid; d_queries [tokens, heads * HD], zeros; shared memory 57856 bytes at 64, 148480 at
// 128.
// attention_flash_query: grid ceil(seq / 128), heads, micro; shared memory 49152 bytes at 64, 98304 at 128.
#define BACKWARD(HD)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(KeySizes<HD>::THREADS) attention_flash_key_##HD(                      \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, int seq, int heads,       \
        int kv_heads) {                                                                                                \
        key_gradient<HD, false>(qkv, dout, lse, delta, nullptr, dqkv, AttentionShape{seq, heads, kv_heads});           \
    }                                                                                                                  \
    EXPORT(attention_flash_key_##HD, KeySizes<HD>::THREADS)                                                            \
    extern "C" __global__ void __launch_bounds__(KeySizes<HD>::THREADS) attention_flash_all_##HD(                      \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, float *d_queries, bf16 *dqkv,         \
        int seq, int heads, int kv_heads) {                                                                            \
        key_gradient<HD, true>(qkv, dout, lse, delta, d_queries, dqkv, AttentionShape{seq, heads, kv_heads});          \
    }                                                                                                                  \
    EXPORT(attention_flash_all_##HD, KeySizes<HD>::THREADS)                                                            \
    extern "C" __global__ void __launch_bounds__(QuerySizes<HD>::THREADS) attention_flash_query_##HD(                  \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, int seq, int heads,       \
        int kv_heads) {                                                                                                \
        query_gradient<HD>(qkv, dout, lse, delta, dqkv, AttentionShape{seq, heads, kv_heads});                         \
    }                                                                                                                  \
    EXPORT(attention_flash_query_##HD, QuerySizes<HD>::THREADS)
BACKWARD(64)
BACKWARD(128)

// The sums of attention_flash_all, times `scale` and rounded, become the queries' gradients: d_queries [tokens, width],
// dqkv [tokens, row], both aligned to 16 bytes, width and row multiples of 8. grid: tokens, ceil(width / 2048).
extern "C" __global__ void __launch_bounds__(256)
    attention_flash_round(const float *d_queries, bf16 *dqkv, int width, int row, float scale) {
    int i = (blockIdx.y * 256 + threadIdx.x) * 8;
    if (i >= width)
        return;
    float x[8];
    load(d_queries + (long long)(blockIdx.x) * width + i, x);
    for (int j = 0; j < 8; j++)
        x[j] *= scale;
    store(dqkv + (long long)(blockIdx.x) * row + i, x);
}
EXPORT(attention_flash_round, 256)
