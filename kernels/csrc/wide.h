// Vectors of the machine's own width, for loops that keep many in registers, because compilers spill wider ones.
#pragma once

#include "vec.h"

#if defined(__AVX512BW__)
constexpr int kWide = 16;  // 32-bit lanes
#elif defined(__AVX2__)
constexpr int kWide = 8;
#else
constexpr int kWide = 4;
#endif
constexpr int kVecs = 16 / kWide;

// Sums that leave room for the other operands in 32 or 16 registers.
#if defined(__AVX512BW__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

typedef float f32w __attribute__((vector_size(4 * kWide), aligned(4), may_alias));
typedef uint32_t u32w __attribute__((vector_size(4 * kWide), aligned(4), may_alias));
typedef int16_t i16w __attribute__((vector_size(4 * kWide), aligned(2), may_alias));

// x in a register that the compiler knows nothing about, so it can neither load x again nor reorder what made it.
template <typename Vector>
HR_INLINE Vector kept(Vector x) {
#if defined(__AVX2__)
    asm("" : "+v"(x));
#endif
    return x;
}
