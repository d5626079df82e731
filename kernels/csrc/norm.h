#pragma once

#include "vec.h"

#include <cmath>

// y = rms_norm(x); with a residual, residual += x and y = rms_norm(residual).
template <typename T>
void norm_row(const T* x, T* residual, const T* weight, T* y, int width, float eps) {
    f32v squares = {};
    for (int i = 0; i < width; i += kLanes) {
        f32v v = load(x + i, width - i);
        if (residual) {
            v = rounded<T>(v + load(residual + i, width - i));
            store(residual + i, v, width - i);
        }
        squares += v * v;
    }
    const T* source = residual ? residual : x;
    float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
    for (int i = 0; i < width; i += kLanes) {
        f32v v = rounded<T>(load(source + i, width - i) * scale);
        store(y + i, v * load(weight + i, width - i), width - i);
    }
}
