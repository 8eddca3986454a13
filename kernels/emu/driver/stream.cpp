// Streams and events. Each stream is a queue with a thread of its own; what orders two streams is an event, or nothing.
// So that a forgotten wait shows, a stream holds some of its tasks back: for a moment, or until no other stream gets on.

#include <time.h>
#include <unistd.h>

#include <deque>
#include <set>
#include <thread>
#include <vector>

#include "driver.h"

using namespace driver;

namespace driver {

std::mutex &state = *new std::mutex;
std::condition_variable &changed = *new std::condition_variable;

struct Stream {
    Context *context;
    bool blocking; // ordered with the null stream
    int priority = 0;
    std::deque<Task> tasks;
    uint64_t given = 0, done = 0;
    uint64_t random;
    bool ends = false;
};

// Which record it holds last, and which was reached.
struct Event {
    Context *context;
    bool timed;
    uint64_t recorded = 0, reached = 0;
    double seconds = 0;
};

static std::map<void *, std::shared_ptr<Stream>> &streams = *new std::map<void *, std::shared_ptr<Stream>>;
static std::map<void *, std::shared_ptr<Event>> &events = *new std::map<void *, std::shared_ptr<Event>>;
// Tasks that ended, on all streams.
static std::atomic<uint64_t> progress;

Context *context_of(const Stream &stream) { return stream.context; }

static double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Lets other streams overtake.
static void hold(Stream &stream) {
    constexpr unsigned NAP_US = 150;
    uint64_t kind = random_below(stream.random, 64);
    if (kind < 2) {
        uint64_t before;
        int naps = 0;
        do {
            before = progress;
            usleep(NAP_US);
        } while (progress != before && ++naps < 20);
    } else if (kind < 8) {
        usleep(unsigned(random_below(stream.random, NAP_US)));
    }
}

static void work(std::shared_ptr<Stream> stream) {
    std::unique_lock<std::mutex> lock(state);
    for (;;) {
        changed.wait(lock, [&] { return !stream->tasks.empty() || stream->ends; });
        if (stream->tasks.empty())
            return;
        Task task = std::move(stream->tasks.front());
        stream->tasks.pop_front();
        lock.unlock();
        if (settings().holds)
            hold(*stream);
        if (task.always || stream->context->failed == 0)
            task.run();
        // What the task owns goes before anybody hears that it is done.
        task.run = nullptr;
        progress++;
        lock.lock();
        stream->done++;
        changed.notify_all();
    }
}

static std::shared_ptr<Stream> start(Context *context, bool blocking, int priority) {
    static uint64_t count;
    auto stream = std::make_shared<Stream>();
    stream->context = context;
    stream->blocking = blocking;
    stream->priority = priority;
    std::hash<std::string> hash;
    stream->random = settings().seed * 1000003 + hash(settings().rank) + ++count;
    std::thread(work, stream).detach();
    return stream;
}

static void push(Stream &stream, Task task) {
    stream.tasks.push_back(std::move(task));
    stream.given++;
    changed.notify_all();
}

static void follow_locked(Stream &from, const std::shared_ptr<Stream> &on) {
    if (on->done == on->given)
        return;
    uint64_t target = on->given;
    push(from, Task{"a stream", [on, target] {
        std::unique_lock<std::mutex> lock(state);
        changed.wait(lock, [&] { return on->done >= target; });
    }, true});
}

void follow(Stream &from, const std::shared_ptr<Stream> &on) {
    std::lock_guard<std::mutex> lock(state);
    follow_locked(from, on);
}

// The null stream comes after all that blocking streams were given before it, and before what they are given later.
static void keep_legacy_order(Stream &stream) {
    Context *context = stream.context;
    if (&stream == context->legacy.get()) {
        for (auto &[handle, other] : streams)
            if (other->blocking && other->context == context)
                follow_locked(stream, other);
    } else if (stream.blocking && context->legacy) {
        follow_locked(stream, context->legacy);
    }
}

void give(Stream &stream, Task task) {
    std::lock_guard<std::mutex> lock(state);
    keep_legacy_order(stream);
    push(stream, std::move(task));
}

std::shared_ptr<Stream> stream_of(const char *who, Context *context, void *handle) {
    std::lock_guard<std::mutex> lock(state);
    if (handle == nullptr || handle == reinterpret_cast<void *>(1)) {
        static Counter uses("tasks of the null stream");
        uses.add();
        if (!context->legacy)
            context->legacy = start(context, false, 0);
        return context->legacy;
    }
    auto found = streams.find(handle);
    if (found == streams.end())
        complain(who, INVALID_HANDLE, "no such stream: never made, or destroyed");
    else if (found->second->context != context)
        complain(who, INVALID_HANDLE, "a stream of device %d, while device %d is current",
                 found->second->context->device, context->device);
    else
        return found->second;
    return nullptr;
}

Result drain(Stream &stream) {
    std::unique_lock<std::mutex> lock(state);
    uint64_t target = stream.given;
    changed.wait(lock, [&] { return stream.done >= target; });
    return Result(stream.context->failed.load());
}

void drain_all(Context *context) {
    std::vector<std::shared_ptr<Stream>> all;
    {
        std::lock_guard<std::mutex> lock(state);
        for (auto &[handle, stream] : streams)
            if (stream->context == context)
                all.push_back(stream);
        if (context->legacy)
            all.push_back(context->legacy);
    }
    for (auto &stream : all)
        drain(*stream);
}

static std::shared_ptr<Event> event_of(const char *who, void *handle) {
    std::lock_guard<std::mutex> lock(state);
    auto found = events.find(handle);
    if (found != events.end())
        return found->second;
    complain(who, INVALID_HANDLE, "no such event: never made, or destroyed");
    return nullptr;
}

} // namespace driver

