// What engine.cpp and memory.cpp know of each other, and the C interface that tests load.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Memory that an argument of a kernel points to: all that the kernel may touch.
struct EmuBuffer {
    const void *start;
    size_t bytes;
};

struct EmuLaunch {
    const char *kernel;
    uint32_t grid[3];
    uint32_t block; // threads, whole warps
    uint32_t shared; // bytes of shared memory beside the kernel's own arrays
    uint32_t buffer_count;
    void **args; // as cuLaunchKernel takes them
    const EmuBuffer *buffers;
    uint64_t seed; // of the order in which blocks and threads run
};

struct EmuReport {
    uint64_t conflicts; // rows of matrices that shared a bank with another row
    uint64_t shared; // bytes of shared memory of a block
};

// Runs a kernel. Returns null, or a message that is valid until the next launch.
const char *emu_launch(const EmuLaunch *launch, EmuReport *report);
}

namespace emu {

// Threads of a block at most, and what an H100 gives a block of shared memory at most.
constexpr unsigned MOST_THREADS = 1024, MOST_SHARED = 227 * 1024;
constexpr size_t STACK = 128 << 10;
// What the driver must know of a kernel to launch it; null if there is none of this name.
struct Parameter;
struct Signature {
    unsigned threads;
    const Parameter *parameters;
};
const Signature *signature(const char *kernel);
// Uninitialised memory: NaN as f32 and as bf16, absurd as an index.
constexpr unsigned char POISON_LOW = 0xff, POISON_HIGH = 0x7f;

// The running thread: number in the block, and its stack.
extern unsigned running;
extern const unsigned char *stack_start;
// Number of barriers and block starts so far in this launch; the value at the start of this block; barriers so far of
// the running thread's warp.
extern uint32_t epoch, block_epoch, warp_epoch;
// Whether a kernel runs.
extern bool active;

// Ends the launch with a message; does not return to the kernel.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Fills with poison.
void poison(void *p, size_t bytes);

extern unsigned char shared_memory[MOST_SHARED];
// Bytes of it that belong to this block.
extern size_t shared_used;
// Makes all of it uninitialised.
void forget_shared();
// Whether an asynchronous copy to shared memory is under way.
void await_copy(const void *p, size_t bytes, bool awaits);
void start_watch(const EmuBuffer *buffers, unsigned count);
void stop_watch();
extern uint64_t conflicts;
void require_shared(const void *p, size_t bytes);

} // namespace emu
