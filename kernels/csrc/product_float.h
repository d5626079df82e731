// The products of attention.cpp in float32, for every element type and machine.
//
// A product backend names the type of its operands and the sizes it needs, lays out a block of keys and of values as
// right-hand operands, and multiplies. For few rows it may instead read keys, or both, in place. product_amx.h is the
// other backend.
#pragma once

#include "token_prefetch.h"
#include "wide.h"

#include <type_traits>

struct FloatProduct {
    using Operand = float;
    static constexpr int kBlock = 64;      // tokens per block, so that keys and values stay in the near caches
    static constexpr int kStep = 16;       // tokens and head elements are padded to multiples of this
    static constexpr int kRowStep = 1;     // and rows of a left-hand operand to multiples of this
    static constexpr bool kTiles = false;  // whether keys of whole pages are operands in place

    // Held by a thread while it multiplies.
    struct Session {};

    // The rows and sixteens of columns of a tile; and of one with few rows, which `score` and `weigh` take.
#if defined(__AVX512BW__)
    static constexpr int kTileRows = 6, kTileColumns = 4, kFewRows = 6, kFewColumns = 4;
#elif defined(__aarch64__)
    static constexpr int kTileRows = 3, kTileColumns = 2, kFewRows = 3, kFewColumns = 2;
#elif defined(__AVX2__)
    static constexpr int kTileRows = 6, kTileColumns = 1, kFewRows = 3, kFewColumns = 2;
#else
    static constexpr int kTileRows = 3, kTileColumns = 1, kFewRows = 3, kFewColumns = 1;
#endif
    static_assert(kTileRows * kTileColumns * kVecs <= kSums && kFewRows * kFewColumns * kVecs <= kSums);

    // Lays kLanes rows of dim elements out as the tokens from t of keys[width][kBlock].
    template <typename T>
    static void pack_keys(const T* const* rows, int t, int dim, int width, float* keys) {
        for (int d = 0; d < width; d += kTurned<T>)
            turned(rows, d, dim, [&](int i, f32v x) { store(keys + (d + i) * kBlock + t, x); });
    }

    // The same for values[kBlock][width].
    template <typename T>
    static void pack_values(const T* const* rows, int t, int dim, int width, float* values) {
        for (int i = 0; i < kLanes; i++)
            for (int d = 0; d < width; d += kLanes) store(values + (t + i) * width + d, load(rows[i] + d, dim - d));
    }

