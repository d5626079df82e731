"""Sampling parameters: declared once, and converted to what is computed with.

A field of `SamplingParams` that is a number for every row of a step declares that itself (`Column`): its
type, its neutral value, and which work of a pass any other value needs. The batch's arrays, what is packed
for the device and the kernel's table have it under the same name.

A request may ask for any number, but a step computes many sequences at once in float32 and int64. A number
that these types would turn into zero, infinity or another number is therefore replaced beforehand by the
nearest one with the same meaning. A number without a meaning is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite
from typing import Any, Literal, TypeVar

from .errors import RequestError

MIN_TEMPERATURE = 1e-5
"""Below this, sampling is greedy: the best token's lead divided by less would overflow or outweigh any
noise."""

_LEAST, _MOST = 2.0**-126, 1e30
"""The smallest normal float32, and the limit of penalties and temperatures that never make logits
infinite."""

_MOST_TOKENS = 2**31

Number = TypeVar("Number", int, float)

Work = Literal["penalties", "truncation"]
"""Work of a pass that a neutral row doesn't need: fields of the kernels' `SampleNeeds`."""


@dataclass(slots=True, frozen=True)
class Column:
    """A parameter that is a number for each row of a step.

    Attributes:
        dtype: the type that it is computed in.
        neutral: the value that asks for nothing, which rows without a sequence have and None stands for.
        least, most: finite numbers beyond these are clamped to them.
        work: the work that a row needs if its value isn't neutral.
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


ONLY = "allowed_token_ids"
"""The parameter that lists the only tokens that may come."""

_TOKEN_IDS = {"token_ids": True}
"""Marks a field that names tokens, which must be in the vocabulary."""


@dataclass(slots=True, frozen=True)
class SamplingParams:
    """How the next token is chosen. Names and meanings are those of the OpenAI API and vLLM.

    Attributes:
        max_tokens: maximum number of tokens to generate, counted from the end of the prompt.
        min_tokens: end-of-sequence and stop tokens can't be sampled before this many output tokens, unless a
            constraint allows nothing else.
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p.
        min_p: drop tokens less likely than min_p times the most likely one.
        presence_penalty: subtracted once from the logit of every token in the output so far.
        frequency_penalty: subtracted per occurrence in the output so far.
        repetition_penalty: divides positive and multiplies negative logits of tokens in prompt and output.
        logit_bias: added to the logits of the given token ids.
        allowed_token_ids: the only tokens that can be sampled; if empty, all can.
        bad_words: sequences of tokens that the output can't contain.
        seed: sampling noise is a function of (seed, position, token id) alone.
        stop_token_ids: tokens that end the sequence, besides the model's own end-of-sequence tokens.
        ignore_eos: treat the model's end-of-sequence tokens as ordinary tokens.
        logprobs: return the log-probabilities of each sampled token and of this many most likely ones, as the
            model gives them, before penalties, bias and temperature; None returns none.
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
    bad_words: tuple[tuple[int, ...], ...] = ()
    seed: int = _column(0, "int64")
    stop_token_ids: tuple[int, ...] = field(default=(), metadata=_TOKEN_IDS)
    ignore_eos: bool = False
    logprobs: int | None = _column(None, "int32", neutral=-1)


COLUMNS: dict[str, Column] = {
    each.name: each.metadata["column"] for each in fields(SamplingParams) if "column" in each.metadata
}
"""The columns by their parameters' names."""


def computable(params: SamplingParams, vocab: int) -> SamplingParams:
    """The same parameters in numbers that float32 and int64 can represent.

    A top_p that float32 rounds to zero keeps only the most likely token; a top_k of at least the vocabulary's
    size keeps all.

    Raises:
        RequestError: a number is not finite or has no meaning for its parameter; a token is unknown.
    """
    for each in fields(SamplingParams):
        if "token_ids" in each.metadata:
            refuse_unknown(each.name, getattr(params, each.name), vocab)
    for word in params.bad_words:
        if not word:
            raise RequestError("bad_words", "must not have a word without tokens")
        refuse_unknown("bad_words", word, vocab)
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
        raise RequestError("seed", "must be a 64-bit integer")
    if params.temperature < MIN_TEMPERATURE:
        asked["temperature"] = 0.0
    # Its logarithm is taken, on a GPU by a function that knows normal numbers only.
    if params.min_p < _LEAST:
        asked["min_p"] = 0.0
    return replace(
        params,
        **asked,
        max_tokens=min(params.max_tokens, _MOST_TOKENS),
        min_tokens=_within(0, params.min_tokens, _MOST_TOKENS),
        # 0 and the whole vocabulary mean the same, and 0 is what asks for no work. So does vLLM's -1.
        top_k=params.top_k if 0 < params.top_k < vocab else 0,
        logit_bias={
            token_id: _within(-_MOST, _finite("logit_bias", value), _MOST)
            for token_id, value in params.logit_bias.items()
        },
        logprobs=None if params.logprobs is None else _within(0, params.logprobs, vocab),
    )


def refuse_unknown(name: str, token_ids: Iterable[int], vocab: int) -> None:
    """Refuse a list that names a token outside the vocabulary.

    Raises:
        RequestError: naming the field `name`.
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
