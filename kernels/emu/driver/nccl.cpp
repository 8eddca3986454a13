// libnccl: communicators between processes of one machine, or threads of one.
//
// Kept of the real library: a communicator that does not block answers ncclInProgress and does its work, even the launch on
// the stream, later; the first exchange of two ranks waits for both; groups of one communicator run in the order of their
// launch; two ranks on one GPU are refused unless NCCL_MULTI_RANK_GPU_ENABLE=1. With EMU_NCCL_SERIAL=1 all groups of a
// process run in the order of their launch, as on a GPU where the first one leaves no room for the next.

#include "nccl.h"

#include <unistd.h>

#include <algorithm>
#include <climits>
#include <condition_variable>
#include <cstring>
#include <random>
#include <set>
#include <thread>

namespace nccl {

static std::map<void *, std::shared_ptr<Comm>> &comms = *new std::map<void *, std::shared_ptr<Comm>>;
static std::mutex &lock_comms = *new std::mutex;
// Groups of the process: launched, and ended.
static std::atomic<uint64_t> all_launched, all_ended;
static bool serial() {
    static const bool is = driver::number_from("EMU_NCCL_SERIAL", 0) != 0;
    return is;
}

Comm::~Comm() {
    if (room)
        room::leave(room, ranks);
}

static thread_local std::string last_error;

Result fail(Comm &comm, Result result, const char *who, const std::string &why) {
    driver::complain(who, driver::Result(result), "%s", why.c_str());
    std::lock_guard<std::mutex> lock(lock_comms);
    comm.last_error = last_error = std::string(who) + ": " + why;
    comm.state = result;
    return result;
}

static Result refuse(Result result, const char *who, const std::string &why) {
    driver::complain(who, driver::Result(result), "%s", why.c_str());
    last_error = std::string(who) + ": " + why;
    return result;
}

static std::shared_ptr<Comm> comm_of(const char *who, void *handle) {
    std::lock_guard<std::mutex> lock(lock_comms);
    auto found = comms.find(handle);
    if (found != comms.end())
        return found->second;
    driver::complain(who, driver::INVALID_HANDLE, "no such communicator: never made, destroyed or aborted");
    return nullptr;
}

// ---- coming together ----

// Waits until all members are in; what they say must fit.
static void join(std::shared_ptr<Comm> comm) {
    room::Member *members = comm->room->members;
    room::Patience patience;
    for (int peer = 0; peer < comm->ranks;) {
        if (members[peer].joined) {
            peer++;
            continue;
        }
        if (comm->aborted)
            return;
        patience.nap();
    }
    bool share = driver::number_from("NCCL_MULTI_RANK_GPU_ENABLE", 0) == 1;
    for (int peer = 0; peer < comm->ranks; peer++) {
        if (members[peer].ranks != comm->ranks) {
            fail(*comm, INVALID_ARGUMENT, "ncclCommInitRank", "ranks disagree on their number");
            return;
        }
        if (peer != comm->rank && members[peer].device == comm->device && !share) {
            fail(*comm, INVALID_USAGE, "ncclCommInitRank",
                 "Duplicate GPU detected : rank " + std::to_string(comm->rank) + " and rank " + std::to_string(peer));
            return;
        }
    }
    room::close_door(comm->name);
    comm->state = SUCCESS;
}

struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

// Initialisations of this thread's open group, which its end waits for.
static thread_local std::vector<std::shared_ptr<Comm>> joining;
static thread_local int depth;

static Result settle(Comm &comm) {
    room::Patience patience;
    while (comm.state == IN_PROGRESS && !comm.aborted)
        patience.nap();
    return Result(comm.state.load());
}

static Result start(const char *who, void **handle, int ranks, const unsigned char *id, int rank, const Config *config) {
    driver::Context *context = driver::current();
    if (!context)
        return refuse(CUDA_ERROR, who, "this thread has no current context");
    if (config && config->magic != 0xcafebeef)
        return refuse(INVALID_ARGUMENT, who, "a configuration that was not initialised");
    if (ranks < 1 || ranks > room::MOST_RANKS || rank < 0 || rank >= ranks)
        return refuse(INVALID_ARGUMENT, who, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    if (std::memcmp(id, "emulated", 8) != 0)
        return refuse(INVALID_ARGUMENT, who, "an id that ncclGetUniqueId did not give");
    auto comm = std::make_shared<Comm>();
    comm->rank = rank;
    comm->ranks = ranks;
    comm->device = context->device;
    comm->context = context;
    comm->blocking = !config || config->blocking == INT_MIN || config->blocking != 0;
    comm->name = "/tawpipe-emulated-";
    for (int i = 8; i < 24; i++) {
        char digits[3];
        std::snprintf(digits, sizeof digits, "%02x", id[i]);
        comm->name += digits;
    }
    comm->sent.assign(size_t(ranks), 0);
    comm->received.assign(size_t(ranks), 0);
    comm->room = room::enter(comm->name, ranks);
    if (!comm->room)
        return refuse(SYSTEM_ERROR, who, "no shared memory");
    room::Member &me = comm->room->members[rank];
    me.ranks = ranks;
    me.device = comm->device;
    if (me.joined.exchange(1))
        return refuse(INVALID_USAGE, who, "two callers are rank " + std::to_string(rank) + " of one id");
    {
        std::lock_guard<std::mutex> lock(lock_comms);
        comms[comm.get()] = comm;
    }
    *handle = comm.get();
    std::thread(join, comm).detach();
    if (!comm->blocking)
        return IN_PROGRESS;
    if (depth > 0) {
        joining.push_back(comm);
        return SUCCESS;
    }
    return settle(*comm);
}

// ---- launching ----

static thread_local std::vector<Call> waiting;

// The first exchange of two ranks needs both.
static void connect(Comm &comm, const std::vector<Call> &calls) {
    std::set<int> peers;
    for (const Call &call : calls)
        for (int peer = 0; peer < comm.ranks; peer++)
            if (peer != comm.rank && (call.kind != MESSAGE || call.root == peer))
                peers.insert(peer);
    for (int peer : peers)
        comm.room->members[comm.rank].connects[peer] = 1;
    for (int peer : peers) {
        room::Patience patience;
        while (!comm.room->members[peer].connects[comm.rank] && !comm.aborted)
            patience.nap();
    }
}

struct Turn {
    uint64_t in_comm, in_process;
};

static void launch(std::shared_ptr<Comm> comm, std::shared_ptr<std::vector<Call>> calls, Turn turn,
                   std::vector<std::shared_ptr<driver::Stream>> streams) {
    connect(*comm, *calls);
    for (size_t i = 1; i < streams.size(); i++)
        driver::follow(*streams[0], streams[i]);
    // Runs even in a context that has failed, so that later ones get their turn.
    driver::give(*streams[0], driver::Task{"messages", [=] {
        room::Patience patience;
        while ((comm->ended != turn.in_comm || (serial() && all_ended != turn.in_process)) && !comm->aborted)
            patience.nap();
        if (!comm->aborted && comm->context->failed == 0)
            run(*comm, *calls);
        comm->ended++;
        all_ended++;
    }, true});
    for (size_t i = 1; i < streams.size(); i++)
        driver::follow(*streams[i], streams[0]);
    int now = IN_PROGRESS;
    comm->state.compare_exchange_strong(now, SUCCESS);
}

static bool look_up(Call &call) {
    size_t bytes = call.count * size_of(call.type), all = bytes * size_t(call.comm->ranks);
    bool is_root = call.root == call.comm->rank;
    bool reads = call.kind == MESSAGE ? call.sends : call.kind != BROADCAST || is_root;
    bool writes = call.kind == MESSAGE ? !call.sends : call.kind != REDUCE || is_root;
    size_t read = call.kind == REDUCE_SCATTER ? all : bytes, written = call.kind == ALL_GATHER ? all : bytes;
    if (bytes == 0)
        return true;
    call.source = reads ? static_cast<const unsigned char *>(driver::bytes_at(call.from, read)) : nullptr;
    call.target = writes ? static_cast<unsigned char *>(driver::bytes_at(call.to, written)) : nullptr;
    return (!reads || call.source) && (!writes || call.target);
}

static Result launch_group(const char *who) {
    std::vector<Call> calls;
    calls.swap(waiting);
    std::vector<std::shared_ptr<Comm>> order;
    for (Call &call : calls) {
        if (!look_up(call))
            return fail(*call.comm, INVALID_ARGUMENT, who, "memory that is not all of one live allocation");
        if (std::find(order.begin(), order.end(), call.comm) == order.end())
            order.push_back(call.comm);
    }
    Result result = SUCCESS;
    for (auto &comm : order) {
        auto mine = std::make_shared<std::vector<Call>>();
        std::vector<std::shared_ptr<driver::Stream>> streams;
        for (Call &call : calls) {
            if (call.comm != comm)
                continue;
            auto stream = driver::stream_of(who, comm->context, call.stream);
            if (!stream)
                return fail(*comm, INVALID_ARGUMENT, who, "no stream of the communicator's device");
            if (std::find(streams.begin(), streams.end(), stream) == streams.end())
                streams.push_back(stream);
            mine->push_back(call);
        }
        static driver::Counter groups("groups of messages");
        groups.add();
        Turn turn{comm->launched++, all_launched++};
        if (comm->blocking) {
            launch(comm, mine, turn, streams);
            continue;
        }
        comm->state = IN_PROGRESS;
        std::thread(launch, comm, mine, turn, streams).detach();
        result = IN_PROGRESS;
    }
    return result;
}

static int end_group(const char *who) {
    if (depth == 0)
        return refuse(INVALID_USAGE, who, "no group was begun");
    if (--depth > 0)
        return SUCCESS;
    for (auto &comm : joining)
        settle(*comm);
    joining.clear();
    return launch_group(who);
}

static int call(const char *who, Kind kind, bool sends, const void *from, void *to, size_t count, int type, int operation,
                int root, void *handle, void *stream) {
    auto comm = comm_of(who, handle);
    if (!comm)
        return INVALID_ARGUMENT;
    int state = comm->state;
    if (state == IN_PROGRESS && std::find(joining.begin(), joining.end(), comm) == joining.end())
        return fail(*comm, INVALID_ARGUMENT, who, "the communicator's last call is still in progress");
    if (state != SUCCESS && state != IN_PROGRESS)
        return state;
    if (comm->finalised)
        return fail(*comm, INVALID_USAGE, who, "the communicator was finalised");
    bool rooted = kind == MESSAGE || kind == BROADCAST || kind == REDUCE;
    bool sums = kind == REDUCE || kind == ALL_REDUCE || kind == REDUCE_SCATTER;
    if (size_of(type) == 0 || (rooted && (root < 0 || root >= comm->ranks)) || (sums && (type < 2 || type == 6)))
        return fail(*comm, INVALID_ARGUMENT, who, "no such type (or none to compute with here), or no such rank");
    if (sums && (operation < 0 || operation > 3))
        return fail(*comm, INVALID_ARGUMENT, who, "no such operation here");
    depth++;
    waiting.push_back(Call{comm, kind, sends, from, to, count, type, operation, root, stream, nullptr, nullptr});
    return end_group(who);
}

// Waits for what was launched, then for all members.
static void finish(std::shared_ptr<Comm> comm) {
    room::Patience patience;
    while (comm->ended != comm->launched && !comm->aborted)
        patience.nap();
    comm->room->members[comm->rank].finalised = 1;
    for (int peer = 0; peer < comm->ranks && !comm->aborted;)
        if (comm->room->members[peer].finalised)
            peer++;
        else
            patience.nap();
    int now = IN_PROGRESS;
    comm->state.compare_exchange_strong(now, SUCCESS);
}

} // namespace nccl

using namespace nccl;

// As COUNT, where a handle must be that of a communicator; it is `comm`.
#define ENTER_COMM                                                                                                     \
    COUNT;                                                                                                             \
    auto comm = comm_of(__func__, handle);                                                                             \
    if (!comm)                                                                                                         \
    return INVALID_ARGUMENT

EXPORTED int ncclGetVersion(int *version) {
    COUNT;
    *version = int(driver::number_from("EMU_NCCL_VERSION", 23003));
    return SUCCESS;
}

EXPORTED int ncclGetUniqueId(unsigned char *id) {
    COUNT;
    std::memset(id, 0, 128);
    std::memcpy(id, "emulated", 8);
    std::random_device random;
    for (int i = 8; i < 24; i++)
        id[i] = (unsigned char)random();
    return SUCCESS;
}

// As the interface has it: by value.
struct UniqueId {
    unsigned char bytes[128];
};
EXPORTED int ncclCommInitRank(void **comm, int ranks, UniqueId id, int rank) {
    COUNT;
    return start(__func__, comm, ranks, id.bytes, rank, nullptr);
}
EXPORTED int ncclCommInitRankConfig(void **comm, int ranks, UniqueId id, int rank, Config *config) {
    COUNT;
    return start(__func__, comm, ranks, id.bytes, rank, config);
}

EXPORTED int ncclCommGetAsyncError(void *handle, int *state) {
    ENTER_COMM;
    *state = comm->state;
    return SUCCESS;
}

EXPORTED int ncclCommFinalize(void *handle) {
    ENTER_COMM;
    if (comm->state != SUCCESS || comm->finalised)
        return fail(*comm, INVALID_USAGE, __func__, "a communicator that is busy, failed or finalised");
    comm->finalised = true;
    comm->state = IN_PROGRESS;
    if (!comm->blocking) {
        std::thread(finish, comm).detach();
        return IN_PROGRESS;
    }
    finish(comm);
    return comm->state;
}

EXPORTED int ncclCommDestroy(void *handle) {
    ENTER_COMM;
    if (!comm->finalised)
        finish(comm);
    else
        settle(*comm);
    std::lock_guard<std::mutex> lock(lock_comms);
    comms.erase(handle);
    return SUCCESS;
}

EXPORTED int ncclCommAbort(void *handle) {
    ENTER_COMM;
    comm->aborted = true;
    if (comm->rank == 0)
        room::close_door(comm->name);
    std::lock_guard<std::mutex> lock(lock_comms);
    comms.erase(handle);
    return SUCCESS;
}

EXPORTED int ncclCommCount(void *handle, int *count) {
    ENTER_COMM;
    *count = comm->ranks;
    return SUCCESS;
}
EXPORTED int ncclCommUserRank(void *handle, int *rank) {
    ENTER_COMM;
    *rank = comm->rank;
    return SUCCESS;
}
EXPORTED int ncclCommCuDevice(void *handle, int *device) {
    ENTER_COMM;
    *device = comm->device;
    return SUCCESS;
}

EXPORTED int ncclGroupStart() {
    COUNT;
    depth++;
    return SUCCESS;
}
EXPORTED int ncclGroupEnd() {
    COUNT;
    return end_group(__func__);
}

EXPORTED int ncclSend(const void *from, size_t count, int type, int peer, void *comm, void *stream) {
    COUNT;
    return call(__func__, MESSAGE, true, from, nullptr, count, type, -1, peer, comm, stream);
}
EXPORTED int ncclRecv(void *to, size_t count, int type, int peer, void *comm, void *stream) {
    COUNT;
    return call(__func__, MESSAGE, false, nullptr, to, count, type, -1, peer, comm, stream);
}
EXPORTED int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *comm, void *stream) {
    COUNT;
    return call(__func__, BROADCAST, false, from, to, count, type, -1, root, comm, stream);
}
EXPORTED int ncclBcast(void *data, size_t count, int type, int root, void *comm, void *stream) {
    COUNT;
    return call(__func__, BROADCAST, false, data, data, count, type, -1, root, comm, stream);
}
EXPORTED int ncclReduce(const void *from, void *to, size_t count, int type, int operation, int root, void *comm, void *stream) {
    COUNT;
    return call(__func__, REDUCE, false, from, to, count, type, operation, root, comm, stream);
}
EXPORTED int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, void *comm, void *stream) {
    COUNT;
    return call(__func__, ALL_REDUCE, false, from, to, count, type, operation, 0, comm, stream);
}
EXPORTED int ncclAllGather(const void *from, void *to, size_t count, int type, void *comm, void *stream) {
    COUNT;
    return call(__func__, ALL_GATHER, false, from, to, count, type, -1, 0, comm, stream);
}
EXPORTED int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation, void *comm, void *stream) {
    COUNT;
    return call(__func__, REDUCE_SCATTER, false, from, to, count, type, operation, 0, comm, stream);
}

EXPORTED const char *ncclGetErrorString(int result) {
    static const char *const texts[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error",
                                        "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return result >= 0 && result < 8 ? texts[result] : "unknown result code";
}

EXPORTED const char *ncclGetLastError(void *handle) {
    static thread_local std::string text;
    text = last_error;
    std::lock_guard<std::mutex> lock(lock_comms);
    auto found = comms.find(handle);
    if (found != comms.end() && !found->second->last_error.empty())
        text = found->second->last_error;
    return text.c_str();
}
