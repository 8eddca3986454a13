// CUDA for a CPU, as far as our kernels use it: the same list of primitives as ptx.cuh. The engine that runs threads is
// in engine.cpp, what watches their memory in memory.cpp; ../README.md tells how it works.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__ inline
#define __forceinline__ __attribute__((always_inline))
#define __global__
#define __restrict__
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};

using std::fmaf;
using std::fmax;
using std::fmin;
inline float fmaxf(float a, float b) { return std::fmax(a, b); }
inline float fminf(float a, float b) { return std::fmin(a, b); }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

namespace emu {

// Where the running thread is.
extern dim3 thread_index, block_index, block_size, grid_size;

// A lane's operand of a primitive that a warp executes together.
struct Operand {
    alignas(16) unsigned char bytes[64];
};

// Waits for all lanes of the warp, which must call it for the same `what`; returns the operands of all 32.
const Operand *meet(const char *what, const void *operand, size_t size);

// A block's shared memory: an array of the block by the place in the code that declares it; what the launch gives.
void *shared_array(const char *place, size_t bytes);
void *shared_at_launch();

void barrier();
// A barrier that tells whether any thread of the block came with true.
bool barrier_or(bool x);
void warp_barrier();
void copy_async(void *to, const void *from, size_t bytes, bool valid);
void copy_commit();
void copy_wait(int pending);

// An access that plain code does not show, checked like any other.
void touch(const void *p, size_t bytes, bool write);
// The same for an atomic addition: these race with plain accesses, not with each other.
void touch_atomic(const void *p, size_t bytes);
void require_aligned(const void *p, size_t bytes);

template <class T> T shuffled(const char *what, T x, int from) {
    const Operand *all = meet(what, &x, sizeof x);
    std::memcpy(&x, all[from].bytes, sizeof x);
    return x;
}

inline int lane() { return int(thread_index.x % 32); }

// ---- kernels by name ----

using Call = void (*)(void (*)(), void **);

// A kernel's parameter: its size, and whether it is an address.
struct Parameter {
    size_t bytes;
    bool pointer;
};
// Those of a kernel, closed by one of no bytes.
template <class... A> const Parameter *parameters(void (*)(A...)) {
    static const Parameter all[] = {{sizeof(A), std::is_pointer_v<A>}..., {0, false}};
    return all;
}

struct Registered {
    Registered(const char *name, unsigned threads, void (*kernel)(), Call call, const Parameter *parameters);
};

template <class... A, size_t... I>
__attribute__((no_sanitize("thread"))) void apply(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_const_t<A> *>(args[I])...);
}
template <class... A> Call caller(void (*)(A...)) {
    return [](void (*kernel)(), void **args) {
        apply(reinterpret_cast<void (*)(A...)>(kernel), args, std::index_sequence_for<A...>{});
    };
}

} // namespace emu

#define threadIdx (emu::thread_index)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_size)
#define gridDim (emu::grid_size)

#define EMU_TEXT2(x) #x
#define EMU_TEXT(x) EMU_TEXT2(x)
#define SHARED(T, name, n)                                                                                             \
    T(&name)[n] = *static_cast<T(*)[n]>(emu::shared_array(__FILE__ ":" EMU_TEXT(__LINE__) #T #n, sizeof(T[n])))
#define SHARED_AT_LAUNCH(name) unsigned char *name = static_cast<unsigned char *>(emu::shared_at_launch())
#define EXPORT(name, threads)                                                                                          \
    static emu::Registered registered_##name(#name, threads, reinterpret_cast<void (*)()>(name), emu::caller(name),        \
                                            emu::parameters(name));

// ---- numbers ----

inline float bits_to_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline unsigned float_to_bits(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline unsigned short round_bf16(float x) {
    unsigned bits = float_to_bits(x);
    if (x != x)
        return 0x7fff;
    return (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline unsigned pack_bf16(float low, float high) { return round_bf16(low) | unsigned(round_bf16(high)) << 16; }

inline float fast_exp2(float x) {
    float y = std::exp2(x);
    return y < 0x1p-126f ? 0.0f : y;
}

// ---- memory ----

inline uint4 load16(const void *p) {
    emu::require_aligned(p, 16);
    return *static_cast<const uint4 *>(p);
}
inline uint2 load8(const void *p) {
    emu::require_aligned(p, 8);
    return *static_cast<const uint2 *>(p);
}
inline void store16(void *p, uint4 x) {
    emu::require_aligned(p, 16);
    *static_cast<uint4 *>(p) = x;
}
inline void store8(void *p, uint2 x) {
    emu::require_aligned(p, 8);
    *static_cast<uint2 *>(p) = x;
}

using SharedAddress = size_t;
inline SharedAddress shared_address(const void *p) { return reinterpret_cast<SharedAddress>(p); }

inline void copy16_async(SharedAddress to, const void *from, bool valid) {
    emu::copy_async(reinterpret_cast<void *>(to), from, 16, valid);
}
inline void copy4_async(SharedAddress to, const void *from, bool valid) {
    emu::copy_async(reinterpret_cast<void *>(to), from, 4, valid);
}
inline void copy_commit() { emu::copy_commit(); }
template <int pending> inline void copy_wait() { emu::copy_wait(pending); }
inline void __syncthreads() { emu::barrier(); }
inline int __syncthreads_or(int x) { return emu::barrier_or(x != 0); }

// ---- a warp together ----

inline void __syncwarp() { emu::warp_barrier(); }
template <class T> inline T shuffle_xor(T x, int mask) { return emu::shuffled("shuffle_xor", x, emu::lane() ^ mask); }
template <class T> inline T shuffle(T x, int lane) { return emu::shuffled("shuffle", x, lane & 31); }

inline unsigned lanes_where(bool x) {
    const emu::Operand *all = emu::meet("lanes_where", &x, sizeof x);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= unsigned(all[i].bytes[0] != 0) << i;
    return bits;
}

// In warp.cpp.
void atomic_add2(float *p, float a, float b);
void load_matrices(unsigned (&x)[4], SharedAddress row);
void load_matrices_transposed(unsigned (&x)[4], SharedAddress row);
void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
