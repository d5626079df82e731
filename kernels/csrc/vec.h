// Vectors of floats for any machine: GCC and Clang vector extensions, which the compiler lowers to AVX-512, AVX2, SSE
// or NEON. Narrow types exist only in memory; all arithmetic is in float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kLanes = 8;  // with sixteen, conversions and shuffles go through memory
#else
constexpr int kLanes = 16;
#endif

// May alias anything and have any alignment: rows of a tensor begin at any multiple of their element's size.
typedef float f32v __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef int32_t i32v __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint32_t u32v __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
typedef uint16_t u16v __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

#if defined(__clang__)
#define HR_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HR_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (i32v){__VA_ARGS__})
#endif
#define HR_INLINE static inline __attribute__((always_inline))

struct BF16 {
    uint16_t bits;
};
struct F16 {
    uint16_t bits;
};

HR_INLINE f32v splat(float x) { return x - (f32v){}; }
HR_INLINE u32v as_bits(f32v x) { return (u32v)x; }
HR_INLINE f32v as_float(u32v x) { return (f32v)x; }
HR_INLINE f32v select(i32v mask, f32v a, f32v b) {
    return as_float(((u32v)mask & as_bits(a)) | (~(u32v)mask & as_bits(b)));
}
HR_INLINE u32v select(i32v mask, u32v a, u32v b) { return ((u32v)mask & a) | (~(u32v)mask & b); }
HR_INLINE f32v maximum(f32v a, f32v b) { return select(a > b, a, b); }
HR_INLINE i32v iota() {
    i32v x;
    for (int i = 0; i < kLanes; i++) x[i] = i;
    return x;
}

HR_INLINE float sum(f32v x) {
    float total[kLanes];
    memcpy(total, &x, sizeof x);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) total[i] += total[i + width];
    return total[0];
}
HR_INLINE float max_lane(f32v x) {
    float best[kLanes];
    memcpy(best, &x, sizeof x);
    for (int width = kLanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) best[i] = best[i] > best[i + width] ? best[i] : best[i + width];
    return best[0];
}

HR_INLINE u32v widen(u16v x) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (u32v)_mm256_cvtepu16_epi32((__m128i)x);
#else
    return __builtin_convertvector(x, u32v);
#endif
}

HR_INLINE f32v widen_bf16(u16v x) { return as_float(widen(x) << 16); }

HR_INLINE f32v widen_f16(u16v x) {
    u32v bits = widen(x);
    // The exponent's bias differs by 112; a multiplication moves it and normalises subnormals as well.
    f32v magnitude = as_float((bits & 0x7fff) << 13) * 0x1p112f;
    i32v special = (i32v)((bits & 0x7c00) == 0x7c00);
    magnitude = select(special, as_float(as_bits(magnitude) | 0x7f800000u), magnitude);
    return as_float(as_bits(magnitude) | ((bits & 0x8000) << 16));
}

// Rounds to nearest, ties to even, as torch does.
HR_INLINE u16v narrow_bf16(f32v x) {
#if defined(__AVX512BF16__)
    return (u16v)_mm512_cvtneps_pbh((__m512)x);
#endif
    u32v bits = as_bits(x);
    u32v rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return __builtin_convertvector(select((i32v)(x == x), rounded, (bits >> 16) | 0x40), u16v);
}

HR_INLINE u16v narrow_f16(f32v x) {
    u32v sign = as_bits(x) & 0x80000000u, magnitude = as_bits(x) ^ sign;
    u32v normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Near 0.5, a float's last place is the step of half's subnormals, so the addition rounds to it.
    u32v subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    u32v half = select((i32v)(magnitude < 0x38800000u), subnormal, normal);
    half = select((i32v)(magnitude >= 0x477ff000u), (u32v){} + 0x7c00, half);
    half = select((i32v)(magnitude > 0x7f800000u), (u32v){} + 0x7e00, half);
    return __builtin_convertvector(half | (sign >> 16), u16v);
}

HR_INLINE f32v load(const float* p) { return *(const f32v*)p; }
HR_INLINE f32v load(const BF16* p) { return widen_bf16(*(const u16v*)p); }
HR_INLINE f32v load(const F16* p) { return widen_f16(*(const u16v*)p); }
HR_INLINE void store(float* p, f32v x) { *(f32v*)p = x; }
HR_INLINE void store(BF16* p, f32v x) { *(u16v*)p = narrow_bf16(x); }
HR_INLINE void store(F16* p, f32v x) { *(u16v*)p = narrow_f16(x); }

// The first n of a vector's elements; the other lanes are zero.
template <typename T>
HR_INLINE f32v load(const T* p, int n) {
    if (n >= kLanes) return load(p);
    T whole[kLanes] = {};
    if (n > 0) memcpy(whole, p, n * sizeof(T));
    return load(whole);
}
template <typename T>
HR_INLINE void store(T* p, f32v x, int n) {
    if (n >= kLanes) return store(p, x);
    T whole[kLanes];
    store(whole, x);
    memcpy(p, whole, n * sizeof(T));
}

