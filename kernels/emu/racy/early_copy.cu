// The next tile is fetched into a buffer that others still read.
#include "common.cuh"

extern "C" __global__ void racy_early_copy(const float *x, float *out) {
    SHARED(float, all, 64);
    float sum = 0;
    for (int tile = 0; tile < 2; tile++) {
        copy4_async(shared_address(&all[threadIdx.x]), &x[threadIdx.x], true);
        copy_commit();
        copy_wait<0>();
        __syncthreads();
        sum += all[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}
EXPORT(racy_early_copy, 64)
