// Memory of devices and of the host, copies between them.
//
// Two equal stretches of address space are set aside: programs get addresses in the first, which nobody may touch; the
// bytes are at the same place in the second.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "../engine.h"
#include "driver.h"

using namespace driver;

namespace driver {

constexpr size_t SPACE = size_t(1) << 40, PAGE = 4096;

struct Piece {
    size_t bytes;
    int device; // of host memory: -1
};
using Pieces = std::map<uintptr_t, Piece>;
static Pieces &on_devices = *new Pieces, &pinned = *new Pieces;
static std::map<int, size_t> &used = *new std::map<int, size_t>;
static std::mutex &lock_memory = *new std::mutex;

static uintptr_t reserve() {
    void *p = mmap(nullptr, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        complain("cuMemAlloc", OUT_OF_MEMORY, "no address space");
        std::abort();
    }
    return uintptr_t(p);
}

struct Spaces {
    uintptr_t seen = reserve(), real = reserve();
    size_t next = PAGE;
};
static Spaces &spaces() {
    static Spaces *both = new Spaces;
    return *both;
}
static void *real(uintptr_t address) { return reinterpret_cast<void *>(address - spaces().seen + spaces().real); }

bool is_device(const void *address) { return uintptr_t(address) - spaces().seen < SPACE; }

static Pieces::iterator holder(Pieces &pieces, uintptr_t at) {
    auto next = pieces.upper_bound(at);
    if (next == pieces.begin())
        return pieces.end();
    --next;
    return at < next->first + next->second.bytes ? next : pieces.end();
}

static bool whole(Pieces &pieces, const void *address, size_t bytes) {
    auto found = holder(pieces, uintptr_t(address));
    return found != pieces.end() && uintptr_t(address) + bytes <= found->first + found->second.bytes;
}

bool is_pinned(const void *address, size_t bytes) {
    std::lock_guard<std::mutex> lock(lock_memory);
    return whole(pinned, address, bytes);
}

void *bytes_at(const void *address, size_t bytes) {
    std::lock_guard<std::mutex> lock(lock_memory);
    if (whole(pinned, address, bytes))
        return const_cast<void *>(address);
    return whole(on_devices, address, bytes) ? real(uintptr_t(address)) : nullptr;
}

bool allocation_at(const void *address, int device, const void **start, void **real_address, size_t *bytes) {
    std::lock_guard<std::mutex> lock(lock_memory);
    for (Pieces *pieces : {&on_devices, &pinned}) {
        auto found = holder(*pieces, uintptr_t(address));
        if (found == pieces->end() || (pieces == &on_devices && found->second.device != device))
            continue;
        *start = pieces == &pinned ? reinterpret_cast<void *>(found->first) : real(found->first);
        *real_address = pieces == &pinned ? const_cast<void *>(address) : real(uintptr_t(address));
        *bytes = found->second.bytes;
        return true;
    }
    return false;
}

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static void release(Pieces::iterator piece) {
    used[piece->second.device] -= piece->second.bytes;
    void *p = real(piece->first);
    madvise(p, pages(piece->second.bytes), MADV_DONTNEED);
    mprotect(p, pages(piece->second.bytes), PROT_NONE);
    on_devices.erase(piece);
}

void forget_memory(int device) {
    std::lock_guard<std::mutex> lock(lock_memory);
    for (auto piece = on_devices.begin(); piece != on_devices.end();) {
        auto next = std::next(piece);
        if (piece->second.device == device)
            release(piece);
        piece = next;
    }
}

// A copy whose two sides were found good; queued or done at once.
static int copy(const char *who, Context *context, void *to, const void *from, size_t bytes, void *handle, bool queued) {
    auto stream = stream_of(who, context, handle);
    if (!stream)
        return INVALID_HANDLE;
    static Counter moved("bytes copied");
    moved.add(bytes);
    bool from_device = is_device(from), to_device = is_device(to);
    void *target = to_device ? bytes_at(to, bytes) : to;
    const void *source = from_device ? bytes_at(from, bytes) : from;
    if (bytes == 0)
        return SUCCESS;
    if (!target || !source)
        return complain(who, INVALID_VALUE, "%zu bytes %s %p, which are not all of one live allocation", bytes,
                        target ? "from" : "to", target ? from : to);
    bool pageable_source = !from_device && !is_pinned(from, bytes);
    bool pageable_target = !to_device && !is_pinned(to, bytes);
    static Counter pageable("copies of pageable memory");
    pageable.add(queued && (pageable_source || pageable_target));
    // The driver takes what lies in pageable memory with it before it returns, and returns from there only when it is done.
    std::shared_ptr<std::vector<unsigned char>> staged;
    if (pageable_source) {
        auto *bytes_there = static_cast<const unsigned char *>(source);
        staged = std::make_shared<std::vector<unsigned char>>(bytes_there, bytes_there + bytes);
        source = staged->data();
    }
    give(*stream, Task{who, [staged, target, source, bytes] { std::memmove(target, source, bytes); }, false});
    return queued && !pageable_target ? SUCCESS : drain(*stream);
}

static int fill(const char *who, Context *context, uintptr_t to, size_t unit, unsigned value, size_t count, void *handle) {
    auto stream = stream_of(who, context, handle);
    if (!stream)
        return INVALID_HANDLE;
    auto *target = static_cast<unsigned char *>(bytes_at(reinterpret_cast<void *>(to), unit * count));
    if (!target && count > 0)
        return complain(who, INVALID_VALUE, "%zu bytes that are not all of one live allocation", unit * count);
    if (to % unit != 0)
        return complain(who, INVALID_VALUE, "an address that is no multiple of %zu", unit);
    give(*stream, Task{who, [=] {
        if (unit == 1)
            std::memset(target, int(value), count);
        else
            for (size_t i = 0; i < count; i++)
                std::memcpy(target + i * unit, &value, unit);
    }, false});
    // Nor does the host wait for one that is not called Async.
    return SUCCESS;
}

static int alloc_host(const char *who, void **p, size_t bytes) {
    if (bytes == 0)
        return complain(who, INVALID_VALUE, "no bytes");
    void *made = mmap(nullptr, pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made == MAP_FAILED)
        return OUT_OF_MEMORY;
    emu::poison(made, bytes);
    std::lock_guard<std::mutex> lock(lock_memory);
    pinned[uintptr_t(made)] = Piece{bytes, -1};
    *p = made;
    return SUCCESS;
}

} // namespace driver

