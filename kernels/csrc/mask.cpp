// Packed masks of mask.py: token v is bit v % 32 of word v / 32.
#include <algorithm>
#include <cmath>
#include <cstdint>

// Adds -infinity to the logits whose bit is 0 in the row's mask; NaN stays NaN. chosen[r] is -1 for no mask.
extern "C" void hr_mask(float* logits, int64_t row_stride, const uint32_t* masks, int64_t words,
                        const int32_t* chosen, int64_t rows, int64_t vocab, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * vocab > 65536)
    for (int64_t r = 0; r < rows; r++) {
        if (chosen[r] < 0) continue;
        const uint32_t* mask = masks + chosen[r] * words;
        for (int64_t start = 0; start < vocab; start += 32) {
            const uint32_t bits = mask[start / 32];
            if (bits == ~0u) continue;
            float* x = logits + r * row_stride + start;
            const int count = (int)std::min<int64_t>(32, vocab - start);
#pragma omp simd
            for (int i = 0; i < count; i++) x[i] += bits >> i & 1 ? 0.0f : -INFINITY;
        }
    }
}
