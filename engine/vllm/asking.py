"""What vLLM is asked, so that an answer continues after the tokens that it has already.

vLLM knows no answer that is half done: the tokens so far become part of the prompt. So everything that it
counts over the output alone has to be handed over in another form:

- `max_tokens` and `min_tokens` are what is left of them.
- Presence and frequency penalties of earlier tokens become entries of `logit_bias`. vLLM would count a token
  that comes again as a new one; `counts_anew` says when that would be wrong, and the answer is asked for
  again.
- vLLM's older model runner draws a request's noise from a generator, which would repeat that of the first
  tokens. So each continuation has a seed of its own there; its tokens differ from what the uninterrupted
  answer would have been. The newer runner's noise is a function of seed and position.
- What a constraint or a bad word forbids is decided here, token by token, in forbidding.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from ..parameters import SamplingParams

NEVER = -1e9
"""The bias of a token that can't come; minus infinity isn't JSON."""

_HALF = 2**63


def asked(
    params: SamplingParams,
    output_ids: Sequence[int],
    ends: frozenset[int],
    most_tokens: int,
    *,
    noise_by_position: bool,
) -> dict[str, Any]:
    """The sampling parameters for what follows `output_ids`.

    Args:
        params: the request's, in numbers that can be computed with.
        output_ids: the answer's tokens so far.
        ends: the tokens that end it.
        most_tokens: the maximum length of the whole answer.
        noise_by_position: whether this vLLM's noise is a function of seed and position.
    """
    known = len(output_ids)
    left = most_tokens - known
    # The names are vLLM's own, so most parameters travel as they are.
    ask: dict[str, Any] = {each.name: getattr(params, each.name) for each in fields(params)}
    ask |= {
        "max_tokens": left,
        "min_tokens": min(max(0, params.min_tokens - known), left),
        # Which tokens end a text is decided here, so that it is the same as with every other engine.
        "ignore_eos": True,
        "stop_token_ids": sorted(ends),
        "detokenize": False,
        "seed": seed_of(params.seed, 0 if noise_by_position else known),
        "logit_bias": bias_of(params, output_ids),
    }
    del ask["bad_words"]  # forbidding.py has them; vLLM wants text
    return {name: value for name, value in ask.items() if value is not None and value not in ((), {})}


def bias_of(params: SamplingParams, output_ids: Sequence[int]) -> dict[int, float]:
    """The request's `logit_bias` with the penalties of the output so far."""
    bias = dict(params.logit_bias)
    if params.presence_penalty or params.frequency_penalty:
        for token_id, count in Counter(output_ids).items():
            penalty = params.presence_penalty + count * params.frequency_penalty
            bias[token_id] = bias.get(token_id, 0.0) - penalty
    return bias


def counts_anew(params: SamplingParams, handed_over: frozenset[int], token_id: int) -> bool:
    """Whether vLLM would penalise a token's presence twice, because it is in what was handed over as well."""
    return params.presence_penalty != 0 and token_id in handed_over


def seed_of(seed: int, known: int) -> int:
    """The seed for what follows `known` tokens.

    vLLM takes -1 for no seed at all.
    """
    if known:
        digest = blake2b(f"{seed} {known}".encode(), digest_size=8).digest()
        seed = int.from_bytes(digest, signed=True)
    return seed if seed != -1 else _HALF - 1
