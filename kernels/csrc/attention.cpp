// Paged attention for CPUs. One code path for every row: a decode is a block of few rows, a prompt chunk one
// of many.
//
// A work item is a run of query tokens of one sequence with all query heads of one kv head; its rows share
// every key and value. Keys are taken in blocks of kBlock tokens at multiples of kBlock from position 0:
// a block is widened to float32 once, keys transposed, so that q·k and p·v are both a product of a small
// row-major matrix with a block kept in the near caches. Softmax is online, in powers of two.
//
// A row's result does not depend on the rows beside it: each sum runs over the same blocks in the same order
// whatever the item, and masked positions add exact zeros.
#include "vec.h"

#include <cmath>
#include <cstdlib>
#include <new>
#include <vector>

namespace {

constexpr int kBlock = 64;     // tokens
constexpr int kMaxRows = 128;  // of an item: enough to make the widening and transposing of a block cheap
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVecs = 4;  // accumulators, a row of B and one broadcast fill 32 registers
#elif defined(__aarch64__)
constexpr int kTileRows = 3, kTileVecs = 2;
#else
constexpr int kTileRows = 2, kTileVecs = 2;
#endif

struct Args {
    const void *q, *k_cache, *v_cache;
    void* out;
    const int32_t *tables, *query_starts, *context_lens;
    int64_t table_stride;
    int batch, heads, kv_heads, dim, page_size, window;
    float scale, soft_cap;
};

// Memory that a thread keeps between calls; it only grows.
class Scratch {
  public:
    ~Scratch() { free(data_); }
    float* get(size_t floats) {
        if (floats > size_) {
            free(data_);
            size_ = (floats + 1023) / 1024 * 1024;
            data_ = (float*)aligned_alloc(64, size_ * sizeof(float));
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }

  private:
    float* data_ = nullptr;
    size_t size_ = 0;
};

// C[R][16 V] (+)= A[R][depth] · B[depth][16 V].
template <int R, int V>
void tile(const float* a, int lda, const float* b, int ldb, float* c, int ldc, int depth, bool accumulate) {
    f32v sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = accumulate ? load(c + r * ldc + v * kLanes) : f32v{};
    for (int k = 0; k < depth; k++, b += ldb) {
        f32v row[V];
        for (int v = 0; v < V; v++) row[v] = load(b + v * kLanes);
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] += a[r * lda + k] * row[v];
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * ldc + v * kLanes, sums[r][v]);
}

template <int V, int R = kTileRows>
void tile_rows(int rows, const float* a, int lda, const float* b, int ldb, float* c, int ldc, int depth,
               bool accumulate) {
    for (; rows >= R; rows -= R, a += R * lda, c += R * ldc) tile<R, V>(a, lda, b, ldb, c, ldc, depth, accumulate);
    if constexpr (R > 1)
        if (rows) tile_rows<V, R - 1>(rows, a, lda, b, ldb, c, ldc, depth, accumulate);
}

// C[rows][16 vecs] (+)= A[rows][depth] · B[depth][16 vecs]. Each element is summed in order of depth.
void multiply(int rows, int vecs, const float* a, int lda, const float* b, int ldb, float* c, int ldc, int depth,
              bool accumulate) {
    for (; vecs >= kTileVecs; vecs -= kTileVecs, b += kTileVecs * kLanes, c += kTileVecs * kLanes)
        tile_rows<kTileVecs>(rows, a, lda, b, ldb, c, ldc, depth, accumulate);
    if constexpr (kTileVecs > 2)
        if (vecs >= 2) {
            tile_rows<2>(rows, a, lda, b, ldb, c, ldc, depth, accumulate);
            vecs -= 2, b += 2 * kLanes, c += 2 * kLanes;
        }
    if (vecs) tile_rows<1>(rows, a, lda, b, ldb, c, ldc, depth, accumulate);
}

// Four perfect shuffles of sixteen rows of sixteen lanes are a transposition.
HR_INLINE void transpose(f32v* x) {
    for (int round = 0; round < 4; round++) {
        f32v y[kLanes];
        for (int i = 0; i < kLanes / 2; i++) {
            f32v a = x[i], b = x[i + kLanes / 2];
            y[2 * i] = HR_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            y[2 * i + 1] = HR_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < kLanes; i++) x[i] = y[i];
    }
}

// keys[d][token] from rows of T, for 16 vecs tokens.
template <typename T>
void widen_keys(const T* const* rows, int vecs, int dim, float* keys) {
    for (int v = 0; v < vecs; v++)
        for (int d = 0; d < dim; d += kLanes) {
            f32v x[kLanes];
            for (int i = 0; i < kLanes; i++) x[i] = load(rows[v * kLanes + i] + d, dim - d);
            transpose(x);
            const int n = dim - d < kLanes ? dim - d : kLanes;
            for (int i = 0; i < n; i++) store(keys + (d + i) * kBlock + v * kLanes, x[i]);
        }
}

template <typename T>
void widen_values(const T* const* rows, int tokens, int dim, int width, float* values) {
    for (int t = 0; t < tokens; t++)
        for (int d = 0; d < dim; d += kLanes) store(values + t * width + d, load(rows[t] + d, dim - d));
}

// One step of the online softmax over a row's scores for tokens base.. of a block. Turns scores into weights,
// rescales the row's sums to the new maximum.
HR_INLINE void softmax_row(float* scores, int vecs, int base, int lowest, int highest, float soft_cap,
                           float& peak, float& total, float* out, int width) {
    const bool masked = lowest > base || highest < base + vecs * kLanes - 1;
    f32v top = splat(peak);
    for (int v = 0; v < vecs; v++) {
        f32v s = load(scores + v * kLanes);
        if (soft_cap) s = soft_cap * tanh_of_exp2(s);
        if (masked) {
            i32v position = iota() + (base + v * kLanes);
            s = select((position >= lowest) & (position <= highest), s, splat(-INFINITY));
        }
        store(scores + v * kLanes, s);
        top = maximum(s, top);
    }
    const float new_peak = max_lane(top);
    f32v sums = {};
    for (int v = 0; v < vecs; v++) {
        f32v p = exp2v(load(scores + v * kLanes) - new_peak);
        store(scores + v * kLanes, p);
        sums += p;
    }
    if (new_peak != peak) {
        const float shrink = exp2v(splat(peak - new_peak))[0];
        total *= shrink;
        for (int d = 0; d < width; d += kLanes) store(out + d, load(out + d) * shrink);
        peak = new_peak;
    }
    total += sum(sums);
}

template <typename T>
class Attention {
  public:
    explicit Attention(const Args& a)
        : a_(a),
          group_(a.heads / a.kv_heads),
          tokens_(group_ < kMaxRows ? kMaxRows / group_ : 1),
          width_((a.dim + kLanes - 1) / kLanes * kLanes) {}

