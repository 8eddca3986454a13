// In place of ../memory.cpp, for kernels that were compiled without the sanitizer: fast, and blind to races. What is left
// are the checks of copies to shared memory, of alignment, and of the bounds of accesses that are seen.

#include "../engine.h"

#include <algorithm>
#include <vector>

#include "../emu.h"

namespace emu {

unsigned char shared_memory[MOST_SHARED] __attribute__((aligned(4096)));
static std::vector<EmuBuffer> buffers;

void forget_shared() { poison(shared_memory, shared_used); }

void start_watch(const EmuBuffer *all, unsigned count) { buffers.assign(all, all + count); }
void stop_watch() { buffers.clear(); }

void touch(const void *p, size_t bytes, bool write) {
    auto at = reinterpret_cast<uintptr_t>(p), shared = reinterpret_cast<uintptr_t>(shared_memory);
    if (at >= shared && at + bytes <= shared + shared_used)
        return;
    for (const EmuBuffer &buffer : buffers) {
        auto start = reinterpret_cast<uintptr_t>(buffer.start);
        if (at >= start && at + bytes <= start + buffer.bytes)
            return;
    }
    fail("thread %u %s %zu bytes that belong to no argument", running, write ? "writes" : "reads", bytes);
}

void touch_atomic(const void *p, size_t bytes) { touch(p, bytes, true); }

void await_copy(const void *, size_t, bool) {}

void require_aligned(const void *p, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0)
        fail("thread %u touches %zu bytes at an address that is no multiple of %zu", running, bytes, bytes);
}

void require_shared(const void *p, size_t bytes) {
    auto at = reinterpret_cast<uintptr_t>(p), shared = reinterpret_cast<uintptr_t>(shared_memory);
    if (at < shared || at + bytes > shared + MOST_SHARED)
        fail("thread %u names an address that is not in shared memory", running);
}

} // namespace emu
