#include "vec.h"

#include <cmath>

namespace {

struct Shape {
    int heads, kv_heads, dim, page_size;
    float eps;
};

// Normalises (if weight) and rotates one head: element i together with element i + dim / 2.
template <typename T>
void rotate_head(const T* x, T* y, const T* weight, const float* cos_sin, const Shape& s) {
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

template <typename T>
void one_token(const T* qkv, const float* cos_sin, int64_t slot, const T* q_norm, const T* k_norm, T* q,
               T* k_cache, T* v_cache, const Shape& s) {
    for (int h = 0; h < s.heads; h++) rotate_head(qkv + h * s.dim, q + h * s.dim, q_norm, cos_sin, s);
    const T *k = qkv + s.heads * s.dim, *v = k + s.kv_heads * s.dim;
    for (int h = 0; h < s.kv_heads; h++) {
        int64_t row = (slot / s.page_size * s.kv_heads + h) * s.page_size + slot % s.page_size;
        rotate_head(k + h * s.dim, k_cache + row * s.dim, k_norm, cos_sin, s);
        memcpy(v_cache + row * s.dim, v + h * s.dim, s.dim * sizeof(T));
    }
}

}  // namespace

// Shapes as in rope_cache.py; q_norm and k_norm may be null. Returns the first token whose position or slot
// lies outside its table, with nothing written; -1 when all is well.
extern "C" int64_t hr_rope_and_cache(const void* qkv, const int64_t* positions, const int64_t* slots,
                                     const float* cos_sin, void* q, void* k_cache, void* v_cache,
                                     const void* q_norm, const void* k_norm, int64_t tokens,
                                     int64_t max_positions, int64_t num_slots, int heads, int kv_heads, int dim,
                                     int page_size, float eps, int dtype, int threads) {
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] >= max_positions || slots[t] < 0 || slots[t] >= num_slots) return t;
    const Shape s = {heads, kv_heads, dim, page_size, eps};
    const int64_t width = int64_t(heads + 2 * kv_heads) * dim;
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for num_threads(threads) if (tokens * width > 65536)
        for (int64_t t = 0; t < tokens; t++)
            one_token((const T*)qkv + t * width, cos_sin + positions[t] * dim, slots[t], (const T*)q_norm,
                      (const T*)k_norm, (T*)q + t * heads * dim, (T*)k_cache, (T*)v_cache, s);
    });
    return -1;
}
