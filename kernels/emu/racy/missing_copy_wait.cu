// Data of an asynchronous copy are used without waiting for them.
#include "common.cuh"

extern "C" __global__ void racy_missing_copy_wait(const float *x, float *out) {
    SHARED(float, all, 64);
    copy4_async(shared_address(&all[threadIdx.x]), &x[threadIdx.x], true);
    copy_commit();
    __syncthreads();
    out[threadIdx.x] = all[threadIdx.x];
}
EXPORT(racy_missing_copy_wait, 64)
