"""Sampling on the GPU: logits are read in place, nothing is sorted, and nothing waits for the device.

Penalties and bias change the few logits that they concern, in place. The draw is split over the vocabulary in
tiles of a fixed size, so that a row's result does not depend on how many rows there are; the tiles' winners
meet in a last small kernel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..structs import SampledTensors, SampleNeeds, SamplingTable, Thresholds
from .mask import mask
from .noise import gumbel, log
from .top_k_top_p import best, top_k_top_p

_BLOCK = 4096
# Of known tokens a program: histories are short beside a vocabulary.
_HISTORY_BLOCK = 1024


def sample(logits: Tensor, rows: Tensor, table: SamplingTable, needs: SampleNeeds) -> SampledTensors:
    """See `kernels.sample.sample`; never waits for the device."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    adjusted = needs.penalties or needs.bias or needs.mask
    plain = logits.clone() if adjusted and needs.logprobs is not None else logits
    if needs.penalties:
        _penalise(logits, rows, table)
    if needs.bias and table.bias_ids.shape[1]:
        _bias(logits, rows, table)
    if needs.mask:
        assert table.mask_of is not None
        assert table.masks is not None
        mask(logits, table.mask_of[rows], table.masks)
    thresholds = top_k_top_p(logits, rows, table) if needs.truncation else None
    return _draw(logits, plain, thresholds, rows, table, needs.logprobs)


