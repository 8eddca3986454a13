// Only some threads come to a barrier.
#include "common.cuh"

extern "C" __global__ void racy_divergent_barrier(const float *x, float *out) {
    if (threadIdx.x < 16)
        __syncwarp();
    else
        __syncthreads();
    out[threadIdx.x] = x[threadIdx.x];
}
EXPORT(racy_divergent_barrier, 64)
