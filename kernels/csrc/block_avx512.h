// Blocks computed with AVX-512's products of bfloat16 and of bytes.
#pragma once

#include "panels.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define HR_HAS_AVX512_PRODUCTS 1

// c[32][32] = this many rows, at most 32, of an operand times a panel.
template <bool Bytes>
struct Avx512Block {
    struct Session {};
    using Sum = Sums<Bytes>;
    using Input = std::conditional_t<Bytes, uint8_t, BF16>;
    static constexpr bool kConverts = Bytes;
    static constexpr int kStepInputs = kStep / int(sizeof(Input));
    static constexpr int kFetched = 1;
    static int passes(int) { return 1; }

    static float convert_row(const BF16* x, int in, int steps, uint8_t* y) {
        return quantize_row(x, in, steps, y, [](i32v whole) { return whole; });
    }

    static void multiply(int rows, int steps, const char* a, int64_t stride, const char* b, Sum* c,
                         Prefetch& prefetch) {
        constexpr int R = 8;
        for (int r = 0; r < rows; r += R, a += R * stride, c += R * kPanel) {
            const int n = rows - r;
            if (n > 4) micro_kernel<8>(steps, a, stride, b, c, prefetch);
            else if (n > 2) micro_kernel<4>(steps, a, stride, b, c, prefetch);
            else if (n > 1) micro_kernel<2>(steps, a, stride, b, c, prefetch);
            else micro_kernel<1>(steps, a, stride, b, c, prefetch);
            // The first pass has fetched the next panel; the others only compute.
            prefetch.lines = 0;
        }
    }

  private:
    template <int R>
    static void micro_kernel(int steps, const char* a, int64_t stride, const char* b, Sum* c, Prefetch& prefetch) {
        __m512i sums[R][2] = {};
        const int half = steps * kTile;
        for (int k = 0; k < steps; k++, b += kTile) {
            for (int four = 0; four < kStep; four += 4) {
                const __m512i left = _mm512_loadu_si512(b + 16 * four);
                const __m512i right = _mm512_loadu_si512(b + half + 16 * four);
                for (int r = 0; r < R; r++) {
                    int inputs;
                    memcpy(&inputs, a + r * stride + k * kStep + four, 4);
                    const __m512i x = _mm512_set1_epi32(inputs);
                    sums[r][0] = added(sums[r][0], x, left);
                    sums[r][1] = added(sums[r][1], x, right);
                }
            }
            prefetch.step();
        }
        for (int r = 0; r < R; r++) {
            _mm512_storeu_si512(c + r * kPanel, sums[r][0]);
            _mm512_storeu_si512(c + r * kPanel + 16, sums[r][1]);
        }
    }

    static __m512i added(__m512i sums, __m512i x, __m512i weights) {
        if constexpr (Bytes) return _mm512_dpbusd_epi32(sums, x, weights);
        else return (__m512i)_mm512_dpbf16_ps((__m512)sums, (__m512bh)x, (__m512bh)weights);
    }
};
#endif
