"""The noise of kernels/noise.py in registers: the same bits, and the same arithmetic as csrc/sampling.cpp."""

import triton
import triton.language as tl


@triton.jit
def gumbel(seed, position, ids):
    """`kernels.noise.gumbel_noise` of a row at the int32 ids."""
    key = _mix64(_mix64(seed.to(tl.uint64, bitcast=True) + 0x9E3779B97F4A7C15) ^ position.to(tl.uint64))
    low, high = (key & 0xFFFFFFFF).to(tl.uint32), (key >> 32).to(tl.uint32)
    bits = _mix32(_mix32(ids.to(tl.uint32) ^ low) + high)
    # bits + 1/2 in one rounding: the halves are exact.
    u = ((bits >> 16).to(tl.float32) * 65536.0 + ((bits & 0xFFFF).to(tl.float32) + 0.5)) * (
        1.0 / 4294967296.0
    )
    u = tl.minimum(u, 1.0 - 1.0 / 16777216.0)
    rest = 1.0 - u
    lost = (1.0 - rest) - u  # what the subtraction rounded away: u may be far below 1's last place
    return -log(-(log(rest) + lost / rest))


@triton.jit
def _mix64(x):
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53
    return x ^ (x >> 33)


@triton.jit
def _mix32(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def log(x):
    """Natural logarithm of a positive, normal x, within 1e-7 relative; the device's own is not, near 1."""
    offset = x.to(tl.int32, bitcast=True) - 0x3F3504F3  # mantissas lie around 1: from sqrt(1/2) to sqrt(2)
    # x = 2^exponent * (1 + f) with 1 + f from sqrt(1/2) to sqrt(2): the polynomial is of f. ln 2 is added in
    # two parts, the larger of which, 355 / 512, has so few bits that its product is exact.
    exponent = (offset >> 23).to(tl.float32)
    f = ((offset & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    y = f * -0.0786015019 + 0.128813922
    y = y * f - 0.131284192
    y = y * f + 0.141812161
    y = y * f - 0.166245952
    y = y * f + 0.200022861
    y = y * f - 0.250008076
    y = y * f + 0.333333164
    square = f * f
    y = y * f * square - 0.5 * square + exponent * -2.12194440e-4
    return f + y + exponent * 0.693359375
