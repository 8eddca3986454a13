// Causal attention on tensor cores (bf16, heads of 64 or 128), backward, in two kernels without atomics: one has the
// keys and values and lets queries pass by, the other the reverse. Scores are taken anew in both, which costs 7
// products where 5 would do, and makes every sum one thread's, in one order.
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

// Gradients of keys and values: a block keeps those of KEPT tokens and one key/value head. Products have keys as rows
// and queries as columns, so that p^t and ds^t lie in registers as left factors.
template <int HD>
__device__ __forceinline__ void key_gradient(const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta,
                                             bf16 *dqkv, AttentionShape shape) {
    using S = KeySizes<HD>;
    constexpr int MT = S::MT, THREADS = S::THREADS, QUERIES = S::PASSING;
    SHARED_AT_LAUNCH(memory);
    constexpr int KEPT_BYTES = S::KEPT * TILE_ROW<HD>, BYTES = QUERIES * TILE_ROW<HD>;
    SharedAddress keys = shared_address(memory), values = keys + KEPT_BYTES, passing = values + KEPT_BYTES;
    // Two buffers, each of queries and of gradients; then of both numbers of their rows.
    const float *numbers = reinterpret_cast<const float *>(memory + 2 * KEPT_BYTES + 4 * BYTES);
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
        if (query + QUERIES <= first_mine)
            continue;
        SharedAddress queries = passing + step % 2 * 2 * BYTES, douts = queries + BYTES;
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
        add_weighted<HD, MT, QUERIES>(d_keys, ds, queries);
    }
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
// attention_flash_query: grid ceil(seq / 128), heads, micro; shared memory 49152 bytes at 64, 98304 at 128.
#define BACKWARD(HD)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(KeySizes<HD>::THREADS) attention_flash_key_##HD(                      \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, int seq, int heads,       \
        int kv_heads) {                                                                                                \
        key_gradient<HD>(qkv, dout, lse, delta, dqkv, AttentionShape{seq, heads, kv_heads});                           \
    }                                                                                                                  \
    EXPORT(attention_flash_key_##HD, KeySizes<HD>::THREADS)                                                            \
    extern "C" __global__ void __launch_bounds__(QuerySizes<HD>::THREADS) attention_flash_query_##HD(                  \
        const bf16 *qkv, const bf16 *dout, const float *lse, const float *delta, bf16 *dqkv, int seq, int heads,       \
        int kv_heads) {                                                                                                \
        query_gradient<HD>(qkv, dout, lse, delta, dqkv, AttentionShape{seq, heads, kv_heads});                         \
    }                                                                                                                  \
    EXPORT(attention_flash_query_##HD, QuerySizes<HD>::THREADS)
BACKWARD(64)
BACKWARD(128)
