// Products of rows with a weight, whose sums run over the inputs in order: a result depends neither on the other rows
// nor on how many threads share the work (invariant_linear.py).
//
// A weight is cut into panels of 64 outputs, panel[in][64] in the weight's own type, with zeros for the outputs that
// the last one lacks. An item is a panel times a run of rows. It takes some inputs at a time, as floats, and continues
// the sums with the next ones; to be stored between them changes no bit of a float.
#include "product_float.h"
#include "scratch.h"

namespace {

constexpr int kOutputs = 64;
constexpr int kRows = 96;     // per item; its sums stay in a core's nearest cache
constexpr int kInputs = 256;  // at once: 64 KiB of weights as floats, which stay in a core's own cache

// Rows of `width` elements, x_stride apart, as floats.
template <typename T>
void widen_rows(const T* x, int rows, int width, int64_t x_stride, float* y, int y_stride) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i += kLanes)
            store(y + r * y_stride + i, load(x + r * x_stride + i, width - i), width - i);
}

template <typename T>
void item(const T* x, const T* panel, const T* bias, T* y, int rows, int in, int out, int outputs) {
    static thread_local Scratch scratch;
    scratch.reserve(sizeof(float) * (kInputs * kOutputs + kRows * (kInputs + kOutputs)));
    scratch.reset();
    float* weights = scratch.take<float>(kInputs * kOutputs);
    float* inputs = scratch.take<float>(kRows * kInputs);
    float* sums = scratch.take<float>(kRows * kOutputs);
    for (int k = 0; k < in; k += kInputs) {
        const int depth = in - k < kInputs ? in - k : kInputs;
        const T* part = panel + int64_t(k) * kOutputs;
        if constexpr (std::is_same_v<T, float>) {
            FloatProduct::multiply(rows, kOutputs, depth, x + k, in, part, kOutputs, sums, kOutputs, k > 0);
        } else {
            widen_rows(part, depth, kOutputs, kOutputs, weights, kOutputs);
            widen_rows(x + k, rows, depth, in, inputs, kInputs);
            FloatProduct::multiply(rows, kOutputs, depth, inputs, kInputs, weights, kOutputs, sums, kOutputs, k > 0);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int n = 0; n < outputs; n += kLanes) {
            f32v result = load(sums + r * kOutputs + n);
            if (bias) result += load(bias + n, outputs - n);
            store(y + int64_t(r) * out + n, result, outputs - n);
        }
}

}  // namespace

// y[rows][out] = x[rows][in] · weightᵀ + bias; rows are contiguous, and bias may be null.
extern "C" void hr_invariant_linear(const void* x, const void* panels, const void* bias, void* y, int64_t rows,
                                    int in, int out, int dtype, int threads) {
    const int64_t chunks = (rows + kRows - 1) / kRows, count = (out + kOutputs - 1) / kOutputs;
    with_dtype(dtype, [&](auto element) {
        using T = decltype(element);
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * in * int64_t(out) > 65536)
        for (int64_t i = 0; i < chunks * count; i++) {
            // Runs of rows one after the other for the same panel, which stays in the caches.
            const int64_t panel = i / chunks, first = i % chunks * kRows;
            const int left = int(rows - first < kRows ? rows - first : kRows);
            const int outputs = int(out - panel * kOutputs < kOutputs ? out - panel * kOutputs : kOutputs);
            item((const T*)x + first * in, (const T*)panels + panel * in * kOutputs,
                 bias ? (const T*)bias + panel * kOutputs : nullptr, (T*)y + first * out + panel * kOutputs, left, in,
                 out, outputs);
        }
    });
}