    // Query tokens of one item: as many as make kMaxRows rows.
    int tokens_per_item() const { return tokens_; }

    // Query tokens first.. of sequence b, kv head h.
    void item(int b, int h, int first, Scratch& scratch) const {
        const int start = a_.query_starts[b], count = a_.query_starts[b + 1] - start;
        const int tokens = count - first < tokens_ ? count - first : tokens_;
        const int rows = tokens * group_;
        const int position = a_.context_lens[b] - count + first;
        const int last = position + tokens - 1;
        const int lowest = a_.window && position >= a_.window ? position - a_.window + 1 : 0;

        float* zeros = scratch.get(size_t(width_) * (2 * kBlock + 2 * rows + 1) + size_t(rows) * (kBlock + 2));
        float *keys = zeros + width_, *values = keys + width_ * kBlock, *q = values + width_ * kBlock;
        float *out = q + width_ * rows, *scores = out + width_ * rows, *peak = scores + kBlock * rows;
        float* total = peak + rows;
        memset(zeros, 0, width_ * sizeof(float));
        memset(out, 0, sizeof(float) * width_ * rows);
        memset(total, 0, sizeof(float) * rows);
        for (int r = 0; r < rows; r++) peak[r] = -1e30f;  // finite: a row may see nothing of its first blocks
        load_queries(start + first, tokens, h, q);

        const float cap = a_.soft_cap * 1.44269504f;
        for (int base = lowest / kBlock * kBlock; base <= last; base += kBlock) {
            const int here = last - base + 1 < kBlock ? last - base + 1 : kBlock;
            const int vecs = (here + kLanes - 1) / kLanes;
            const T *k_rows[kBlock], *v_rows[kBlock];
            find_rows(b, h, base, lowest, last, (const T*)zeros, k_rows, v_rows);
            widen_keys(k_rows, vecs, a_.dim, keys);
            widen_values(v_rows, here, a_.dim, width_, values);
            multiply(rows, vecs, q, width_, keys, kBlock, scores, kBlock, a_.dim, false);
            for (int r = 0; r < rows; r++) {
                const int at = position + r / group_;
                softmax_row(scores + r * kBlock, vecs, base, a_.window ? at - a_.window + 1 : 0, at, cap, peak[r],
                            total[r], out + r * width_, width_);
            }
            multiply(rows, width_ / kLanes, scores, kBlock, values, width_, out, width_, here, true);
        }
        for (int r = 0; r < rows; r++) {
            T* to = (T*)a_.out + row_offset(start + first, h, r);
            for (int d = 0; d < a_.dim; d += kLanes)
                store(to + d, load(out + r * width_ + d) / total[r], a_.dim - d);
        }
    }

