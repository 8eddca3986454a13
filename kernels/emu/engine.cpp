// Runs a kernel's blocks one after the other, the threads of a block as fibers in random order between the points where
// they wait for each other.

#include "engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "emu.h"

namespace emu {

dim3 thread_index, block_index, block_size, grid_size;
unsigned running;
const unsigned char *stack_start;
uint32_t epoch, block_epoch, warp_epoch;
bool active;

// ---- switching stacks ----

#if defined(__x86_64__) && !defined(EMU_UCONTEXT)
// Saves what a call must preserve, and continues where another stack did so.
extern "C" void emu_switch(void **save, void *to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, .-emu_switch
)");

struct Context {
    void *top = nullptr;
    void prepare(unsigned char *stack, void (*entry)()) {
        void **frame = reinterpret_cast<void **>(stack + STACK) - 8;
        std::fill(frame, frame + 8, nullptr);
        frame[6] = reinterpret_cast<void *>(entry);
        top = frame;
    }
    void go(Context &to) { emu_switch(&top, to.top); }
};
#else
} // namespace emu
#include <ucontext.h>
namespace emu {
struct Context {
    ucontext_t context;
    void prepare(unsigned char *stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void go(Context &to) { swapcontext(&context, &to.context); }
};
#endif

// ---- the state of a block ----

struct Copy {
    void *to;
    const void *from;
    size_t bytes;
    bool valid;
    int group;
};

struct Fiber {
    Context context;
    const char *waits_in; // null while it can run
    bool done;
    int group; // of copies, open
    unsigned meetings;
    std::vector<Copy> copies;
};

// Operands of two meetings: who is at the next one may find others still reading the last.
struct Warp {
    Operand operands[2][32];
    const char *what;
    size_t size;
    unsigned here, at_barrier;
    uint32_t epoch;
};

static Context scheduler;
static Fiber fibers[MOST_THREADS];
static Warp warps[MOST_THREADS / 32];
static std::vector<unsigned> ready;
static unsigned threads, alive, at_barrier;
// Of the barrier that threads arrive at, and of the one before.
static bool any_now, any_before;
static std::map<std::string, size_t> arrays;
size_t shared_used;
static uint64_t random_state;
static bool failed;
static char message[1024];
static const EmuLaunch *current;

struct Kernel {
    Signature signature;
    void (*function)();
    Call call;
};

static std::map<std::string, Kernel> &kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

static const Kernel *kernel;

Registered::Registered(const char *name, unsigned threads, void (*function)(), Call call, const Parameter *parameters) {
    kernels()[name] = Kernel{Signature{threads, parameters}, function, call};
}

const Signature *signature(const char *kernel) {
    auto found = kernels().find(kernel);
    return found == kernels().end() ? nullptr : &found->second.signature;
}

static uint64_t random_below(uint64_t bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state * 0x2545f4914f6cdd1dull >> 20) % bound;
}

static unsigned char *stack_of(unsigned thread) {
    static unsigned char *all = static_cast<unsigned char *>(mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE,
                                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    return all + thread * STACK;
}

static void describe(const char *format, va_list args) {
    int used = std::snprintf(message, sizeof message, "%s, block (%u, %u, %u): ", current->kernel, block_index.x,
                             block_index.y, block_index.z);
    std::vsnprintf(message + used, sizeof message - used, format, args);
    failed = true;
}

void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    describe(format, args);
    va_end(args);
    fibers[running].context.go(scheduler);
    __builtin_unreachable();
}

static void fail_outside(const char *format, ...) {
    va_list args;
    va_start(args, format);
    describe(format, args);
    va_end(args);
}

void poison(void *p, size_t bytes) {
    auto *to = static_cast<unsigned char *>(p);
    for (size_t i = 0; i < bytes; i++)
        to[i] = i % 2 ? POISON_HIGH : POISON_LOW;
}

// ---- waiting ----

static void release(unsigned thread) {
    fibers[thread].waits_in = nullptr;
    ready.push_back(thread);
}

static void release_block_if_complete() {
    if (alive == 0 || at_barrier < alive)
        return;
    at_barrier = 0;
    any_before = any_now;
    any_now = false;
    epoch++;
    for (unsigned i = 0; i < threads; i++)
        if (!fibers[i].done)
            release(i);
}

bool barrier_or(bool x) {
    any_now |= x;
    barrier();
    return any_before;
}

void barrier() {
    at_barrier++;
    fibers[running].waits_in = "__syncthreads";
    release_block_if_complete();
    fibers[running].context.go(scheduler);
}

static void arrive(Warp &warp, unsigned &count, const char *where) {
    fibers[running].waits_in = where;
    if (++count == 32) {
        count = 0;
        unsigned first = running / 32 * 32;
        for (unsigned i = first; i < first + 32; i++)
            release(i);
        if (&count == &warp.at_barrier)
            warp.epoch++;
        else
            warp.what = nullptr;
    }
    fibers[running].context.go(scheduler);
}

void warp_barrier() { arrive(warps[running / 32], warps[running / 32].at_barrier, "__syncwarp"); }

const Operand *meet(const char *what, const void *operand, size_t size) {
    Warp &warp = warps[running / 32];
    Operand *operands = warp.operands[fibers[running].meetings++ % 2];
    std::memcpy(operands[running % 32].bytes, operand, size);
    if (warp.what == nullptr)
        warp.what = what;
    if (std::strcmp(warp.what, what) != 0)
        fail("lanes of one warp meet in %s and in %s", warp.what, what);
    arrive(warp, warp.here, what);
    return operands;
}

// ---- shared memory and copies to it ----

static void *shared_place(size_t bytes) {
    size_t at = (shared_used + 127) / 128 * 128;
    if (at + bytes > MOST_SHARED)
        fail("%zu bytes of shared memory are more than %u", at + bytes, MOST_SHARED);
    shared_used = at + bytes;
    return shared_memory + at;
}

void *shared_array(const char *place, size_t bytes) {
    auto found = arrays.find(place);
    if (found == arrays.end()) {
        auto *p = static_cast<unsigned char *>(shared_place(bytes));
        found = arrays.emplace(place, size_t(p - shared_memory)).first;
    }
    return shared_memory + found->second;
}

void *shared_at_launch() { return shared_memory; }

void copy_async(void *to, const void *from, size_t bytes, bool valid) {
    require_shared(to, bytes);
    require_aligned(to, bytes);
    touch(to, bytes, true);
    if (valid) {
        require_aligned(from, bytes);
        touch(from, bytes, false);
    }
    poison(to, bytes);
    await_copy(to, bytes, true);
    fibers[running].copies.push_back(Copy{to, from, bytes, valid, fibers[running].group});
}

void copy_commit() { fibers[running].group++; }

void copy_wait(int pending) {
    Fiber &fiber = fibers[running];
    for (Copy &copy : fiber.copies) {
        if (copy.group >= fiber.group - pending)
            continue;
        await_copy(copy.to, copy.bytes, false);
        touch(copy.to, copy.bytes, true);
        if (copy.valid)
            std::memcpy(copy.to, copy.from, copy.bytes);
        else
            std::memset(copy.to, 0, copy.bytes);
    }
    auto finished = [&](const Copy &copy) { return copy.group < fiber.group - pending; };
    fiber.copies.erase(std::remove_if(fiber.copies.begin(), fiber.copies.end(), finished), fiber.copies.end());
}

// ---- running ----

static void thread_main() {
    kernel->call(kernel->function, current->args);
    Fiber &fiber = fibers[running];
    fiber.done = true;
    alive--;
    release_block_if_complete();
    fiber.context.go(scheduler);
}

static void run_block(dim3 index) {
    block_index = index;
    shared_used = current->shared;
    arrays.clear();
    forget_shared();
    epoch++;
    block_epoch = epoch;
    threads = alive = current->block;
    at_barrier = 0;
    any_now = false;
    ready.clear();
    for (unsigned i = 0; i < threads / 32; i++) {
        warps[i].what = nullptr;
        warps[i].here = warps[i].at_barrier = 0;
        warps[i].epoch = 0;
    }
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.context.prepare(stack_of(i), thread_main);
        fiber.done = false;
        fiber.group = 0;
        fiber.meetings = 0;
        fiber.copies.clear();
        release(i);
    }
    while (!ready.empty() && !failed) {
        size_t at = random_below(ready.size());
        running = ready[at];
        ready[at] = ready.back();
        ready.pop_back();
        thread_index = dim3{running, 0, 0};
        stack_start = stack_of(running);
        warp_epoch = warps[running / 32].epoch;
        active = true;
        scheduler.go(fibers[running].context);
        active = false;
    }
    if (!failed && alive > 0) {
        unsigned waiting = 0;
        while (fibers[waiting].done)
            waiting++;
        unsigned same = 0;
        for (unsigned i = 0; i < threads; i++)
            same += !fibers[i].done && std::strcmp(fibers[i].waits_in, fibers[waiting].waits_in) == 0;
        fail_outside("%u threads wait in %s, %u elsewhere, %u have ended: nobody can go on", same,
                     fibers[waiting].waits_in, alive - same, threads - alive);
    }
}

