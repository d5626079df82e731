#include "norm.h"

// y = rms_norm(x); with a residual: residual += x and y = rms_norm(residual). Rows are contiguous.
extern "C" void hr_rms_norm(const void* x, void* residual, const void* weight, void* y, int64_t rows, int width,
                            float eps, int dtype, int threads) {
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
        for (int64_t r = 0; r < rows; r++)
            norm_row((const T*)x + r * width, residual ? (T*)residual + r * width : nullptr, (const T*)weight,
                     (T*)y + r * width, width, eps);
    });
}
