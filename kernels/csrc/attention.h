// Paged attention for CPUs. One code path for every row: a decode is a block of few rows, a prompt chunk one
// of many.
//
// A work item is a run of query tokens of one sequence with all query heads of one kv head; its rows share
// every key and value. Keys are taken in blocks of kBlock tokens at multiples of kBlock from position 0: a
// block is gathered from its pages and laid out once, so that q·k and p·v are both a product of a small
// row-major matrix with a block kept in the near caches (product_float.h, product_amx.h). Softmax is online,
// in powers of two.
//
// A row's result does not depend on the rows beside it: each sum runs over the same blocks in the same order
// whatever the item, and masked positions add exact zeros.
#pragma once

#include "product_amx.h"
#include "product_float.h"
#include "scratch.h"

#include <cmath>
#include <optional>
#include <vector>

constexpr int kMaxRows = 128;  // of an item: enough to make the packing of a block cheap

// Query tokens of one item: as many as make kMaxRows rows.
inline int attention_tokens(int group) { return group < kMaxRows ? kMaxRows / group : 1; }

// q_stride and out_stride: elements from a token to the next.
struct AttentionArgs {
    const void *q, *k_cache, *v_cache;
    void* out;
    int64_t q_stride, out_stride;
    const int32_t *tables, *query_starts, *context_lens;
    int64_t table_stride;
    int batch, heads, kv_heads, dim, page_size, window;
    float scale, soft_cap;
};

template <typename T, typename Product>
class Attention {
    using Operand = typename Product::Operand;
    static constexpr int kBlock = Product::kBlock;

  public:
    explicit Attention(const AttentionArgs& a)
        : a_(a),
          group_(a.heads / a.kv_heads),
          tokens_(attention_tokens(group_)),
          width_(round_up(a.dim, Product::kStep)) {}

    // More than the largest item takes, with what alignment adds to each of its eight parts.
    size_t scratch_bytes() const {
        const size_t rows = round_up(tokens_ * group_, Product::kRowStep), blocks = 2 * kBlock;
        return sizeof(Operand) * (rows * (width_ + kBlock) + blocks * width_) +
               sizeof(float) * rows * (width_ + kBlock) + sizeof(T) * width_ + sizeof(Row) * rows + 8 * 64;
    }

    // Query tokens of a sequence with the heads of a kv head. They are at row.. of the step and at position.. of the
    // sequence, and see no more than what is at lowest … last; the first block they see of begins at begin.
    struct Item {
        int sequence, kv_head, tokens, row, position, lowest, last, begin;
    };

    // Query tokens first.. of sequence b, kv head h.
    Item item(int b, int h, int first) const {
        const int start = a_.query_starts[b], count = a_.query_starts[b + 1] - start;
        const int tokens = count - first < tokens_ ? count - first : tokens_;
        const int position = a_.context_lens[b] - count + first;
        const int lowest = a_.window && position >= a_.window ? position - a_.window + 1 : 0;
        return {b, h, tokens, start + first, position, lowest, position + tokens - 1, lowest / kBlock * kBlock};
    }

