// Weights laid out once for products: of bfloat16 with float32 sums, or of bytes with integer sums.
//
// A weight [out, in] is cut into panels of 32 outputs, and those into halves of 16. A half holds, for one run of 64
// bytes of inputs after the other, a tile of 16 rows; a row has four bytes of inputs, a pair or a quad of them, for
// each of the 16 outputs. This is the right-hand operand of AMX and of AVX-512's products alike, and what vectors
// without such products make floats or words of with a shift (block_*.h). A half is read from end to end, which the
// hardware foresees.
//
// As bytes, a weight is -127 … 127 times its output's scale, and an input as much times its row's. Inputs are
// stored with 128 added, since processors multiply unsigned by signed bytes; 128 times the weights' sum is then
// taken off. These sums are exact.
//
// A block backend multiplies up to 32 rows by a panel. It names the type of the rows it takes, Input; Session,
// which a thread holds while it multiplies; and Sum. Where rows of bfloat16 are not what it takes,
// `take(x, in, steps, y)` makes so many steps of Input of a row, and returns the scale of its bytes. Every so many
// steps of a call, `passes(rows)` times all of them, it lets the next weights be fetched; of a panel that is used
// once, every kFetched-th line.
#pragma once

#include "vec.h"

#include <type_traits>

constexpr int kPanel = 32;        // outputs of a panel; also rows of a block
constexpr int kStep = 64;         // bytes of each row that are multiplied at once
constexpr int kTile = 1024;       // bytes of half a panel that they are multiplied with

// y = x · weightᵀ + bias; bias may be null. Panels are of bfloat16, with in a multiple of 32. Or they are of
// bytes, with inputs up to a multiple of 64, and each output has a scale and an offset, 128 times its sum.
struct Linear {
    const char* panels;
    const BF16* bias;
    const float* scales;
    const int32_t* offsets;
    int in, out;

    int count() const { return (out + kPanel - 1) / kPanel; }
    int steps() const { return scales ? (in + kStep - 1) / kStep : in * 2 / kStep; }
    const char* panel(int64_t p) const { return panels + p * steps() * 2 * kTile; }
};

// The other operand: rows of a backend's Input, those of bytes with a scale each. Whole sixteens of rows are read.
struct Operand {
    const char* rows;
    int64_t stride;  // bytes from a row to the next
    const float* scales;
};

// What to fetch while a panel is in use: so many cache lines at each step, of so many bytes' distance.
struct Ahead {
    const char *at, *end;
    int lines, distance;

    void step() {
        if (at >= end) return;
        for (int i = 0; i < lines; i++) __builtin_prefetch(at + distance * i, 0, 2);
        at += distance * lines;
    }
};

template <bool Bytes>
using Sums = std::conditional_t<Bytes, int32_t, float>;

// A row as bytes with 128 added, in the order that `placed` gives a vector of them; returns its scale.
template <typename Input, typename Placed>
float to_bytes(const BF16* x, int in, int steps, Input* y, Placed placed) {
    f32v largest = {};
    for (int i = 0; i < in; i += kLanes) {
        const f32v v = load(x + i, in - i);
        largest = maximum(maximum(v, -v), largest);
    }
    const float peak = max_lane(largest), inverse = peak > 0 ? 127 / peak : 0;
    typedef Input Run __attribute__((vector_size(kLanes * sizeof(Input)), aligned(sizeof(Input)), may_alias));
    for (int i = 0; i < steps * kStep; i += kLanes) {
        // Beside 1.5 * 2^23 a float's last place is 1: the addition rounds.
        const f32v shifted = load(x + i, in - i) * inverse + 0x1.8p23f;
        *(Run*)(y + i) = __builtin_convertvector(placed((i32v)shifted - (0x4b400000 - 128)), Run);
    }
    return peak / 127;
}
