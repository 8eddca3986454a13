// In place of ../memory.cpp, for kernels that were compiled without the sanitizer: fast, and blind to races. What is left
// are the checks of copies to shared memory, of alignment, and of the bounds of accesses that are seen.

#include "../engine.h"

#include <algorithm>
#include <vector>

#include "../emu.h"

namespace emu {

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

} // namespace emu
