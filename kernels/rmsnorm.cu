// RMSNorm, forward and backward, alone and with the residual sum before it. A warp does a row.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr int ROWS = THREADS / WARP;

// Row of this warp: rows of a block follow each other.
__device__ __forceinline__ long long my_row() { return (long long)(blockIdx.x) * ROWS + threadIdx.x / WARP; }

// out = x / rms(x) * weight. With ADD `sum += x` first, rounded, and the norm is taken of that.
template <int V, bool ADD, class T>
__device__ __forceinline__ void forward(const T *x, T *sum, const T *weight, T *out, float *inverse_rms, int dim,
                                        float eps) {
    int first = threadIdx.x % WARP * V;
    float squares = 0;
#pragma unroll 4
    for (int i = first; i < dim; i += WARP * V) {
        float a[V];
        load(x + i, a);
        if (ADD) {
            float b[V];
            load(sum + i, b);
            for (int j = 0; j < V; j++)
                a[j] = to_float(round_to<T>(a[j] + b[j]));
            store(sum + i, a);
        }
        for (int j = 0; j < V; j++)
            squares += a[j] * a[j];
    }
    squares = warp_sum(squares);
    float inverse = 1.0f / sqrtf(squares / float(dim) + eps);
    const T *from = ADD ? sum : x;
#pragma unroll 4
    for (int i = first; i < dim; i += WARP * V) {
        float a[V], w[V];
        load(from + i, a);
        load(weight + i, w);
        for (int j = 0; j < V; j++)
            a[j] = a[j] * inverse * w[j];
        store(out + i, a);
    }
    if (first == 0)
        *inverse_rms = inverse;
}

// With g = dout * weight and r = 1 / rms: dx (+)= g r - x r^3 (g.x) / dim.
template <int V, class T>
__device__ __forceinline__ void backward(const T *dout, const T *x, const T *weight, float r, T *dx, bool add,
                                         int dim) {
    int first = threadIdx.x % WARP * V;
    float product = 0;
#pragma unroll 4
    for (int i = first; i < dim; i += WARP * V) {
        float d[V], a[V], w[V];
        load(dout + i, d);
        load(x + i, a);
        load(weight + i, w);
        for (int j = 0; j < V; j++)
            product += d[j] * w[j] * a[j];
    }
    float c = warp_sum(product) * r * r * r / float(dim);
#pragma unroll 2
    for (int i = first; i < dim; i += WARP * V) {
        float d[V], a[V], w[V], before[V];
        load(dout + i, d);
        load(x + i, a);
        load(weight + i, w);
        if (add)
            load(dx + i, before);
        for (int j = 0; j < V; j++) {
            float change = d[j] * w[j] * r - a[j] * c;
            // What is not to be added to may hold anything, also NaN.
            d[j] = add ? before[j] + change : change;
        }
        store(dx + i, d);
    }
}

// parts[part, dim] = sum of dout x r over the part's rows: a block takes WARP * V columns, its warps share the rows.
template <int V, class T>
__device__ __forceinline__ void weight_parts(const T *dout, const T *x, const float *inverse_rms, float *parts,
                                             int rows, int dim, int part_rows) {
    SHARED(float, sums, ROWS * WARP * V);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int start = blockIdx.y * part_rows, end = min(start + part_rows, rows);
    for (int base = blockIdx.x * WARP * V; base < dim; base += gridDim.x * WARP * V) {
        int column = base + lane * V;
        float sum[V];
        for (int j = 0; j < V; j++)
            sum[j] = 0;
        if (column < dim) {
#pragma unroll 4
            for (int row = start + warp; row < end; row += ROWS) {
                float d[V], a[V], r = inverse_rms[row];
                load(dout + (long long)(row) * dim + column, d);
                load(x + (long long)(row) * dim + column, a);
                for (int j = 0; j < V; j++)
                    sum[j] += d[j] * (a[j] * r);
            }
        }
        __syncthreads();
        for (int j = 0; j < V; j++)
            sums[(warp * V + j) * WARP + lane] = sum[j];
        __syncthreads();
        // Warp w adds up columns w, w + 8, ... of every lane, in the order of the warps.
        for (int j = warp; j < V && column < dim; j += ROWS) {
            float total = 0;
            for (int w = 0; w < ROWS; w++)
                total += sums[(w * V + j) * WARP + lane];
            parts[(long long)(blockIdx.y) * dim + column + j] = total;
        }
    }
}

