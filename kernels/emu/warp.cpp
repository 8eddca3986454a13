// Tensor cores, and the loads that feed them: what a warp does as one. And atomic additions.

#include <cstdint>

#include "emu.h"
#include "engine.h"

namespace emu {

uint64_t conflicts;

static const unsigned short *matrix_row(const Operand *rows, int matrix, int row) {
    const unsigned short *p;
    std::memcpy(&p, rows[8 * matrix + row].bytes, sizeof p);
    return p;
}

// Rows of an 8x8 matrix that lie in the same banks of shared memory are read one after the other.
static void count_conflicts(const Operand *rows) {
    if (lane() != 0)
        return;
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned taken = 0;
        for (int row = 0; row < 8; row++) {
            unsigned bank = 1u << reinterpret_cast<uintptr_t>(matrix_row(rows, matrix, row)) / 16 % 8;
            conflicts += (taken & bank) != 0;
            taken |= bank;
        }
    }
}

static const Operand *rows_of_all(const char *what, SharedAddress address) {
    auto *row = reinterpret_cast<const void *>(address);
    require_shared(row, 16);
    require_aligned(row, 16);
    touch(row, 16, false);
    const Operand *rows = meet(what, &row, sizeof row);
    count_conflicts(rows);
    return rows;
}

} // namespace emu

using namespace emu;

void atomic_add2(float *p, float a, float b) {
    require_aligned(p, 8);
    touch_atomic(p, 8);
    p[0] += a;
    p[1] += b;
}

void load_matrices(unsigned (&x)[4], SharedAddress row) {
    const Operand *rows = rows_of_all("load_matrices", row);
    for (int i = 0; i < 4; i++)
        std::memcpy(&x[i], matrix_row(rows, i, lane() / 4) + 2 * (lane() % 4), 4);
}

void load_matrices_transposed(unsigned (&x)[4], SharedAddress row) {
    const Operand *rows = rows_of_all("load_matrices_transposed", row);
    for (int i = 0; i < 4; i++) {
        int first = 2 * (lane() % 4), column = lane() / 4;
        x[i] = matrix_row(rows, i, first)[column] | unsigned(matrix_row(rows, i, first + 1)[column]) << 16;
    }
}

void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    // Each register as its two numbers: a[0] .. a[3], b0, b1.
    float mine[12];
    const unsigned registers[6] = {a[0], a[1], a[2], a[3], b0, b1};
    for (int i = 0; i < 6; i++) {
        mine[2 * i] = bits_to_float(registers[i] << 16);
        mine[2 * i + 1] = bits_to_float(registers[i] & 0xffff0000u);
    }
    const Operand *all = meet("multiply_add", mine, sizeof mine);
    auto numbers = [&](int lane) { return reinterpret_cast<const float *>(all[lane].bytes); };
    int g = lane() / 4, t = lane() % 4;
    for (int i = 0; i < 4; i++) {
        int lower = i / 2, column = 2 * t + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            int holder = k % 8 / 2, upper = k / 8, half = k % 2;
            const float *left = numbers(4 * g + holder), *right = numbers(4 * column + holder);
            sum += left[2 * (lower + 2 * upper) + half] * right[2 * (4 + upper) + half];
        }
        c[i] += sum;
    }
}
