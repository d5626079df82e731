// Low-rank additions to products: to a row's outputs, B · A · x of the row's own adapter.
//
// They are computed before the product and added where its sums are finished, in float32. The work is small beside the
// product's: 1.6 % of it for rank 16 and maps of 2,048 by 2,048. A row's sums run in the same order whatever the other
// rows are.
#pragma once

#include "vec.h"

#include <cstring>

constexpr int kLoraParts = 3;
constexpr int kLoraRank = 64;
constexpr int kLoraInner = kLoraParts * kLoraRank;

// What an adapter adds to some of a map's outputs; see compiled.py, which these mirror.
struct LoraPart {
    const BF16* up;  // [rank, width]: an inner value's outputs lie together
    int inner, rank, output, width;
};

struct LoraMap {
    const BF16* down;  // [inner, in]; null if the adapter doesn't change the map
    int inner, parts;
    LoraPart part[kLoraParts];
};

// What is added to a product's rows; rows null: nothing.
struct Added {
    float* rows;
    int64_t stride;
    const LoraMap* const* adapters;  // of each row of the step; null for the model alone
    const int64_t* kept;             // which of the step's rows the product has; null for all
    int map;                         // which of an adapter's maps, over all layers

    const LoraMap* of(int64_t r) const {
        const LoraMap* adapter = adapters[kept ? kept[r] : r];
        return adapter && adapter[map].down ? adapter + map : nullptr;
    }
};

HR_INLINE f32v with_added(const Added& added, int64_t r, int n, int width, f32v result) {
    if (!added.rows || !added.of(r)) return result;
    return result + load(added.rows + r * added.stride + n, width);
}

HR_INLINE float lora_dot(const BF16* x, const BF16* a, int in) {
    f32v sums[2] = {};
    int i = 0;
    for (; i + 2 * kLanes <= in; i += 2 * kLanes)
        for (int v = 0; v < 2; v++) sums[v] += load(x + i + v * kLanes) * load(a + i + v * kLanes);
    for (; i < in; i += kLanes) sums[0] += load(x + i, in - i) * load(a + i, in - i);
    return sum(sums[0] + sums[1]);
}

// The outputs from `begin` to `end` of one row.
HR_INLINE void lora_up(const LoraMap& lora, const float* inner, int begin, int end, float* y) {
    memset(y + begin, 0, (end - begin) * sizeof(float));
    for (int p = 0; p < lora.parts; p++) {
        const LoraPart& part = lora.part[p];
        const int first = begin > part.output ? begin : part.output;
        const int last = end < part.output + part.width ? end : part.output + part.width;
        int n = first;
        for (; n + 4 * kLanes <= last; n += 4 * kLanes) {
            f32v sums[4] = {};
            for (int k = 0; k < part.rank; k++)
                for (int v = 0; v < 4; v++)
                    sums[v] += inner[part.inner + k] *
                               load(part.up + int64_t(k) * part.width + n - part.output + v * kLanes);
            for (int v = 0; v < 4; v++) store(y + n + v * kLanes, sums[v]);
        }
        for (; n < last; n += kLanes) {
            f32v sums = {};
            for (int k = 0; k < part.rank; k++)
                sums += inner[part.inner + k] *
                        load(part.up + int64_t(k) * part.width + n - part.output, last - n);
            store(y + n, sums, last - n);
        }
    }
}

// Computes, as one of a team of threads, what is added to the rows of a product of x [rows, in].
inline void lora_rows(const Added& added, float* inner, const BF16* x, int64_t stride, int in, int out, int64_t rows) {
    constexpr int kInner = 16, kOutputs = 512;
    constexpr int kPieces = kLoraInner / kInner;
#pragma omp for
    for (int64_t i = 0; i < rows * kPieces; i++) {
        const int64_t r = i / kPieces;
        const LoraMap* lora = added.of(r);
        if (!lora) continue;
        const int begin = int(i % kPieces) * kInner;
        for (int k = begin; k < begin + kInner && k < lora->inner; k++)
            inner[r * kLoraInner + k] = lora_dot(x + r * stride, lora->down + int64_t(k) * in, in);
    }
    const int pieces = (out + kOutputs - 1) / kOutputs;
#pragma omp for
    for (int64_t i = 0; i < rows * pieces; i++) {
        const int64_t r = i / pieces;
        const LoraMap* lora = added.of(r);
        if (!lora) continue;
        const int begin = int(i % pieces) * kOutputs, end = begin + kOutputs < out ? begin + kOutputs : out;
        lora_up(*lora, inner + r * kLoraInner, begin, end, added.rows + r * added.stride);
    }
}
