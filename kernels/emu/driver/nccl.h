// What the parts of libnccl know of each other.
#pragma once

#include <memory>
#include <vector>

#include "driver.h"
#include "room.h"

namespace nccl {

// ncclResult_t.
enum Result : int {
    SUCCESS = 0,
    CUDA_ERROR = 1,
    SYSTEM_ERROR = 2,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    REMOTE_ERROR = 6,
    IN_PROGRESS = 7,
};

enum Kind : int { MESSAGE, BROADCAST, REDUCE, ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER };

struct Comm {
    int rank = 0, ranks = 0, device = 0;
    bool blocking = true;
    driver::Context *context = nullptr;
    room::Room *room = nullptr;
    std::string name;
    std::vector<uint64_t> sent, received; // messages begun, by peer
    std::atomic<int> state{IN_PROGRESS};  // what ncclCommGetAsyncError tells
    std::atomic<bool> aborted{false};
    // Groups of calls: launched, and ended; they run one after the other.
    std::atomic<uint64_t> launched{0}, ended{0};
    bool finalised = false;
    std::string last_error;
    ~Comm();
    room::Channel &channel(int from, int to) { return room->channels[from * ranks + to]; }
};

// One call, on one rank. For a message `root` is the peer; `sends` tells which side.
struct Call {
    std::shared_ptr<Comm> comm;
    Kind kind;
    bool sends;
    const void *from;
    void *to;
    uint64_t count;
    int type, operation, root;
    void *stream;
    // The bytes of `from` and `to` in the emulator's memory, once they were looked up.
    const unsigned char *source;
    unsigned char *target;
};

size_t size_of(int type);

// Runs the calls of a group on a communicator; returns early if that is aborted.
void run(Comm &comm, std::vector<Call> &calls);

// Says what went wrong, for ncclCommGetAsyncError and ncclGetLastError.
Result fail(Comm &comm, Result result, const char *who, const std::string &why);

} // namespace nccl
