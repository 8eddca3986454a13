// Causal attention for any type and head size up to 256: simple and right, for f32 and for shapes that the tensor-core
// kernels do not take. A warp does a query (or, in backward, a key).
//
// qkv[tokens, row]: a token's `heads` queries, `kv_heads` keys, `kv_heads` values of `hd` elements; out, dout
// [tokens, heads * hd]; lse, delta [micro, heads, seq]. A group of heads / kv_heads queries shares a key and a value.
#include "common.cuh"

constexpr int THREADS = 128;
constexpr int WARPS = THREADS / WARP;
constexpr int MOST_HD = 256;
// Columns of a lane: lane, lane + 32, ...
constexpr int COLUMNS = MOST_HD / WARP;

struct Shape {
    int seq, heads, kv_heads, hd;
    __device__ __forceinline__ int row() const { return (heads + 2 * kv_heads) * hd; }
    __device__ __forceinline__ int key(int head) const { return heads + head / (heads / kv_heads); }
};

// The row this warp works on: blocks of WARPS rows along the grid's first side.
__device__ __forceinline__ int my_row() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// Copies a row to shared memory as f32, for this warp.
template <class T> __device__ __forceinline__ void keep(const T *from, float *to, int hd) {
    for (int i = threadIdx.x % WARP; i < hd; i += WARP)
        to[i] = to_float(from[i]);
}

template <class T> __device__ __forceinline__ float dot(const float *kept, const T *other, int hd) {
    float sum = 0;
    for (int i = 0; i < hd; i++)
        sum += kept[i] * to_float(other[i]);
    return sum;
}

// sum += factor * row, each lane its columns.
template <class T> __device__ __forceinline__ void add_row(float (&sum)[COLUMNS], float factor, const T *row, int hd) {
    int lane = threadIdx.x % WARP;
    for (int c = 0; c < COLUMNS; c++)
        if (lane + c * WARP < hd)
            sum[c] += factor * to_float(row[lane + c * WARP]);
}

template <class T>
__device__ __forceinline__ void write_row(const float (&sum)[COLUMNS], float factor, T *row, int hd) {
    int lane = threadIdx.x % WARP;
    for (int c = 0; c < COLUMNS; c++)
        if (lane + c * WARP < hd)
            row[lane + c * WARP] = round_to<T>(sum[c] * factor);
}

