// Weights laid out once for products of bfloat16 with float32 sums, or of bytes with integer sums.
//
// A weight [out, in] is cut into panels of 32 outputs, and these into halves of 16. A half contains a tile of 16 rows
// for each successive run of 64 bytes of inputs; a row has four bytes of inputs (a pair or a quad) for each of the 16
// outputs. This is the right-hand operand both of AMX and of AVX-512's products; vectors without such products turn it
// into floats or words with a shift (block_*.h). A half is read from end to end, which the hardware prefetches.
//
// As bytes, a weight is -127 … 127 times its output's scale, and an input is -127 … 127 times its row's. Inputs are
// stored with 128 added, since processors multiply unsigned by signed bytes; 128 times the weights' sum is then
// subtracted. These sums are exact.
//
// A block backend multiplies up to 32 rows by a panel. It names Input, the type of the rows that it takes; Session,
// which a thread holds while it multiplies; and Sum. If it doesn't take rows of bfloat16, `convert_row(x, in, steps,
// y)` converts this many steps of a row to Input, and returns the scale of its bytes. At regular intervals, in all
// `passes(rows)` times the steps of a call, it lets the next weights be fetched; of a panel that is used once, only
// every kFetched-th line.
#pragma once

#include "vec.h"

#include <type_traits>

constexpr int kPanel = 32;        // outputs per panel; also rows per block
constexpr int kStep = 64;         // bytes of each row that are multiplied at once
constexpr int kTile = 1024;       // bytes of half a panel that they are multiplied with

// y = x · weightᵀ + bias; bias may be null. Panels contain bfloat16, with `in` a multiple of 32. Or they contain bytes,
// with inputs padded to a multiple of 64, and each output has a scale and an offset, 128 times its sum.
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

// The other operand: rows of a backend's Input; rows of bytes have a scale each. Rows are read in whole sixteens.
struct Operand {
    const char* rows;
    int64_t stride;  // bytes from one row to the next
    const float* scales;
};

// What to fetch while a panel is in use: how many cache lines at each step, and the bytes between them.
struct Prefetch {
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
float quantize_row(const BF16* x, int in, int steps, Input* y, Placed placed) {
    f32v largest = {};
    for (int i = 0; i < in; i += kLanes) {
        const f32v v = load(x + i, in - i);
        largest = maximum(maximum(v, -v), largest);
    }
    const float peak = max_lane(largest), inverse = peak > 0 ? 127 / peak : 0;
    typedef Input Run __attribute__((vector_size(kLanes * sizeof(Input)), aligned(sizeof(Input)), may_alias));
    for (int i = 0; i < steps * kStep; i += kLanes) {
        // Near 1.5 * 2^23, a float's last place is 1, so the addition rounds.
        const f32v shifted = load(x + i, in - i) * inverse + 0x1.8p23f;
        *(Run*)(y + i) = __builtin_convertvector(placed((i32v)shifted - (0x4b400000 - 128)), Run);
    }
    return peak / 127;
}
