// 16 bytes are loaded from where only 4 are aligned.
#include "common.cuh"

extern "C" __global__ void racy_misaligned(const float *x, float *out) {
    out[threadIdx.x] = bits_to_float(load16(x + threadIdx.x % 32 + 1).y);
}
EXPORT(racy_misaligned, 64)
