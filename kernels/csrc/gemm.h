// Products with weights that were laid out once: of bfloat16 with float32 sums, or of bytes with integer sums.
//
// A weight [out, in] is cut into panels of 32 outputs. A panel holds, for one run of 64 bytes of inputs after the
// other, two tiles of 16 rows; a row has four bytes of inputs, a pair or a quad of them, for each of 16 outputs.
// This is the right-hand operand of AMX and of AVX-512's products alike, and a panel is read from end to end.
//
// With few rows a product is as fast as its weights arrive. So a thread has a fixed share of every weight's
// panels, and while it computes with one it fetches the next, the first of the next product included.
//
// As bytes, a weight is -127 … 127 times its output's scale, and an input as much times its row's. Inputs are
// stored with 128 added, since processors multiply unsigned by signed bytes; 128 times the weights' sum is then
// taken off. These sums are exact.
//
// A sum of bfloat16 products runs over the inputs in order, whatever the rows beside it and the threads.
#pragma once

#include "vec.h"

#include "amx.h"
#include "scratch.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#include <omp.h>
#include <type_traits>
#define HR_HAS_GEMM 1

constexpr int kPanel = 32;        // outputs of a panel; also rows of a block
constexpr int kStep = 64;         // bytes of each row that are multiplied at once
constexpr int kStepPanel = 2048;  // bytes of a panel that they are multiplied with

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
    const char* panel(int64_t p) const { return panels + p * steps() * kStepPanel; }
};

// The other operand: rows of bfloat16, or of bytes with a scale each. Whole sixteens of rows are read.
struct Operand {
    const char* rows;
    int64_t stride;  // bytes from a row to the next
    const float* scales;
};

// What to fetch while a panel is in use: so many cache lines at each step, of so many bytes' distance.
struct Ahead {
    const char* at;
    int lines, distance;

    void step() {
        for (int i = 0; i < lines; i++) __builtin_prefetch(at + distance * i, 0, 2);
        at += distance * lines;
    }
};

template <bool Bytes>
using Sums = std::conditional_t<Bytes, int32_t, float>;

#if defined(HR_HAS_AMX)
// c[32][32] = so many rows, at most 32, of an operand times a panel.
template <bool Bytes>
struct AmxBlock {
    using Session = AmxSession;
    using Sum = Sums<Bytes>;
    static constexpr bool kBytes = Bytes;

    static void multiply(int rows, int steps, const char* a, int64_t stride, const char* b, Sum* c, Ahead& ahead) {
        if (rows > 16) tiles<2>(steps, a, stride, b, c, ahead);
        else tiles<1>(steps, a, stride, b, c, ahead);
    }

  private:
    template <int R>
    static void tiles(int steps, const char* a, int64_t stride, const char* b, Sum* c, Ahead& ahead) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (R == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int k = 0; k < steps; k++, a += kStep, b += kStepPanel) {
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + 1024, 64);
            _tile_loadd(4, a, stride);
            if constexpr (Bytes) {
                _tile_dpbusd(0, 4, 6);
                _tile_dpbusd(1, 4, 7);
            } else {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (R == 2) {
                _tile_loadd(5, a + 16 * stride, stride);
                if constexpr (Bytes) {
                    _tile_dpbusd(2, 5, 6);
                    _tile_dpbusd(3, 5, 7);
                } else {
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            ahead.step();
        }
        _tile_stored(0, c, kPanel * 4);
        _tile_stored(1, c + 16, kPanel * 4);
        if constexpr (R == 2) {
            _tile_stored(2, c + 16 * kPanel, kPanel * 4);
            _tile_stored(3, c + 16 * kPanel + 16, kPanel * 4);
        }
    }
};
#endif

// The same in vectors.
template <bool Bytes>
struct VectorBlock {
    struct Session {};
    using Sum = Sums<Bytes>;
    static constexpr bool kBytes = Bytes;

    static void multiply(int rows, int steps, const char* a, int64_t stride, const char* b, Sum* c, Ahead& ahead) {
        constexpr int R = 8;
        for (int r = 0; r < rows; r += R, a += R * stride, c += R * kPanel) {
            const int n = rows - r;
            if (n > 4) tile<8>(steps, a, stride, b, c, ahead);
            else if (n > 2) tile<4>(steps, a, stride, b, c, ahead);
            else if (n > 1) tile<2>(steps, a, stride, b, c, ahead);
            else tile<1>(steps, a, stride, b, c, ahead);
            ahead.lines = 0;
        }
    }

  private:
    template <int R>
    static void tile(int steps, const char* a, int64_t stride, const char* b, Sum* c, Ahead& ahead) {
        __m512i sums[R][2] = {};
        for (int k = 0; k < steps; k++, b += kStepPanel) {
            for (int four = 0; four < kStep; four += 4) {
                const __m512i left = _mm512_loadu_si512(b + 16 * four);
                const __m512i right = _mm512_loadu_si512(b + 16 * four + 1024);
                for (int r = 0; r < R; r++) {
                    int inputs;
                    memcpy(&inputs, a + r * stride + k * kStep + four, 4);
                    const __m512i x = _mm512_set1_epi32(inputs);
                    sums[r][0] = added(sums[r][0], x, left);
                    sums[r][1] = added(sums[r][1], x, right);
                }
            }
            ahead.step();
        }
        for (int r = 0; r < R; r++) {
            _mm512_storeu_si512(c + r * kPanel, sums[r][0]);
            _mm512_storeu_si512(c + r * kPanel + 16, sums[r][1]);
        }
    }

