// Where the ranks of an emulated communicator meet: memory that their processes (or threads) share, named by the unique id.
// Every pair of ranks has a channel in each direction, through which one message passes at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace room {

constexpr int MOST_RANKS = 64;
// Bytes of a channel that are under way at most.
constexpr size_t CHANNEL = 128 << 10;

// What a rank says of a call; both sides of a message must say the same.
struct Claim {
    int kind, type, operation, root;
    uint64_t count;
    bool operator==(const Claim &other) const;
    std::string text() const;
};

// Counters go up forever; message n has its claims in place n % 2.
struct Channel {
    std::atomic<uint64_t> sends, receives, done; // messages
    std::atomic<uint64_t> produced, consumed;    // bytes
    Claim send_claim[2], receive_claim[2];
    unsigned char data[CHANNEL];
};

struct Member {
    std::atomic<int> joined, finalised;
    int ranks, device;
    // Peers that it has begun to exchange messages with.
    std::atomic<int> connects[MOST_RANKS];
};

struct Room {
    Member members[MOST_RANKS];
    Channel channels[]; // from a to b: a * ranks + b
};

// Opens the room of this name, making it if nobody has; null if that fails.
Room *enter(const std::string &name, int ranks);
// Closes it to others, once all are in.
void close_door(const std::string &name);
void leave(Room *room, int ranks);

// A message on its way, as one side sees it.
struct Transfer {
    Channel *channel;
    bool sends;
    unsigned char *data;
    size_t bytes;
    Claim claim;
    uint64_t number; // of the channel's messages
    int peer;
    size_t moved = 0;
    bool posted = false, matched = false, complete = false;
};

// Moves what can be moved now; whether anything changed. `other` gets what the other side claims, if it is another thing.
bool advance(Transfer &transfer, const Claim *&other);

// Between two looks at what others change: short at first, then longer.
struct Patience {
    unsigned looks = 0;
    void nap();
};

} // namespace room
