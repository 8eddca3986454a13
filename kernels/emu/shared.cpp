// A block's shared memory, and what addresses must be; whether accesses are watched (memory.cpp) or not
// (driver/unwatched.cpp).

#include "engine.h"

namespace emu {

unsigned char shared_memory[MOST_SHARED] __attribute__((aligned(4096)));

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
