// A step of a bfloat16 decoder in one call: all layers by one team of threads.
//
// Between operations there is only a barrier of the team: no dispatch, no allocation; meanwhile each thread fetches its
// share of the next weights (gemm.h). Biases, residual additions and the gated activation are done at the end of the
// products before them. In the last layer, only what kept rows need is computed: those that get logits, or whose hidden
// states are wanted.
//
// Rounding is that of the same operations one by one, except for the gate and up projections, which stay float32. With
// int8 weights, the inputs of every product are rounded to bytes too, each row separately.
#include "attention.h"
#include "block_amx.h"
#include "block_avx512.h"
#include "block_plain.h"
#include "gemm.h"
#include "lora.h"
#include "norm.h"
#include "rope_cache.h"
#include "silu.h"

// These three mirror compiled.py.
struct DecoderLayer {
    const BF16 *input_norm, *mlp_norm, *q_norm, *k_norm;  // the last two may be null
    Linear qkv, output, gate_up, down;
    BF16 *keys, *values;
    int64_t window;
};

struct DecoderModel {
    const DecoderLayer* layers;
    const BF16 *embedding, *norm;
    const float* cos_sin;
    Linear head;
    int64_t num_layers, max_positions, num_slots;
    int heads, kv_heads, dim, page_size;
    float eps, scale;
    int products;  // at most hr_best_products()
};

struct DecoderStep {
    const int64_t *token_ids, *positions, *slots, *kept;  // kept: ascending; null for all rows
    const int32_t *query_starts, *context_lens, *tables;
    float* logits;  // of the first sampled_rows of the kept ones
    BF16* hidden;   // of the other kept ones, after the final norm
    int64_t rows, kept_rows, sampled_rows, batch, table_stride;
    const LoraMap* const* adapters;  // of each row: its maps, four a layer; null if no row has one
    float *inner, *added;            // [rows, kLoraInner] and [rows, added_stride], if there are adapters
    int64_t added_stride;
};

namespace {

// Where the rows of each kind begin. Operands of products have whole blocks of rows, and one more cache line per row,
// because strides of powers of two would all fall into the same sets of a cache.
struct Buffers {
    BF16 *residual, *x, *qkv, *attended, *gated;
    char* converted;  // the next product's inputs, if it doesn't take bfloat16
    float* scales;
    int hidden, qkv_width, attended_width, gated_width, converted_bytes;
    int64_t size;

    Buffers(const DecoderModel& m, int64_t rows, char* base, int step_bytes) {
        const Linear& qkv_w = m.layers[0].qkv;
        const Linear& down = m.layers[0].down;
        const int64_t padded = (rows + kPanel - 1) / kPanel * kPanel;
        hidden = qkv_w.in + 32;
        qkv_width = qkv_w.out + 32;
        attended_width = m.heads * m.dim + 32;
        gated_width = down.in + 32;
        int widest = m.layers[0].output.steps();
        for (int steps : {qkv_w.steps(), down.steps()}) widest = steps > widest ? steps : widest;
        converted_bytes = step_bytes ? widest * step_bytes + 64 : 0;
        size = 0;
        auto take = [&](auto*& part, int width) {
            part = (std::remove_reference_t<decltype(part)>)(base + size);
            size += (padded * width * int64_t(sizeof *part) + 63) / 64 * 64;
        };
        take(residual, hidden);
        take(x, hidden);
        take(qkv, qkv_width);
        take(attended, attended_width);
        take(gated, gated_width);
        take(converted, converted_bytes);
        take(scales, 1);
    }
};

template <typename Block, typename Product>
class Forward {
  public:
    Forward(const DecoderModel& m, const DecoderStep& s, char* scratch, int threads)
        : m_(m),
          s_(s),
          b_(m, s.rows, scratch, step_bytes()),
          items_(s.query_starts, int(s.batch), m.heads, m.kv_heads, m.dim, threads),
          taken_(m.num_layers),
          threads_(threads) {}

    // Bytes of a row that a product takes at once, if it doesn't take bfloat16.
    static constexpr int step_bytes() {
        return Block::kConverts ? Block::kStepInputs * int(sizeof(typename Block::Input)) : 0;
    }

    void run() {
#pragma omp parallel num_threads(threads_)
        {
            [[maybe_unused]] typename Block::Session session;
            team();
        }
    }

