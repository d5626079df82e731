#include "silu.h"

// y = silu(gate) * up; a row of gate_up is the gate's columns, then up's.
extern "C" void hr_silu_and_mul(const void* gate_up, void* y, int64_t rows, int width, int dtype, int threads) {
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for num_threads(threads) if (rows * width > 65536)
        for (int64_t r = 0; r < rows; r++) {
            const T* gate = (const T*)gate_up + r * 2 * width;
            for (int i = 0; i < width; i += kLanes) {
                f32v g = load(gate + i, width - i), up = load(gate + width + i, width - i);
                store((T*)y + r * width + i, silu(g) * up, width - i);
            }
        }
    });
}
