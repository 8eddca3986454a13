// A thread reads a sum that others may still add to: additions are atomic, reading is not.
#include "common.cuh"

extern "C" __global__ void racy_plain_among_atomics(const float *x, float *out) {
    atomic_add2(out, x[threadIdx.x], 1.0f);
    if (threadIdx.x == 40)
        out[2] = out[0];
}
EXPORT(racy_plain_among_atomics, 64)
