// The products of block_plain.h for AVX2, in assembly. They need all sixteen registers, and a compiler that allocates
// them moves and spills sums, for which there is no time at two products per cycle. Measured with 64 rows of floats on
// a Zen 3 core whose other hardware thread is busy: 1.2 times as fast.
#pragma once

#include "panels.h"

#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512BW__)
#define HR_HAS_AVX2_MICRO_KERNEL 1

// Registers: 0 to 11 are sums, two per row; 12 and 13 the weights of 16 outputs; 14 an input or a pair of inputs; 15
// the mask of a word's upper half, or a product. Offsets are relative to the inputs %[a] (rows 0 to 2) and %[b] (3 to
// 5), and to the weights %[w].
#define HR_ROW(row, at, offset, low, high)                   \
    ".if %c[rows] > " #row "\n\t"                            \
    "vbroadcastss " #offset "(" at "), %%ymm14\n\t"          \
    ".if %c[bytes]\n\t"                                      \
    "vpmaddwd %%ymm12, %%ymm14, %%ymm15\n\t"                 \
    "vpaddd %%ymm15, %%ymm" #low ", %%ymm" #low "\n\t"       \
    "vpmaddwd %%ymm13, %%ymm14, %%ymm14\n\t"                 \
    "vpaddd %%ymm14, %%ymm" #high ", %%ymm" #high "\n\t"     \
    ".else\n\t"                                              \
    "vfmadd231ps %%ymm12, %%ymm14, %%ymm" #low "\n\t"        \
    "vfmadd231ps %%ymm13, %%ymm14, %%ymm" #high "\n\t"       \
    ".endif\n\t"                                             \
    ".endif\n\t"
#define HR_ROWS(offset)                           \
    HR_ROW(0, "%[a]", offset, 0, 1)               \
    HR_ROW(1, "%[a], %[stride]", offset, 2, 3)    \
    HR_ROW(2, "%[a], %[stride], 2", offset, 4, 5) \
    HR_ROW(3, "%[b]", offset, 6, 7)               \
    HR_ROW(4, "%[b], %[stride]", offset, 8, 9)    \
    HR_ROW(5, "%[b], %[stride], 2", offset, 10, 11)
// The products of each output's four bytes of weights: first of its first bfloat16, then of the second, or first of its
// even bytes, then of the odd ones.
#define HR_GROUP(first, second, low, high)           \
    "vmovdqu " #low "(%[w]), %%ymm12\n\t"            \
    "vmovdqu " #high "(%[w]), %%ymm13\n\t"           \
    ".if %c[bytes]\n\t"                              \
    "vpsllw $8, %%ymm12, %%ymm12\n\t"                \
    "vpsllw $8, %%ymm13, %%ymm13\n\t"                \
    "vpsraw $8, %%ymm12, %%ymm12\n\t"                \
    "vpsraw $8, %%ymm13, %%ymm13\n\t"                \
    ".else\n\t"                                      \
    "vpslld $16, %%ymm12, %%ymm12\n\t"               \
    "vpslld $16, %%ymm13, %%ymm13\n\t"               \
    ".endif\n\t"                                     \
    HR_ROWS(first)                                   \
    ".if %c[bytes]\n\t"                              \
    "vmovdqu " #low "(%[w]), %%ymm12\n\t"            \
    "vmovdqu " #high "(%[w]), %%ymm13\n\t"           \
    "vpsraw $8, %%ymm12, %%ymm12\n\t"                \
    "vpsraw $8, %%ymm13, %%ymm13\n\t"                \
    ".else\n\t"                                      \
    "vpand " #low "(%[w]), %%ymm15, %%ymm12\n\t"     \
    "vpand " #high "(%[w]), %%ymm15, %%ymm13\n\t"    \
    ".endif\n\t"                                     \
    HR_ROWS(second)
#define HR_ZERO(sum) "vxorps %%xmm" #sum ", %%xmm" #sum ", %%xmm" #sum "\n\t"
#define HR_STORE(row, low, high)                                         \
    ".if %c[rows] > " #row "\n\t"                                        \
    "vmovups %%ymm" #low ", %c[pitch] * " #row "(%[c])\n\t"              \
    "vmovups %%ymm" #high ", %c[pitch] * " #row " + 32(%[c])\n\t"        \
    ".endif\n\t"

// c[Rows][16 of 32] = up to six rows of floats, or of words, `stride` bytes apart, times half a panel.
template <int Rows, typename Sum>
void avx2_micro_kernel(int steps, const char* a, int64_t stride, const char* w, Sum* c, Prefetch& prefetch) {
    static_assert(Rows >= 1 && Rows <= 6);
    const char* b = a + 3 * stride;
    const int64_t distance = prefetch.distance;
    int count;
    asm volatile(
        "vpcmpeqd %%ymm15, %%ymm15, %%ymm15\n\t"
        "vpslld $16, %%ymm15, %%ymm15\n\t"
        HR_ZERO(0) HR_ZERO(1) HR_ZERO(2) HR_ZERO(3) HR_ZERO(4) HR_ZERO(5)
        HR_ZERO(6) HR_ZERO(7) HR_ZERO(8) HR_ZERO(9) HR_ZERO(10) HR_ZERO(11)
        "1:\n\t"  // a step: sixteen groups
        "mov $4, %[count]\n\t"
        "2:\n\t"
        HR_GROUP(0, 4, 0, 32) HR_GROUP(8, 12, 64, 96) HR_GROUP(16, 20, 128, 160) HR_GROUP(24, 28, 192, 224)
        "add $32, %[a]\n\t"
        "add $32, %[b]\n\t"
        "add $256, %[w]\n\t"
        "dec %[count]\n\t"
        "jnz 2b\n\t"
        "cmp %[end], %[at]\n\t"  // prefetch.step()
        "jae 4f\n\t"
        "mov %[lines], %[count]\n\t"
        "3:\n\t"
        "prefetcht1 (%[at])\n\t"
        "add %[distance], %[at]\n\t"
        "dec %[count]\n\t"
        "jg 3b\n\t"
        "4:\n\t"
        "dec %[steps]\n\t"
        "jnz 1b\n\t"
        HR_STORE(0, 0, 1) HR_STORE(1, 2, 3) HR_STORE(2, 4, 5)
        HR_STORE(3, 6, 7) HR_STORE(4, 8, 9) HR_STORE(5, 10, 11)
        : [a] "+&r"(a), [b] "+&r"(b), [w] "+&r"(w), [steps] "+&r"(steps), [count] "=&r"(count), [at] "+&r"(prefetch.at)
        : [c] "r"(c), [stride] "r"(stride), [distance] "r"(distance), [end] "m"(prefetch.end),
          [lines] "m"(prefetch.lines), [rows] "i"(Rows), [bytes] "i"(std::is_same_v<Sum, int32_t>),
          [pitch] "i"(4 * kPanel)
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

#undef HR_ROW
#undef HR_ROWS
#undef HR_GROUP
#undef HR_ZERO
#undef HR_STORE
#endif