  private:
    void team() {
        embed();
        for (int64_t l = 0; l < m_.num_layers; l++) {
            const DecoderLayer& layer = m_.layers[l];
            const bool last = l + 1 == m_.num_layers;
            const Operand x = normalise(s_.rows, layer.input_norm);
            const Share<Block, 2> gate_up(layer.gate_up, last ? s_.kept_rows : s_.rows);
            const Share<Block> output(layer.output, last ? s_.kept_rows : s_.rows);
            const Share<Block> down(layer.down, last ? s_.kept_rows : s_.rows);
            const Share<Block> next(last ? m_.head : m_.layers[l + 1].qkv, last ? s_.kept_rows : s_.rows);
            const Added to_qkv = adapt(4 * l, layer.qkv, b_.x, b_.hidden, s_.rows, nullptr);
            Share<Block>(layer.qkv, s_.rows).run(x, output.begin(), [&](auto... block) {
                store_block(layer.qkv, to_qkv, b_.qkv, b_.qkv_width, block...);
            });
            rotate(layer);
            if (last && !s_.kept_rows) return;
            attend(layer, taken_[l]);
            if (last && s_.kept) keep_rows();
            const int64_t rows = last ? s_.kept_rows : s_.rows;
            const int64_t* kept = last ? s_.kept : nullptr;
            const Added to_output = adapt(4 * l + 1, layer.output, b_.attended, b_.attended_width, rows, kept);
            output.run(operand(rows, layer.output, b_.attended, b_.attended_width), gate_up.begin(),
                       [&](auto... block) { add_block(layer.output, to_output, block...); });
            const Operand normalised = normalise(rows, layer.mlp_norm);
            const Added to_gate_up = adapt(4 * l + 2, layer.gate_up, b_.x, b_.hidden, rows, kept);
            gate_up.run(normalised, down.begin(), [&](auto... block) {
                gate_block(layer.gate_up, to_gate_up, block...);
            });
            const Added to_down = adapt(4 * l + 3, layer.down, b_.gated, b_.gated_width, rows, kept);
            down.run(operand(rows, layer.down, b_.gated, b_.gated_width), next.begin(),
                     [&](auto... block) { add_block(layer.down, to_down, block...); });
        }
        const Operand x = normalise(s_.kept_rows, m_.norm);
#pragma omp for
        for (int64_t r = s_.sampled_rows; r < s_.kept_rows; r++)
            memcpy(s_.hidden + (r - s_.sampled_rows) * hidden(), b_.x + r * b_.hidden, hidden() * sizeof(BF16));
        if (!s_.sampled_rows) return;
        Share<Block>(m_.head, s_.sampled_rows).run(x, nullptr, [&](auto... block) {
            store_block(m_.head, Added{}, s_.logits, m_.head.out, block...);
        });
    }

    int hidden() const { return m_.head.in; }

    // What the rows' adapters add to product w of x.
    Added adapt(int64_t map, const Linear& w, const BF16* x, int width, int64_t rows, const int64_t* kept) const {
        if (!s_.adapters) return {};
        const Added added = {s_.added, s_.added_stride, s_.adapters, kept, int(map)};
        lora_rows(added, s_.inner, x, width, w.in, w.out, rows);
        return added;
    }

    void embed() const {
#pragma omp for
        for (int64_t r = 0; r < s_.rows; r++)
            memcpy(b_.residual + r * b_.hidden, m_.embedding + s_.token_ids[r] * hidden(), hidden() * sizeof(BF16));
    }

    // The normalised rows in the form that the next product takes.
    Operand normalise(int64_t rows, const BF16* weight) const {
#pragma omp for
        for (int64_t r = 0; r < rows; r++) {
            BF16* x = b_.x + r * b_.hidden;
            norm_row<BF16>(b_.residual + r * b_.hidden, nullptr, weight, x, hidden(), m_.eps);
            if constexpr (Block::kConverts) convert_row(r, x, m_.head);
        }
        return Block::kConverts ? converted() : Operand{(const char*)b_.x, b_.hidden * 2, nullptr};
    }

    // Rows that threads have written in parts, in the form that product w takes.
    Operand operand(int64_t rows, const Linear& w, const BF16* x, int width) const {
        if constexpr (Block::kConverts) {
#pragma omp for
            for (int64_t r = 0; r < rows; r++) convert_row(r, x + r * width, w);
            return converted();
        }
        return {(const char*)x, width * 2, nullptr};
    }

    Operand converted() const { return {b_.converted, b_.converted_bytes, b_.scales}; }

    void convert_row(int64_t r, const BF16* x, const Linear& w) const {
        auto* row = (typename Block::Input*)(b_.converted + r * b_.converted_bytes);
        b_.scales[r] = Block::convert_row(x, w.in, w.steps(), row);
    }

    void rotate(const DecoderLayer& layer) const {
        const Heads heads = {m_.heads, m_.kv_heads, m_.dim, m_.page_size, m_.eps};
#pragma omp for
        for (int64_t r = 0; r < s_.rows; r++) {
            BF16* qkv = b_.qkv + r * b_.qkv_width;
            rope_and_cache(qkv, m_.cos_sin + s_.positions[r] * m_.dim, s_.slots[r], layer.q_norm, layer.k_norm, qkv,
                           layer.keys, layer.values, heads);
        }
    }

