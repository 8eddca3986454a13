// Shared memory is read that nobody wrote.
#include "common.cuh"

extern "C" __global__ void racy_uninitialised(const float *x, float *out) {
    SHARED(float, all, 64);
    if (threadIdx.x < 63)
        all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = all[63 - threadIdx.x];
}
EXPORT(racy_uninitialised, 64)
