"""Floats of 8 bits (e4m3) to and from bytes, in integer arithmetic.

Only NVIDIA GPUs from sm89 on convert this type themselves. This code runs on all of them, always rounds to
nearest even, and saturates at 448.
"""

import triton
import triton.language as tl


@triton.jit
def widen(x, dtype: tl.constexpr):
    """Convert cache elements to the type to compute in; bytes are e4m3."""
    if x.dtype == tl.uint8:
        # A half of the same bits, moved to its place, is 256 times too small; that factor is exact.
        bits = x.to(tl.uint16)
        half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
        return (half * 256.0).to(tl.float32).to(dtype)
    return x.to(dtype)


@triton.jit
def narrow(x):
    """Convert finite float32 to bytes of e4m3."""
    bits = x.to(tl.uint32, bitcast=True)
    sign = (bits >> 24) & 0x80
    size = tl.minimum(tl.abs(x), 448.0)
    # Below 2^-6 the grid is 2^-9 wide, which is the spacing of floats from 2^14 on: adding it rounds.
    small = (size + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    # Above, all but 3 bits of the mantissa go, to nearest even; then the exponent's bias becomes 7.
    bits = size.to(tl.uint32, bitcast=True)
    large = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    return (sign | tl.where(size < 0.015625, small, large)).to(tl.uint8)
