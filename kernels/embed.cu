// Token embedding: a gather, and its transpose with sums in the order of the tokens.
#include "common.cuh"

constexpr int THREADS = 256;
// Columns of a block in backward: each thread has this many.
constexpr int COLUMNS = 8;

// out[i] = table[tokens[i]], rows of `dim`. grid: tokens.
template <class T>
__device__ __forceinline__ void gather(const T *table, const int *tokens, T *out, int dim) {
    const T *from = table + (long long)(tokens[blockIdx.x]) * dim;
    T *to = out + (long long)(blockIdx.x) * dim;
    if (wide(table, dim) && wide(out, dim)) {
        for (int i = threadIdx.x * VECTOR<T>; i < dim; i += THREADS * VECTOR<T>)
            store16(to + i, load16(from + i));
    } else {
        for (int i = threadIdx.x; i < dim; i += THREADS)
            to[i] = from[i];
    }
}

// dtable[tokens[i]] += dout[i] for i in order. The block of the first occurrence of a token adds up all of them: no two
// blocks touch one row. grid: tokens, ceil(dim / 2048).
template <class T>
__device__ __forceinline__ void scatter(const T *dout, const int *tokens, float *dtable, int count, int dim) {
    SHARED(int, found, THREADS);
    SHARED(int, starts, THREADS / WARP);
    int here = blockIdx.x, token = tokens[here], warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    bool earlier = false;
    for (int i = threadIdx.x; i < here; i += THREADS)
        earlier |= tokens[i] == token;
    if (block_any(earlier))
        return;
    // Neighbouring threads have neighbouring columns, so that a warp's accesses lie together.
    int column = blockIdx.y * THREADS * COLUMNS + threadIdx.x;
    float *row = dtable + (long long)(token) * dim;
    float sum[COLUMNS];
    for (int j = 0; j < COLUMNS; j++)
        sum[j] = column + j * THREADS < dim ? row[column + j * THREADS] : 0.0f;
    for (int base = here; base < count; base += THREADS) {
        // The places of this token among the next THREADS, in order.
        int i = base + threadIdx.x;
        bool match = i < count && tokens[i] == token;
        unsigned matches = lanes_where(match);
        __syncthreads();
        if (lane == 0)
            starts[warp] = __popc(matches);
        __syncthreads();
        int start = 0, total = 0;
        for (int w = 0; w < THREADS / WARP; w++) {
            start += w < warp ? starts[w] : 0;
            total += starts[w];
        }
        if (match)
            found[start + __popc(matches & ((1u << lane) - 1))] = i;
        __syncthreads();
        for (int k = 0; k < total; k++) {
            const T *from = dout + (long long)(found[k]) * dim;
            for (int j = 0; j < COLUMNS; j++)
                if (column + j * THREADS < dim)
                    sum[j] += to_float(from[column + j * THREADS]);
        }
    }
    for (int j = 0; j < COLUMNS; j++)
        if (column + j * THREADS < dim)
            row[column + j * THREADS] = sum[j];
}

// table[vocab, dim], tokens[count], out, dout [count, dim], dtable[vocab, dim].
#define EMBED(name, T)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        embed_##name(const T *table, const int *tokens, T *out, int dim) {                                             \
        gather(table, tokens, out, dim);                                                                               \
    }                                                                                                                  \
    EXPORT(embed_##name, THREADS)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        embed_backward_##name(const T *dout, const int *tokens, float *dtable, int count, int dim) {                   \
        scatter(dout, tokens, dtable, count, dim);                                                                     \
    }                                                                                                                  \
    EXPORT(embed_backward_##name, THREADS)
FOR_TYPES(EMBED)
