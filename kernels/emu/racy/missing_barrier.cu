// Threads read what other warps wrote to shared memory before they are known to have done so.
#include "common.cuh"

extern "C" __global__ void racy_missing_barrier(const float *x, float *out) {
    SHARED(float, all, 64);
    all[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = all[63 - threadIdx.x];
}
EXPORT(racy_missing_barrier, 64)
