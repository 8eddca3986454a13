// What the calls of a group do: messages all at once, collectives one after the other, made of messages. Sums are taken in
// the order of the ranks, and rounded to their type after each.

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "bf16.h"
#include "nccl.h"

using namespace room;

namespace nccl {

size_t size_of(int type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return type >= 0 && type < 10 ? sizes[type] : 0;
}

static Transfer transfer(Comm &comm, bool sends, int peer, const void *data, size_t bytes, const Claim &claim) {
    uint64_t &count = (sends ? comm.sent : comm.received)[size_t(peer)];
    Channel &channel = sends ? comm.channel(comm.rank, peer) : comm.channel(peer, comm.rank);
    auto *p = static_cast<unsigned char *>(const_cast<void *>(data));
    return Transfer{&channel, sends, p, bytes, claim, count++, peer};
}

// Moves messages until all have arrived; false if that came to nothing.
static bool move(Comm &comm, std::vector<Transfer> all) {
    Patience patience;
    for (;;) {
        bool changed = false, open = false;
        for (Transfer &t : all) {
            const Claim *other = nullptr;
            changed |= advance(t, other);
            open |= !t.complete;
            if (other) {
                fail(comm, INVALID_USAGE, t.sends ? "a send" : "a receive",
                     "rank " + std::to_string(comm.rank) + " has " + t.claim.text() + ", rank " + std::to_string(t.peer) +
                         " has " + other->text());
                return false;
            }
        }
        if (!open)
            return true;
        if (comm.aborted)
            return false;
        if (changed)
            patience.looks = 0;
        else
            patience.nap();
    }
}

static Claim claim_of(const Call &call) {
    bool sums = call.kind == REDUCE || call.kind == ALL_REDUCE || call.kind == REDUCE_SCATTER;
    bool rooted = call.kind == BROADCAST || call.kind == REDUCE;
    return Claim{call.kind, call.type, sums ? call.operation : -1, rooted ? call.root : -1, call.count};
}

static bool broadcast(Comm &comm, const Call &call, int root, const unsigned char *from, unsigned char *to, size_t bytes) {
    std::vector<Transfer> all;
    if (comm.rank != root)
        return move(comm, {transfer(comm, false, root, to, bytes, claim_of(call))});
    for (int peer = 0; peer < comm.ranks; peer++)
        if (peer != root)
            all.push_back(transfer(comm, true, peer, from, bytes, claim_of(call)));
    if (!move(comm, all))
        return false;
    std::memmove(to, from, bytes);
    return true;
}

template <class T> static T combine(T a, T b, int operation) {
    switch (operation) {
    case 1: return T(a * b);
    case 2: return std::max(a, b);
    case 3: return std::min(a, b);
    default: return T(a + b);
    }
}

template <class T> static void combine_all(void *into, const void *with, size_t count, int operation) {
    auto *a = static_cast<T *>(into);
    auto *b = static_cast<const T *>(with);
    for (size_t i = 0; i < count; i++)
        a[i] = combine(a[i], b[i], operation);
}

static void add(void *into, const void *with, size_t count, int type, int operation) {
    switch (type) {
    case 2: return combine_all<int32_t>(into, with, count, operation);
    case 3: return combine_all<uint32_t>(into, with, count, operation);
    case 4: return combine_all<int64_t>(into, with, count, operation);
    case 5: return combine_all<uint64_t>(into, with, count, operation);
    case 7: return combine_all<float>(into, with, count, operation);
    case 8: return combine_all<double>(into, with, count, operation);
    default: break;
    }
    auto *a = static_cast<uint16_t *>(into);
    auto *b = static_cast<const uint16_t *>(with);
    for (size_t i = 0; i < count; i++)
        a[i] = bf16::narrow(combine(bf16::widen(a[i]), bf16::widen(b[i]), operation));
}

// `from` of all ranks becomes one at the root, which may overwrite its own.
static bool reduce(Comm &comm, const Call &call, int root, const unsigned char *from, unsigned char *to) {
    size_t bytes = call.count * size_of(call.type);
    if (comm.rank != root)
        return move(comm, {transfer(comm, true, root, from, bytes, claim_of(call))});
    std::vector<unsigned char> sum, other(bytes);
    for (int rank = 0; rank < comm.ranks; rank++) {
        const unsigned char *next = from;
        if (rank != root) {
            if (!move(comm, {transfer(comm, false, rank, other.data(), bytes, claim_of(call))}))
                return false;
            next = other.data();
        }
        if (rank == 0)
            sum.assign(next, next + bytes);
        else
            add(sum.data(), next, call.count, call.type, call.operation);
    }
    std::memcpy(to, sum.data(), bytes);
    return true;
}

static bool all_gather(Comm &comm, const Call &call) {
    size_t bytes = call.count * size_of(call.type);
    // In place or not: first to where it belongs.
    unsigned char *own = call.target + size_t(comm.rank) * bytes;
    std::memmove(own, call.source, bytes);
    std::vector<Transfer> all;
    for (int peer = 0; peer < comm.ranks; peer++) {
        if (peer == comm.rank)
            continue;
        all.push_back(transfer(comm, true, peer, own, bytes, claim_of(call)));
        all.push_back(transfer(comm, false, peer, call.target + size_t(peer) * bytes, bytes, claim_of(call)));
    }
    return move(comm, all);
}

static bool collective(Comm &comm, const Call &call) {
    size_t bytes = call.count * size_of(call.type);
    switch (call.kind) {
    case BROADCAST: return broadcast(comm, call, call.root, call.source, call.target, bytes);
    case REDUCE: return reduce(comm, call, call.root, call.source, call.target);
    case ALL_REDUCE:
        return reduce(comm, call, 0, call.source, call.target) &&
               broadcast(comm, call, 0, call.target, call.target, bytes);
    case ALL_GATHER: return all_gather(comm, call);
    case REDUCE_SCATTER: {
        // In place the result lies in what others still need.
        std::vector<unsigned char> own(bytes);
        for (int root = 0; root < comm.ranks; root++)
            if (!reduce(comm, call, root, call.source + size_t(root) * bytes, own.data()))
                return false;
        std::memcpy(call.target, own.data(), bytes);
        return true;
    }
    default: return false;
    }
}

// EMU_NCCL_STALL=N or N:RANK: the N-th group of the process (of that rank's) never ends.
static bool stalls() {
    static const char *text = std::getenv("EMU_NCCL_STALL");
    static const uint64_t chosen = text ? driver::number_of_rank(text) : 0;
    static std::atomic<uint64_t> count;
    return ++count == chosen;
}

void run(Comm &comm, std::vector<Call> &calls) {
    if (stalls())
        while (!comm.aborted)
            usleep(1000);
    std::vector<Transfer> messages;
    for (const Call &call : calls)
        if (call.kind == MESSAGE) {
            size_t bytes = call.count * size_of(call.type);
            const void *data = call.sends ? call.source : call.target;
            messages.push_back(transfer(comm, call.sends, call.root, data, bytes, claim_of(call)));
        }
    if (!comm.aborted && !messages.empty() && !move(comm, messages))
        return;
    for (const Call &call : calls)
        if (comm.aborted || (call.kind != MESSAGE && !collective(comm, call)))
            return;
}

} // namespace nccl