template <class T>
__device__ __forceinline__ void forward(const T *qkv, T *out, float *lse, Shape shape) {
    SHARED(float, queries, WARPS * MOST_HD);
    int query = my_row(), head = blockIdx.y, hd = shape.hd, row = shape.row(), lane = threadIdx.x % WARP;
    if (query >= shape.seq)
        return;
    const T *sequence = qkv + (long long)(blockIdx.z) * shape.seq * row;
    const T *keys = sequence + shape.key(head) * hd, *values = keys + shape.kv_heads * hd;
    float *q = queries + threadIdx.x / WARP * MOST_HD;
    keep(sequence + (long long)(query) * row + head * hd, q, hd);
    __syncwarp();
    float scale = 1.0f / sqrtf(float(hd)), top = -INFINITY, total = 0, sum[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        sum[c] = 0;
    for (int base = 0; base <= query; base += WARP) {
        // Each lane a key, then all lanes together each key's value.
        int key = base + lane;
        float score = key <= query ? scale * dot(q, keys + (long long)(key) * row, hd) : -INFINITY;
        float higher = fmaxf(top, warp_max(score));
        float weight = key <= query ? expf(score - higher) : 0.0f;
        float shrink = expf(top - higher);
        top = higher;
        total = total * shrink + warp_sum(weight);
        for (int c = 0; c < COLUMNS; c++)
            sum[c] *= shrink;
        for (int i = 0; i < WARP && base + i <= query; i++)
            add_row(sum, shuffle(weight, i), values + (long long)(base + i) * row, hd);
    }
    long long token = (long long)(blockIdx.z) * shape.seq + query;
    write_row(sum, 1.0f / total, out + (token * shape.heads + head) * hd, hd);
    if (lane == 0)
        lse[((long long)(blockIdx.z) * shape.heads + head) * shape.seq + query] = top + logf(total);
}

// delta = out . dout, for each row of each head.
template <class T>
__device__ __forceinline__ void deltas(const T *out, const T *dout, float *delta, Shape shape) {
    int query = my_row(), head = blockIdx.y, lane = threadIdx.x % WARP;
    if (query >= shape.seq)
        return;
    long long at = (((long long)(blockIdx.z) * shape.seq + query) * shape.heads + head) * shape.hd;
    float sum = 0;
    for (int i = lane; i < shape.hd; i += WARP)
        sum += to_float(out[at + i]) * to_float(dout[at + i]);
    sum = warp_sum(sum);
    if (lane == 0)
        delta[((long long)(blockIdx.z) * shape.heads + head) * shape.seq + query] = sum;
}

// Gradient of the queries.
template <class T>
__device__ __forceinline__ void query_gradient(const T *qkv, const T *dout, const float *lse, const float *delta,
                                               T *dqkv, Shape shape) {
    SHARED(float, rows, WARPS * 2 * MOST_HD);
    int query = my_row(), head = blockIdx.y, hd = shape.hd, row = shape.row(), lane = threadIdx.x % WARP;
    if (query >= shape.seq)
        return;
    long long first = (long long)(blockIdx.z) * shape.seq, token = first + query;
    const T *keys = qkv + first * row + shape.key(head) * hd, *values = keys + shape.kv_heads * hd;
    float *q = rows + threadIdx.x / WARP * 2 * MOST_HD, *d = q + MOST_HD;
    keep(qkv + token * row + head * hd, q, hd);
    keep(dout + (token * shape.heads + head) * hd, d, hd);
    __syncwarp();
    long long at = ((long long)(blockIdx.z) * shape.heads + head) * shape.seq + query;
    float scale = 1.0f / sqrtf(float(hd)), sum[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        sum[c] = 0;
    for (int base = 0; base <= query; base += WARP) {
        int key = base + lane;
        float change = 0;
        if (key <= query) {
            float weight = expf(scale * dot(q, keys + (long long)(key) * row, hd) - lse[at]);
            change = weight * (dot(d, values + (long long)(key) * row, hd) - delta[at]);
        }
        for (int i = 0; i < WARP && base + i <= query; i++)
            add_row(sum, shuffle(change, i), keys + (long long)(base + i) * row, hd);
    }
    write_row(sum, scale, dqkv + token * row + head * hd, hd);
}

// Gradients of the keys and values: all queries of the group that see the key, in order.
template <class T>
__device__ __forceinline__ void key_gradient(const T *qkv, const T *dout, const float *lse, const float *delta,
                                             T *dqkv, Shape shape) {
    SHARED(float, rows, WARPS * 2 * MOST_HD);
    int key = my_row(), kv = blockIdx.y, hd = shape.hd, row = shape.row(), lane = threadIdx.x % WARP;
    int group = shape.heads / shape.kv_heads, width = shape.heads * hd;
    if (key >= shape.seq)
        return;
    long long first = (long long)(blockIdx.z) * shape.seq;
    long long at_key = (first + key) * row + (shape.heads + kv) * hd, at_value = at_key + shape.kv_heads * hd;
    float *k = rows + threadIdx.x / WARP * 2 * MOST_HD, *v = k + MOST_HD;
    keep(qkv + at_key, k, hd);
    keep(qkv + at_value, v, hd);
    __syncwarp();
    float scale = 1.0f / sqrtf(float(hd)), d_key[COLUMNS], d_value[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        d_key[c] = d_value[c] = 0;
    for (int head = kv * group; head < (kv + 1) * group; head++) {
        const T *queries = qkv + first * row + head * hd, *douts = dout + first * width + head * hd;
        long long at = ((long long)(blockIdx.z) * shape.heads + head) * shape.seq;
        for (int base = key; base < shape.seq; base += WARP) {
            int query = base + lane;
            float weight = 0, change = 0;
            if (query < shape.seq) {
                weight = expf(scale * dot(k, queries + (long long)(query) * row, hd) - lse[at + query]);
                change = weight * (dot(v, douts + (long long)(query) * width, hd) - delta[at + query]);
            }
            for (int i = 0; i < WARP && base + i < shape.seq; i++) {
                add_row(d_key, shuffle(change, i), queries + (long long)(base + i) * row, hd);
                add_row(d_value, shuffle(weight, i), douts + (long long)(base + i) * width, hd);
            }
        }
    }
    write_row(d_key, scale, dqkv + at_key, hd);
    write_row(d_value, 1.0f, dqkv + at_value, hd);
}

// grid ceil(seq / 4), heads, micro; for the keys kv_heads instead of heads.
#define ATTENTION(name, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_simple_##name(const T *qkv, T *out, float *lse, int seq, int heads, int kv_heads, int hd) {          \
        forward(qkv, out, lse, Shape{seq, heads, kv_heads, hd});                                                       \
    }                                                                                                                  \
    EXPORT(attention_simple_##name, THREADS)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_delta_##name(const T *out, const T *dout, float *delta, int seq, int heads, int kv_heads, int hd) {  \
        deltas(out, dout, delta, Shape{seq, heads, kv_heads, hd});                                                     \
    }                                                                                                                  \
    EXPORT(attention_delta_##name, THREADS)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_simple_query_##name(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv,      \
                                      int seq, int heads, int kv_heads, int hd) {                                      \
        query_gradient(qkv, dout, lse, delta, dqkv, Shape{seq, heads, kv_heads, hd});                                  \
    }                                                                                                                  \
    EXPORT(attention_simple_query_##name, THREADS)                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_simple_key_##name(const T *qkv, const T *dout, const float *lse, const float *delta, T *dqkv,        \
                                    int seq, int heads, int kv_heads, int hd) {                                        \
        key_gradient(qkv, dout, lse, delta, dqkv, Shape{seq, heads, kv_heads, hd});                                    \
    }                                                                                                                  \
    EXPORT(attention_simple_key_##name, THREADS)
FOR_TYPES(ATTENTION)
