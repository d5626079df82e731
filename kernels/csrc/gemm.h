// Products with weights that were laid out once: bfloat16 operands, float32 sums.
//
// A weight [out, in] is cut into panels of 32 outputs. A panel holds, for 32 inputs after the other, two tiles
// of 16 rows; a row is a pair of inputs for each of 16 outputs. This is the right-hand operand of AMX and of
// AVX-512's bfloat16 products alike, and a panel is read from its beginning to its end.
//
// With few rows a product is as fast as its weights arrive. So a thread has a fixed share of every weight's
// panels, and while it computes with one it fetches the next, the first of the next product included.
//
// Weights may be bytes with a factor for each output. Every such value is a bfloat16, so a panel is widened when
// it is used and the factor multiplies the sums: the sums of the rounded weights are exact as ever.
//
// A sum runs over the inputs in order, whatever the rows beside it and the threads.
#pragma once

#include "vec.h"

#include "amx.h"
#include "scratch.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#include <omp.h>
#define HR_HAS_GEMM 1

constexpr int kPanel = 32;  // outputs of a panel; also rows of a block, inputs of a step

// y = x · weightᵀ * scales + bias; in is a multiple of 32. Panels are of BF16 without scales, of int8_t with
// them; bias may be null.
struct Linear {
    const void* panels;
    const BF16* bias;
    const float* scales;
    int in, out;

    int count() const { return (out + kPanel - 1) / kPanel; }
    const char* panel(int64_t p) const { return (const char*)panels + p * kPanel * in * (scales ? 1 : 2); }
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

#if defined(HR_HAS_AMX)
// C[32][32] = A[rows <= 32][depth] · a panel. Of A whole sixteens of rows are read.
struct AmxBlock {
    using Session = AmxSession;

    static void multiply(int rows, int depth, const BF16* a, int lda, const BF16* b, float* c, Ahead& ahead) {
        if (rows > 16) tiles<2>(depth, a, lda, b, c, ahead);
        else tiles<1>(depth, a, lda, b, c, ahead);
    }

  private:
    template <int R>
    static void tiles(int depth, const BF16* a, int lda, const BF16* b, float* c, Ahead& ahead) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (R == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int k = 0; k < depth; k += kPanel, a += kPanel, b += kPanel * kPanel) {
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + 512, 64);
            _tile_loadd(4, a, lda * 2);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (R == 2) {
                _tile_loadd(5, a + 16 * lda, lda * 2);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
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
struct VectorBlock {
    struct Session {};

    static void multiply(int rows, int depth, const BF16* a, int lda, const BF16* b, float* c, Ahead& ahead) {
        constexpr int R = 8;
        for (int r = 0; r < rows; r += R, a += R * lda, c += R * kPanel) {
            const int n = rows - r;
            if (n > 4) tile<8>(depth, a, lda, b, c, ahead);
            else if (n > 2) tile<4>(depth, a, lda, b, c, ahead);
            else if (n > 1) tile<2>(depth, a, lda, b, c, ahead);
            else tile<1>(depth, a, lda, b, c, ahead);
            ahead.lines = 0;
        }
    }

  private:
    template <int R>
    static void tile(int depth, const BF16* a, int lda, const BF16* b, float* c, Ahead& ahead) {
        __m512 sums[R][2] = {};
        for (int k = 0; k < depth; k += kPanel, b += kPanel * kPanel) {
            for (int pair = 0; pair < 16; pair++) {
                const __m512i left = _mm512_loadu_si512(b + 32 * pair);
                const __m512i right = _mm512_loadu_si512(b + 32 * pair + 512);
                for (int r = 0; r < R; r++) {
                    int both;
                    memcpy(&both, a + r * lda + k + 2 * pair, 4);
                    const __m512i x = _mm512_set1_epi32(both);
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], (__m512bh)x, (__m512bh)left);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], (__m512bh)x, (__m512bh)right);
                }
            }
            ahead.step();
        }
        for (int r = 0; r < R; r++) {
            _mm512_storeu_ps(c + r * kPanel, sums[r][0]);
            _mm512_storeu_ps(c + r * kPanel + 16, sums[r][1]);
        }
    }
};

