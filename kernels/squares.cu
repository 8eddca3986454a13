// Sum of squares in f64, in two stages so that its order depends on the length alone.
#include "common.cuh"

constexpr int THREADS = 256;

// parts[b] = sum of x[i]^2 over block b's share of x[n]; grid: a function of n, at most 1024.
extern "C" __global__ void __launch_bounds__(THREADS) squares_parts(const float *x, double *parts, long long n) {
    double sum = 0;
    long long vectors = aligned16(x) ? n / 4 : 0;
    long long stride = (long long)(gridDim.x) * THREADS;
    long long mine = (long long)(blockIdx.x) * THREADS + threadIdx.x;
#pragma unroll 4
    for (long long i = mine; i < vectors; i += stride) {
        float v[4];
        load(x + 4 * i, v);
        for (int j = 0; j < 4; j++)
            sum += double(v[j]) * double(v[j]);
    }
    for (long long i = 4 * vectors + mine; i < n; i += stride)
        sum += double(x[i]) * double(x[i]);
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}
EXPORT(squares_parts, THREADS)

// sum[0] += the sum of parts[count]; one block.
extern "C" __global__ void __launch_bounds__(THREADS) squares_sum(const double *parts, double *sum, int count) {
    double mine = 0;
    for (int i = threadIdx.x; i < count; i += THREADS)
        mine += parts[i];
    mine = block_sum(mine);
    if (threadIdx.x == 0)
        sum[0] += mine;
}
EXPORT(squares_sum, THREADS)
