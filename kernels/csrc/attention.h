// Paged attention for CPUs. All rows take one code path: a decode is a block of few rows, a prompt chunk one of
// many.
//
// A work item is a run of query tokens of one sequence with all query heads of one kv head; its rows share
// every key and value. Keys are taken in blocks of kBlock tokens at multiples of kBlock from position 0: a
// block is gathered from its pages and laid out once, so that q·k and p·v are both a product of a small
// row-major matrix with a block kept in the near caches (product_float.h, product_amx.h). Softmax is online,
// in powers of two.
//
// With few rows, memory is the bottleneck, so products read keys and values in place. An item then has several kv
// heads: those of a page are adjacent, and memory delivers long runs faster than short ones.
//
// A row's result does not depend on the rows beside it: in every item, each sum runs over the same blocks in the
// same order, and masked positions add exact zeros.
#pragma once

#include "product_amx.h"
#include "product_float.h"
#include "scratch.h"
#include "token_prefetch.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

constexpr int kMaxRows = 128;  // per item: enough to make packing a block cheap

// Keys per block of an item with several kv heads: with as many values and the next keys, they stay in a core's own
// cache. And the number of items needed to share them evenly.
constexpr int kTogetherBytes = 128 << 10, kItemsPerThread = 8;

// Query tokens per item: as many as make kMaxRows rows.
inline int attention_tokens(int group) { return group < kMaxRows ? kMaxRows / group : 1; }

