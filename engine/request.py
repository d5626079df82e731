"""What goes into the engine and what comes out: token ids and progress."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

from .errors import RequestError
from .parameters import SamplingParams

if TYPE_CHECKING:  # so that requests are made without numpy
    import numpy as np
    from numpy.typing import NDArray

LEAST_LOGPROB = -9999.0
"""Stands for anything lower, and for minus infinity, which JSON can't express; so it is in OpenAI's API."""


class FinishReason(StrEnum):
    """Why the engine ended a sequence by itself."""

    STOP = "stop"
    """An end-of-sequence token or one of `SamplingParams.stop_token_ids` was sampled, or a prompt's vector is
    complete."""
    LENGTH = "length"
    """`max_tokens` was reached, or the model's context is full."""
    ERROR = "error"
    """The next token could not be computed; see `Progress.error`."""


PoolingType = Literal["last", "mean"]


@dataclass(slots=True, frozen=True)
class Pooling:
    """How a prompt's hidden states become one vector.

    Attributes:
        type: `last` takes the last token's, `mean` the mean of all tokens'; None what the model is made for.
        normalize: scale the vector to length 1.
        dimensions: keep only this many of its first numbers (Matryoshka embeddings), before it is normalised.
        score: return what the model's classification head makes of the last token's, and no vector.
    """

    type: PoolingType | None = None
    normalize: bool = True
    dimensions: int | None = None
    score: bool = False

    def check(self, hidden_size: int) -> None:
        """Refuse what can't be computed by a model of this width.

        Raises:
            RequestError: naming the field.
        """
        if self.type not in (None, "last", "mean"):
            raise RequestError("pooling", f"must be last or mean, not {self.type!r}")
        if self.dimensions is not None and not 1 <= self.dimensions <= hidden_size:
            raise RequestError(
                "dimensions", f"must be between 1 and {hidden_size}, the model's own, not {self.dimensions}"
            )


class TokenConstraint(Protocol):
    """Says which tokens may come next in one request's output, given the output so far.

    The engine tells it each output token once, in order, and asks for a mask whenever the next token is to be
    chosen. So what it knows is a function of the output alone, and a request that is preempted or continues
    elsewhere needs nothing else.
    """

    @property
    def taken(self) -> int:
        """Number of output tokens that it has been told."""

    def take(self, token_ids: Sequence[int]) -> None:
        """Follow these output tokens, which come next.

        Raises:
            Exception: they don't continue the output as it allows; the request fails with this reason.
        """

    def fill(self, mask: "NDArray[np.int32]") -> bool:
        """Write which tokens may come next, end-of-sequence tokens among them where the output may end.

        Args:
            mask: int32 [ceil(vocab / 32)]; bit t % 32 of word t // 32 is 1 if token t may come next.

        Returns:
            Whether it rules any out. If not, the mask may be left as it is, and need not be applied.

        Raises:
            Exception: no token may; the request fails with this reason.
        """


@dataclass(slots=True, frozen=True)
class Adapter:
    """A LoRA adapter that a request is computed with.

    Attributes:
        name: what its users call it, for messages.
        source: its folder, in PEFT's format, or a Hugging Face Hub name.
        fingerprint: of its content, see `adapter_fingerprint`; other content is refused.
    """

    name: str
    source: str
    fingerprint: str


@dataclass(slots=True)
class Request:
    """One sequence to generate, or one prompt to pool.

    Attributes:
        id: the caller's name for it, unique among the sequences in the engine.
        prompt_ids: the prompt; at least one token.
        output_ids: tokens generated before, by this or another engine. Generation continues after them,
            exactly as it would have without the interruption.
        params: how to sample.
        priority: 0 is the most urgent. The youngest sequence of the highest number is preempted first.
        cache_salt: prefix pages are shared only between requests with the same salt (a tenant's name, say).
        pooling: generate nothing, and return the prompt's vector instead (`Progress.vector`).
        constraint: says which tokens may come next; it is this request's own. None if any may.
        prompt_logprobs: report the log-probabilities of the prompt's tokens, and of this many of the most
            likely ones at their places; None reports none. With `max_tokens=0` that is all.
        adapter: computes the request; None for the model alone.
        unscored: leave out this many of the prompt's first tokens there. They may come from the prefix cache.
    """

    id: str
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = field(default_factory=list)
    priority: int = 0
    cache_salt: str = ""
    pooling: Pooling | None = None
    constraint: TokenConstraint | None = None
    prompt_logprobs: int | None = None
    adapter: Adapter | None = None
    unscored: int = 0


@dataclass(slots=True)
class TokenLogprobs:
    """Log-probabilities at one position: the token's that is there, and the most likely tokens' in order."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(slots=True)
class Progress:
    """What one step produced for one sequence.

    Attributes:
        id: the request's id.
        token_ids: the new tokens, in order, including one that ended the sequence.
        logprobs: one entry per new token if asked for, otherwise empty.
        finish_reason: set if the sequence has ended; its pages are already free.
        error: why it could not continue, if that is why it ended.
        prompt_logprobs: those of the prompt's tokens that follow the ones reported before, from the second
            on: nothing says how likely the first is. Complete before the first new token.
        cached_tokens: prompt and earlier output tokens found in the prefix cache at first admission.
        vector: float32, the vector of a prompt that was to be pooled, with its end.
        score: its score, if that was asked for instead.
    """

    id: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    error: str = ""
    vector: "NDArray[np.float32] | None" = None
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    score: float | None = None