    static __m512i added(__m512i sums, __m512i x, __m512i weights) {
        if constexpr (Bytes) return _mm512_dpbusd_epi32(sums, x, weights);
        else return (__m512i)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)weights);
    }
};

// A row as bytes, for so many steps; returns its scale.
inline float to_bytes(const BF16* x, int in, int steps, uint8_t* y) {
    f32v largest = {};
    for (int i = 0; i < in; i += kLanes) {
        const f32v v = load(x + i, in - i);
        largest = maximum(maximum(v, -v), largest);
    }
    const float peak = max_lane(largest), inverse = peak > 0 ? 127 / peak : 0;
    for (int i = 0; i < steps * kStep; i += kLanes) {
        const __m512i whole = _mm512_cvtps_epi32((__m512)(load(x + i, in - i) * inverse));
        _mm_storeu_si128((__m128i*)(y + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(128))));
    }
    return peak / 127;
}

// A product as its team shares it: `Panels` panels, evenly spaced in the weight, are computed together.
template <int Panels = 1>
class Share {
  public:
    Share(const Linear& w, int64_t rows) : w_(w), rows_(rows), count_(w.count() / Panels) {
        // Rows that stay in a core's own cache, with room for two panels.
        chunk_ = (1 << 20) / (w.steps() * kStep) / kPanel * kPanel;
        if (chunk_ < kPanel) chunk_ = kPanel;
        const int64_t items = (rows + chunk_ - 1) / chunk_ * count_;
        const int thread = omp_get_thread_num(), team = omp_get_num_threads();
        first_ = items * thread / team;
        last_ = items * (thread + 1) / team;
    }

    // The first weights this thread needs.
    const char* begin() const { return w_.panel(first_ < last_ ? first_ % count_ : 0); }

    // Calls finish(row, rows, column, c) for blocks of up to 32 rows of the result, c[p][32][32] being the
    // sums of panel p. next is what the thread needs after this. Ends in a barrier.
    template <typename Block, typename Finish>
    void run(const Operand& x, const char* next, Finish finish) const {
        for (int64_t i = first_; i < last_; i++) {
            const int64_t begin = i / count_ * chunk_, end = begin + chunk_ < rows_ ? begin + chunk_ : rows_;
            const int panel = int(i % count_), blocks = int(end - begin + kPanel - 1) / kPanel;
            const char* after = i + 1 < last_ ? w_.panel((i + 1) % count_) : next;
            // A panel that is used once leaves the core no time: every fourth line wakes the hardware's own
            // fetching, and all of them would only fill its queue. Measured, one AMX core: 1.1 times as fast.
            const bool once = blocks == 1;
            const int lines = !after ? 0 : once ? kPanel / 4 : (kPanel + blocks - 1) / blocks;
            Ahead ahead[Panels];
            for (int p = 0; p < Panels; p++)
                ahead[p] = {after + (w_.panel(p * count_) - w_.panel(0)), lines, once ? 256 : 64};
            for (int64_t r = begin; r < end; r += kPanel) {
                const int rows = end - r < kPanel ? int(end - r) : kPanel;
                alignas(64) typename Block::Sum c[Panels][kPanel * kPanel];
                for (int p = 0; p < Panels; p++)
                    Block::multiply(rows, w_.steps(), x.rows + r * x.stride, x.stride, w_.panel(panel + p * count_),
                                    c[p], ahead[p]);
                finish(r, rows, panel * kPanel, c);
            }
        }
#pragma omp barrier
    }

  private:
    const Linear& w_;
    int64_t rows_, chunk_, first_, last_;
    int count_;
};

// What turns the sums of up to 16 outputs from column into results.
struct Ends {
    f32v scale = {}, bias = {};
    i32v offset = {};

    Ends(const Linear& w, int column) {
        const int width = w.out - column;
        if (w.bias) bias = load(w.bias + column, width);
        if (!w.scales) return;
        scale = load(w.scales + column, width);
        offset = (i32v)load((const float*)(w.offsets + column), width);
    }
    f32v operator()(const float* sums, const float*) const { return load(sums) + bias; }
    f32v operator()(const int32_t* sums, const float* row_scale) const {
        const i32v exact = (i32v)load((const float*)sums) - offset;
        return __builtin_convertvector(exact, f32v) * (scale * *row_scale) + bias;
    }
};

// Calls fn(row, column, width, results) for the runs of up to 16 results of a block.
template <typename Sum, typename Fn>
HR_INLINE void each_run(const Linear& w, const float* scales, int64_t row, int rows, int column, const Sum* c,
                        Fn fn) {
    for (int v = 0; v < kPanel && column + v < w.out; v += kLanes) {
        const Ends ends(w, column + v);
        for (int r = 0; r < rows; r++)
            fn(row + r, column + v, w.out - column - v, ends(c + r * kPanel + v, scales + row + r));
    }
}
#endif
