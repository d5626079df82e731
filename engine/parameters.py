"""Sampling parameters: declared once, and brought to what is computed with.

A field of `SamplingParams` that every row of a step has a number for says so itself (`Column`): its type,
what asks for nothing, and which work of a pass it needs otherwise. The batch's arrays, what is packed for the
device and the kernel's table have it by the same name.

A request may ask for any number; a step computes with float32 and int64, many sequences at once. So what
these types would make zero, infinite or another number is brought to the nearest value that means the same,
before it comes near a step. What means nothing at all is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Literal, TypeVar

from .errors import RequestError

MIN_TEMPERATURE = 1e-5
"""Below, sampling is greedy: the best token's lead divided by less would overflow, or outweigh any noise."""

_LEAST, _MOST = 2.0**-126, 1e30
"""The smallest normal float32; and what penalties and a temperature can come to without making logits
infinite."""

_MOST_TOKENS = 2**31

Number = TypeVar("Number", int, float)

Work = Literal["penalties", "truncation"]
"""Work of a pass that a neutral row does not need: fields of the kernels' `SampleNeeds`."""


@dataclass(slots=True, frozen=True)
class Column:
    """A parameter that each row of a step has a number for.

    Attributes:
        dtype: of the number where it is computed with.
        neutral: what asks for nothing; a row that is nobody's has it, and None stands for it.
        least, most: a finite number beyond them is brought to them.
        work: what it asks for where it is not neutral.
    """

    dtype: Literal["float32", "int32", "int64"]
    neutral: float
    least: float
    most: float
    work: Work | None


def _column(
    default: float | None,
    dtype: Literal["float32", "int32", "int64"] = "float32",
    *,
    neutral: float | None = None,
    least: float = -inf,
    most: float = inf,
    work: Work | None = None,
) -> Any:
    neutral = default if neutral is None else neutral
    assert neutral is not None
    return field(default=default, metadata={"column": Column(dtype, neutral, least, most, work)})


_TOKEN_IDS = {"token_ids": True}
"""Marks a field that names tokens, which the vocabulary must have."""


@dataclass(slots=True, frozen=True)
class SamplingParams:
    """How the next token is chosen. Names and meanings are those of the OpenAI API and vLLM.

    Attributes:
        max_tokens: most tokens to generate, counted from the end of the prompt.
        min_tokens: end-of-sequence and stop tokens can't be sampled before this many output tokens.
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p.
        min_p: drop tokens less likely than min_p times the most likely one.
        presence_penalty: subtracted once from the logit of every token in the output so far.
        frequency_penalty: subtracted per occurrence in the output so far.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt and output.
        logit_bias: added to the logits of the given token ids.
        allowed_token_ids: no other token can be sampled; empty allows all.
        seed: sampling noise is a function of (seed, position, token id) alone.
        stop_token_ids: end the sequence, besides the model's own end-of-sequence tokens.
        ignore_eos: the model's end-of-sequence tokens are ordinary tokens.
        logprobs: return the log-probability of each sampled token and of this many most likely ones;
            None returns none. They are those of the model, before penalties, bias and temperature.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = _column(1.0, neutral=0.0, most=_MOST)
    top_k: int = _column(0, "int32", work="truncation")
    top_p: float = _column(1.0, least=_LEAST, most=1.0, work="truncation")
    min_p: float = _column(0.0, least=0.0, most=1.0, work="truncation")
    presence_penalty: float = _column(0.0, least=-_MOST, most=_MOST, work="penalties")
    frequency_penalty: float = _column(0.0, least=-_MOST, most=_MOST, work="penalties")
    repetition_penalty: float = _column(1.0, least=1 / _MOST, most=_MOST, work="penalties")
    logit_bias: dict[int, float] = field(default_factory=dict, metadata=_TOKEN_IDS)
    allowed_token_ids: tuple[int, ...] = field(default=(), metadata=_TOKEN_IDS)
    seed: int = _column(0, "int64")
    stop_token_ids: tuple[int, ...] = field(default=(), metadata=_TOKEN_IDS)
    ignore_eos: bool = False
    logprobs: int | None = _column(None, "int32", neutral=-1)


COLUMNS: dict[str, Column] = {
    each.name: each.metadata["column"] for each in fields(SamplingParams) if "column" in each.metadata
}
"""By the parameter's name."""


def computable(params: SamplingParams, vocab: int) -> SamplingParams:
    """The same request of sampling, in numbers that float32 and int64 hold.

    A top_p that float32 rounds to nothing keeps the most likely token alone; a top_k of the vocabulary or
    more keeps all.

    Raises:
        RequestError: a number is not finite, or outside what it has a meaning for; a token is unknown.
    """
    for each in fields(SamplingParams):
        if "token_ids" in each.metadata:
            refuse_unknown(each.name, getattr(params, each.name), vocab)
    asked: dict[str, Any] = {
        name: _within(column.least, _finite(name, getattr(params, name)), column.most)
        for name, column in COLUMNS.items()
        if column.dtype == "float32"
    }
    if params.temperature < 0:
        raise RequestError("temperature", "must not be negative; 0 is greedy")
    if params.repetition_penalty <= 0:
        raise RequestError("repetition_penalty", "must be above 0; 1 changes nothing")
    if not -(2**63) <= params.seed < 2**63:
        raise RequestError("seed", "must be a number of 64 bits")
    if params.temperature < MIN_TEMPERATURE:
        asked["temperature"] = 0.0
    if params.min_p < _LEAST:
        asked["min_p"] = 0.0
    return replace(
        params,
        **asked,
        max_tokens=min(params.max_tokens, _MOST_TOKENS),
        min_tokens=_within(0, params.min_tokens, _MOST_TOKENS),
        top_k=params.top_k if 0 < params.top_k < vocab else 0,
        logit_bias={
            token_id: _within(-_MOST, _finite("logit_bias", value), _MOST)
            for token_id, value in params.logit_bias.items()
        },
        logprobs=None if params.logprobs is None else _within(0, params.logprobs, vocab),
    )


def refuse_unknown(name: str, token_ids: Iterable[int], vocab: int) -> None:
    """Refuse what names a token that there is none of.

    Raises:
        RequestError: of the field of this name.
    """
    for token_id in token_ids:
        if not 0 <= token_id < vocab:
            raise RequestError(name, f"token id {token_id} is not in the vocabulary of {vocab} tokens")


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = inf
    if not isfinite(number):
        raise RequestError(name, "must be a finite number")
    return number


def _within(least: Number, value: Number, most: Number) -> Number:
    return min(max(value, least), most)
