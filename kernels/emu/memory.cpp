// Watches every access of a kernel to memory: outside of its arguments, before anything was written, or in a race.
//
// Kernels are compiled with -fsanitize=thread, which makes the compiler call a function at every access. The functions
// are ours, below: the sanitizer's own library is not linked. Two accesses of which one writes race unless one thread
// does both, both are atomic, or a barrier that both take part in lies between them.

#include "engine.h"

#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "emu.h"

namespace emu {

// Who accessed two bytes of memory last. An epoch of 0: nobody.
struct Shadow {
    uint32_t write_epoch, write_warp_epoch;
    uint32_t read_epoch, read_warp_epoch;
    uint16_t writer, reader;
    enum : uint8_t { ONE, WARP, MANY } readers; // how many threads read since that barrier
    bool read_by_other_block;
    // The last write was an atomic addition; other threads than the writer have added since that barrier, and other
    // blocks.
    bool atomic, added_by_many, added_by_other_block;
    bool awaits_copy; // an asynchronous copy will write here
};

constexpr size_t GRAIN = 2;

static Shadow shared_shadow[MOST_SHARED / GRAIN];
// All of shared memory that was touched lies below this.
static size_t shared_touched = MOST_SHARED;

struct Watched {
    uintptr_t start, end;
    Shadow *shadow;
};
static std::vector<Watched> watched;
static uintptr_t module_start, module_end;

static int find_module(dl_phdr_info *info, size_t, void *) {
    uintptr_t here = reinterpret_cast<uintptr_t>(&find_module), start = ~uintptr_t(0), end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto &part = info->dlpi_phdr[i];
        if (part.p_type != PT_LOAD)
            continue;
        start = std::min<uintptr_t>(start, info->dlpi_addr + part.p_vaddr);
        end = std::max<uintptr_t>(end, info->dlpi_addr + part.p_vaddr + part.p_memsz);
    }
    if (here < start || here >= end)
        return 0;
    module_start = start;
    module_end = end;
    return 1;
}

void forget_shared() {
    std::memset(static_cast<void *>(shared_shadow), 0, shared_touched / GRAIN * sizeof(Shadow));
    poison(shared_memory, shared_touched);
    shared_touched = 0;
}

void start_watch(const EmuBuffer *buffers, unsigned count) {
    if (module_end == 0)
        dl_iterate_phdr(find_module, nullptr);
    // Arguments may share memory: what overlaps becomes one piece.
    std::vector<Watched> pieces;
    for (unsigned i = 0; i < count; i++) {
        auto start = reinterpret_cast<uintptr_t>(buffers[i].start);
        if (buffers[i].bytes > 0)
            pieces.push_back(Watched{start, start + buffers[i].bytes, nullptr});
    }
    std::sort(pieces.begin(), pieces.end(), [](const Watched &a, const Watched &b) { return a.start < b.start; });
    for (const Watched &piece : pieces) {
        if (!watched.empty() && piece.start < watched.back().end)
            watched.back().end = std::max(watched.back().end, piece.end);
        else
            watched.push_back(piece);
    }
    for (Watched &piece : watched)
        piece.shadow = static_cast<Shadow *>(std::calloc((piece.end - piece.start) / GRAIN + 2, sizeof(Shadow)));
}

void stop_watch() {
    for (Watched &piece : watched)
        std::free(piece.shadow);
    watched.clear();
}

// Whether an access at this place in the order of the block happens before the running thread's next one.
static bool before_now(uint32_t when, uint32_t warp_when, unsigned thread, bool one_thread) {
    if (when < block_epoch)
        return false; // by another block
    if (when < epoch || (one_thread && thread == running))
        return true;
    return thread / 32 == running / 32 && warp_when < warp_epoch;
}

static const char *other(uint32_t when, unsigned thread, char (&text)[48]) {
    if (when < block_epoch)
        return "another block";
    std::snprintf(text, sizeof text, "thread %u", thread);
    return text;
}

enum Access { READ, WRITE, ADD };

// Whether the last write, or every addition since the last plain write, happens before this access.
static bool after_writes(const Shadow &s, Access access) {
    if (s.write_epoch == 0 || (s.atomic && access == ADD))
        return true;
    if (s.atomic && (s.added_by_other_block || (s.added_by_many && s.write_epoch == epoch)))
        return false;
    return before_now(s.write_epoch, s.write_warp_epoch, s.writer, true);
}

