// Numbers in bf16, as 16 bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace bf16 {

inline float widen(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

// To the nearest, to even in the middle; every NaN becomes the same.
inline uint16_t narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return x != x ? 0x7fff : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

} // namespace bf16