EXPORTED int cuMemGetInfo_v2(size_t *unused, size_t *total) {
    ENTER_CONTEXT;
    std::lock_guard<std::mutex> lock(lock_memory);
    *total = settings().memory;
    *unused = settings().memory - used[context->device];
    return SUCCESS;
}

EXPORTED int cuMemAlloc_v2(uintptr_t *address, size_t bytes) {
    ENTER_CONTEXT;
    if (bytes == 0)
        return complain(__func__, INVALID_VALUE, "no bytes");
    std::lock_guard<std::mutex> lock(lock_memory);
    size_t &taken = used[context->device];
    if (bytes > settings().memory - taken || spaces().next + bytes + 2 * PAGE > SPACE)
        return OUT_OF_MEMORY;
    size_t at = spaces().next;
    void *p = reinterpret_cast<void *>(spaces().real + at);
    if (mprotect(p, pages(bytes), PROT_READ | PROT_WRITE) != 0)
        return OUT_OF_MEMORY;
    emu::poison(p, bytes);
    // A page that belongs to nobody lies behind; addresses are never used again.
    spaces().next += pages(bytes) + PAGE;
    taken += bytes;
    *address = spaces().seen + at;
    on_devices[*address] = Piece{bytes, context->device};
    return SUCCESS;
}

EXPORTED int cuMemFree_v2(uintptr_t address) {
    ENTER;
    Context *context = current();
    if (address == 0)
        return SUCCESS;
    if (context == nullptr)
        return complain(__func__, INVALID_CONTEXT, "this thread has no current context");
    drain_all(context);
    std::lock_guard<std::mutex> lock(lock_memory);
    auto found = on_devices.find(address);
    if (found == on_devices.end())
        return complain(__func__, INVALID_VALUE, "no allocation begins there: never made, or freed");
    release(found);
    return SUCCESS;
}

EXPORTED int cuMemHostAlloc(void **p, size_t bytes, unsigned flags) {
    ENTER_CONTEXT;
    if (flags > 7)
        return complain(__func__, INVALID_VALUE, "flags %u", flags);
    return alloc_host(__func__, p, bytes);
}