def _penalise(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    count, vocab = logits.shape
    grid = (count, triton.cdiv(table.tokens.shape[1], _HISTORY_BLOCK))
    if not grid[0] or not grid[1]:
        return
    # A counter a token and row, zeroed by the device: 128 rows of 128,000 tokens are 64 MB for the step.
    seen = torch.zeros(count, vocab, dtype=torch.int32, device=logits.device)
    history = (rows, table.tokens, table.tokens.stride(0), table.lengths, table.prompt_lengths)
    strengths = (table.presence_penalty, table.frequency_penalty, table.repetition_penalty)
    _count_kernel[grid](*history, *strengths, seen, vocab, BLOCK=_HISTORY_BLOCK, enable_fp_fusion=True)
    _penalise_kernel[grid](
        *history,
        *strengths,
        seen,
        vocab,
        logits,
        logits.stride(0),
        BLOCK=_HISTORY_BLOCK,
        enable_fp_fusion=True,
    )


def _bias(logits: Tensor, rows: Tensor, table: SamplingTable) -> None:
    entries = table.bias_ids.shape[1]
    ids, values, until = (x.contiguous() for x in (table.bias_ids, table.bias_values, table.bias_until))
    if len(rows):
        _bias_kernel[(len(rows), triton.cdiv(entries, 128))](
            logits,
            logits.stride(0),
            rows,
            ids,
            values,
            until,
            table.lengths,
            entries,
            BLOCK=128,
            enable_fp_fusion=True,
        )


def _draw(
    logits: Tensor,
    plain: Tensor,
    thresholds: Thresholds | None,
    rows: Tensor,
    table: SamplingTable,
    top: int | None,
) -> SampledTensors:
    count, vocab = logits.shape
    tiles = triton.cdiv(vocab, _BLOCK)
    parts = logits.new_empty(3, count, tiles)
    ids = torch.empty(count, tiles, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    logprobs, totals = logits.new_empty(count), logits.new_empty(count)
    wanted = top is not None
    if count:
        _draw_kernel[(count, tiles)](
            logits,
            logits.stride(0),
            plain,
            plain.stride(0),
            None if thresholds is None else thresholds.least,
            None if thresholds is None else thresholds.first,
            rows,
            table.temperature,
            table.seed,
            table.lengths,
            parts,
            ids,
            vocab,
            count * tiles,
            LOGPROBS=wanted,
            BLOCK=_BLOCK,
            num_warps=8,
            enable_fp_fusion=True,
        )
        _meet_kernel[(count,)](
            parts,
            ids,
            plain,
            plain.stride(0),
            tokens,
            logprobs,
            totals,
            vocab,
            tiles,
            count * tiles,
            LOGPROBS=wanted,
            TILES=triton.next_power_of_2(tiles),
            num_warps=1,
            enable_fp_fusion=True,
        )
    if top is None:
        return SampledTensors(tokens, None, None, None)
    return SampledTensors(tokens, logprobs, *best(plain, totals, rows, table.logprobs, min(top, vocab)))


@triton.jit
def _count_kernel(
    rows,
    tokens,
    stride,
    lengths,
    prompt_lengths,
    presence,
    frequency,
    repetition,
    seen,
    vocab,
    BLOCK: tl.constexpr,
):
    """Seen tokens of a row: how often in the output, with a mark if also in the prompt."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if (tl.load(presence + row) != 0) | (tl.load(frequency + row) != 0) | (tl.load(repetition + row) != 1):
        known = at < tl.load(lengths + row)
        prompt = at < tl.load(prompt_lengths + row)
        token = tl.load(tokens + row * stride + at, mask=known, other=0).to(tl.int64)
        mine = seen + place * vocab + token
        # Bit 30, above any count: a token of the prompt alone has it and a count of 0, which
        # repetition_penalty concerns and the two others don't.
        tl.atomic_or(mine, 0x40000000, mask=known & prompt, sem="relaxed")
        tl.atomic_add(mine, 1, mask=known & ~prompt, sem="relaxed")


@triton.jit
def _penalise_kernel(
    rows,
    tokens,
    stride,
    lengths,
    prompt_lengths,
    presence,
    frequency,
    repetition,
    seen,
    vocab,
    logits,
    logits_stride,
    BLOCK: tl.constexpr,
):
    """Of a token's occurrences the one that takes its count changes its logit, once and exactly."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    once, each, factor = tl.load(presence + row), tl.load(frequency + row), tl.load(repetition + row)
    if (once != 0) | (each != 0) | (factor != 1):
        known = at < tl.load(lengths + row)
        token = tl.load(tokens + row * stride + at, mask=known, other=0).to(tl.int64)
        # All occurrences of a token ask; the first one gets the count, the others the 0 that it left.
        taken = tl.atomic_xchg(seen + place * vocab + token, 0, mask=known, sem="relaxed")
        mine = known & (taken != 0)
        count = (taken & 0x3FFFFFFF).to(tl.float32)
        x = tl.load(logits + place * logits_stride + token, mask=mine, other=0.0)
        x = tl.where(x > 0, tl.math.div_rn(x, tl.zeros_like(x) + factor), x * factor)
        x = x - count * each - tl.where(count > 0, once, 0.0)
        tl.store(logits + place * logits_stride + token, x, mask=mine)


@triton.jit(do_not_specialize=["entries"])
def _bias_kernel(logits, stride, rows, ids, values, until, lengths, entries, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < entries
    token = tl.load(ids + row * entries + at, mask=inside, other=-1).to(tl.int64)
    holds = inside & (token >= 0)
    holds = holds & (tl.load(lengths + row) < tl.load(until + row * entries + at, mask=inside, other=0))
    value = tl.load(values + row * entries + at, mask=holds, other=0.0)
    tl.atomic_add(logits + place * stride + token, value, mask=holds, sem="relaxed")


@triton.jit(do_not_specialize=["part_stride"])
def _draw_kernel(
    logits,
    stride,
    plain,
    plain_stride,
    thresholds,
    first,
    rows,
    temperature,
    seeds,
    positions,
    parts,
    part_ids,
    vocab,
    part_stride,
    LOGPROBS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The best of a tile: parts[0] its noisy logit, and of the plain logits their top and exp's sum."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab
    part = place * tl.num_programs(1) + tl.program_id(1)
    x = tl.load(logits + place * stride + ids, mask=inside, other=float("-inf"))
    x = tl.where(x == x, x, float("inf"))  # NaN wins, and is recognised by that
    t = tl.load(temperature + row)
    if t > 0:
        x = tl.math.div_rn(x, tl.zeros_like(x) + t)
        if thresholds is not None:
            threshold = tl.load(thresholds + place)
            x = tl.where(
                (x > threshold) | ((x == threshold) & (ids >= tl.load(first + place))), x, float("-inf")
            )
        x += gumbel(tl.load(seeds + row), tl.load(positions + row), ids)
    winner = tl.max(x, 0)
    tl.store(parts + part, winner)
    # The lowest id among equals, as everywhere: a tile's choice must not depend on how it was reduced.
    tl.store(part_ids + part, tl.min(tl.where((x == winner) & inside, ids, vocab - 1), 0))
    if LOGPROBS:
        y = tl.load(plain + place * plain_stride + ids, mask=inside, other=float("-inf"))
        y = tl.where(y == y, y, float("inf"))
        top = tl.max(y, 0)
        top = tl.where(top > float("-inf"), top, 0.0)
        tl.store(parts + part_stride + part, top)
        tl.store(parts + 2 * part_stride + part, tl.sum(tl.exp(y - top), 0))


@triton.jit(do_not_specialize=["part_stride"])
def _meet_kernel(
    parts,
    part_ids,
    plain,
    plain_stride,
    tokens,
    logprobs,
    totals,
    vocab,
    tiles,
    part_stride,
    LOGPROBS: tl.constexpr,
    TILES: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    part, inside = place * tiles + tile, tile < tiles
    x = tl.load(parts + part, mask=inside, other=float("-inf"))
    ids = tl.load(part_ids + part, mask=inside, other=vocab - 1)
    winner = tl.max(x, 0)
    token = tl.min(tl.where(x == winner, ids, vocab - 1), 0)
    # +inf stands for NaN, too, and -inf is what wins where everything is ruled out: neither is a token.
    chosen = (winner > float("-inf")) & (winner < float("inf"))
    tl.store(tokens + place, tl.where(chosen, token, -1).to(tl.int64))
    if LOGPROBS:
        tops = tl.load(parts + part_stride + part, mask=inside, other=float("-inf"))
        sums = tl.load(parts + 2 * part_stride + part, mask=inside, other=0.0)
        top = tl.max(tops, 0)
        # log-sum-exp of the tiles' sums, each of which is relative to its own tile's top.
        total = top + log(tl.sum(tl.exp(tops - top) * sums, 0))
        tl.store(totals + place, total)
        tl.store(logprobs + place, tl.load(plain + place * plain_stride + token) - total)
