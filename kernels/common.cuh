// What every kernel shares: the number types, 16-byte loads and stores, reductions.
//
// Kernels are written once. nvcc compiles them for the GPU (ptx.cuh), g++ for the emulator (emu/emu.h); both give the
// same few primitives, and everything below is built on those.
#pragma once

#ifdef __CUDACC__
#include "ptx.cuh"
#else
#include "emu/emu.h"
#endif

// Lanes of a warp.
constexpr int WARP = 32;

// A number stored in 16 bits: sign, 8 bits of exponent, 7 of fraction. Arithmetic is in f32.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return bits_to_float(unsigned(x.bits) << 16); }

template <class T> __device__ __forceinline__ T round_to(float x);
template <> __device__ __forceinline__ float round_to<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 round_to<bf16>(float x) { return bf16{round_bf16(x)}; }

// Elements of T in 16 bytes, the widest load there is.
template <class T> constexpr int VECTOR = 16 / int(sizeof(T));

__device__ __forceinline__ bool aligned16(const void *p) { return (reinterpret_cast<unsigned long long>(p) & 15) == 0; }

// Whether rows of `width` elements at p can be read VECTOR<T> elements at a time.
template <class T> __device__ __forceinline__ bool wide(const T *p, long long width) {
    return aligned16(p) && width % VECTOR<T> == 0;
}

// Reads V neighbours as f32, with loads as wide as they allow; p is aligned to them. V times the size of T is 2, 4, 8,
// 16 or a multiple of 16 bytes.
template <int V> __device__ __forceinline__ void load(const float *p, float (&x)[V]) {
    if constexpr (V % 4 == 0) {
        for (int i = 0; i < V; i += 4) {
            uint4 raw = load16(p + i);
            x[i] = bits_to_float(raw.x);
            x[i + 1] = bits_to_float(raw.y);
            x[i + 2] = bits_to_float(raw.z);
            x[i + 3] = bits_to_float(raw.w);
        }
    } else {
        for (int i = 0; i < V; i++)
            x[i] = p[i];
    }
}

__device__ __forceinline__ void split(unsigned pair, float &low, float &high) {
    low = bits_to_float(pair << 16);
    high = bits_to_float(pair & 0xffff0000u);
}

template <int V> __device__ __forceinline__ void load(const bf16 *p, float (&x)[V]) {
    if constexpr (V % 8 == 0) {
        for (int i = 0; i < V; i += 8) {
            uint4 raw = load16(p + i);
            split(raw.x, x[i], x[i + 1]);
            split(raw.y, x[i + 2], x[i + 3]);
            split(raw.z, x[i + 4], x[i + 5]);
            split(raw.w, x[i + 6], x[i + 7]);
        }
    } else if constexpr (V == 4) {
        uint2 raw = load8(p);
        split(raw.x, x[0], x[1]);
        split(raw.y, x[2], x[3]);
    } else {
        for (int i = 0; i < V; i++)
            x[i] = to_float(p[i]);
    }
}

// Writes V neighbours, rounded.
template <int V> __device__ __forceinline__ void store(float *p, const float (&x)[V]) {
    if constexpr (V % 4 == 0) {
        for (int i = 0; i < V; i += 4)
            store16(p + i, uint4{float_to_bits(x[i]), float_to_bits(x[i + 1]), float_to_bits(x[i + 2]),
                                 float_to_bits(x[i + 3])});
    } else {
        for (int i = 0; i < V; i++)
            p[i] = x[i];
    }
}

template <int V> __device__ __forceinline__ void store(bf16 *p, const float (&x)[V]) {
    if constexpr (V % 8 == 0) {
        for (int i = 0; i < V; i += 8)
            store16(p + i, uint4{pack_bf16(x[i], x[i + 1]), pack_bf16(x[i + 2], x[i + 3]),
                                 pack_bf16(x[i + 4], x[i + 5]), pack_bf16(x[i + 6], x[i + 7])});
    } else if constexpr (V == 4) {
        store8(p, uint2{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])});
    } else {
        for (int i = 0; i < V; i++)
            p[i] = round_to<bf16>(x[i]);
    }
}

// The sum over a warp, on every lane, always in the same order.
template <class T> __device__ __forceinline__ T warp_sum(T x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x += shuffle_xor(x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2)
        x = fmaxf(x, shuffle_xor(x, step));
    return x;
}

// The sum over a block of at most 1024 threads (whole warps), on every thread, always in the same order.
template <class T> __device__ __forceinline__ T block_sum(T x) {
    SHARED(T, parts, WARP);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    // Whoever called before may still read.
    __syncthreads();
    if (lane == 0)
        parts[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? parts[lane] : T(0));
}

// Whether it holds for any thread of a block, on every thread.
__device__ __forceinline__ bool block_any(bool x) { return __syncthreads_or(x) != 0; }

// Defines KERNEL(f32, float) and KERNEL(bf16, bf16): a kernel for each type of computation, its type in its name.
#define FOR_TYPES(KERNEL) KERNEL(f32, float) KERNEL(bf16, bf16)
