// Operations on flat runs of n elements: conversions, sums, zeros.
#include "common.cuh"

// Elements of a thread, and threads of a block.
constexpr int RUN = 8;
constexpr int THREADS = 256;

// This thread's elements first..first + RUN, and whether all of them exist and can be accessed together.
struct Run {
    long long first, end;
    bool whole;
};

__device__ __forceinline__ Run my_run(long long n, bool aligned) {
    long long first = (long long)(blockIdx.x) * (THREADS * RUN) + threadIdx.x * RUN;
    long long end = first + RUN < n ? first + RUN : n;
    return Run{first, end, aligned && first + RUN <= n};
}

// dst = src, or dst += src with ADD, the sum in f32 and rounded once.
template <bool ADD, class S, class D> __device__ __forceinline__ void transfer(const S *src, D *dst, long long n) {
    Run run = my_run(n, aligned16(src) && aligned16(dst));
    if (run.whole) {
        float x[RUN], y[RUN];
        load(src + run.first, x);
        if (ADD) {
            load(dst + run.first, y);
            for (int i = 0; i < RUN; i++)
                x[i] += y[i];
        }
        store(dst + run.first, x);
        return;
    }
    for (long long i = run.first; i < run.end; i++)
        dst[i] = round_to<D>(ADD ? to_float(dst[i]) + to_float(src[i]) : to_float(src[i]));
}

// src[n], dst[n]; grid ceil(n / 2048).
#define TRANSFER(from, S, to, D)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) cast_##from##_##to(const S *src, D *dst, long long n) {      \
        transfer<false>(src, dst, n);                                                                                  \
    }                                                                                                                  \
    EXPORT(cast_##from##_##to, THREADS)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) accumulate_##from##_##to(const S *src, D *dst,               \
                                                                                   long long n) {                      \
        transfer<true>(src, dst, n);                                                                                   \
    }                                                                                                                  \
    EXPORT(accumulate_##from##_##to, THREADS)

TRANSFER(f32, float, f32, float)
TRANSFER(f32, float, bf16, bf16)
TRANSFER(bf16, bf16, f32, float)
TRANSFER(bf16, bf16, bf16, bf16)

// dst[bytes] = 0; grid ceil(bytes / 4096).
extern "C" __global__ void __launch_bounds__(THREADS) clear(unsigned char *dst, long long bytes) {
    long long first = (long long)(blockIdx.x) * (THREADS * 16) + threadIdx.x * 16;
    if (first + 16 <= bytes && aligned16(dst)) {
        store16(dst + first, uint4{0, 0, 0, 0});
        return;
    }
    for (long long i = first; i < first + 16 && i < bytes; i++)
        dst[i] = 0;
}
EXPORT(clear, THREADS)
