// Every thread waits for its own copies and then reads those of others.
#include "common.cuh"

extern "C" __global__ void racy_missing_barrier_after_copy(const float *x, float *out) {
    SHARED(float, all, 64);
    copy4_async(shared_address(&all[threadIdx.x]), &x[threadIdx.x], true);
    copy_commit();
    copy_wait<0>();
    out[threadIdx.x] = all[63 - threadIdx.x];
}
EXPORT(racy_missing_barrier_after_copy, 64)