// A panel of bytes as bfloat16.
inline const BF16* widened(const char* panel, int in, BF16* to, Ahead ahead) {
    for (int i = 0; i < in * kPanel; i += kPanel) {
        if (i % (kPanel * kPanel) == 0) ahead.step();
        const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(panel + i))));
        const __m512 high =
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(panel + i + kLanes))));
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    return to;
}

// A product as its team shares it: `Panels` panels, evenly spaced in the weight, are computed together.
template <int Panels = 1>
class Share {
  public:
    Share(const Linear& w, int64_t rows) : w_(w), rows_(rows), count_(w.count() / Panels) {
        // Rows that stay in a core's own cache, with room for two panels.
        chunk_ = (1 << 20) / (w.in * 2) / kPanel * kPanel;
        if (chunk_ < kPanel) chunk_ = kPanel;
        const int64_t items = (rows + chunk_ - 1) / chunk_ * count_;
        const int thread = omp_get_thread_num(), team = omp_get_num_threads();
        first_ = items * thread / team;
        last_ = items * (thread + 1) / team;
    }

    // The first weights this thread needs.
    const char* begin() const { return w_.panel(first_ < last_ ? first_ % count_ : 0); }

    // Calls finish(row, rows, column, c) for blocks of up to 32 rows of the result, c[p][32][32] being the
    // sums of panel p. x has whole blocks of rows; next is what the thread needs after this. Ends in a barrier.
    template <typename Block, typename Finish>
    void run(const BF16* x, int ldx, const char* next, Finish finish) const {
        thread_local Scratch scratch;
        const size_t size = size_t(kPanel) * w_.in;
        if (w_.scales) scratch.reserve(Panels * size * sizeof(BF16));
        scratch.reset();
        BF16* wide[Panels] = {};
        for (int p = 0; w_.scales && p < Panels; p++) wide[p] = scratch.take<BF16>(size);
        for (int64_t i = first_; i < last_; i++) {
            const int64_t begin = i / count_ * chunk_, end = begin + chunk_ < rows_ ? begin + chunk_ : rows_;
            const int panel = int(i % count_), blocks = int(end - begin + kPanel - 1) / kPanel;
            const char* after = i + 1 < last_ ? w_.panel((i + 1) % count_) : next;
            // A panel that is used once leaves the core no time: every fourth line wakes the hardware's own
            // fetching, and all of them would only fill its queue. Measured, one AMX core: 1.1 times as fast.
            const bool once = blocks == 1 && !w_.scales;
            const int lines = !after ? 0 : once ? kPanel / 4 : w_.scales ? kPanel / 2 : (kPanel + blocks - 1) / blocks;
            Ahead ahead[Panels];
            const BF16* weights[Panels];
            for (int p = 0; p < Panels; p++) {
                const char* own = w_.panel(panel + p * count_);
                ahead[p] = {after + (w_.panel(p * count_) - w_.panel(0)), lines, once ? 256 : 64};
                weights[p] = w_.scales ? widened(own, w_.in, wide[p], ahead[p]) : (const BF16*)own;
                if (w_.scales) ahead[p].lines = 0;
            }
            for (int64_t r = begin; r < end; r += kPanel) {
                const int rows = end - r < kPanel ? int(end - r) : kPanel;
                alignas(64) float c[Panels][kPanel * kPanel];
                for (int p = 0; p < Panels; p++)
                    Block::multiply(rows, w_.in, x + r * ldx, ldx, weights[p], c[p], ahead[p]);
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
    f32v scale, bias;

    Ends(const Linear& w, int column)
        : scale(w.scales ? load(w.scales + column, w.out - column) : splat(1.0f)),
          bias(w.bias ? load(w.bias + column, w.out - column) : f32v{}) {}
    f32v operator()(const float* sums) const { return load(sums) * scale + bias; }
};

// Calls fn(row, column, width, results) for the runs of up to 16 results of a block.
template <typename Fn>
HR_INLINE void each_run(const Linear& w, int64_t row, int rows, int column, const float* c, Fn fn) {
    for (int v = 0; v < kPanel && column + v < w.out; v += kLanes) {
        const Ends ends(w, column + v);
        for (int r = 0; r < rows; r++) fn(row + r, column + v, w.out - column - v, ends(c + r * kPanel + v));
    }
}
#endif
