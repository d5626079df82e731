"""Thresholds of top-k and top-p, and the most likely tokens of a row, found without a sort.

Top-k and top-p are both the least t with W(x > t) < target, W being the number of logits or their mass. W
only changes at the logits' own values, so the interval [low, high], both of them logits, is halved around the
answer: t is chosen between them, and the end that moves goes to the next logit beyond t. That converges for
any values (an outlier costs one step), and exactly: what is kept is what a sort would keep, up to the
rounding of the summed mass. Each step passes over the whole row, but only until the interval contains few
logits; these are gathered into registers, where the rest of the search runs. One program a row, since its
steps depend on each other.

NaN counts as +infinity, and a row with +infinity isn't searched, since nothing is drawn from it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..structs import SamplingTable, Thresholds
from .noise import log

# Logits that a program loads at a time: 8 a thread of its 512.
_BLOCK = 4096
# Logits that are searched in registers: 4 a thread.
_KEEP = 2048


def top_k_top_p(logits: Tensor, rows: Tensor, table: SamplingTable) -> Thresholds:
    """What each row keeps of its scaled logits."""
    count, vocab = logits.shape
    thresholds = Thresholds(
        logits.new_empty(count), torch.empty(count, dtype=torch.int32, device=logits.device)
    )
    scratch = logits.new_empty(count, _KEEP)
    if count:
        _top_k_top_p_kernel[(count,)](
            logits,
            logits.stride(0),
            rows,
            table.temperature,
            table.top_k,
            table.top_p,
            table.min_p,
            scratch,
            thresholds.least,
            thresholds.first,
            vocab,
            BLOCK=_BLOCK,
            KEEP=_KEEP,
            num_warps=16,
            enable_fp_fusion=True,
        )
    return thresholds


def best(plain: Tensor, totals: Tensor, rows: Tensor, wanted: Tensor, top: int) -> tuple[Tensor, Tensor]:
    count, vocab = plain.shape
    ids = torch.full((count, top), -1, dtype=torch.int64, device=plain.device)
    logprobs = plain.new_full((count, top), float("-inf"))
    if count and top:
        room = max(32, triton.next_power_of_2(top))
        _best_kernel[(count,)](
            plain,
            plain.stride(0),
            totals,
            rows,
            wanted,
            plain.new_empty(count, max(_KEEP, room)),
            torch.empty(count, room, dtype=torch.int32, device=plain.device),
            ids,
            logprobs,
            vocab,
            top,
            BLOCK=_BLOCK,
            KEEP=_KEEP,
            ROOM=room,
            SCRATCH=max(_KEEP, room),
            num_warps=16,
            enable_fp_fusion=True,
        )
    return ids, logprobs


@triton.jit
def _top_k_top_p_kernel(
    logits,
    stride,
    rows,
    temperature,
    top_k,
    top_p,
    min_p,
    scratch,
    thresholds,
    first,
    vocab,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + place).to(tl.int64)
    t = tl.load(temperature + row)
    k, p, least = tl.load(top_k + row), tl.load(top_p + row), tl.load(min_p + row)
    source, scratch = logits + place * stride, scratch + place * KEEP
    threshold, begin = float("-inf"), 0
    # Greedy rows and rows that keep everything leave here, and keep all: -inf.
    if (t > 0) & (((k > 0) & (k < vocab)) | (p < 1) | (least > 0)):
        low, top, count = _extent(source, t, vocab, BLOCK)
        if top < float("inf"):
            # top_p weighs what top_k has left, so the search for its threshold begins at top_k's.
            if (k > 0) & (k < count):
                low, _, _, _ = _threshold(
                    source, t, vocab, low, top, count, k.to(tl.float32), scratch, False, BLOCK, KEEP
                )
                threshold = low
            if p < 1:
                count, mass = _tally(source, t, vocab, low, top, BLOCK)
                threshold, _, ties, above = _threshold(
                    source, t, vocab, low, top, count, p * mass, scratch, True, BLOCK, KEEP
                )
                # How many of the tied tokens the mass needs. An example: p * mass is 0.7, those above weigh
                # 0.55, and each of three ties 0.1: two are kept, those with the highest ids.
                kept = tl.maximum(tl.ceil((p * mass - above) / tl.exp(threshold - top)), 1.0)
                if kept < ties:
                    begin = _last(source, t, vocab, threshold, kept.to(tl.int32), BLOCK)
            if least > 0:
                floor = top + log(least)
                # min_p's threshold lies above the ties, so there are none to choose among.
                begin = tl.where(floor > threshold, 0, begin)
                threshold = tl.maximum(threshold, floor)
    tl.store(thresholds + place, threshold)
    tl.store(first + place, begin)


@triton.jit(do_not_specialize=["top"])
def _best_kernel(
    plain,
    stride,
    totals,
    rows,
    wanted,
    scratch,
    scratch_ids,
    out_ids,
    out_logprobs,
    vocab,
    top,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
    ROOM: tl.constexpr,
    SCRATCH: tl.constexpr,
):
    """The most likely tokens of a row: found by their threshold, then each put where its rank says."""
    place = tl.program_id(0).to(tl.int64)
    want = tl.load(wanted + tl.load(rows + place))
    source, scratch, scratch_ids = (
        plain + place * stride,
        scratch + place * SCRATCH,
        scratch_ids + place * ROOM,
    )
    if want > 0:
        want = tl.minimum(want, top)
        low, high, count = _extent(source, 1.0, vocab, BLOCK)
        low = tl.where(high < float("inf"), low, high)  # of a row that is not searched anything will do
        want = tl.minimum(want, count)
        low, above, _, _ = _threshold(
            source, 1.0, vocab, low, high, count, want.to(tl.float32), scratch, False, BLOCK, KEEP
        )
        tl.debug_barrier()
        over, ties = 0, above
        for start in range(0, vocab, BLOCK):
            ids = start + tl.arange(0, BLOCK)
            x = tl.load(source + ids, mask=ids < vocab, other=float("-inf"))
            larger, equal = (x > low).to(tl.int32), (x == low).to(tl.int32)
            # Those above the threshold take the first places, in the order of their ids, ties the places
            # after them until `want` are taken: the lowest ids.
            at = tl.where(x > low, over + tl.cumsum(larger, 0), ties + tl.cumsum(equal, 0)) - 1
            taken = ((x > low) | (x == low)) & (at < want)
            tl.store(scratch + at, x, mask=taken)
            tl.store(scratch_ids + at, ids, mask=taken)
            over += tl.sum(larger, 0)
            ties += tl.sum(equal, 0)
        tl.debug_barrier()
        at = tl.arange(0, ROOM)
        x = tl.load(scratch + at, mask=at < want, other=float("-inf"))
        ids = tl.load(scratch_ids + at, mask=at < want, other=vocab)
        # A sort by counting: a token's place is how many come before it. For some twenty tokens that is
        # quicker than any sort.
        rank = tl.zeros((ROOM,), tl.int32)
        for start in range(0, want, 8):
            other = start + tl.arange(0, 8)
            y = tl.load(scratch + other, mask=other < want, other=float("-inf"))[None, :]
            other_ids = tl.load(scratch_ids + other, mask=other < want, other=vocab)[None, :]
            before = (y > x[:, None]) | ((y == x[:, None]) & (other_ids < ids[:, None]))
            rank += tl.sum(before.to(tl.int32), 1)
        tl.store(out_ids + place * top + rank, ids.to(tl.int64), mask=at < want)
        tl.store(out_logprobs + place * top + rank, x - tl.load(totals + place), mask=at < want)


@triton.jit
def _scaled(source, t, start, vocab, BLOCK: tl.constexpr):
    ids = start + tl.arange(0, BLOCK)
    x = tl.load(source + ids, mask=ids < vocab, other=float("-inf"))
    return tl.math.div_rn(tl.where(x == x, x, float("inf")), tl.zeros_like(x) + t)


@triton.jit
def _extent(source, t, vocab, BLOCK: tl.constexpr):
    """A row's smallest and largest finite value, and how many are finite."""
    low = tl.full((BLOCK,), float("inf"), tl.float32)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, vocab, BLOCK):
        x = _scaled(source, t, start, vocab, BLOCK)
        finite = x > float("-inf")
        low = tl.minimum(low, tl.where(finite, x, float("inf")))
        high = tl.maximum(high, x)
        count += finite.to(tl.int32)
    return tl.min(low, 0), tl.max(high, 0), tl.sum(count, 0)