  private:
    // Where row r of an item, counted token by token and in them head by head, lies in q and out.
    size_t row_offset(int first, int h, int r) const {
        return (size_t(first + r / group_) * a_.heads + h * group_ + r % group_) * a_.dim;
    }

    // Scores are wanted in units of log2, so that the softmax is of powers of two.
    void load_queries(int first, int tokens, int h, float* q) const {
        const float scale = a_.scale * 1.44269504f * (a_.soft_cap ? 2 / a_.soft_cap : 1);
        for (int r = 0; r < tokens * group_; r++) {
            const T* from = (const T*)a_.q + row_offset(first, h, r);
            for (int d = 0; d < a_.dim; d += kLanes)
                store(q + r * width_ + d, load(from + d, a_.dim - d) * scale);
        }
    }

    // The rows of the tokens base.. in the caches; zeros stand for those no row of the item sees.
    void find_rows(int b, int h, int base, int lowest, int last, const T* zeros, const T** k, const T** v) const {
        const int32_t* table = a_.tables + b * a_.table_stride;
        const size_t page_rows = size_t(a_.kv_heads) * a_.page_size;
        for (int i = 0; i < kBlock; i++) {
            const int token = base + i;
            k[i] = v[i] = zeros;
            if (token < lowest || token > last) continue;
            size_t row = table[token / a_.page_size] * page_rows + h * a_.page_size + token % a_.page_size;
            k[i] = (const T*)a_.k_cache + row * a_.dim;
            v[i] = (const T*)a_.v_cache + row * a_.dim;
        }
    }

    const Args& a_;
    const int group_, tokens_, width_;
};

}  // namespace

// Shapes as in attention.py.
extern "C" void hr_paged_attention(const void* q, const void* k_cache, const void* v_cache, void* out,
                                   const int32_t* tables, int64_t table_stride, const int32_t* query_starts,
                                   const int32_t* context_lens, int batch, int heads, int kv_heads, int dim,
                                   int page_size, int window, float scale, float soft_cap, int dtype,
                                   int threads) {
    const Args args = {q,     k_cache,  v_cache, out,       tables, query_starts, context_lens, table_stride,
                       batch, heads, kv_heads, dim, page_size, window, scale, soft_cap};
    with_dtype(dtype, [&](auto element) {
        const Attention<decltype(element)> attention(args);
        const int step = attention.tokens_per_item();
        thread_local std::vector<int64_t> ends;  // items up to and with each sequence
        ends.resize(batch);
        int64_t items = 0;
        for (int b = 0; b < batch; b++)
            ends[b] = items += (query_starts[b + 1] - query_starts[b] + step - 1) / step * kv_heads;
        const int64_t* const end = ends.data();
        // Chunks stand after the decodes and end with their longest contexts: the large items go first.
#pragma omp parallel num_threads(threads) if (items > 1)
        {
            thread_local Scratch scratch;
            int b = batch - 1;
#pragma omp for schedule(dynamic)
            for (int64_t i = items - 1; i >= 0; i--) {
                while (b > 0 && i < end[b - 1]) b--;
                const int64_t within = b ? i - end[b - 1] : i;
                attention.item(b, int(within % kv_heads), int(within / kv_heads) * step, scratch);
            }
        }
    });
}
