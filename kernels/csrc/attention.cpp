#include "attention.h"

#include <type_traits>

namespace {

template <typename T, typename Product>
void run(const AttentionArgs& args, int threads) {
    const AttentionItems<T, Product> items(args.query_starts, args.batch, args.heads, args.kv_heads, args.dim,
                                           threads);
    int64_t taken = 0;
#pragma omp parallel num_threads(threads) if (items.count() > 1)
    {
        [[maybe_unused]] typename Product::Session session;
        items.attend(args, taken);
    }
}

}  // namespace

// Shapes as in attention.py.
extern "C" void hr_paged_attention(const void* q, const void* k_cache, const void* v_cache, void* out,
                                   const int32_t* tables, int64_t table_stride, const int32_t* query_starts,
                                   const int32_t* context_lens, int batch, int heads, int kv_heads, int dim,
                                   int page_size, int window, float scale, float soft_cap, int dtype,
                                   int threads) {
    const int64_t stride = int64_t(heads) * dim;
    const AttentionArgs args = {q, k_cache, v_cache, out, stride, stride, tables, query_starts, context_lens,
                                table_stride, batch, heads, kv_heads, dim, page_size, window, scale, soft_cap};
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#if defined(HR_HAS_AMX)
        if constexpr (std::is_same_v<T, BF16>)
            if (amx_usable()) return run<T, AmxProduct>(args, threads);
#endif
        run<T, FloatProduct>(args, threads);
    });
}
