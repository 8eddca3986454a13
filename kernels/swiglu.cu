// SwiGLU: silu(gate) * up. A row of gate_up is `width` gates, then `width` ups.
#include "common.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// V neighbouring columns; `out` may lie where `gate` does.
template <int V, class T> __device__ __forceinline__ void forward(const T *gate, const T *up, T *out) {
    float g[V], u[V];
    load(gate, g);
    load(up, u);
    for (int i = 0; i < V; i++)
        g[i] = g[i] * sigmoid(g[i]) * u[i];
    store(out, g);
}

// `act` holds the gradient of the output and, with `remake`, becomes the output.
template <int V, class T>
__device__ __forceinline__ void backward(const T *gate, const T *up, T *act, T *d_gate, T *d_up, bool remake) {
    float g[V], u[V], d[V], out[V];
    load(gate, g);
    load(up, u);
    load(act, d);
    for (int i = 0; i < V; i++) {
        float s = sigmoid(g[i]), silu = g[i] * s;
        out[i] = silu * u[i];
        g[i] = d[i] * u[i] * (s + silu * (1.0f - s));
        u[i] = d[i] * silu;
    }
    if (remake)
        store(act, out);
    store(d_gate, g);
    store(d_up, u);
}

// The first column of this thread's run of V, columns of a row running along the grid's second side.
template <int V> __device__ __forceinline__ int my_column() { return (blockIdx.y * THREADS + threadIdx.x) * V; }

// gate_up[rows, 2 width], out[rows, width] with rows `stride` apart. grid: rows, ceil(width / 256 / (wide ? VECTOR :
// 1)); both take the wide way if width, stride and addresses are multiples of 16 bytes.
#define SWIGLU(name, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        swiglu_##name(const T *gate_up, T *out, int width, int stride) {                                               \
        const T *gate = gate_up + 2ll * width * blockIdx.x;                                                            \
        T *to = out + (long long)(stride) * blockIdx.x;                                                                \
        constexpr int V = VECTOR<T>;                                                                                   \
        if (wide(gate_up, width) && wide(out, stride)) {                                                               \
            int i = my_column<V>();                                                                                    \
            if (i < width)                                                                                             \
                forward<V>(gate + i, gate + width + i, to + i);                                                        \
        } else {                                                                                                       \
            for (int i = my_column<1>(); i < width; i += gridDim.y * THREADS)                                          \
                forward<1>(gate + i, gate + width + i, to + i);                                                        \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT(swiglu_##name, THREADS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        swiglu_backward_##name(const T *gate_up, T *act, T *d_gate_up, int width, int remake) {                        \
        const T *gate = gate_up + 2ll * width * blockIdx.x;                                                            \
        T *d_gate = d_gate_up + 2ll * width * blockIdx.x, *mine = act + (long long)(width) * blockIdx.x;               \
        constexpr int V = VECTOR<T>;                                                                                   \
        if (wide(gate_up, width) && wide(act, width) && wide(d_gate_up, width)) {                                      \
            int i = my_column<V>();                                                                                    \
            if (i < width)                                                                                             \
                backward<V>(gate + i, gate + width + i, mine + i, d_gate + i, d_gate + width + i, remake);             \
        } else {                                                                                                       \
            for (int i = my_column<1>(); i < width; i += gridDim.y * THREADS)                                          \
                backward<1>(gate + i, gate + width + i, mine + i, d_gate + i, d_gate + width + i, remake);             \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT(swiglu_backward_##name, THREADS)
FOR_TYPES(SWIGLU)