EXPORTED int cuMemAllocHost_v2(void **p, size_t bytes) {
    ENTER_CONTEXT;
    return alloc_host(__func__, p, bytes);
}

EXPORTED int cuMemFreeHost(void *p) {
    ENTER;
    if (Context *context = current())
        drain_all(context);
    std::lock_guard<std::mutex> lock(lock_memory);
    auto found = pinned.find(uintptr_t(p));
    if (found == pinned.end())
        return complain(__func__, INVALID_VALUE, "no pinned memory begins there: never made, or freed");
    munmap(p, pages(found->second.bytes));
    pinned.erase(found);
    return SUCCESS;
}

EXPORTED int cuMemHostRegister_v2(void *p, size_t bytes, unsigned) {
    ENTER_CONTEXT;
    std::lock_guard<std::mutex> lock(lock_memory);
    auto next = pinned.lower_bound(uintptr_t(p));
    if (holder(pinned, uintptr_t(p)) != pinned.end() || (next != pinned.end() && next->first < uintptr_t(p) + bytes))
        return complain(__func__, ALREADY_REGISTERED, "part of it is");
    pinned[uintptr_t(p)] = Piece{bytes, -1};
    return SUCCESS;
}

EXPORTED int cuMemHostUnregister(void *p) {
    ENTER_CONTEXT;
    drain_all(context);
    std::lock_guard<std::mutex> lock(lock_memory);
    if (pinned.erase(uintptr_t(p)) == 0)
        return complain(__func__, NOT_REGISTERED, "no registered memory begins there");
    return SUCCESS;
}

EXPORTED int cuMemHostGetDevicePointer_v2(uintptr_t *address, void *p, unsigned) {
    ENTER_CONTEXT;
    if (!is_pinned(p, 1))
        return complain(__func__, INVALID_VALUE, "no pinned memory");
    *address = uintptr_t(p);
    return SUCCESS;
}

// ---- copies ----

// Which side must be a device's memory; a copy that says nothing takes either.
static int copy_as(const char *who, Context *context, void *to, const void *from, size_t bytes, void *stream, bool queued,
                   bool to_device, bool from_device) {
    if (is_device(to) != to_device || is_device(from) != from_device)
        return complain(who, INVALID_VALUE, "memory of the wrong side: to %s, from %s", is_device(to) ? "device" : "host",
                        is_device(from) ? "device" : "host");
    return copy(who, context, to, from, bytes, stream, queued);
}

EXPORTED int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, stream, true, true, false);
}
EXPORTED int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, stream, true, false, true);
}
EXPORTED int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, stream, true, true, true);
}
EXPORTED int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, nullptr, false, true, false);
}
EXPORTED int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, nullptr, false, false, true);
}
// Between places of a device the host does not wait.
EXPORTED int cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) {
    ENTER_CONTEXT;
    return copy_as(__func__, context, to, from, bytes, nullptr, true, true, true);
}
EXPORTED int cuMemcpyAsync(void *to, const void *from, size_t bytes, void *stream) {
    ENTER_CONTEXT;
    return copy(__func__, context, to, from, bytes, stream, true);
}
EXPORTED int cuMemcpy(void *to, const void *from, size_t bytes) {
    ENTER_CONTEXT;
    return copy(__func__, context, to, from, bytes, nullptr, is_device(to) && is_device(from));
}

EXPORTED int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t count, void *stream) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 1, value, count, stream);
}
EXPORTED int cuMemsetD16Async(uintptr_t to, unsigned short value, size_t count, void *stream) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 2, value, count, stream);
}
EXPORTED int cuMemsetD32Async(uintptr_t to, unsigned value, size_t count, void *stream) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 4, value, count, stream);
}
EXPORTED int cuMemsetD8_v2(uintptr_t to, unsigned char value, size_t count) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 1, value, count, nullptr);
}
EXPORTED int cuMemsetD16_v2(uintptr_t to, unsigned short value, size_t count) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 2, value, count, nullptr);
}
EXPORTED int cuMemsetD32_v2(uintptr_t to, unsigned value, size_t count) {
    ENTER_CONTEXT;
    return fill(__func__, context, to, 4, value, count, nullptr);
}
