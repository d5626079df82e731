// Blocks computed with the float and integer products that every processor has.
//
// Weights are converted to floats, or to 16-bit words, in registers, for a few rows at once: reading them unconverted
// takes half the memory's time, and the conversion hides behind the products. The rows are converted to floats or
// words beforehand, once.
#pragma once

#include "panels.h"
#include "micro_kernel_avx2.h"
#include "wide.h"

// c[32][32] = this many rows, at most 32, of an operand times a panel.
template <bool Bytes>
struct PlainBlock {
    struct Session {};
    using Sum = Sums<Bytes>;
    using Input = std::conditional_t<Bytes, int16_t, float>;
    static constexpr bool kConverts = true;
    static constexpr int kStepInputs = Bytes ? 64 : 32, kFetched = 1;

    static float convert_row(const BF16* x, int in, int steps, Input* y) {
        if constexpr (Bytes) {
            // The even ones of four inputs come first, as in `weights`.
            return quantize_row(x, in, steps, y, evens_first);
        } else {
            for (int i = 0; i < in; i += kLanes) store(y + i, load(x + i));
            return 1;
        }
    }

    static int passes(int rows) { return rows <= kBothRows ? 1 : (rows + kRows - 1) / kRows * 2; }

    static void multiply(int rows, int steps, const char* a, int64_t stride, const char* b, Sum* c,
                         Prefetch& prefetch) {
        for (int left = (rows + kRows - 1) / kRows; left; left--) {
            const int n = (rows + left - 1) / left;
            some_rows<kRows>(n, steps, (const Input*)a, stride / sizeof(Input), b, c, prefetch);
            rows -= n, a += n * stride, c += n * kPanel;
        }
    }

  private:
    typedef Sum Vector __attribute__((vector_size(4 * kWide)));
    // For a tile of 16 outputs, and for both tiles of a panel at once.
#if defined(HR_HAS_AVX2_MICRO_KERNEL)
    static constexpr int kRows = 6;
#else
    static constexpr int kRows = (Bytes ? kSums * 2 / 3 : kSums) / kVecs;
#endif
    static constexpr int kBothRows = kSums / 3 / kVecs;

    template <int R>
    static void some_rows(int rows, int steps, const Input* a, int64_t stride, const char* b, Sum* c,
                          Prefetch& prefetch) {
        if constexpr (R > 1)
            if (rows < R) return some_rows<R - 1>(rows, steps, a, stride, b, c, prefetch);
        if constexpr (R <= kBothRows) {
            micro_kernel<R, 2>(steps, a, stride, b, c, prefetch);
        } else {
            micro_kernel<R, 1>(steps, a, stride, b, c, prefetch);
            micro_kernel<R, 1>(steps, a, stride, b + steps * kTile, c + 16, prefetch);
        }
    }

    // R rows by T tiles of 16 outputs. If it were inlined, it would share registers with its caller.
    template <int R, int T>
    __attribute__((noinline)) static void micro_kernel(int steps, const Input* a, int64_t stride, const char* b, Sum* c,
                                                       Prefetch& prefetch) {
#if defined(HR_HAS_AVX2_MICRO_KERNEL)
        if constexpr (T == 1)
            return avx2_micro_kernel<R>(steps, (const char*)a, stride * sizeof(Input), b, c, prefetch);
#endif
        Vector sums[R][T * kVecs] = {};
        const int half = steps * kTile;
        for (int k = 0; k < steps; k++, a += kStepInputs, b += kTile) {
            for (int group = 0; group < 16; group++)
                add<R, T>(sums, a + group * (kStepInputs / 16), stride, b + 64 * group, half);
            prefetch.step();
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < T * kVecs; v++) memcpy(c + r * kPanel + v * kWide, &sums[r][v], sizeof(Vector));
    }

    // The products of each output's four bytes of weights, which begin at b.
    template <int R, int T>
    HR_INLINE void add(Vector (&sums)[R][T * kVecs], const Input* a, int64_t stride, const char* b, int half) {
        for (int part = 0; part < kParts; part++) {
            Vector w[T * kVecs];
            for (int v = 0; v < T * kVecs; v++)
                w[v] = weights(*(const u32w*)(b + v / kVecs * half + v % kVecs * 4 * kWide), part);
            for (int r = 0; r < R; r++) {
                const Vector x = inputs(a + r * stride, part);
                for (int v = 0; v < T * kVecs; v++) sums[r][v] = added(sums[r][v], x, w[v]);
            }
        }
    }

    // Four bytes are two bfloat16 or, as bytes, two pairs if words are multiplied in pairs, otherwise four words.
#if defined(__AVX2__)
    static constexpr int kParts = 2;
#else
    static constexpr int kParts = Bytes ? 4 : 2;
#endif

    HR_INLINE Vector weights(u32w four, int part) {
        if constexpr (!Bytes) return (Vector)(part ? four & 0xffff0000u : four << 16);
        else if constexpr (kParts == 2) return (Vector)((part ? (i16w)four : (i16w)four << 8) >> 8);
        else return (Vector)(four << (part == 0 ? 24 : part == 1 ? 8 : part == 2 ? 16 : 0)) >> 24;
    }

    HR_INLINE Vector inputs(const Input* a, int part) {
        if constexpr (Bytes && kParts == 2) {
            int32_t pair;
            memcpy(&pair, a + 2 * part, 4);
            return Vector{} + pair;
        } else {
            return Sum(a[part]) - Vector{};  // what is added to zero could be -0
        }
    }

    // Compilers may add integers in any order, and would in one that spills registers.
    HR_INLINE Vector added(Vector sums, Vector x, Vector w) {
#if defined(__AVX512BW__)
        if constexpr (Bytes) return kept(sums + (Vector)_mm512_madd_epi16((__m512i)x, (__m512i)w));
#elif defined(__AVX2__)
        if constexpr (Bytes) return kept(sums + (Vector)_mm256_madd_epi16((__m256i)x, (__m256i)w));
#endif
        return sums + x * w;
    }
};
