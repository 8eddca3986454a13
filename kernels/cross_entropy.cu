// Softmax cross-entropy of rows of f32 logits, which become their own gradient. A block does a row.
#include "common.cuh"

constexpr int THREADS = 512;

// A running maximum and the sum of e^(x - top).
struct Softmax {
    float top, sum;
};

__device__ __forceinline__ Softmax merge(Softmax a, Softmax b) {
    float top = fmaxf(a.top, b.top);
    return Softmax{top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top)};
}

template <int V> __device__ __forceinline__ Softmax absorb(Softmax s, const float (&x)[V]) {
    float top = s.top;
    for (int i = 0; i < V; i++)
        top = fmaxf(top, x[i]);
    // fmaxf passes over a NaN; the sum does not.
    float sum = s.sum * expf(s.top - top);
    for (int i = 0; i < V; i++)
        sum += expf(x[i] - top);
    return Softmax{top, sum};
}

// Of a whole row, on every thread.
template <int V> __device__ __forceinline__ Softmax row_softmax(const float *logits, int vocab) {
    // Less than any logit, and finite: -inf less -inf is no number.
    const float least = -3.4e38f;
    SHARED(Softmax, parts, THREADS / WARP);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Softmax s{least, 0};
#pragma unroll 4
    for (int i = threadIdx.x * V; i < vocab; i += THREADS * V) {
        float x[V];
        load(logits + i, x);
        s = absorb(s, x);
    }
    for (int step = WARP / 2; step > 0; step /= 2)
        s = merge(s, Softmax{shuffle_xor(s.top, step), shuffle_xor(s.sum, step)});
    if (lane == 0)
        parts[warp] = s;
    __syncthreads();
    s = lane < THREADS / WARP ? parts[lane] : Softmax{least, 0};
    for (int step = WARP / 2; step > 0; step /= 2)
        s = merge(s, Softmax{shuffle_xor(s.top, step), shuffle_xor(s.sum, step)});
    return s;
}

// The gradient over the logits, rounded to T. A run of THREADS * V columns is read by all before it is written: written
// in T it covers no later f32.
template <int V, class T>
__device__ __forceinline__ void row_gradient(const float *logits, T *gradient, int vocab, int target, Softmax s,
                                             float scale) {
    float factor = target < 0 ? 0.0f : scale / s.sum;
    for (int base = 0; base < vocab; base += THREADS * V) {
        int i = base + threadIdx.x * V;
        float x[V];
        if (i < vocab)
            load(logits + i, x);
        __syncthreads();
        if (i < vocab) {
            for (int j = 0; j < V; j++) {
                float e = expf(x[j] - s.top);
                x[j] = target < 0 ? 0.0f : i + j == target ? scale * (e / s.sum - 1.0f) : factor * e;
            }
            store(gradient + i, x);
        }
    }
}

template <int V> __device__ __forceinline__ Softmax row_loss(const float *logits, int vocab, int target, float *nll) {
    if (target < 0) {
        if (threadIdx.x == 0)
            *nll = 0;
        return Softmax{0, 1};
    }
    Softmax s = row_softmax<V>(logits, vocab);
    if (threadIdx.x == 0)
        *nll = logf(s.sum) + (s.top - logits[target]);
    return s;
}

// logits[rows, vocab], targets[rows], nll[rows]. grid: rows.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy(const float *logits, const int *targets, float *nll, int vocab) {
    const float *row = logits + (long long)(blockIdx.x) * vocab;
    if (wide(logits, vocab))
        row_loss<4>(row, vocab, targets[blockIdx.x], nll + blockIdx.x);
    else
        row_loss<1>(row, vocab, targets[blockIdx.x], nll + blockIdx.x);
}
EXPORT(cross_entropy, THREADS)

// As above; each row of logits becomes the gradient of scale * nll, in T at the start of the row's own memory.
#define CROSS_ENTROPY(name, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        cross_entropy_gradient_##name(float *logits, const int *targets, float *nll, int vocab, float scale) {         \
        float *row = logits + (long long)(blockIdx.x) * vocab;                                                         \
        T *gradient = reinterpret_cast<T *>(row);                                                                      \
        int target = targets[blockIdx.x];                                                                              \
        if (wide(logits, vocab)) {                                                                                     \
            Softmax s = row_loss<4>(row, vocab, target, nll + blockIdx.x);                                             \
            row_gradient<4>(row, gradient, vocab, target, s, scale);                                                   \
        } else {                                                                                                       \
            Softmax s = row_loss<1>(row, vocab, target, nll + blockIdx.x);                                             \
            row_gradient<1>(row, gradient, vocab, target, s, scale);                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT(cross_entropy_gradient_##name, THREADS)
FOR_TYPES(CROSS_ENTROPY)

// loss[0] += scale * the sum of nll[rows], in f64; one block.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_sum(const float *nll, double *loss, int rows, double scale) {
    double sum = 0;
    for (int i = threadIdx.x; i < rows; i += THREADS)
        sum += double(nll[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        loss[0] += scale * sum;
}
EXPORT(cross_entropy_sum, THREADS)