    // C[rows][columns] (+)= A[rows][depth] · B[depth][columns]; columns are a multiple of kStep. Each element
    // is summed in order of depth.
    static void multiply(int rows, int columns, int depth, const float* a, int lda, const float* b, int ldb,
                         float* c, int ldc, bool accumulate) {
        column_tiles<kTileRows, kTileColumns>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

    // The two products for up to kFewRows rows, with keys and values of dim elements in place; tokens and dim are
    // multiples of kStep. scores[r][kBlock] = q[r][dim] · keys[token][dim], and out[r][dim] +=
    // weights[r][kBlock] · values[token][dim]; sums run in the same order as in `multiply`.
    template <typename T>
    static void score(int rows, int dim, const float* q, const T* const* keys, int tokens,
                      TokenPrefetch<T>& prefetch, float* scores) {
        with_rows<kFewRows>(rows, [&](auto r) { score_rows<r(), 2 * kStep>(dim, q, keys, tokens, prefetch, scores); });
    }
    template <typename T>
    static void weigh(int rows, int dim, const float* weights, const T* const* values, int tokens,
                      TokenPrefetch<T>& prefetch, float* out) {
        with_rows<kFewRows>(rows, [&](auto r) {
            weigh_rows<r(), kFewColumns * kStep>(dim, weights, values, tokens, prefetch, out);
        });
    }

  private:
    // Number of elements of keys that `turned` transposes at once.
    template <typename T>
    static constexpr int kTurned = std::is_same_v<T, BF16> && 2 * kLanes == kStep ? kStep : kLanes;

    // Calls fn(i, x) for i < kTurned, where x is element d + i of kLanes rows.
    template <typename T, typename Fn>
    HR_INLINE void turned(const T* const* rows, int d, int dim, Fn fn) {
        f32v x[kLanes];
        if constexpr (kTurned<T> > kLanes) {
            // Two elements move as one lane.
            for (int i = 0; i < kLanes; i++) x[i] = load_pairs(rows[i] + d, dim - d);
            transpose(x);
            for (int i = 0; i < kLanes; i++) {
                fn(2 * i, as_float(as_bits(x[i]) << 16));
                fn(2 * i + 1, as_float(as_bits(x[i]) & 0xffff0000u));
            }
        } else {
            for (int i = 0; i < kLanes; i++) x[i] = load(rows[i] + d, dim - d);
            transpose(x);
            for (int i = 0; i < kLanes; i++) fn(i, x[i]);
        }
    }

    template <int R, typename Fn>
    static void with_rows(int rows, Fn fn) {
        if constexpr (R > 1)
            if (rows < R) return with_rows<R - 1>(rows, fn);
        fn(std::integral_constant<int, R>{});
    }

    // This many tokens at once; some elements of their keys are transposed and multiplied before the next ones, with
    // enough sums that none has to be waited for.
    template <int R, int Tokens, typename T>
    static void score_rows(int dim, const float* q, const T* const* keys, int tokens,
                           TokenPrefetch<T>& prefetch, float* scores, int t = 0) {
        constexpr int V = Tokens > kStep && (R + 1) * 2 * kVecs < kSums + 4 ? 2 : 1;  // what registers hold
        alignas(64) float part[kTurned<T> * Tokens];
        for (; t + Tokens <= tokens; t += Tokens)
            for (int d = 0; d < dim; d += kTurned<T>) {
                prefetch.fetch(kTurned<T> * Tokens * sizeof(T) / 64);
                for (int g = 0; g < Tokens; g += kLanes)
                    turned(keys + t + g, d, d + kTurned<T>, [&](int i, f32v x) { store(part + i * Tokens + g, x); });
                for (int n = 0; n < Tokens; n += V * kStep)
                    micro_kernel<R, V * kVecs>(kTurned<T>, q + d, dim, part + n, Tokens, scores + t + n, kBlock, d > 0);
            }
        if constexpr (Tokens > kStep)
            if (t < tokens) score_rows<R, Tokens / 2>(dim, q, keys, tokens, prefetch, scores, t);
    }

    // This many columns at once.
    template <int R, int Columns, typename T>
    static void weigh_rows(int dim, const float* weights, const T* const* values, int tokens,
                           TokenPrefetch<T>& prefetch, float* out, int d = 0) {
        constexpr int V = Columns / kLanes;
        for (; d + Columns <= dim; d += Columns) {
            f32v sums[R][V];
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] = load(out + r * dim + d + v * kLanes);
            for (int t = 0; t < tokens; t++) {
                if (t * Columns * sizeof(T) % 64 == 0) prefetch.fetch((Columns * sizeof(T) + 63) / 64);
                for (int v = 0; v < V; v++) {
                    const f32v x = load(values[t] + d + v * kLanes);
                    for (int r = 0; r < R; r++) sums[r][v] += weights[r * kBlock + t] * x;
                }
            }
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) store(out + r * dim + d + v * kLanes, sums[r][v]);
        }
        if constexpr (Columns > kStep)
            if (d < dim) weigh_rows<R, Columns / 2>(dim, weights, values, tokens, prefetch, out, d);
    }

    static f32v load_pairs(const BF16* p, int n) {
        if (n >= 2 * kLanes) return load((const float*)p);
        BF16 whole[2 * kLanes] = {};
        if (n > 0) memcpy(whole, p, n * sizeof(BF16));
        return load((const float*)whole);
    }

    template <int R, int V>
    static void column_tiles(int rows, int columns, int depth, const float* a, int lda, const float* b, int ldb,
                             float* c, int ldc, bool accumulate) {
        for (; columns >= V * kStep; columns -= V * kStep, b += V * kStep, c += V * kStep)
            row_tiles<R, V>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
        if constexpr (V > 1)
            if (columns) column_tiles<R, V / 2>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

    template <int R, int V>
    static void row_tiles(int rows, int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                          bool accumulate) {
        for (; rows >= R; rows -= R, a += R * lda, c += R * ldc)
            micro_kernel<R, V * kVecs>(depth, a, lda, b, ldb, c, ldc, accumulate);
        if constexpr (R > 1)
            if (rows) row_tiles<R - 1, V>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

    // R rows by V vectors.
    template <int R, int V>
    static void micro_kernel(int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                             bool accumulate) {
        f32w sums[R][V];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] = accumulate ? *(const f32w*)(c + r * ldc + v * kWide) : f32w{};
        for (int k = 0; k < depth; k++, b += ldb) {
            f32w row[V];
            for (int v = 0; v < V; v++) row[v] = kept(*(const f32w*)(b + v * kWide));  // loaded once for all rows
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] += a[r * lda + k] * row[v];
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) *(f32w*)(c + r * ldc + v * kWide) = sums[r][v];
    }
};
