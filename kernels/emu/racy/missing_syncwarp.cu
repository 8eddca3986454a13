// Lanes exchange numbers through shared memory as if a shuffle before it, or being one warp, kept them in step.
#include "common.cuh"

extern "C" __global__ void racy_missing_syncwarp(const float *x, float *out) {
    SHARED(float, all, 64);
    all[threadIdx.x] = x[threadIdx.x];
    float sum = warp_sum(x[threadIdx.x]);
    out[threadIdx.x] = sum + all[threadIdx.x ^ 1];
}
EXPORT(racy_missing_syncwarp, 64)
