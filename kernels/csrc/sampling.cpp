// The hash and the noise of noise.py, computed on the fly, without an array [B, V] of either.
#include "vec.h"

#include <cmath>

namespace {

uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCDu;
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53u;
    return x ^ (x >> 33);
}

HR_INLINE u32v mix32(u32v x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

HR_INLINE f32v gumbel(u32v id, uint64_t key) {
    u32v bits = mix32(mix32(id ^ (uint32_t)key) + (uint32_t)(key >> 32));
    // bits + 1/2 as float with a single rounding, as noise.py gets it by way of double: the two halves are exact,
    // and only their sum is rounded.
    f32v high = __builtin_convertvector((i32v)(bits >> 16), f32v) * 65536.0f;
    f32v low = __builtin_convertvector((i32v)(bits & 0xffff), f32v) + 0.5f;
    f32v u = (high + low) * 0x1p-32f;
    u = select(u > 1 - 0x1p-24f, splat(1 - 0x1p-24f), u);
    f32v rest = 1.0f - u;
    f32v lost = (1.0f - rest) - u;  // what the subtraction rounded away: u may be far below 1's last place
    return -logv(-(logv(rest) + lost / rest));
}

// The lowest id among the largest of load(logits + v) + noise(ids); -1 if any of them is NaN or +infinity, or all are
// -infinity, because nothing can be chosen then. NaN counts as +infinity, so the largest one tells.
template <typename Noise>
HR_INLINE int64_t best_id(const float* logits, int64_t vocab, Noise noise) {
    f32v best = splat(-INFINITY);
    i32v best_id = {};
    for (int64_t v = 0; v < vocab; v += kLanes) {
        i32v id = iota() + (int32_t)v;
        f32v value = load(logits + v, vocab - v < kLanes ? int(vocab - v) : kLanes) + noise((u32v)id);
        value = select(value == value, value, splat(INFINITY));
        i32v better = (value > best) & (id < (int32_t)vocab);
        best = select(better, value, best);
        best_id = (i32v)select(better, (u32v)id, (u32v)best_id);
    }
    // Each lane has kept its first best, so ids only have to be compared between lanes.
    int winner = 0;
    for (int lane = 1; lane < kLanes; lane++)
        if (best[lane] > best[winner] || (best[lane] == best[winner] && best_id[lane] < best_id[winner]))
            winner = lane;
    return std::isfinite(best[winner]) ? best_id[winner] : -1;
}

}  // namespace

// out[b] = argmax of row b's logits + noise; the lowest id among equals, -1 where there is none.
extern "C" void hr_gumbel_argmax(const float* logits, int64_t row_stride, const int64_t* seeds,
                                 const int64_t* positions, int64_t* out, int64_t rows, int64_t vocab,
                                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (rows * vocab > 16384)
    for (int64_t r = 0; r < rows; r++) {
        uint64_t key = mix64(mix64((uint64_t)seeds[r] + 0x9E3779B97F4A7C15u) ^ (uint64_t)positions[r]);
        out[r] = best_id(logits + r * row_stride, vocab, [&](u32v id) { return gumbel(id, key); });
    }
}

// out[b] = argmax of row b's logits; the lowest id among equals, -1 where there is none.
extern "C" void hr_argmax(const float* logits, int64_t row_stride, int64_t* out, int64_t rows, int64_t vocab,
                          int threads) {
#pragma omp parallel for num_threads(threads) if (rows * vocab > 65536)
    for (int64_t r = 0; r < rows; r++)
        out[r] = best_id(logits + r * row_stride, vocab, [](u32v) { return f32v{}; });
}