    void attend(const DecoderLayer& layer, int64_t& taken) const {
        items_.attend({b_.qkv, layer.keys, layer.values, b_.attended, b_.qkv_width, b_.attended_width, s_.tables,
                       s_.query_starts, s_.context_lens, s_.table_stride, int(s_.batch), m_.heads, m_.kv_heads,
                       m_.dim, m_.page_size, int(layer.window), m_.scale, 0.0f},
                      taken);
    }

    void keep_rows() const {
#pragma omp single
        // In place and upwards: kept rows ascend, so what is overwritten has been moved already or is not kept.
        for (int64_t r = 0; r < s_.kept_rows; r++) {
            const int64_t from = s_.kept[r];
            memmove(b_.residual + r * b_.hidden, b_.residual + from * b_.hidden, hidden() * sizeof(BF16));
            memmove(b_.attended + r * b_.attended_width, b_.attended + from * b_.attended_width,
                    (b_.attended_width - 32) * sizeof(BF16));
        }
    }

    using Sums = typename Block::Sum[kPanel * kPanel];

    template <typename T>
    void store_block(const Linear& w, const Added& added, T* y, int64_t stride, int64_t row, int rows, int column,
                     const Sums* c) const {
        each_run(w, b_.scales, row, rows, column, c[0], [&](int64_t r, int n, int width, f32v result) {
            store(y + r * stride + n, with_added(added, r, n, width, result), width);
        });
    }

    void add_block(const Linear& w, const Added& added, int64_t row, int rows, int column, const Sums* c) const {
        each_run(w, b_.scales, row, rows, column, c[0], [&](int64_t r, int n, int width, f32v result) {
            BF16* residual = b_.residual + r * b_.hidden + n;
            // Rounded twice, as the product and the addition each round when they are operations of their own.
            const f32v product = with_added(added, r, n, width, result);
            store(residual, rounded<BF16>(product) + load(residual, width), width);
        });
    }

    void gate_block(const Linear& w, const Added& added, int64_t row, int rows, int column, const Sums* c) const {
        const int half = w.out / 2;
        for (int v = 0; v < kPanel; v += kLanes) {
            const Epilogue gate(w, column + v), up(w, half + column + v);
            for (int r = 0; r < rows; r++) {
                const float* scale = b_.scales + row + r;
                const f32v g = with_added(added, row + r, column + v, kLanes, gate(c[0] + r * kPanel + v, scale));
                const f32v u = with_added(added, row + r, half + column + v, kLanes, up(c[1] + r * kPanel + v, scale));
                store(b_.gated + (row + r) * b_.gated_width + column + v, silu(g) * u);
            }
        }
    }

    const DecoderModel& m_;
    const DecoderStep& s_;
    const Buffers b_;
    const AttentionItems<BF16, Product> items_;
    std::vector<int64_t> taken_;  // of each layer's items
    const int threads_;
};

}  // namespace

// How this machine multiplies: 2 with AMX, 1 with AVX-512's products, 0 with plain vectors.
extern "C" int64_t hr_best_products() {
#if defined(HR_HAS_AMX)
    if (amx_usable()) return 2;
#endif
#if defined(HR_HAS_AVX512_PRODUCTS)
    return 1;
#endif
    return 0;
}

// Calls fn with a null pointer to the Forward of these products and weights.
template <typename Fn>
static auto with_forward(const DecoderModel& m, Fn fn) {
#if defined(HR_HAS_AMX)
    if (m.products == 2)
        return m.head.scales ? fn((Forward<AmxBlock<true>, AmxProduct>*)nullptr)
                             : fn((Forward<AmxBlock<false>, AmxProduct>*)nullptr);
#endif
#if defined(HR_HAS_AVX512_PRODUCTS)
    if (m.products == 1)
        return m.head.scales ? fn((Forward<Avx512Block<true>, FloatProduct>*)nullptr)
                             : fn((Forward<Avx512Block<false>, FloatProduct>*)nullptr);
#endif
    return m.head.scales ? fn((Forward<PlainBlock<true>, FloatProduct>*)nullptr)
                         : fn((Forward<PlainBlock<false>, FloatProduct>*)nullptr);
}

extern "C" int64_t hr_decoder_scratch_bytes(const DecoderModel* m, int64_t rows) {
    return with_forward(*m, [&](auto* forward) {
        return Buffers(*m, rows, nullptr, std::remove_pointer_t<decltype(forward)>::step_bytes()).size;
    });
}

// Computes the step. Returns the first token whose position or slot is outside its table, in which case nothing is
// written; -1 if all is well.
extern "C" int64_t hr_decoder_forward(const DecoderModel* m, const DecoderStep* s, char* scratch, int threads) {
    for (int64_t t = 0; t < s->rows; t++)
        if (s->positions[t] < 0 || s->positions[t] >= m->max_positions || s->slots[t] < 0 ||
            s->slots[t] >= m->num_slots)
            return t;
    with_forward(*m, [&](auto* forward) { std::remove_pointer_t<decltype(forward)>(*m, *s, scratch, threads).run(); });
    return -1;
}
