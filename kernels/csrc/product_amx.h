// The products of attention.cpp on AMX tiles: bfloat16 operands, float32 sums.
//
// A tile is 16 rows of 64 bytes. The right-hand operand has pairs along the depth side by side: element (k, n) is at
// row k / 2, pair n, half k % 2. Weights are rounded to bfloat16 for p·v, as in every bfloat16 attention.
#pragma once

#include "amx.h"
#include "vec.h"

#if defined(HR_HAS_AMX)
struct AmxProduct {
    using Operand = BF16;
    static constexpr int kBlock = 128;
    static constexpr int kStep = 32;
    static constexpr int kRowStep = 16;
    static constexpr bool kTiles = true;
    static constexpr int kFewRows = 0;

    using Session = AmxSession;

    // Pairs of head elements are transposed as 32-bit lanes.
    static void pack_keys(const BF16* const* rows, int t, int dim, int width, BF16* keys) {
        for (int d = 0; d < width; d += kStep) {
            f32v x[kLanes];
            for (int i = 0; i < kLanes; i++) x[i] = load_pairs(rows[i] + d, dim - d);
            transpose(x);
            for (int i = 0; i < kLanes; i++) store((float*)keys + (d / 2 + i) * kBlock + t, x[i]);
        }
    }

    static void pack_values(const BF16* const* rows, int t, int dim, int width, BF16* values) {
        for (int i = 0; i < kLanes; i += 2)
            for (int d = 0; d < width; d += kStep) {
                const __m512i even = (__m512i)load_pairs(rows[i] + d, dim - d);
                const __m512i odd = (__m512i)load_pairs(rows[i + 1] + d, dim - d);
                const __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
                const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
                const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
                float* to = (float*)values + (t + i) / 2 * width + d;
                store(to, (f32v)_mm512_permutex2var_epi64(low, first, high));
                store(to + kLanes, (f32v)_mm512_permutex2var_epi64(low, second, high));
            }
    }

    // The scores of twice sixteen tokens, whose keys of dim elements are consecutive: scores[r][token].
    // q is a block of up to sixteen keys, packed.
    static void score_tiles(int dim, const BF16* first, const BF16* second, const BF16* q, int rows, float* scores) {
        _tile_zero(0);
        _tile_zero(1);
        for (int d = 0; d < dim; d += kStep) {
            _tile_loadd(6, q + d * kBlock, kBlock * 4);
            _tile_loadd(4, first + d, dim * 2);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, second + d, dim * 2);
            _tile_dpbf16ps(1, 5, 6);
        }
        alignas(64) f32v x[2][kLanes];
        _tile_stored(0, x[0], 64);
        _tile_stored(1, x[1], 64);
        for (int half = 0; half < 2; half++) {
            transpose(x[half]);
            for (int r = 0; r < rows; r++) store(scores + r * kBlock + half * kLanes, x[half][r]);
        }
    }

    // C[rows][columns] (+)= A[rows][depth] · B[depth][columns]: rows in sixteens, the others in thirty-twos.
    // Strides count elements; ldb is a row of pairs.
    static void multiply(int rows, int columns, int depth, const BF16* a, int lda, const BF16* b, int ldb, float* c,
                         int ldc, bool accumulate) {
        for (int r = 0; r < rows; r += 32)
            for (int n = 0; n < columns; n += 32) {
                const BF16* at = a + r * lda;
                const BF16* bt = b + 2 * n;
                float* ct = c + r * ldc + n;
                if (rows - r > 16) micro_kernel<2>(depth, at, lda, bt, ldb, ct, ldc, accumulate);
                else micro_kernel<1>(depth, at, lda, bt, ldb, ct, ldc, accumulate);
            }
    }

  private:
    static f32v load_pairs(const BF16* p, int n) {
        if (n >= kStep) return load((const float*)p);
        BF16 whole[kStep] = {};
        if (n > 0) memcpy(whole, p, n * sizeof(BF16));
        return load((const float*)whole);
    }

    // R x 2 tiles of C: 0, 1 above 2, 3; A in 4, 5; B in 6, 7.
    template <int R>
    static void micro_kernel(int depth, const BF16* a, int lda, const BF16* b, int ldb, float* c, int ldc,
                             bool accumulate) {
        const int a_bytes = lda * 2, b_bytes = ldb * 4, c_bytes = ldc * 4;
        float* below = c + 16 * ldc;
        if (accumulate) {
            _tile_loadd(0, c, c_bytes);
            _tile_loadd(1, c + 16, c_bytes);
            if constexpr (R == 2) {
                _tile_loadd(2, below, c_bytes);
                _tile_loadd(3, below + 16, c_bytes);
            }
        } else {
            _tile_zero(0);
            _tile_zero(1);
            if constexpr (R == 2) {
                _tile_zero(2);
                _tile_zero(3);
            }
        }
        for (int k = 0; k < depth; k += kStep, a += kStep, b += kStep * ldb) {
            _tile_loadd(4, a, a_bytes);
            _tile_loadd(6, b, b_bytes);
            _tile_loadd(7, b + 32, b_bytes);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            if constexpr (R == 2) {
                _tile_loadd(5, a + 16 * lda, a_bytes);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        _tile_stored(0, c, c_bytes);
        _tile_stored(1, c + 16, c_bytes);
        if constexpr (R == 2) {
            _tile_stored(2, below, c_bytes);
            _tile_stored(3, below + 16, c_bytes);
        }
    }
};
#endif
