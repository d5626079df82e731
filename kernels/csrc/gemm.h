// Products with weights that were laid out once: bfloat16 operands, float32 sums.
//
// A weight [out, in] is cut into panels of 32 outputs. A panel holds, for 32 inputs after the other, two tiles
// of 16 rows; a row is a pair of inputs for each of 16 outputs. This is the right-hand operand of AMX and of
// AVX-512's bfloat16 products alike, and a panel is read from its beginning to its end.
//
// With few rows a product is as fast as its weights arrive. So a thread has a fixed share of every weight's
// panels, and while it computes with one it fetches the next, the first of the next product included.
//
// A sum runs over the inputs in order, whatever the rows beside it and the threads.
#pragma once

#include "vec.h"

#include "amx.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#include <omp.h>
#define HR_HAS_GEMM 1

constexpr int kPanel = 32;  // outputs of a panel; also rows of a block, inputs of a step

// y = x · weightᵀ + bias; in is a multiple of 32, bias may be null.
struct Linear {
    const BF16 *panels, *bias;
    int in, out;

    int count() const { return (out + kPanel - 1) / kPanel; }
    const BF16* panel(int64_t p) const { return panels + p * kPanel * in; }
};

// What to fetch while a panel is in use: so many cache lines at each step.
struct Ahead {
    const char* at;
    int lines;

    void step() {
        for (int i = 0; i < lines; i++) __builtin_prefetch(at + 64 * i, 0, 2);
        at += 64 * lines;
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
    const BF16* begin() const { return first_ < last_ ? w_.panel(first_ % count_) : w_.panels; }

    // Calls finish(row, rows, column, c) for blocks of up to 32 rows of the result, c[p][32][32] being the
    // sums of panel p. x has whole blocks of rows; next is what the thread needs after this. Ends in a barrier.
    template <typename Block, typename Finish>
    void run(const BF16* x, int ldx, const BF16* next, Finish finish) const {
        for (int64_t i = first_; i < last_; i++) {
            const int64_t begin = i / count_ * chunk_, end = begin + chunk_ < rows_ ? begin + chunk_ : rows_;
            const int panel = int(i % count_), blocks = int(end - begin + kPanel - 1) / kPanel;
            const BF16* after = i + 1 < last_ ? w_.panel((i + 1) % count_) : next;
            const int lines = after ? (kPanel + blocks - 1) / blocks : 0;
            Ahead ahead[Panels];
            for (int p = 0; p < Panels; p++)
                ahead[p] = {(const char*)(after + int64_t(p) * count_ * kPanel * w_.in), lines};
            for (int64_t r = begin; r < end; r += kPanel) {
                const int rows = end - r < kPanel ? int(end - r) : kPanel;
                alignas(64) float c[Panels][kPanel * kPanel];
                for (int p = 0; p < Panels; p++)
                    Block::multiply(rows, w_.in, x + r * ldx, ldx, w_.panel(panel + p * count_), c[p], ahead[p]);
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

// Calls fn(row, column, width, sums) for the runs of up to 16 sums of a block, bias added.
template <typename Fn>
HR_INLINE void each_run(const Linear& w, int64_t row, int rows, int column, const float* c, Fn fn) {
    for (int v = 0; v < kPanel && column + v < w.out; v += kLanes) {
        const int width = w.out - column - v;
        const f32v bias = w.bias ? load(w.bias + column + v, width) : f32v{};
        for (int r = 0; r < rows; r++) fn(row + r, column + v, width, load(c + r * kPanel + v) + bias);
    }
}
#endif