@triton.jit
def _tally(source, t, vocab, low, top, BLOCK: tl.constexpr):
    """How many values are at least `low`, and the sum of their exp(x - top)."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        x = _scaled(source, t, start, vocab, BLOCK)
        count += (x >= low).to(tl.int32)
        mass += tl.where(x >= low, tl.exp(x - top), 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _last(source, t, vocab, value, count, BLOCK: tl.constexpr):
    """The id from which on `count` values are `value`; there are more."""
    begin, found = 0, 0
    for block in range(tl.cdiv(vocab, BLOCK)):
        start = (tl.cdiv(vocab, BLOCK) - 1 - block) * BLOCK
        if found < count:
            equal = (_scaled(source, t, start, vocab, BLOCK) == value).to(tl.int32)
            here = tl.sum(equal, 0)
            from_here = here - tl.cumsum(equal, 0) + equal  # how many there are in the block from an id on
            ids = start + tl.arange(0, BLOCK)
            begin = tl.max(tl.where((equal > 0) & (found + from_here >= count), ids, 0), 0)
            found += here
    return begin


@triton.jit
def _threshold(
    source,
    t,
    vocab,
    low,
    top,
    count,
    target,
    scratch,
    BY_MASS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
):
    """The least value v from `low` on with W(x > v) < target; how many values lie above it, how many are v,
    and, by mass, what those above weigh.

    `low` and `top`, the row's largest, are values of the row, `count` of which lie from `low` to `top`.
    """
    high = top
    above, weight_above = 0, 0.0
    while (count > KEEP) & (low < high):
        middle = _between(low, high)
        numbers = tl.zeros((BLOCK,), tl.int32)
        weights = tl.zeros((BLOCK,), tl.float32)
        over = tl.full((BLOCK,), float("inf"), tl.float32)
        under = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, vocab, BLOCK):
            x = _scaled(source, t, start, vocab, BLOCK)
            larger = x > middle
            numbers += larger.to(tl.int32)
            if BY_MASS:
                weights += tl.where(larger, tl.exp(x - top), 0.0)
            over = tl.minimum(over, tl.where(larger, x, float("inf")))
            under = tl.maximum(under, tl.where(larger, float("-inf"), x))
        number = tl.sum(numbers, 0)
        weight = tl.sum(weights, 0) if BY_MASS else number.to(tl.float32)
        if weight < target:
            high = tl.max(under, 0)
            count -= number - above
            above, weight_above = number, weight
        else:
            low = tl.min(over, 0)
            count = number - above
    if low < high:
        found = 0
        for start in range(0, vocab, BLOCK):
            x = _scaled(source, t, start, vocab, BLOCK)
            within = (x >= low) & (x <= high)
            at = found + tl.cumsum(within.to(tl.int32), 0) - 1
            tl.store(scratch + at, x, mask=within)
            found += tl.sum(within.to(tl.int32), 0)
        tl.debug_barrier()
        slot = tl.arange(0, KEEP)
        x = tl.load(scratch + slot, mask=slot < found, other=float("-inf"))
        tl.debug_barrier()  # the next search writes here again
        outside, weight_outside = above, weight_above
        while low < high:
            middle = _between(low, high)
            larger = x > middle
            number = outside + tl.sum(larger.to(tl.int32), 0)
            if BY_MASS:
                weight = weight_outside + tl.sum(tl.where(larger, tl.exp(x - top), 0.0), 0)
            else:
                weight = number.to(tl.float32)
            if weight < target:
                high = tl.max(tl.where(larger, float("-inf"), x), 0)
                above, weight_above = number, weight
            else:
                low = tl.min(tl.where(larger, x, float("inf")), 0)
        count = tl.sum((x == high).to(tl.int32), 0)
    return high, above, count, weight_above


@triton.jit
def _between(low, high):
    """A number from `low` up to, but not, `high`."""
    # Halved before they are added: the sum of two large logits could overflow.
    middle = low * 0.5 + high * 0.5
    return tl.where((middle < low) | (middle >= high), low, middle)