static const char *refuse(const char *why, const EmuLaunch *launch) {
    std::snprintf(message, sizeof message, "%s: %s", launch->kernel, why);
    return message;
}

} // namespace emu

using namespace emu;

const char *emu_launch(const EmuLaunch *launch, EmuReport *report) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    auto found = kernels().find(launch->kernel);
    if (found == kernels().end())
        return refuse("no such kernel", launch);
    if (launch->block == 0 || launch->block % 32 != 0 || launch->block > MOST_THREADS)
        return refuse("a block has whole warps, up to 1024 threads", launch);
    if (launch->block != found->second.signature.threads)
        return refuse("launched with another number of threads than it was written for", launch);
    if (launch->shared > MOST_SHARED)
        return refuse("more shared memory than there is", launch);
    if (launch->grid[1] > 65535 || launch->grid[2] > 65535)
        return refuse("a grid's second and third side are at most 65535", launch);
    current = launch;
    kernel = &found->second;
    failed = false;
    epoch = 0;
    conflicts = 0;
    random_state = launch->seed * 0x9e3779b97f4a7c15ull | 1;
    block_size = dim3{launch->block, 1, 1};
    grid_size = dim3{launch->grid[0], launch->grid[1], launch->grid[2]};
    start_watch(launch->buffers, launch->buffer_count);
    std::vector<uint64_t> order(uint64_t(grid_size.x) * grid_size.y * grid_size.z);
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; i--)
        std::swap(order[i - 1], order[random_below(i)]);
    for (uint64_t block : order) {
        if (failed)
            break;
        uint64_t rest = block / grid_size.x;
        run_block(dim3{unsigned(block % grid_size.x), unsigned(rest % grid_size.y), unsigned(rest / grid_size.y)});
    }
    stop_watch();
    report->conflicts = conflicts;
    report->shared = shared_used;
    static thread_local std::string complaint;
    complaint = message;
    return failed ? complaint.c_str() : nullptr;
}
