"""Sampling parameters as they are computed with.

A request may ask for any number; a step computes with float32 and int64, many sequences at once. So what
these types would make zero, infinite or another number is brought to the nearest value that means the same,
before it comes near a step. What means nothing at all is refused.
"""

from dataclasses import replace
from math import inf, isfinite
from typing import TypeVar

from ..errors import RequestError
from ..request import SamplingParams

MIN_TEMPERATURE = 1e-5
"""Below, sampling is greedy: the best token's lead divided by less would overflow, or outweigh any noise."""

_LEAST, _MOST = 2.0**-126, 1e30
"""The smallest normal float32; and what penalties and a temperature can come to without making logits
infinite."""

_MOST_TOKENS = 2**31

Number = TypeVar("Number", int, float)

_FLOATS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


def computable(params: SamplingParams, vocab: int) -> SamplingParams:
    """The same request of sampling, in numbers that float32 and int64 hold.

    A top_p that float32 rounds to nothing keeps the most likely token alone; a top_k of the vocabulary or
    more keeps all.

    Raises:
        RequestError: a number is not finite, or outside what it has a meaning for.
    """
    asked = {name: _finite(name, getattr(params, name)) for name in _FLOATS}
    if asked["temperature"] < 0:
        raise RequestError("temperature", "must not be negative; 0 is greedy")
    if asked["repetition_penalty"] <= 0:
        raise RequestError("repetition_penalty", "must be above 0; 1 changes nothing")
    if not -(2**63) <= params.seed < 2**63:
        raise RequestError("seed", "must be a number of 64 bits")
    cold = asked["temperature"] < MIN_TEMPERATURE
    return replace(
        params,
        max_tokens=min(params.max_tokens, _MOST_TOKENS),
        min_tokens=_within(0, params.min_tokens, _MOST_TOKENS),
        temperature=0.0 if cold else min(asked["temperature"], _MOST),
        top_k=params.top_k if 0 < params.top_k < vocab else 0,
        top_p=_within(_LEAST, asked["top_p"], 1.0),
        min_p=0.0 if asked["min_p"] < _LEAST else min(asked["min_p"], 1.0),
        presence_penalty=_within(-_MOST, asked["presence_penalty"], _MOST),
        frequency_penalty=_within(-_MOST, asked["frequency_penalty"], _MOST),
        repetition_penalty=_within(1 / _MOST, asked["repetition_penalty"], _MOST),
        logit_bias={
            token_id: _within(-_MOST, _finite("logit_bias", value), _MOST)
            for token_id, value in params.logit_bias.items()
        },
        logprobs=None if params.logprobs is None else _within(0, params.logprobs, vocab),
    )


def _finite(field: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise RequestError(field, "must be a finite number")
    return number


def _within(least: Number, value: Number, most: Number) -> Number:
    return min(max(value, least), most)
