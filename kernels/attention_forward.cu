// Causal attention on tensor cores (bf16, heads of 64 or 128), forward.
//
// After FlashAttention-2 (Dao 2023): a block keeps 128 queries of a head and lets tiles of keys and values pass by;
// each of its 4 warps has 32 queries, with their running maximum and sum, and nothing is shared between warps but the
// tiles. While one tile is worked on the next arrives.
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;
constexpr int MT = 2;
// Queries of a block and of a warp.
constexpr int QUERIES = WARPS * MT * 16;
constexpr int MINE = MT * 16;
// Keys of a tile: scores of 64, beside the sums of a head of 128, would not fit a thread's registers.
template <int HD> constexpr int KEYS = HD == 64 ? 64 : 32;

// Running maximum of the scores, and sum of the exponentials this lane has, of rows row_of(m, 2 half).
struct Running {
    float top[MT][2], sum[MT][2];
};

// Scores become exponentials relative to the greatest so far; what was summed up before is scaled to it.
template <int HD>
__device__ __forceinline__ void weigh(float (&s)[MT][KEYS<HD> / 8][4], Running &run, float (&out)[MT][HD / 8][4],
                                      float scale) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = run.top[m][half];
#pragma unroll
            for (int n = 0; n < KEYS<HD> / 8; n++)
                top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            // Four lanes share a row.
            top = fmaxf(top, shuffle_xor(top, 1));
            top = fmaxf(top, shuffle_xor(top, 2));
            // Every row sees key 0, so that `top` is finite from the first tile on.
            float shrink = fast_exp2((run.top[m][half] - top) * scale), sum = run.sum[m][half] * shrink;
            float offset = top * scale;
            run.top[m][half] = top;
#pragma unroll
            for (int n = 0; n < KEYS<HD> / 8; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[m][n][i] = fast_exp2(fmaf(s[m][n][i], scale, -offset));
                    sum += s[m][n][i];
                }
            run.sum[m][half] = sum;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                out[m][n][2 * half] *= shrink;
                out[m][n][2 * half + 1] *= shrink;
            }
        }
}

template <int HD>
__device__ __forceinline__ void forward(const bf16 *qkv, bf16 *out, float *lse, AttentionShape shape) {
    SHARED_AT_LAUNCH(memory);
    constexpr int BYTES = KEYS<HD> * TILE_ROW<HD>;
    // Two buffers, each of keys and of values, pass by.
    SharedAddress queries = shared_address(memory), passing = queries + QUERIES * TILE_ROW<HD>;
    // The last queries see most keys: they start first.
    int first = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, seq = shape.seq;
    int kv = head / (shape.heads / shape.kv_heads);
    long long row = shape.row(HD), token = (long long)(blockIdx.z) * seq;
    const bf16 *from = qkv + token * row;
    int mine = threadIdx.x / WARP * MINE, first_mine = first + mine;
    int tiles = (min(first + QUERIES, seq) + KEYS<HD> - 1) / KEYS<HD>;
    constexpr float scale = SCALE<HD>;
    float sum[MT][HD / 8][4];
    Running run;
#pragma unroll
    for (int m = 0; m < MT; m++) {
        run.top[m][0] = run.top[m][1] = -INFINITY;
        run.sum[m][0] = run.sum[m][1] = 0;
#pragma unroll
        for (int n = 0; n < HD / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[m][n][i] = 0;
    }
    auto fetch = [&](int tile) {
        SharedAddress keys = passing + tile % 2 * 2 * BYTES;
        load_tile<HD, KEYS<HD>, THREADS>(keys, from + shape.key(kv, HD), row, tile * KEYS<HD>, seq);
        load_tile<HD, KEYS<HD>, THREADS>(keys + BYTES, from + shape.value(kv, HD), row, tile * KEYS<HD>, seq);
    };
    load_tile<HD, QUERIES, THREADS>(queries, from + head * HD, row, first, seq);
    fetch(0);
    copy_commit();
    for (int tile = 0; tile < tiles; tile++) {
        copy_wait<0>();
        __syncthreads(); // this tile is there, and nobody needs the one before
        if (tile + 1 < tiles)
            fetch(tile + 1);
        copy_commit();
        int key = tile * KEYS<HD>;
        // Warps whose queries all come before the tile only help to load it.
        if (key >= first_mine + MINE)
            continue;
        SharedAddress keys = passing + tile % 2 * 2 * BYTES;
        float s[MT][KEYS<HD> / 8][4];
        row_products<HD, MT, KEYS<HD>>(s, queries, mine, keys);
        if (key + KEYS<HD> > first_mine + 1)
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < KEYS<HD> / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (key + column_of(n, i) > first_mine + row_of(m, i))
                            s[m][n][i] = -INFINITY;
        weigh<HD>(s, run, sum, scale * LOG2_E);
        add_weighted<HD, MT, KEYS<HD>>(sum, s, keys + BYTES);
    }
    float factor[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float total = run.sum[m][half];
            total += shuffle_xor(total, 1);
            total += shuffle_xor(total, 2);
            factor[m][half] = 1.0f / total;
            int query = first_mine + row_of(m, 2 * half);
            if (threadIdx.x % 4 == 0 && query < seq)
                lse[((long long)(blockIdx.z) * shape.heads + head) * seq + query] =
                    run.top[m][half] * scale + logf(total);
        }
    long long width = (long long)(shape.heads) * HD;
    write_rows<HD, MT>(sum, factor, memory, mine, out + token * width + head * HD, width, first_mine, seq);
}

// qkv[tokens, row], out[tokens, heads * HD], lse[micro, heads, seq], all aligned to 16 bytes (lse to 4).
// grid ceil(seq / 128), heads, micro; shared memory 49152 bytes at 64, 65536 at 128.
#define FORWARD(HD)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) attention_flash_##HD(                                     \
        const bf16 *qkv, bf16 *out, float *lse, int seq, int heads, int kv_heads) {                                    \
        forward<HD>(qkv, out, lse, AttentionShape{seq, heads, kv_heads});                                              \
    }                                                                                                                  \
    EXPORT(attention_flash_##HD, THREADS)
FORWARD(64)
FORWARD(128)
