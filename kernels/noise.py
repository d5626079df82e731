"""Sampling noise that depends only on (seed, position, vocabulary id).

The Gumbel-max trick: argmax(logits + g) with independent standard Gumbel g is a draw from softmax(logits).
Here g is a hash of these coordinates, so a sequence gets the same tokens alone, in any batch, after
preemption, and on another machine. The hash consists of 32-bit multiplications, shifts and xors, which every
device has as vector instructions; a row's 64-bit key is mixed once, and an element costs two rounds.

u = (hash + 1/2) / 2^32 is the probability of the upper tail: g = -log(-log1p(-u)). A large g comes from a
small u, where floats are dense, so a token with probability 1e-9 is still drawn as often as it should be.
"""

import torch
from torch import Tensor

from .native import shared_library

_MASK32 = 0xFFFFFFFF
# 2^64 divided by the golden ratio, as SplitMix64 adds it: seed 0 is then no fixed point of the mixing.
_GOLDEN64 = 0x9E3779B97F4A7C15 - (1 << 64)


def gumbel_noise(seeds: Tensor, positions: Tensor, vocab_ids: Tensor | int) -> Tensor:
    """Standard Gumbel noise, float32 [B, V].

    Args:
        seeds: int64 [B], one per row.
        positions: int64 [B], the position that the row's new token will have.
        vocab_ids: the columns' ids, int64 [V] or [B, V]; or V, which means 0 to V - 1.
    """
    if isinstance(vocab_ids, int):
        vocab_ids = torch.arange(vocab_ids, device=seeds.device)
    bits = noise_bits(seeds, positions, vocab_ids)
    # In float32 the largest values would round to 1, whose noise is minus infinity.
    u = ((bits.double() + 0.5) * 2.0**-32).float().clamp_(max=1 - 2.0**-24)
    return u.neg_().log1p_().neg_().log_().neg_()


def gumbel_argmax(logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """Draw one token per row: the argmax of logits + gumbel_noise, int64 [B]; -1 where there is none.

    Args:
        logits: float32 [B, V], already scaled and masked (-inf). Nothing can be drawn from a row that
            contains NaN or +inf, or has no finite value.
        seeds: int64 [B].
        positions: int64 [B], as in `gumbel_noise`.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and (lib := shared_library()):
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        seeds, positions = seeds.long().contiguous(), positions.long().contiguous()
        tokens = torch.empty_like(seeds)
        lib.hr_gumbel_argmax(
            logits.data_ptr(),
            logits.stride(0),
            seeds.data_ptr(),
            positions.data_ptr(),
            tokens.data_ptr(),
            *logits.shape,
            torch.get_num_threads(),
        )
        return tokens
    return gumbel_argmax_torch(logits, seeds, positions)


def argmax(logits: Tensor) -> Tensor:
    """The most likely token of each row, int64 [B]: the lowest id among equals, -1 where there is none.

    Args:
        logits: float32 [B, V]. A row that contains NaN or +inf, or has no finite value, has no such token.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and (lib := shared_library()):
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        tokens = torch.empty(logits.shape[0], dtype=torch.int64)
        lib.hr_argmax(
            logits.data_ptr(), logits.stride(0), tokens.data_ptr(), *logits.shape, torch.get_num_threads()
        )
        return tokens
    return _argmax_torch(logits)


def gumbel_argmax_torch(logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """`gumbel_argmax` in torch operations, for any device; also the reference."""
    return _argmax_torch(logits + gumbel_noise(seeds, positions, logits.shape[-1]))


def _argmax_torch(x: Tensor) -> Tensor:
    best = x.max(-1)  # NaN, where there is one
    return best.indices.masked_fill(~best.values.isfinite(), -1)


def noise_bits(seeds: Tensor, positions: Tensor, vocab_ids: Tensor) -> Tensor:
    """The hash that the noise is made from, equal on every path: int64 [B, V] with values in [0, 2^32)."""
    # The seed is mixed before the position comes in, so that neighbouring seeds and positions give no equal
    # keys.
    key = _mix64(_mix64(seeds.long() + _GOLDEN64) ^ positions.long())[:, None]
    low, high = key & _MASK32, (key >> 32) & _MASK32
    return _mix32((_mix32(vocab_ids.long() ^ low) + high) & _MASK32)


def _mix64(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 for 64 bits; int64 arithmetic wraps as unsigned does."""
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ ((x >> 33) & 0x7FFFFFFF)) * (multiplier - (1 << 64))
    return x ^ ((x >> 33) & 0x7FFFFFFF)


def _mix32(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3 for 32 bits, on int64 values in [0, 2^32)."""
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * multiplier) & _MASK32
    return x ^ (x >> 16)
