#pragma once

#include "vec.h"

#include <cmath>

struct Heads {
    int heads, kv_heads, dim, page_size;
    float eps;
};

// Normalises one head (if there is a weight) and rotates it: element i together with element i + dim / 2.
template <typename T>
void rotate_head(const T* x, T* y, const T* weight, const float* cos_sin, const Heads& s) {
    const int half = s.dim / 2;
    float scale = 1.0f;
    if (weight) {
        f32v squares = {};
        for (int i = 0; i < s.dim; i += kLanes) {
            f32v v = load(x + i, s.dim - i);
            squares += v * v;
        }
        scale = 1.0f / std::sqrt(sum(squares) / s.dim + s.eps);
    }
    for (int i = 0; i < half; i += kLanes) {
        const int n = half - i;
        f32v low = load(x + i, n), high = load(x + half + i, n);
        if (weight) {
            low = rounded<T>(rounded<T>(low * scale) * load(weight + i, n));
            high = rounded<T>(rounded<T>(high * scale) * load(weight + half + i, n));
        }
        f32v cosine = load(cos_sin + i, n), sine = load(cos_sin + half + i, n);
        store(y + i, low * cosine - high * sine, n);
        store(y + half + i, high * cosine + low * sine, n);
    }
}

// Rotates one token's q into `q`, which may be qkv itself, and writes its k and v to their slot.
template <typename T>
void rope_and_cache(const T* qkv, const float* cos_sin, int64_t slot, const T* q_norm, const T* k_norm, T* q,
               T* k_cache, T* v_cache, const Heads& s) {
    for (int h = 0; h < s.heads; h++) rotate_head(qkv + h * s.dim, q + h * s.dim, q_norm, cos_sin, s);
    const T *k = qkv + s.heads * s.dim, *v = k + s.kv_heads * s.dim;
    for (int h = 0; h < s.kv_heads; h++) {
        int64_t row = (slot / s.page_size * s.kv_heads + h) * s.page_size + slot % s.page_size;
        rotate_head(k + h * s.dim, k_cache + row * s.dim, k_norm, cos_sin, s);
        memcpy(v_cache + row * s.dim, v + h * s.dim, s.dim * sizeof(T));
    }
}
