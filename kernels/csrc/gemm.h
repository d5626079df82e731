// Products of rows with a weight in panels (panels.h), shared by a team of threads.
//
// With few rows, a product is as fast as its weights arrive. So a thread has a fixed share of every weight's panels,
// and while it computes with one, it fetches the next, even the first of the next product.
//
// A sum of bfloat16 products runs over the inputs in order, regardless of other rows and of threads.
#pragma once

#include "panels.h"

#include <omp.h>

// A product as its team shares it: `Panels` panels, evenly spaced in the weight, are computed together.
template <typename Block, int Panels = 1>
class Share {
  public:
    Share(const Linear& w, int64_t rows) : w_(w), rows_(rows), count_(w.count() / Panels) {
        // Number of rows that stay in a core's own cache, with room for two panels.
        chunk_ = (1 << 20) / (w.steps() * Block::kStepInputs * int(sizeof(typename Block::Input))) / kPanel * kPanel;
        if (chunk_ < kPanel) chunk_ = kPanel;
        const int64_t items = (rows + chunk_ - 1) / chunk_ * count_;
        const int thread = omp_get_thread_num(), team = omp_get_num_threads();
        // An example: 96 panels and rows of one chunk are 24 panels for each of 4 threads, the same 24 in every step.
        first_ = items * thread / team;
        last_ = items * (thread + 1) / team;
    }

    // The first weights this thread needs.
    const char* begin() const { return w_.panel(first_ < last_ ? first_ % count_ : 0); }

    // Calls finish(row, rows, column, c) for blocks of up to 32 rows of the result, where c[p][32][32] are the sums of
    // panel p. `next` is what the thread needs after this. Ends with a barrier.
    template <typename Finish>
    void run(const Operand& x, const char* next, Finish finish) const {
        const int64_t panel_bytes = w_.panel(1) - w_.panel(0);
        for (int64_t i = first_; i < last_; i++) {
            const int64_t begin = i / count_ * chunk_, end = begin + chunk_ < rows_ ? begin + chunk_ : rows_;
            const int panel = int(i % count_), blocks = int(end - begin + kPanel - 1) / kPanel;
            const char* after = i + 1 < last_ ? w_.panel((i + 1) % count_) : next;
            const int passes = blocks * Block::passes(end - begin < kPanel ? int(end - begin) : kPanel);
            const int apart = blocks == 1 ? Block::kFetched : 1;
            const int lines = (kPanel / apart + passes - 1) / passes;
            Prefetch prefetch[Panels];
            for (int p = 0; p < Panels; p++) {
                const char* at = after + (w_.panel(p * count_) - w_.panel(0));
                prefetch[p] = {at, after ? at + panel_bytes : at, lines, 64 * apart};
            }
            for (int64_t r = begin; r < end; r += kPanel) {
                const int rows = end - r < kPanel ? int(end - r) : kPanel;
                alignas(64) typename Block::Sum c[Panels][kPanel * kPanel];
                for (int p = 0; p < Panels; p++)
                    Block::multiply(rows, w_.steps(), x.rows + r * x.stride, x.stride, w_.panel(panel + p * count_),
                                    c[p], prefetch[p]);
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

// Turns the sums of up to 16 outputs from `column` on into results.
struct Epilogue {
    f32v scale = {}, bias = {};
    i32v offset = {};

    Epilogue(const Linear& w, int column) {
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

// Calls fn(row, column, width, results) for each run of up to 16 results in a block.
template <typename Sum, typename Fn>
HR_INLINE void each_run(const Linear& w, const float* scales, int64_t row, int rows, int column, const Sum* c,
                        Fn fn) {
    for (int v = 0; v < kPanel && column + v < w.out; v += kLanes) {
        const Epilogue epilogue(w, column + v);
        for (int r = 0; r < rows; r++)
            fn(row + r, column + v, w.out - column - v, epilogue(c + r * kPanel + v, scales + row + r));
    }
}
