// The products of attention.cpp in float32, for every element type and machine.
//
// A product backend names the type of its operands and the sizes it wants, lays out a block of keys and of
// values as right-hand operands, and multiplies. product_amx.h is the other one.
#pragma once

#include "vec.h"

struct FloatProduct {
    using Operand = float;
    static constexpr int kBlock = 64;      // tokens in a block: keys and values stay in the first-level cache
    static constexpr int kStep = kLanes;   // tokens and head elements are padded to multiples of this
    static constexpr int kRowStep = 1;     // rows of a left-hand operand likewise
    static constexpr bool kDirect = false;  // whether it has `score`

    // Held by a thread while it multiplies.
    struct Session {};

#if defined(__AVX512F__)
    static constexpr int kTileRows = 6, kTileVecs = 4;  // with a row of B and a broadcast: 29 of 32 registers
#elif defined(__aarch64__)
    static constexpr int kTileRows = 3, kTileVecs = 2;
#else
    static constexpr int kTileRows = 2, kTileVecs = 2;
#endif

    // Lays sixteen rows of dim elements out as the tokens from t of keys[width][kBlock].
    template <typename T>
    static void pack_keys(const T* const* rows, int t, int dim, int width, float* keys) {
        for (int d = 0; d < width; d += kLanes) {
            f32v x[kLanes];
            for (int i = 0; i < kLanes; i++) x[i] = load(rows[i] + d, dim - d);
            transpose(x);
            for (int i = 0; i < kLanes; i++) store(keys + (d + i) * kBlock + t, x[i]);
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
        int vecs = columns / kLanes;
        for (; vecs >= kTileVecs; vecs -= kTileVecs, b += kTileVecs * kLanes, c += kTileVecs * kLanes)
            tile_rows<kTileVecs>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
        if constexpr (kTileVecs > 2)
            if (vecs >= 2) {
                tile_rows<2>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
                vecs -= 2, b += 2 * kLanes, c += 2 * kLanes;
            }
        if (vecs) tile_rows<1>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

  private:
    template <int V, int R = kTileRows>
    static void tile_rows(int rows, int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                          bool accumulate) {
        for (; rows >= R; rows -= R, a += R * lda, c += R * ldc)
            tile<R, V>(depth, a, lda, b, ldb, c, ldc, accumulate);
        if constexpr (R > 1)
            if (rows) tile_rows<V, R - 1>(rows, depth, a, lda, b, ldb, c, ldc, accumulate);
    }

    template <int R, int V>
    static void tile(int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                     bool accumulate) {
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
};
