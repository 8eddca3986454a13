// The primitives that kernels are built on, for nvcc. emu/emu.h has the same list for the emulator.
#pragma once

// A shared array of `n` elements, the same for all threads of a block.
#define SHARED(T, name, n) __shared__ T name[n]
// The shared memory whose size the launch gives, at a multiple of 1024 bytes.
#define SHARED_AT_LAUNCH(name) extern __shared__ __align__(1024) unsigned char name[]
// Tells the emulator of a kernel, and of the threads of its blocks; the GPU's driver finds it by name.
#define EXPORT(name, threads)
// Warps of a block take the same way; all lanes of a warp take part in every primitive that concerns a warp.
#define ALL_LANES 0xffffffffu

// ---- numbers ----

__device__ __forceinline__ float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned float_to_bits(float x) { return __float_as_uint(x); }

// Rounds to nearest even; NaN stays NaN.
__device__ __forceinline__ unsigned short round_bf16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two rounded numbers, the first in the low half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// 2^x with an error of some 2 ulp, results below 2^-126 flushed to 0; 2^-inf is 0.
__device__ __forceinline__ float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- memory ----

// 16 or 8 bytes at an address that is a multiple of as many.
__device__ __forceinline__ uint4 load16(const void *p) { return *static_cast<const uint4 *>(p); }
__device__ __forceinline__ uint2 load8(const void *p) { return *static_cast<const uint2 *>(p); }
__device__ __forceinline__ void store16(void *p, uint4 x) { *static_cast<uint4 *>(p) = x; }
__device__ __forceinline__ void store8(void *p, uint2 x) { *static_cast<uint2 *>(p) = x; }

// p[0] += a and p[1] += b in global memory, whoever else adds there, in any order; p is a multiple of 8 bytes.
__device__ __forceinline__ void atomic_add2(float *p, float a, float b) {
#if __CUDA_ARCH__ >= 900
    asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "f"(a), "f"(b)
                 : "memory");
#else
    atomicAdd(p, a);
    atomicAdd(p + 1, b);
#endif
}

// An address in shared memory as a number: half as long as a pointer.
using SharedAddress = unsigned;
__device__ __forceinline__ SharedAddress shared_address(const void *p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Starts copying 16 bytes from global to shared memory; zeros if not `valid`, and then `from` is not read.
__device__ __forceinline__ void copy16_async(SharedAddress to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

// As copy16_async, 4 bytes.
__device__ __forceinline__ void copy4_async(SharedAddress to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

// Closes a group of this thread's copies.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the `pending` youngest groups of this thread are under way. Other threads see the data after a
// barrier.
template <int pending> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- a warp together ----

template <class T> __device__ __forceinline__ T shuffle_xor(T x, int mask) {
    return __shfl_xor_sync(ALL_LANES, x, mask);
}
template <class T> __device__ __forceinline__ T shuffle(T x, int lane) { return __shfl_sync(ALL_LANES, x, lane); }
__device__ __forceinline__ unsigned lanes_where(bool x) { return __ballot_sync(ALL_LANES, x); }

// Four 8x8 matrices of 16-bit numbers from shared memory: lane 8i + r gives the address of row r of matrix i (16 bytes,
// aligned). Lane l gets of each matrix the numbers 2 (l % 4) and one more of row l / 4.
__device__ __forceinline__ void load_matrices(unsigned (&x)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
}

// As load_matrices, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&x)[4], SharedAddress row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(row)
                 : "memory");
}

// c += a b on tensor cores: a is 16 x 16 (row, k), b is 16 x 8 (k, column), both bf16; c is 16 x 8 in f32. With
// g = lane / 4 and t = 2 (lane % 4), a lane holds
//   a[0] = (g, t..t+1)  a[1] = (g + 8, t..t+1)  a[2] = (g, t+8..t+9)  a[3] = (g + 8, t+8..t+9)
//   b0 = (t..t+1, g)    b1 = (t+8..t+9, g)
//   c[0], c[1] = (g, t), (g, t + 1)             c[2], c[3] = (g + 8, t), (g + 8, t + 1)
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