// q_stride and out_stride: elements from one token to the next.
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

    // Whether this many query rows of a kv head read its keys and values in place.
    static bool few(int rows, int dim) { return rows <= Product::kFewRows && dim % Product::kStep == 0; }

    // More than the largest item needs, including what alignment adds to each of its eight parts.
    size_t scratch_bytes() const {
        const size_t most = std::max(tokens_ * group_, Product::kFewRows * a_.kv_heads);
        const size_t rows = round_up(int(most), Product::kRowStep), blocks = 2 * kBlock;
        return sizeof(Operand) * (rows * (width_ + kBlock) + blocks * width_) +
               sizeof(float) * rows * (width_ + kBlock) + sizeof(T) * width_ + sizeof(Row) * rows + 8 * 64;
    }

    // Query tokens of a sequence with the query heads of some kv heads (of one, unless rows are few). They start at
    // `row` of the step and at `position` of the sequence, and see at most positions lowest … last; the first block
    // that they see begins at `begin`.
    struct Item {
        int sequence, kv_head, kv_heads, tokens, row, position, lowest, last, begin;
    };

    // Query tokens of sequence b from `first` on, with this many kv heads from h on.
    // An example: 8 query heads share a kv head, so an item has 16 tokens; 40 tokens of a prompt, with 100 of it in the
    // cache before them, are items of 16, 16 and 8. The second is at positions 116 to 131; with a window of 64 its
    // first row sees from 53 on, and its first block begins at 0.
    Item item(int b, int h, int kv_heads, int first) const {
        const int start = a_.query_starts[b], count = a_.query_starts[b + 1] - start;
        const int tokens = count - first < tokens_ ? count - first : tokens_;
        const int position = a_.context_lens[b] - count + first;
        const int lowest = a_.window && position >= a_.window ? position - a_.window + 1 : 0;
        const int last = position + tokens - 1;
        return {b, h, kv_heads, tokens, start + first, position, lowest, last, lowest / kBlock * kBlock};
    }

    // Computes an item. At its last block it asks next() for the following item, fetches the first keys of that, and
    // finally returns it.
    template <typename Next>
    std::optional<Item> run(const Item& item, Scratch& scratch, Next next) const {
        const Space space = begin(item, scratch);
        std::optional<Item> after;
        // Pages may be anywhere, so the hardware can't predict much: values are fetched while keys are used, and the
        // next block's keys while values are.
        for (int base = item.begin; base <= item.last; base += kBlock) {
            TokenPrefetch<T> values = prefetch(a_.v_cache, item, base), keys;
            for (int h = 0; h < item.kv_heads; h++) score(item, h, base, space, values);
            if (base + kBlock <= item.last) keys = prefetch(a_.k_cache, item, base + kBlock);
            // The last block: the next item's first keys are on their way while this one's values are weighed.
            else if ((after = next())) keys = prefetch(a_.k_cache, *after, after->begin);
            for (int h = 0; h < item.kv_heads; h++) weigh(item, h, base, space, keys);
        }
        each_row(item, [&](int r, int64_t token, int head) {
            T* row = (T*)a_.out + token * a_.out_stride + head * a_.dim;
            for (int d = 0; d < a_.dim; d += kLanes)
                store(row + d, load(space.out + r * width_ + d) / space.state[r].total, a_.dim - d);
        });
        return after;
    }

  private:
    struct Row {
        float peak = -1e30f;  // finite: a row may see nothing of its item's first blocks
        float total = 0;
    };

    // What an item needs: for each row the query, the weights of a block, its sums and its state; the scores of a kv
    // head's rows; and a block that has been laid out.
    struct Space {
        T* zeros;
        Operand *q, *keys, *values, *weights;
        float *scores, *out;
        Row* state;
    };

    static int round_up(int n, int step) { return (n + step - 1) / step * step; }

    int rows(const Item& item) const { return item.tokens * group_; }  // per kv head

    // Whether keys are tiles in place: sixteen tokens are adjacent, and no element is padding.
    bool keys_are_tiles(const Item& item) const {
        return Product::kTiles && rows(item) <= kLanes && a_.dim == width_ && a_.page_size % kLanes == 0;
    }

    Space begin(const Item& item, Scratch& scratch) const {
        const int all = round_up(rows(item) * item.kv_heads, Product::kRowStep);
        scratch.reset();
        Space space;
        space.zeros = scratch.take<T>(width_);
        space.q = scratch.take<Operand>(all * width_);
        space.keys = scratch.take<Operand>(kBlock * width_);
        space.values = scratch.take<Operand>(kBlock * width_);
        space.weights = scratch.take<Operand>(all * kBlock);
        space.scores = scratch.take<float>(round_up(rows(item), Product::kRowStep) * kBlock);
        space.out = scratch.take<float>(all * width_);
        space.state = scratch.take<Row>(all);
        memset(space.zeros, 0, sizeof(T) * width_);
        memset(space.out, 0, sizeof(float) * all * width_);
        const T* queries[kLanes];
        std::fill_n(queries, kLanes, space.zeros);
        each_row(item, [&](int r, int64_t token, int head) {
            space.state[r] = Row{};
            const T* row = (const T*)a_.q + token * a_.q_stride + head * a_.dim;
            if (r < kLanes) queries[r] = row;
            for (int d = 0; d < width_; d += kLanes) store(space.q + r * width_ + d, load(row + d, a_.dim - d));
        });
        if (keys_are_tiles(item)) Product::pack_keys(queries, 0, a_.dim, width_, space.keys);
        return space;
    }

    // The weights of the block at base for the rows of the item's kv head h.
    void score(const Item& item, int h, int base, const Space& space, TokenPrefetch<T>& prefetch) const {
        const T* found[kBlock];
        const int tokens = find_rows(a_.k_cache, item, h, base, space.zeros, found), rows = this->rows(item);
        const Operand* q = space.q + h * rows * width_;
        float* scores = space.scores;
        if (few(rows, a_.dim)) {
            if constexpr (Product::kFewRows) Product::score(rows, width_, q, found, tokens, prefetch, scores);
        } else if (keys_are_tiles(item)) {
            if constexpr (Product::kTiles)
                for (int t = base; t < base + tokens; t += 2 * kLanes) {
                    prefetch.fetch(2 * kLanes * lines());
                    const int second = t + kLanes <= item.last ? t + kLanes : t;
                    Product::score_tiles(a_.dim, token(a_.k_cache, item, h, t), token(a_.k_cache, item, h, second),
                                         space.keys, rows, scores + t - base);
                }
        } else {
            for (int t = 0; t < tokens; t += kLanes) {
                prefetch.fetch(kLanes * lines());
                Product::pack_keys(found + t, t, a_.dim, width_, space.keys);
            }
            Product::multiply(rows, tokens, width_, q, width_, space.keys, kBlock, scores, kBlock, false);
        }
        for (int r = 0; r < rows; r++) {
            const int i = h * rows + r;
            softmax(scores + r * kBlock, space.weights + i * kBlock, tokens, base, item.position + r / group_,
                    space.state[i], space.out + i * width_);
        }
    }

    // Adds its values with these weights.
    void weigh(const Item& item, int h, int base, const Space& space, TokenPrefetch<T>& prefetch) const {
        const T* found[kBlock];
        const int tokens = find_rows(a_.v_cache, item, h, base, space.zeros, found), rows = this->rows(item);
        const Operand* weights = space.weights + h * rows * kBlock;
        float* out = space.out + h * rows * width_;
        if (few(rows, a_.dim)) {
            if constexpr (Product::kFewRows) Product::weigh(rows, width_, weights, found, tokens, prefetch, out);
        } else {
            for (int t = 0; t < tokens; t += kLanes) {
                prefetch.fetch(kLanes * lines());
                Product::pack_values(found + t, t, a_.dim, width_, space.values);
            }
            Product::multiply(rows, width_, tokens, weights, kBlock, space.values, width_, out, width_, true);
        }
    }

    int lines() const { return (a_.dim * int(sizeof(T)) + 63) / 64; }  // per token and head

    // One step of the online softmax for the row at `position`: turns its scores for the tokens from base on into
    // weights, and rescales the row's sums to the new maximum.
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

    // Calls fn(r, token, head) for an item's rows, ordered by kv head, then token, then head.
    template <typename Fn>
    void each_row(const Item& item, Fn fn) const {
        int r = 0;
        for (int h = item.kv_head; h < item.kv_head + item.kv_heads; h++)
            for (int token = item.row; token < item.row + item.tokens; token++)
                for (int i = 0; i < group_; i++) fn(r++, int64_t(token), h * group_ + i);
    }

    // Where the tokens of the item's block at base are in a cache, for its kv head h, up to the last one seen; zeros
    // replace those that no row of the item sees. Returns how many there are, padded.
    int find_rows(const void* cache, const Item& item, int h, int base, const T* zeros, const T** rows) const {
        const int end = base + kBlock <= item.last ? base + kBlock : item.last + 1;
        const int tokens = round_up(end - base, Product::kStep);
        int seen = base > item.lowest ? base : item.lowest;
        for (int i = 0; i < seen - base; i++) rows[i] = zeros;
        while (seen < end) {
            const T* row = token(cache, item, h, seen);
            const int left = a_.page_size - seen % a_.page_size;
            for (int i = 0; i < left && seen < end; i++, row += a_.dim) rows[seen++ - base] = row;
        }
        for (; seen < base + tokens; seen++) rows[seen - base] = zeros;
        return tokens;
    }

    const int32_t* table(const Item& item) const { return a_.tables + item.sequence * a_.table_stride; }
    int64_t head_size() const { return int64_t(a_.page_size) * a_.dim; }
    int64_t page_size() const { return a_.kv_heads * head_size(); }

    // The elements of kv head h of the item for the token at position t.
    const T* token(const void* cache, const Item& item, int h, int t) const {
        return (const T*)cache + table(item)[t / a_.page_size] * page_size() + (item.kv_head + h) * head_size() +
               int64_t(t % a_.page_size) * a_.dim;
    }

    // The part of the block at base that the item sees.
    TokenPrefetch<T> prefetch(const void* cache, const Item& item, int base) const {
        return {(const T*)cache + item.kv_head * head_size(), table(item), std::max(base, item.lowest),
                std::min(base + kBlock, item.last + 1), item.kv_heads, a_.dim, a_.page_size, page_size(), head_size()};
    }

    const AttentionArgs& a_;
    const int group_, tokens_, width_;
};

