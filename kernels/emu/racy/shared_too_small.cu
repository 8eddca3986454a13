// The launch gives less shared memory than the kernel uses.
#include "common.cuh"

extern "C" __global__ void racy_shared_too_small(const float *x, float *out) {
    SHARED_AT_LAUNCH(memory);
    float *all = reinterpret_cast<float *>(memory);
    all[threadIdx.x] = x[threadIdx.x];
    out[threadIdx.x] = all[threadIdx.x];
}
EXPORT(racy_shared_too_small, 64)