    // Computes an item. At its last block it asks next() for the one after it, fetches the first keys of that, and
    // in the end returns it.
    template <typename Next>
    std::optional<Item> run(const Item& item, Scratch& scratch, Next next) const {
        const int rows = item.tokens * group_, padded = round_up(rows, Product::kRowStep);

        scratch.reset();
        T* zeros = scratch.take<T>(width_);
        Operand* q = scratch.take<Operand>(padded * width_);
        Operand* keys = scratch.take<Operand>(kBlock * width_);
        Operand* values = scratch.take<Operand>(kBlock * width_);
        Operand* weights = scratch.take<Operand>(padded * kBlock);
        float* scores = scratch.take<float>(padded * kBlock);
        float* out = scratch.take<float>(padded * width_);
        Row* state = scratch.take<Row>(rows);
        memset(zeros, 0, sizeof(T) * width_);
        memset(out, 0, sizeof(float) * padded * width_);
        const T* q_rows[kLanes];
        for (int r = 0; r < rows; r++) {
            state[r] = Row{};
            const T* row = (const T*)a_.q + row_offset(a_.q_stride, item, r);
            if (r < kLanes) q_rows[r] = row;
            for (int d = 0; d < width_; d += kLanes) store(q + r * width_ + d, load(row + d, a_.dim - d));
        }
        const T *k_rows[kBlock], *v_rows[kBlock];
        const int lines = (a_.dim * int(sizeof(T)) + 63) / 64;  // of a row
        const bool few = rows <= Product::kFewRows && a_.dim == width_, tiles = keys_are_tiles(rows);
        if (tiles) {
            for (int r = rows; r < kLanes; r++) q_rows[r] = zeros;
            Product::pack_keys(q_rows, 0, a_.dim, width_, keys);
        }
        find_rows(a_.k_cache, item, item.begin, zeros, k_rows);
        std::optional<Item> after;
        // Pages lie anywhere, so the hardware foresees little: values are fetched while keys are used, the next
        // block's keys while values are.
        for (int base = item.begin; base <= item.last; base += kBlock) {
            const int here = find_rows(a_.v_cache, item, base, zeros, v_rows);
            RowsAhead<T> values_ahead = ahead(v_rows, here);
            if (few) {
                if constexpr (Product::kFewRows)
                    Product::score(rows, width_, q, k_rows, here, values_ahead, scores);
            } else if (tiles) {
                if constexpr (Product::kTiles)
                    for (int t = base; t < base + here; t += 2 * kLanes) {
                        values_ahead.fetch(2 * kLanes * lines);
                        const int second = t + kLanes <= item.last ? t + kLanes : t;
                        Product::score_tiles(a_.dim, token(a_.k_cache, item, t), token(a_.k_cache, item, second),
                                             keys, rows, scores + t - base);
                    }
            } else {
                for (int t = 0; t < here; t += kLanes) {
                    values_ahead.fetch(kLanes * lines);
                    Product::pack_keys(k_rows + t, t, a_.dim, width_, keys);
                }
                Product::multiply(rows, here, width_, q, width_, keys, kBlock, scores, kBlock, false);
            }
            int coming = 0;
            if (base + kBlock <= item.last) coming = find_rows(a_.k_cache, item, base + kBlock, zeros, k_rows);
            else if ((after = next())) coming = find_rows(a_.k_cache, *after, after->begin, zeros, k_rows);
            RowsAhead<T> keys_ahead = ahead(k_rows, coming);
            for (int r = 0; r < rows; r++)
                softmax(scores + r * kBlock, weights + r * kBlock, here, base, item.position + r / group_, state[r],
                        out + r * width_);
            if (few) {
                if constexpr (Product::kFewRows)
                    Product::weigh(rows, width_, weights, v_rows, here, keys_ahead, out);
            } else {
                for (int t = 0; t < here; t += kLanes) {
                    keys_ahead.fetch(kLanes * lines);
                    Product::pack_values(v_rows + t, t, a_.dim, width_, values);
                }
                Product::multiply(rows, width_, here, weights, kBlock, values, width_, out, width_, true);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int d = 0; d < a_.dim; d += kLanes)
                store((T*)a_.out + row_offset(a_.out_stride, item, r) + d,
                      load(out + r * width_ + d) / state[r].total, a_.dim - d);
        return after;
    }

  private:
    struct Row {
        float peak = -1e30f;  // finite: a row may see nothing of its item's first blocks
        float total = 0;
    };

    static int round_up(int n, int step) { return (n + step - 1) / step * step; }

    // One step of the online softmax, for the row that stands at position: turns its scores for the tokens
    // base.. into weights and rescales what the row has summed to the new maximum.
    void softmax(float* scores, Operand* weights, int tokens, int base, int position, Row& row, float* out) const {
        constexpr float kLog2e = 1.44269504f;
        const float scale = a_.scale * kLog2e;
        const int lowest = a_.window ? position - a_.window + 1 : 0;
        const bool masked = lowest > base || position < base + tokens - 1;
        f32v top = splat(row.peak);
        for (int t = 0; t < tokens; t += kLanes) {
            f32v s = load(scores + t) * scale;
            if (a_.soft_cap) s = a_.soft_cap * kLog2e * tanh_of_exp2(s * (2 / a_.soft_cap));
            if (masked) {
                i32v at = iota() + (base + t);
                s = select((at >= lowest) & (at <= position), s, splat(-INFINITY));
            }
            store(scores + t, s);
            top = maximum(s, top);
        }
        const float peak = max_lane(top);
        f32v sums = {};
        for (int t = 0; t < tokens; t += kLanes) {
            f32v p = exp2v(load(scores + t) - peak);
            store(weights + t, p);
            sums += p;
        }
        if (peak != row.peak) {
            const float shrink = exp2v(splat(row.peak - peak))[0];
            row = {peak, row.total * shrink};
            for (int d = 0; d < width_; d += kLanes) store(out + d, load(out + d) * shrink);
        }
        row.total += sum(sums);
    }

    // Where row r of an item, counted token by token and in them head by head, lies in q and out.
    size_t row_offset(int64_t stride, const Item& item, int r) const {
        return size_t(item.row + r / group_) * stride + (item.kv_head * group_ + r % group_) * a_.dim;
    }

    // Where the tokens of the item's block at base lie in a cache, up to the last one seen; zeros stand for those
    // no row of the item sees. Returns how many, padded.
    int find_rows(const void* cache, const Item& item, int base, const T* zeros, const T** rows) const {
        const int32_t* table = a_.tables + item.sequence * a_.table_stride;
        const int64_t head = int64_t(a_.page_size) * a_.dim;
        const int end = base + kBlock <= item.last ? base + kBlock : item.last + 1;
        const int tokens = round_up(end - base, Product::kStep);
        int seen = base > item.lowest ? base : item.lowest;
        for (int i = 0; i < seen - base; i++) rows[i] = zeros;
        while (seen < end) {
            const int offset = seen % a_.page_size;
            const T* page = (const T*)cache + (int64_t(table[seen / a_.page_size]) * a_.kv_heads + item.kv_head) * head;
            for (int o = offset; o < a_.page_size && seen < end; o++) rows[seen++ - base] = page + int64_t(o) * a_.dim;
        }
        for (; seen < base + tokens; seen++) rows[seen - base] = zeros;
        return tokens;
    }

    // Whether keys are tiles where they lie: sixteen tokens lie together, and no element is padding.
    bool keys_are_tiles(int rows) const {
        return Product::kTiles && rows <= kLanes && a_.dim == width_ && a_.page_size % kLanes == 0;
    }

    const T* token(const void* cache, const Item& item, int t) const {
        const int64_t page = a_.tables[item.sequence * a_.table_stride + t / a_.page_size];
        return (const T*)cache + ((page * a_.kv_heads + item.kv_head) * a_.page_size + t % a_.page_size) * a_.dim;
    }

    RowsAhead<T> ahead(const T* const* rows, int count) const { return {rows, rows + count, a_.dim}; }

    const AttentionArgs& a_;
    const int group_, tokens_, width_;
};

// A step's items: those of each sequence and of the sequences before it.
class AttentionItems {
  public:
    AttentionItems(const int32_t* query_starts, int batch, int heads, int kv_heads)
        : ends_(batch), tokens_(attention_tokens(heads / kv_heads)), kv_heads_(kv_heads) {
        int64_t items = 0;
        for (int b = 0; b < batch; b++)
            ends_[b] = items += int64_t(query_starts[b + 1] - query_starts[b] + tokens_ - 1) / tokens_ * kv_heads;
    }
    int64_t count() const { return ends_.empty() ? 0 : ends_.back(); }

    // The team's threads, each with a session of Product's, compute all items; ends in a barrier. They count in
    // taken, 0 before, what they have taken of them.
    template <typename T, typename Product>
    void attend(const AttentionArgs& args, int64_t& taken) const {
        thread_local Scratch scratch;
        const Attention<T, Product> attention(args);
        scratch.reserve(attention.scratch_bytes());
        // Chunks mostly stand after the decodes, and their last rows see most: the large items go first.
        int sequence = int(ends_.size()) - 1;
        using Item = typename Attention<T, Product>::Item;
        auto next = [&]() -> std::optional<Item> {
            int64_t before;
#pragma omp atomic capture
            before = taken++;
            const int64_t i = count() - 1 - before;
            if (i < 0) return {};
            while (sequence > 0 && i < ends_[sequence - 1]) sequence--;
            const int64_t within = sequence ? i - ends_[sequence - 1] : i;
            return attention.item(sequence, int(within % kv_heads_), int(within / kv_heads_) * tokens_);
        };
        for (std::optional<Item> item = next(); item;) item = attention.run(*item, scratch, next);
#pragma omp barrier
    }

  private:
    std::vector<int64_t> ends_;
    int tokens_, kv_heads_;
};
