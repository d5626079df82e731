#include "rope_cache.h"

// Shapes as in rope_cache.py; q_norm and k_norm may be null. Returns the first token whose position or slot is outside
// its table, in which case nothing is written; -1 if all is well.
extern "C" int64_t hr_rope_and_cache(const void* qkv, const int64_t* positions, const int64_t* slots,
                                     const float* cos_sin, void* q, void* k_cache, void* v_cache,
                                     const void* q_norm, const void* k_norm, int64_t tokens,
                                     int64_t max_positions, int64_t num_slots, int heads, int kv_heads, int dim,
                                     int page_size, float eps, int dtype, int threads) {
    for (int64_t t = 0; t < tokens; t++)
        if (positions[t] < 0 || positions[t] >= max_positions || slots[t] < 0 || slots[t] >= num_slots) return t;
    const Heads s = {heads, kv_heads, dim, page_size, eps};
    const int64_t width = int64_t(heads + 2 * kv_heads) * dim;
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for num_threads(threads) if (tokens * width > 65536)
        for (int64_t t = 0; t < tokens; t++)
            rope_and_cache((const T*)qkv + t * width, cos_sin + positions[t] * dim, slots[t], (const T*)q_norm,
                      (const T*)k_norm, (T*)q + t * heads * dim, (T*)k_cache, (T*)v_cache, s);
    });
    return -1;
}
