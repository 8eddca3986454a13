// A GPU's driver whose GPU is this CPU: what the parts of libcuda, libcublasLt and libnccl know of each other. The
// emulator beside it runs the kernels; ../../README.md tells what of a real driver's behaviour is kept.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

// What programs call. Everything else stays inside its library, but for what is SHARED_INSIDE between ours.
#define EXPORTED extern "C" __attribute__((visibility("default")))
#define SHARED_INSIDE __attribute__((visibility("default")))

namespace driver {

// CUresult, as far as we give it.
enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
};

// From the environment, all beginning with EMU_.
struct Settings {
    int devices;       // EMU_DEVICES: how many GPUs, 1
    size_t memory;     // EMU_MEMORY: MiB of each, 8192
    int capability;    // EMU_CAPABILITY: 80 or 90, 90
    std::string name;  // EMU_NAME
    bool holds;        // EMU_ORDER=0: streams run as fast as they can
    uint64_t seed;     // EMU_SEED: of the order of streams, blocks and threads, 1
    std::string report; // EMU_REPORT: a file for counters, ".RANK" is appended
    std::string hang;  // EMU_HANG: a call that never returns, FUNCTION:N or FUNCTION:N:RANK
    std::string rank;  // of the process, as its launcher says; else its number
};
SHARED_INSIDE const Settings &settings();
SHARED_INSIDE long number_from(const char *variable, long otherwise);
// The N of "N", or of "N:RANK" if that is our rank; else 0.
SHARED_INSIDE uint64_t number_of_rank(const std::string &text);

// Numbers drawn from a state; the next one changes it.
SHARED_INSIDE uint64_t random_below(uint64_t &state, uint64_t bound);

// ---- counters ----

// A line of the report; made once for each name, never destroyed.
struct SHARED_INSIDE Counter {
    explicit Counter(const char *name);
    void add(uint64_t n = 1) {
        if ((value += n) == hangs_at)
            never_return();
    }
    [[noreturn]] static void never_return();
    const char *name;
    std::atomic<uint64_t> value{0};
    uint64_t hangs_at; // EMU_HANG; if not this function's, more than it will ever count
    Counter *next;
};

// The thread runs what a stream called back, where no call to the driver is allowed.
SHARED_INSIDE extern thread_local bool in_callback;

// Writes a line about a misuse to standard error; returns the result.
SHARED_INSIDE Result complain(const char *who, Result result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// First in each function of a library: counts the call.
#define COUNT                                                                                                          \
    static driver::Counter calls(__func__);                                                                            \
    calls.add()

// As COUNT, in the driver's own functions, which streams may not call.
#define ENTER                                                                                                          \
    COUNT;                                                                                                             \
    if (driver::in_callback)                                                                                           \
    return driver::complain(__func__, driver::NOT_PERMITTED, "called from a host function in a stream")

// As ENTER, where there must be a context, which must not have failed; it is `context`.
#define ENTER_CONTEXT                                                                                                  \
    ENTER;                                                                                                             \
    driver::Context *context = driver::current();                                                                      \
    if (context == nullptr)                                                                                            \
        return driver::complain(__func__, driver::INVALID_CONTEXT, "this thread has no current context");              \
    if (int failed = context->failed)                                                                                  \
    return driver::Result(failed)

// ---- contexts ----

struct Stream;

struct Context {
    int device;
    int uses = 0;
    std::atomic<int> failed{0}; // the error that every call returns from now on
    std::shared_ptr<Stream> legacy; // the stream called null
};

// The calling thread's; null if it has none.
SHARED_INSIDE Context *current();
Context *context_of(int device);
// A context in which nothing more will run.
SHARED_INSIDE void fail(Context *context, Result result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// ---- streams ----

// Guards all that follows, and tells of every change.
extern std::mutex &state;
extern std::condition_variable &changed;

struct Task {
    const char *what;
    std::function<void()> run;
    bool always; // also in a context that failed
};

// A stream by its handle; null, and a complaint, if it is none of this context.
SHARED_INSIDE std::shared_ptr<Stream> stream_of(const char *who, Context *context, void *handle);
// Puts a task at the end of the stream.
SHARED_INSIDE void give(Stream &stream, Task task);
SHARED_INSIDE Context *context_of(const Stream &stream);
// Waits for all that was given so far.
Result drain(Stream &stream);
// The same for all streams of a device.
void drain_all(Context *context);
// In `from`, waits for what `on` has been given so far.
SHARED_INSIDE void follow(Stream &from, const std::shared_ptr<Stream> &on);

// ---- memory ----

// Device addresses lead nowhere for the program: it would crash if it touched them. Where the emulator keeps the bytes;
// null if they are not all of one live allocation (or of one piece of pinned host memory, which kernels see too).
SHARED_INSIDE void *bytes_at(const void *address, size_t bytes);
// The allocation that holds an address which a kernel of the device may touch: where its bytes, and where those of the
// address are.
bool allocation_at(const void *address, int device, const void **start, void **real_address, size_t *bytes);
bool is_device(const void *address);
bool is_pinned(const void *address, size_t bytes);
void forget_memory(int device);

} // namespace driver
