"""4-bit weights: one layout for every checkpoint format.

A weight is w[k, n] = (q[k, n] - zero[g, n]) * scale[g, n], with q from 0 to 15 and g = k // group_size. The q
are stored in 32-bit words, packed[t * 32 + i, n], whose j-th nibble (from the low end) is q for k = t * 256 +
j * 32 + i, or zero if k is past the end. So a kernel that loads 32 successive rows of words has 32 successive
k in their j-th nibbles: eight plain tiles, without shuffling bits across lanes.

Zeros are stored as they take effect, from 0 to 16 (GPTQ files store one less), and scales in the checkpoint's
precision. If GPTQ took the inputs in the order of their activations, they are sorted by group here, and
`permutation` says which input each k is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LANE = 32
"""Number of successive k in the same nibble of their words."""

TILE = 8 * LANE
"""Number of inputs in one row of tiles; the packed words cover a multiple of it."""

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each nibble of an AWQ word belongs to."""


@dataclass(slots=True, frozen=True)
class Int4Weight:
    """A linear map's weight, four bits per entry. Made by `pack`, `from_gptq` or `from_awq`.

    Attributes:
        packed: int32 [ceil(in / 256) * 32, out]; see above.
        scales: floating [groups, out].
        zeros: uint8 [groups, out].
        permutation: int64 [in], the input that each k stands for; None if it is k itself.
        group_size: number of inputs that share a scale; the last group may be smaller.
        in_features: number of inputs.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor
    permutation: Tensor | None
    group_size: int
    in_features: int

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.packed.shape[1]


def pack(
    values: Tensor, scales: Tensor, zeros: Tensor, group_size: int, permutation: Tensor | None = None
) -> Int4Weight:
    """Make an `Int4Weight`.

    Args:
        values: integers [in, out] from 0 to 15, in the permutation's order.
        scales: floating [groups, out].
        zeros: integers [groups, out] from 0 to 16.
        group_size: number of inputs per group; -1 for all of them.
        permutation: int64 [in] or None.

    Raises:
        ValueError: the shapes do not fit together.
    """
    inputs, outputs = values.shape
    group_size = inputs if group_size == -1 else group_size
    groups = -(-inputs // group_size)
    if scales.shape != (groups, outputs) or zeros.shape != (groups, outputs):
        raise ValueError(
            f"{inputs} inputs in groups of {group_size} need scales and zeros [{groups}, {outputs}], "
            f"not {list(scales.shape)} and {list(zeros.shape)}"
        )
    tiles = -(-inputs // TILE)
    padded = values.new_zeros(tiles * TILE, outputs, dtype=torch.uint8)
    padded[:inputs] = values
    # k = t * 256 + j * 32 + i, with j = 2 * byte + half: a byte holds the nibbles j = 0 and 1, 2 and 3, and
    # so on; four bytes make a little-endian word.
    low, high = padded.view(tiles, 4, 2, LANE, outputs).unbind(2)
    words = (low | (high << 4)).permute(0, 2, 3, 1).contiguous().view(torch.int32)
    return Int4Weight(
        words.view(tiles * LANE, outputs),
        scales.contiguous(),
        zeros.to(torch.uint8).contiguous(),
        permutation,
        group_size,
        inputs,
    )


def unpack(weight: Int4Weight) -> Tensor:
    """A weight's q: uint8 [in, out], in the permutation's order."""
    bytes_ = weight.packed.view(torch.uint8).view(-1, LANE, weight.out_features, 4)
    bytes_ = bytes_.permute(0, 3, 1, 2).contiguous()
    values = torch.stack((bytes_ & 15, bytes_ >> 4), dim=2)
    return values.view(-1, weight.out_features)[: weight.in_features]


def from_gptq(
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
    g_idx: Tensor | None,
    *,
    group_size: int,
    zero_offset: int = 1,
) -> Int4Weight:
    """Repack a GPTQ checkpoint's tensors.

    Args:
        qweight: int32 [in / 8, out], eight successive inputs per word.
        qzeros: int32 [groups, out / 8], eight successive outputs per word, each less `zero_offset`.
        scales: floating [groups, out].
        g_idx: the group of each input, int [in]; None for the natural order.
        group_size: -1 for a single group.
        zero_offset: 1 in the usual files ("gptq"), 0 in those marked "gptq_v2".

    Raises:
        ValueError: the shapes do not fit together, or g_idx fills groups unevenly.
    """
    values = _nibbles(qweight).transpose(1, 2).reshape(-1, qweight.shape[1])
    zeros = _nibbles(qzeros).flatten(1) + zero_offset
    inputs = len(values)
    group_size = inputs if group_size == -1 else group_size
    permutation = None
    if g_idx is not None:
        natural = torch.arange(inputs, device=g_idx.device) // group_size
        if not torch.equal(g_idx.long(), natural):
            # An example, in groups of 2: g_idx 0 1 0 1 is sorted by the permutation 0 2 1 3.
            permutation = torch.argsort(g_idx.long(), stable=True)
            if not torch.equal(g_idx.long()[permutation], natural):
                raise ValueError(f"g_idx does not fill groups of {group_size} inputs one after the other")
            values = values[permutation]
    return pack(values, scales, zeros, group_size, permutation)


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, *, group_size: int) -> Int4Weight:
    """Repack an AWQ checkpoint's tensors ("gemm" version).

    Args:
        qweight: int32 [in, out / 8], eight outputs per word in AWQ's order.
        qzeros: int32 [groups, out / 8], likewise.
        scales: floating [groups, out].
        group_size: -1 for a single group.

    Raises:
        ValueError: the shapes do not fit together.
    """
    # The nibble that each column of eight lies in: the order inverted, 0 4 1 5 2 6 3 7.
    order = torch.tensor(_AWQ_ORDER, device=qweight.device).argsort()
    values, zeros = (_nibbles(words)[..., order].flatten(1) for words in (qweight, qzeros))
    return pack(values, scales, zeros, group_size)


def dequantize(weight: Int4Weight, dtype: torch.dtype) -> Tensor:
    """The full weight, [out, in], computed in at least float32 and rounded once: the reference."""
    wide = torch.promote_types(dtype, torch.float32)
    values = unpack(weight).t().contiguous().to(wide)
    groups = torch.split(values, weight.group_size, dim=1)
    for group, zeros, scales in zip(groups, weight.zeros.to(wide), weight.scales.to(wide), strict=True):
        group.sub_(zeros[:, None]).mul_(scales[:, None])
    values = values.to(dtype)
    if weight.permutation is not None:
        values = torch.empty_like(values).index_copy_(1, weight.permutation, values)
    return values


def _nibbles(words: Tensor) -> Tensor:
    """Unpack int32 [a, b] to uint8 [a, b, 8], low nibbles first."""
    bytes_ = words.contiguous().view(torch.uint8)
    # On a little-endian machine the lowest byte comes first, and in it the low nibble.
    return torch.stack((bytes_ & 15, bytes_ >> 4), dim=-1).view(*words.shape, 8)
