// The products of attention.cpp in float32, for every element type and machine.
//
// A product backend names the type of its operands and the sizes it wants, lays out a block of keys and of
// values as right-hand operands, and multiplies. product_amx.h is the other one.
#pragma once

#include "wide.h"

#include <type_traits>

struct FloatProduct {
    using Operand = float;
    static constexpr int kBlock = 64;      // tokens in a block: keys and values stay in the first-level cache
    static constexpr int kStep = 16;       // tokens and head elements are padded to multiples of this
    static constexpr int kRowStep = 1;     // rows of a left-hand operand likewise
    static constexpr bool kDirect = false;  // whether it has `score`

    // Held by a thread while it multiplies.
    struct Session {};

    // Tiles of so many rows and sixteens of columns; and those for no more rows than kFewRows.
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
        f32v x[kLanes];
        if constexpr (std::is_same_v<T, BF16> && 2 * kLanes == kStep) {
            // Two elements move as one lane.
            for (int d = 0; d < width; d += 2 * kLanes) {
                for (int i = 0; i < kLanes; i++) x[i] = load_pairs(rows[i] + d, dim - d);
                transpose(x);
                for (int i = 0; i < kLanes; i++) {
                    store(keys + (d + 2 * i) * kBlock + t, as_float(as_bits(x[i]) << 16));
                    store(keys + (d + 2 * i + 1) * kBlock + t, as_float(as_bits(x[i]) & 0xffff0000u));
                }
            }
        } else {
            for (int d = 0; d < width; d += kLanes) {
                for (int i = 0; i < kLanes; i++) x[i] = load(rows[i] + d, dim - d);
                transpose(x);
                for (int i = 0; i < kLanes; i++) store(keys + (d + i) * kBlock + t, x[i]);
            }
        }
    }

    // Likewise of values[kBlock][width].
    template <typename T>
    static void pack_values(const T* const* rows, int t, int dim, int width, float* values) {
        for (int i = 0; i < kLanes; i++)
            for (int d = 0; d < width; d += kLanes) store(values + (t + i) * width + d, load(rows[i] + d, dim - d));
    }

    // C[rows][columns] (+)= A[rows][depth] · B[depth][columns]; columns are a multiple of kStep. Each element
    // is summed in order of depth.
    static void multiply(int rows, int columns, int depth, const float* a, int lda, const float* b, int ldb,
                         float* c, int ldc, bool accumulate) {
        if (rows <= kFewRows)
            column_tiles<kFewRows, kFewColumns>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
        else column_tiles<kTileRows, kTileColumns>(rows, columns, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

  private:
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
            tile<R, V * kVecs>(depth, a, lda, b, ldb, c, ldc, accumulate);
        if constexpr (R > 1)
            if (rows) row_tiles<R - 1, V>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

    // R rows by V vectors.
    template <int R, int V>
    static void tile(int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                     bool accumulate) {
        f32w sums[R][V];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] = accumulate ? *(const f32w*)(c + r * ldc + v * kWide) : f32w{};
        for (int k = 0; k < depth; k++, b += ldb) {
            f32w row[V];
            for (int v = 0; v < V; v++) row[v] = *(const f32w*)(b + v * kWide);
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] += a[r * lda + k] * row[v];
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) *(f32w*)(c + r * ldc + v * kWide) = sums[r][v];
    }
};