// x after a round trip through T.
template <typename T>
HR_INLINE f32v rounded(f32v x) {
    T narrow[kLanes];
    store(narrow, x);
    return load(narrow);
}

// Transposes as many rows as a vector has lanes.
#if defined(__AVX2__) && !defined(__AVX512F__)
HR_INLINE void transpose(f32v* x) {
    __m256 y[kLanes];
    for (int i = 0; i < kLanes; i += 2) {
        y[i] = _mm256_unpacklo_ps((__m256)x[i], (__m256)x[i + 1]);
        y[i + 1] = _mm256_unpackhi_ps((__m256)x[i], (__m256)x[i + 1]);
    }
    for (int i = 0; i < kLanes; i += 4)
        for (int j = 0; j < 2; j++) {
            x[i + 2 * j] = (f32v)_mm256_shuffle_ps(y[i + j], y[i + j + 2], 0x44);
            x[i + 2 * j + 1] = (f32v)_mm256_shuffle_ps(y[i + j], y[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        y[i] = _mm256_permute2f128_ps((__m256)x[i], (__m256)x[i + 4], 0x20);
        y[i + 4] = _mm256_permute2f128_ps((__m256)x[i], (__m256)x[i + 4], 0x31);
    }
    for (int i = 0; i < kLanes; i++) x[i] = (f32v)y[i];
}
#else
HR_INLINE void transpose(f32v* x) {
    for (int round = 0; round < 4; round++) {  // perfect shuffles of rows
        f32v y[kLanes];
        for (int i = 0; i < kLanes / 2; i++) {
            f32v a = x[i], b = x[i + kLanes / 2];
            y[2 * i] = HR_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            y[2 * i + 1] = HR_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        for (int i = 0; i < kLanes; i++) x[i] = y[i];
    }
}
#endif

// Puts the even ones of every four lanes first.
HR_INLINE i32v evens_first(i32v x) {
    i32v y;
    for (int i = 0; i < kLanes; i++) y[i] = x[i / 4 * 4 + (i % 2 * 2 + i / 2 % 2)];
    return y;
}

// 2^x = scale + scale * rest with scale = 2^round(x), for x from -126 to 127; within 2e-8 relative.
struct Power {
    f32v scale, rest;
};
HR_INLINE Power split_exp2(f32v x) {
    f32v shifted = x + 0x1.8p23f;  // puts the nearest integer into the low bits of the mantissa
    f32v f = x - (shifted - 0x1.8p23f);
    f32v y = splat(0.000153533605f);
    y = y * f + 0.0013398875f;
    y = y * f + 0.00961843692f;
    y = y * f + 0.0555033237f;
    y = y * f + 0.240226477f;
    y = y * f + 0.693147182f;
    return {as_float((as_bits(shifted) + 127) << 23), y * f};
}

// 2^x for x <= 127; 0 below -126.
HR_INLINE f32v exp2v(f32v x) {
    Power p = split_exp2(select(x < -126.0f, splat(-126.0f), x));
    return select(x < -126.0f, (f32v){}, p.scale + p.scale * p.rest);
}

// tanh(x) from s = 2 x / ln(2), by way of 2^s - 1, which keeps its precision near 0.
HR_INLINE f32v tanh_of_exp2(f32v s) {
    s = select(s > 60.0f, splat(60.0f), select(s < -60.0f, splat(-60.0f), s));
    Power p = split_exp2(s);
    f32v e = (p.scale - 1.0f) + p.scale * p.rest;
    return e / (e + 2.0f);
}

// Natural logarithm of a positive, normal x, within 1e-7 relative.
HR_INLINE f32v logv(f32v x) {
    u32v offset = as_bits(x) - 0x3f3504f3u;  // mantissas are around 1: from sqrt(1/2) to sqrt(2)
    f32v exponent = __builtin_convertvector((i32v)offset >> 23, f32v);
    f32v f = as_float((offset & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    f32v y = splat(-0.0786015019f);
    y = y * f + 0.128813922f;
    y = y * f - 0.131284192f;
    y = y * f + 0.141812161f;
    y = y * f - 0.166245952f;
    y = y * f + 0.200022861f;
    y = y * f - 0.250008076f;
    y = y * f + 0.333333164f;
    f32v square = f * f;
    y = y * f * square - 0.5f * square + exponent * -2.12194440e-4f;
    return f + y + exponent * 0.693359375f;
}

// Calls fn with a value of the element type that a dtype code of native.py names.
template <typename Fn>
HR_INLINE void with_dtype(int dtype, Fn fn) {
    if (dtype == 0) fn(float{});
    else if (dtype == 1) fn(BF16{});
    else fn(F16{});
}