// A step's items: the number of each sequence's and of those before it.
template <typename T, typename Product>
class AttentionItems {
  public:
    AttentionItems(const int32_t* query_starts, int batch, int heads, int kv_heads, int dim, int threads)
        : query_starts_(query_starts), ends_(batch), group_(heads / kv_heads), kv_heads_(kv_heads), dim_(dim) {
        const int block_bytes = Product::kBlock * dim * int(sizeof(T));
        together_ = std::clamp(kTogetherBytes / block_bytes, 1, kv_heads);
        int few = 0;
        for (int b = 0; b < batch; b++) few += is_few(b);
        while (together_ > 1 && few * parts(together_) < kItemsPerThread * threads) together_ /= 2;
        int64_t items = 0;
        for (int b = 0; b < batch; b++) {
            const int runs = (rows(b) + attention_tokens(group_) - 1) / attention_tokens(group_);
            ends_[b] = items += int64_t(runs) * parts(is_few(b) ? together_ : 1);
        }
    }
    int64_t count() const { return ends_.empty() ? 0 : ends_.back(); }

    // The team's threads, each with a session of Product, compute all items; ends with a barrier. They count the items
    // that they have taken in `taken`, which starts at 0.
    void attend(const AttentionArgs& args, int64_t& taken) const {
        thread_local Scratch scratch;
        const Attention<T, Product> attention(args);
        scratch.reserve(attention.scratch_bytes());
        // Chunks usually come after the decodes, and their last rows see the most, so the large items go first.
        int sequence = int(ends_.size()) - 1;
        using Item = typename Attention<T, Product>::Item;
        auto next = [&]() -> std::optional<Item> {
            int64_t before;
#pragma omp atomic capture
            before = taken++;
            const int64_t i = count() - 1 - before;
            if (i < 0) return {};
            while (sequence > 0 && i < ends_[sequence - 1]) sequence--;
            const int within = int(sequence ? i - ends_[sequence - 1] : i);
            const int together = is_few(sequence) ? together_ : 1, h = within % parts(together) * together;
            return attention.item(sequence, h, std::min(together, kv_heads_ - h),
                                  within / parts(together) * attention_tokens(group_));
        };
        for (std::optional<Item> item = next(); item;) item = attention.run(*item, scratch, next);
#pragma omp barrier
    }

  private:
    int rows(int b) const { return query_starts_[b + 1] - query_starts_[b]; }
    bool is_few(int b) const { return rows(b) && Attention<T, Product>::few(rows(b) * group_, dim_); }
    int parts(int together) const { return (kv_heads_ + together - 1) / together; }

    const int32_t* query_starts_;
    std::vector<int64_t> ends_;
    int group_, kv_heads_, dim_, together_;
};