// x, out [rows, dim], weight[dim], inverse_rms[rows]. grid ceil(rows / 8).
// rmsnorm_add: also sum[rows, dim], which x is added to.
// rmsnorm_backward: dout, x, dx [rows, dim]. grid ceil(rows / 8).
// rmsnorm_weight_parts: parts[parts, dim], part_rows rows each. grid ceil(dim / 32 / (wide ? VECTOR : 1)), parts.
#define RMSNORM(name, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rmsnorm_##name(const T *x, const T *weight, T *out, float *inverse_rms, int rows, int dim, float eps) {        \
        long long row = my_row(), at = row * dim;                                                                      \
        if (row >= rows)                                                                                               \
            return;                                                                                                    \
        if (wide(x, dim) && wide(weight, dim) && wide(out, dim))                                                       \
            forward<VECTOR<T>, false>(x + at, (T *)(nullptr), weight, out + at, inverse_rms + row, dim, eps);          \
        else                                                                                                           \
            forward<1, false>(x + at, (T *)(nullptr), weight, out + at, inverse_rms + row, dim, eps);                  \
    }                                                                                                                  \
    EXPORT(rmsnorm_##name, THREADS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rmsnorm_add_##name(const T *x, T *sum, const T *weight, T *out, float *inverse_rms, int rows, int dim,         \
                           float eps) {                                                                                \
        long long row = my_row(), at = row * dim;                                                                      \
        if (row >= rows)                                                                                               \
            return;                                                                                                    \
        if (wide(x, dim) && wide(sum, dim) && wide(weight, dim) && wide(out, dim))                                     \
            forward<VECTOR<T>, true>(x + at, sum + at, weight, out + at, inverse_rms + row, dim, eps);                 \
        else                                                                                                           \
            forward<1, true>(x + at, sum + at, weight, out + at, inverse_rms + row, dim, eps);                         \
    }                                                                                                                  \
    EXPORT(rmsnorm_add_##name, THREADS)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rmsnorm_backward_##name(const T *dout, const T *x, const T *weight, const float *inverse_rms, T *dx, int rows, \
                                int dim, int add) {                                                                    \
        long long row = my_row(), at = row * dim;                                                                      \
        if (row >= rows)                                                                                               \
            return;                                                                                                    \
        if (wide(dout, dim) && wide(x, dim) && wide(weight, dim) && wide(dx, dim))                                     \
            backward<VECTOR<T>>(dout + at, x + at, weight, inverse_rms[row], dx + at, add != 0, dim);                  \
        else                                                                                                           \
            backward<1>(dout + at, x + at, weight, inverse_rms[row], dx + at, add != 0, dim);                          \
    }                                                                                                                  \
    EXPORT(rmsnorm_backward_##name, THREADS)                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rmsnorm_weight_parts_##name(const T *dout, const T *x, const float *inverse_rms, float *parts, int rows,       \
                                    int dim, int part_rows) {                                                          \
        if (wide(dout, dim) && wide(x, dim))                                                                           \
            weight_parts<VECTOR<T>>(dout, x, inverse_rms, parts, rows, dim, part_rows);                                \
        else                                                                                                           \
            weight_parts<1>(dout, x, inverse_rms, parts, rows, dim, part_rows);                                        \
    }                                                                                                                  \
    EXPORT(rmsnorm_weight_parts_##name, THREADS)
FOR_TYPES(RMSNORM)

// dweight[dim] (+)= the sum of parts[count, dim], in their order. grid ceil(dim / 256).
extern "C" __global__ void __launch_bounds__(THREADS)
    rmsnorm_weight_sum(const float *parts, float *dweight, int count, int dim, int add) {
    int column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= dim)
        return;
    float sum = add ? dweight[column] : 0.0f;
    for (int i = 0; i < count; i++)
        sum += parts[(long long)(i) * dim + column];
    dweight[column] = sum;
}
EXPORT(rmsnorm_weight_sum, THREADS)
