// Shared memory, and messages through it. A send is a rendezvous: nothing moves before the receiver has come, and it is
// complete when all was received, which is the latest that a real library would take.

#include "room.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace room {

static size_t bytes_of(int ranks) { return sizeof(Room) + size_t(ranks) * size_t(ranks) * sizeof(Channel); }

Room *enter(const std::string &name, int ranks) {
    int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
    if (file < 0)
        return nullptr;
    // New memory is zero, which is how everything begins; who comes later changes nothing.
    void *p = MAP_FAILED;
    if (ftruncate(file, off_t(bytes_of(ranks))) == 0)
        p = mmap(nullptr, bytes_of(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return p == MAP_FAILED ? nullptr : static_cast<Room *>(p);
}

void close_door(const std::string &name) { shm_unlink(name.c_str()); }

void leave(Room *room, int ranks) { munmap(room, bytes_of(ranks)); }

bool Claim::operator==(const Claim &other) const {
    return kind == other.kind && type == other.type && operation == other.operation && root == other.root &&
           count == other.count;
}

std::string Claim::text() const {
    static const char *const kinds[] = {"send/receive", "broadcast", "reduce", "all-reduce", "all-gather", "reduce-scatter"};
    std::string text = std::string(kinds[kind]) + " of " + std::to_string(count) + " elements of type " +
                       std::to_string(type);
    if (root >= 0)
        text += ", root " + std::to_string(root);
    if (operation >= 0)
        text += ", operation " + std::to_string(operation);
    return text;
}

// Copies between a channel's ring and plain memory.
static void ring(Transfer &t, uint64_t at, size_t bytes) {
    while (bytes > 0) {
        size_t place = at % CHANNEL, part = std::min(bytes, CHANNEL - place);
        if (t.sends)
            std::memcpy(t.channel->data + place, t.data + t.moved, part);
        else
            std::memcpy(t.data + t.moved, t.channel->data + place, part);
        at += part;
        t.moved += part;
        bytes -= part;
    }
}

bool advance(Transfer &t, const Claim *&other) {
    Channel &c = *t.channel;
    // Messages of a channel take turns.
    if (t.complete || c.done < t.number)
        return false;
    bool changed = false;
    if (!t.posted) {
        (t.sends ? c.send_claim : c.receive_claim)[t.number % 2] = t.claim;
        (t.sends ? c.sends : c.receives) = t.number + 1;
        t.posted = changed = true;
    }
    if (!t.matched) {
        if ((t.sends ? c.receives : c.sends) <= t.number)
            return changed;
        const Claim &claim = (t.sends ? c.receive_claim : c.send_claim)[t.number % 2];
        if (!(claim == t.claim)) {
            other = &claim;
            return true;
        }
        t.matched = changed = true;
    }
    uint64_t produced = c.produced, consumed = c.consumed;
    size_t room = t.sends ? CHANNEL - size_t(produced - consumed) : size_t(produced - consumed);
    size_t part = std::min(room, t.bytes - t.moved);
    if (part > 0) {
        ring(t, t.sends ? produced : consumed, part);
        (t.sends ? c.produced : c.consumed) += part;
        changed = true;
    }
    if (t.moved == t.bytes && !t.sends) {
        c.done = t.number + 1;
        t.complete = changed = true;
    } else if (t.sends && c.done > t.number) {
        t.complete = changed = true;
    }
    return changed;
}

void Patience::nap() {
    if (++looks < 20)
        sched_yield();
    else
        usleep(std::min(looks, 200u));
}

} // namespace room
