"""What a worker asks of an engine, whichever it is.

`Engine` is the one that headrace brings along; registry.py says how another one is found by its name, and
conformance.py checks what the sentences here promise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from .request import Progress, Request


@dataclass(slots=True, frozen=True)
class EngineModelInfo:
    """What a loaded model is and takes.

    Attributes:
        vocab_size: tokens that it knows; its tokenizer may name more.
        context_tokens: longest prompt + output.
        eos_token_ids: tokens that end a sequence by themselves.
    """

    family: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    num_parameters: int
    dtype: str


@dataclass(slots=True, frozen=True)
class EngineStats:
    """The engine now, and counters since its start.

    Attributes:
        tokens_held: tokens whose keys and values lie in held pages; shared ones count for each holder.
        host_s: seconds that all steps took on the host besides computing models or waiting for the device.
    """

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_cached: int
    pages_held: int
    tokens_held: int
    preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    steps: int
    step_tokens: int
    host_s: float


class EngineProtocol(Protocol):
    """One model on one device, driven by one thread: submit requests, call `step`, take the new tokens.

    A request's tokens are a function of its prompt, its parameters and its seed alone. So an engine that is
    given the first tokens of an answer (`Request.output_ids`) continues with those that would have followed:
    that is what makes jobs survive their workers.
    """

    @property
    def model_info(self) -> EngineModelInfo:
        """What the model is and takes."""

    @property
    def page_size(self) -> int:
        """Tokens a KV page holds; `free_tokens` and `held_tokens` are multiples of it."""

    @property
    def capacity_tokens(self) -> int:
        """The most tokens, prompt and output, that one request can come to."""

    @property
    def free_slots(self) -> int:
        """Requests that still fit the batch, those waiting counted in."""

    @property
    def free_tokens(self) -> int:
        """Tokens that still fit the cache, less what the waiting requests' known tokens take."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""

    def submit(self, request: Request) -> None:
        """Queue a request; it starts at a coming step.

        Raises:
            RequestError: it could never run here; nothing else is touched.
        """

    def cancel(self, request_id: str) -> bool:
        """End a request without a word; False when it is not here."""

    def step(self) -> list[Progress]:
        """Compute one step; what each sequence got that has new tokens or has ended.

        Raises:
            Exception: the engine itself can't go on, and its process is to be replaced. What one request
                brings about ends that request alone, with `FinishReason.ERROR`.
        """

    def held_tokens(self, request_id: str) -> int:
        """Tokens that would fit more if this request were cancelled; 0 when it is not here."""

    def stats(self) -> EngineStats:
        """The engine now, and its counters."""

    def check(self) -> None:
        """Assert that pages and whatever else is lent to requests are conserved."""

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        """Have more tokens end a text: a tokenizer may name one that the model's configuration does not.

        For an engine that runs nothing yet.
        """