static void check(Shadow &s, Access access, const char *space, size_t at) {
    char text[48];
    bool write = access != READ;
    if (!after_writes(s, access))
        fail("race at byte %zu of %s memory: thread %u %s what %s wrote, with no barrier between", at, space, running,
             write ? "overwrites" : "reads", other(s.write_epoch, s.writer, text));
    if (!write) {
        if (s.read_epoch != 0 && s.read_epoch < block_epoch)
            s.read_by_other_block = true;
        bool same_time = s.read_epoch == epoch;
        bool same_warp = s.reader / 32 == running / 32;
        if (same_time && (s.readers == Shadow::MANY || !same_warp))
            s.readers = Shadow::MANY;
        else if (same_time && s.read_warp_epoch == warp_epoch && (s.readers == Shadow::WARP || s.reader != running))
            s.readers = Shadow::WARP;
        else
            s.readers = Shadow::ONE;
        s.reader = uint16_t(running);
        s.read_epoch = epoch;
        s.read_warp_epoch = warp_epoch;
        return;
    }
    bool ordered = s.read_epoch == 0 || before_now(s.read_epoch, s.read_warp_epoch, s.reader, s.readers == Shadow::ONE);
    if (s.readers == Shadow::MANY && s.read_epoch == epoch)
        ordered = false;
    if (!ordered || s.read_by_other_block)
        fail("race at byte %zu of %s memory: thread %u writes what %s reads, with no barrier between", at, space,
             running, s.read_by_other_block ? "another block" : other(s.read_epoch, s.reader, text));
    bool again = access == ADD && s.atomic;
    s.added_by_other_block = again && (s.added_by_other_block || s.write_epoch < block_epoch);
    s.added_by_many = again && s.write_epoch == epoch && (s.added_by_many || s.writer != running);
    s.atomic = access == ADD;
    s.writer = uint16_t(running);
    s.write_epoch = epoch;
    s.write_warp_epoch = warp_epoch;
}

static void touch(const void *p, size_t bytes, Access access) {
    bool write = access != READ;
    auto at = reinterpret_cast<uintptr_t>(p);
    auto stack = reinterpret_cast<uintptr_t>(stack_start);
    if (!active || (at >= stack && at < stack + STACK))
        return;
    auto shared = reinterpret_cast<uintptr_t>(shared_memory);
    if (at >= shared && at < shared + MOST_SHARED) {
        size_t first = at - shared, end = first + bytes;
        if (end > shared_used)
            fail("thread %u touches byte %zu of %zu bytes of shared memory", running, first, shared_used);
        shared_touched = std::max(shared_touched, (end + GRAIN - 1) / GRAIN * GRAIN);
        for (size_t i = first / GRAIN; i < (end + GRAIN - 1) / GRAIN; i++) {
            if (!write && shared_shadow[i].write_epoch == 0)
                fail("thread %u reads byte %zu of shared memory, which nobody wrote", running, i * GRAIN);
            if (shared_shadow[i].awaits_copy)
                fail("thread %u touches byte %zu of shared memory while a copy to it is under way", running, i * GRAIN);
            check(shared_shadow[i], access, "shared", i * GRAIN);
        }
        return;
    }
    if (at >= module_start && at < module_end)
        return;
    for (const Watched &w : watched) {
        if (at < w.start || at >= w.end)
            continue;
        if (at + bytes > w.end)
            break;
        for (size_t i = (at - w.start) / GRAIN; i < (at + bytes - w.start + GRAIN - 1) / GRAIN; i++)
            check(w.shadow[i], access, "global", i * GRAIN);
        return;
    }
    for (const Watched &w : watched)
        if (at >= w.end && at < w.end + (1 << 20))
            fail("thread %u %s %zu bytes %zu bytes beyond the end of an argument", running, write ? "writes" : "reads",
                 bytes, size_t(at - w.end));
    fail("thread %u %s %zu bytes that belong to no argument", running, write ? "writes" : "reads", bytes);
}

void touch(const void *p, size_t bytes, bool write) { touch(p, bytes, write ? WRITE : READ); }
void touch_atomic(const void *p, size_t bytes) { touch(p, bytes, ADD); }

void await_copy(const void *p, size_t bytes, bool awaits) {
    size_t first = size_t(static_cast<const unsigned char *>(p) - shared_memory);
    for (size_t i = first / GRAIN; i < (first + bytes + GRAIN - 1) / GRAIN; i++)
        shared_shadow[i].awaits_copy = awaits;
}

} // namespace emu

// ---- what the compiler calls ----

#define ACCESS(bytes)                                                                                                  \
    void __tsan_read##bytes(void *p) { emu::touch(p, bytes, false); }                                                  \
    void __tsan_write##bytes(void *p) { emu::touch(p, bytes, true); }                                                  \
    void __tsan_unaligned_read##bytes(void *p) { emu::touch(p, bytes, false); }                                        \
    void __tsan_unaligned_write##bytes(void *p) { emu::touch(p, bytes, true); }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void *p, size_t bytes) { emu::touch(p, bytes, false); }
void __tsan_write_range(void *p, size_t bytes) { emu::touch(p, bytes, true); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
