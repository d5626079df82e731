#pragma once

#include "vec.h"

#include <cmath>

HR_INLINE f32v silu(f32v x) {
    f32v power = x * -1.44269504f;
    f32v e = select(power > 126.0f, splat(INFINITY), exp2v(power));
    return x / (1.0f + e);
}
