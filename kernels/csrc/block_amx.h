// Blocks computed with AMX tiles.
#pragma once

#include "amx.h"
#include "panels.h"

#if defined(HR_HAS_AMX)
// c[32][32] = this many rows, at most 32, of an operand times a panel.
template <bool Bytes>
struct AmxBlock {
    using Session = AmxSession;
    using Sum = Sums<Bytes>;
    using Input = std::conditional_t<Bytes, uint8_t, BF16>;
    static constexpr bool kConverts = Bytes;
    static constexpr int kStepInputs = kStep / int(sizeof(Input));
    // Every fourth line triggers the hardware's own prefetching; fetching all lines would only fill its queue. Measured
    // on one AMX core: 1.1 times as fast.
    static constexpr int kFetched = 4;
    static int passes(int) { return 1; }

    static float convert_row(const BF16* x, int in, int steps, uint8_t* y) {
        return quantize_row(x, in, steps, y, [](i32v whole) { return whole; });
    }

    static void multiply(int rows, int steps, const char* a, int64_t stride, const char* b, Sum* c,
                         Prefetch& prefetch) {
        if (rows > 16) micro_kernel<2>(steps, a, stride, b, c, prefetch);
        else micro_kernel<1>(steps, a, stride, b, c, prefetch);
    }

  private:
    template <int R>
    static void micro_kernel(int steps, const char* a, int64_t stride, const char* b, Sum* c, Prefetch& prefetch) {
        _tile_zero(0);
        _tile_zero(1);
        if constexpr (R == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
        const char* second = b + steps * kTile;
        for (int k = 0; k < steps; k++, a += kStep, b += kTile, second += kTile) {
            _tile_loadd(6, b, 64);
            _tile_loadd(7, second, 64);
            _tile_loadd(4, a, stride);
            if constexpr (Bytes) {
                _tile_dpbusd(0, 4, 6);
                _tile_dpbusd(1, 4, 7);
            } else {
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (R == 2) {
                _tile_loadd(5, a + 16 * stride, stride);
                if constexpr (Bytes) {
                    _tile_dpbusd(2, 5, 6);
                    _tile_dpbusd(3, 5, 7);
                } else {
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
            }
            prefetch.step();
        }
        _tile_stored(0, c, kPanel * 4);
        _tile_stored(1, c + 16, kPanel * 4);
        if constexpr (R == 2) {
            _tile_stored(2, c + 16 * kPanel, kPanel * 4);
            _tile_stored(3, c + 16 * kPanel + 16, kPanel * 4);
        }
    }
};
#endif
