// Rotary embedding in place, of queries and keys.
#include "common.cuh"

constexpr int THREADS = 256;

// Rotates V pairs of neighbouring elements from `pair` on.
template <int V, class T>
__device__ __forceinline__ void rotate(T *head, const float *angles, int half, int pair, float sign) {
    float low[V], high[V], cosine[V], sine[V];
    load(head + pair, low);
    load(head + half + pair, high);
    load(angles + pair, cosine);
    load(angles + half + pair, sine);
    for (int i = 0; i < V; i++) {
        float u = low[i], v = high[i], s = sign * sine[i];
        low[i] = u * cosine[i] - v * s;
        high[i] = v * cosine[i] + u * s;
    }
    store(head + pair, low);
    store(head + half + pair, high);
}

// qkv[tokens, row]: the first `heads` heads of a row (queries, then keys) of `head_dim` elements are rotated, halves of
// a head against each other. table[seq, head_dim]: a position's head_dim / 2 cosines, then its sines. `sign` -1 turns
// back. grid: tokens.
#define ROPE(name, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rope_##name(T *qkv, const float *table, int row, int seq, int heads, int head_dim, float sign) {               \
        int half = head_dim / 2;                                                                                       \
        T *token = qkv + (long long)(blockIdx.x) * row;                                                                \
        const float *angles = table + (long long)(blockIdx.x % seq) * head_dim;                                        \
        constexpr int V = VECTOR<T>;                                                                                   \
        if (half % V == 0 && wide(qkv, row) && aligned16(table)) {                                                     \
            for (int i = threadIdx.x; i < heads * half / V; i += THREADS)                                              \
                rotate<V>(token + i / (half / V) * head_dim, angles, half, i % (half / V) * V, sign);                  \
        } else {                                                                                                       \
            for (int i = threadIdx.x; i < heads * half; i += THREADS)                                                  \
                rotate<1>(token + i / half * head_dim, angles, half, i % half, sign);                                  \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT(rope_##name, THREADS)
FOR_TYPES(ROPE)