// ---- streams ----

EXPORTED int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    ENTER_CONTEXT;
    if (flags > 1)
        return complain(__func__, INVALID_VALUE, "flags %u", flags);
    std::lock_guard<std::mutex> lock(state);
    auto made = start(context, flags == 0, priority);
    streams[made.get()] = made;
    *stream = made.get();
    return SUCCESS;
}
EXPORTED int cuStreamCreate(void **stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

EXPORTED int cuStreamGetPriority(void *handle, int *priority) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, handle);
    if (!stream)
        return INVALID_HANDLE;
    *priority = stream->priority;
    return SUCCESS;
}

EXPORTED int cuStreamDestroy_v2(void *handle) {
    ENTER;
    std::lock_guard<std::mutex> lock(state);
    auto found = streams.find(handle);
    if (found == streams.end())
        return complain(__func__, INVALID_HANDLE, "no such stream: never made, or destroyed");
    // What it was given still runs.
    found->second->ends = true;
    changed.notify_all();
    streams.erase(found);
    return SUCCESS;
}

EXPORTED int cuStreamSynchronize(void *handle) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, handle);
    return stream ? drain(*stream) : INVALID_HANDLE;
}

EXPORTED int cuStreamQuery(void *handle) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, handle);
    if (!stream)
        return INVALID_HANDLE;
    std::lock_guard<std::mutex> lock(state);
    return stream->done == stream->given ? SUCCESS : NOT_READY;
}

EXPORTED int cuStreamWaitEvent(void *handle, void *event_handle, unsigned flags) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, handle);
    auto event = event_of(__func__, event_handle);
    if (!stream || !event)
        return INVALID_HANDLE;
    if (flags != 0)
        return complain(__func__, INVALID_VALUE, "flags must be 0");
    uint64_t target;
    {
        std::lock_guard<std::mutex> lock(state);
        target = event->recorded;
    }
    static Counter never("waits for events that were never recorded");
    never.add(target == 0);
    give(*stream, Task{"an event", [event, target] {
        std::unique_lock<std::mutex> lock(state);
        changed.wait(lock, [&] { return event->reached >= target; });
    }, true});
    return SUCCESS;
}

EXPORTED int cuLaunchHostFunc(void *handle, void (*call)(void *), void *data) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, handle);
    if (!stream)
        return INVALID_HANDLE;
    give(*stream, Task{"a host function", [call, data] {
        in_callback = true;
        call(data);
        in_callback = false;
    }, false});
    return SUCCESS;
}

// ---- events ----

EXPORTED int cuEventCreate(void **event, unsigned flags) {
    ENTER_CONTEXT;
    if (flags > 3)
        return complain(__func__, NOT_SUPPORTED, "flags %u", flags);
    auto made = std::make_shared<Event>();
    made->context = context;
    made->timed = (flags & 2) == 0;
    std::lock_guard<std::mutex> lock(state);
    events[made.get()] = made;
    *event = made.get();
    return SUCCESS;
}

EXPORTED int cuEventDestroy_v2(void *handle) {
    ENTER;
    std::lock_guard<std::mutex> lock(state);
    // Tasks that wait for it keep what it points to.
    if (events.erase(handle) == 0)
        return complain(__func__, INVALID_HANDLE, "no such event: never made, or destroyed");
    return SUCCESS;
}

EXPORTED int cuEventRecord(void *handle, void *stream_handle) {
    ENTER_CONTEXT;
    auto stream = stream_of(__func__, context, stream_handle);
    auto event = event_of(__func__, handle);
    if (!stream || !event)
        return INVALID_HANDLE;
    if (event->context != stream->context)
        return complain(__func__, INVALID_HANDLE, "event and stream are of different devices");
    uint64_t mine;
    {
        std::lock_guard<std::mutex> lock(state);
        mine = ++event->recorded;
    }
    give(*stream, Task{"a record", [event, mine] {
        std::lock_guard<std::mutex> lock(state);
        if (mine > event->reached)
            event->reached = mine;
        event->seconds = now();
    }, true});
    return SUCCESS;
}

EXPORTED int cuEventQuery(void *handle) {
    ENTER_CONTEXT;
    auto event = event_of(__func__, handle);
    if (!event)
        return INVALID_HANDLE;
    std::lock_guard<std::mutex> lock(state);
    return event->reached == event->recorded ? SUCCESS : NOT_READY;
}

EXPORTED int cuEventSynchronize(void *handle) {
    ENTER_CONTEXT;
    auto event = event_of(__func__, handle);
    if (!event)
        return INVALID_HANDLE;
    std::unique_lock<std::mutex> lock(state);
    uint64_t target = event->recorded;
    changed.wait(lock, [&] { return event->reached >= target; });
    return context->failed;
}

EXPORTED int cuEventElapsedTime(float *milliseconds, void *first, void *last) {
    ENTER_CONTEXT;
    auto from = event_of(__func__, first), to = event_of(__func__, last);
    if (!from || !to)
        return INVALID_HANDLE;
    std::lock_guard<std::mutex> lock(state);
    if (!from->timed || !to->timed)
        return complain(__func__, INVALID_HANDLE, "an event made without timing");
    if (from->recorded == 0 || to->recorded == 0)
        return complain(__func__, INVALID_HANDLE, "an event that was never recorded");
    if (from->reached != from->recorded || to->reached != to->recorded)
        return NOT_READY;
    *milliseconds = float(1e3 * (to->seconds - from->seconds));
    return SUCCESS;
}
EXPORTED int cuEventElapsedTime_v2(float *milliseconds, void *first, void *last) {
    return cuEventElapsedTime(milliseconds, first, last);
}
