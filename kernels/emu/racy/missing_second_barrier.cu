// A reduction's memory is used again while other warps may still read it.
#include "common.cuh"

extern "C" __global__ void racy_missing_second_barrier(const float *x, float *out) {
    SHARED(float, all, 64);
    float sum = 0;
    for (int round = 0; round < 2; round++) {
        all[threadIdx.x] = x[threadIdx.x] + round;
        __syncthreads();
        sum += all[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}
EXPORT(racy_missing_second_barrier, 64)
