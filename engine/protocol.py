"""What a worker asks of any engine.

`Engine` is headrace's own; registry.py says how another one is found by name, and conformance.py checks what
is promised here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from .request import PoolingType, Progress, Request

Task = Literal["generate", "embed", "score"]


@dataclass(slots=True, frozen=True)
class EngineModelInfo:
    """What a loaded model is and what it accepts.

    Attributes:
        vocab_size: number of tokens that it knows; its tokenizer may name more.
        context_tokens: maximum length of prompt + output.
        eos_token_ids: tokens that end a sequence by themselves.
        hidden_size: how many numbers a prompt's vector has; 0 if the engine can't pool.
        pooling: how the model's prompts are meant to be pooled.
        task: what it is made for. Only one made to score does that; any that can pool can embed.
        generates: whether it has a head that predicts tokens; without one it only pools.
        max_adapters: how many adapters it can compute at the same time; at 0 it refuses requests with one.
    """

    family: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    num_parameters: int
    dtype: str
    hidden_size: int = 0
    pooling: PoolingType = "last"
    generates: bool = True
    max_adapters: int = 0
    task: Task = "generate"


@dataclass(slots=True, frozen=True)
class EngineStats:
    """The engine's state now, and its counters since the start.

    Attributes:
        pages_shared: pages held by several requests.
        tokens_held: tokens whose keys and values are in held pages; shared ones count once per holder.
        host_s: seconds that all steps took on the host, apart from computing the model or waiting for the
            device.
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
    pages_shared: int = 0


class EngineProtocol(Protocol):
    """One model on one device, driven by one thread: submit requests, call `step`, take the new tokens.

    A request's tokens depend only on its prompt, its parameters and its seed. So an engine that is given the
    first tokens of an answer (`Request.output_ids`) continues with those that would have followed; this is
    how jobs survive their workers. A request's constraint, if it has one, is told every output token in order
    and decides which may come next.
    """

    @property
    def model_info(self) -> EngineModelInfo:
        """What the model is and what it accepts."""

    @property
    def page_size(self) -> int:
        """Tokens per KV page; `free_tokens` and `held_tokens` are multiples of it."""

    @property
    def capacity_tokens(self) -> int:
        """The maximum number of tokens, prompt and output, of one request."""

    @property
    def free_slots(self) -> int:
        """Number of requests that still fit the batch, besides those that wait."""

    @property
    def free_tokens(self) -> int:
        """Number of tokens that still fit the cache, less what the waiting requests' known tokens need."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""

    def submit(self, request: Request) -> None:
        """Queue a request, which starts in a later step.

        Raises:
            RequestError: it could never run here; other requests are unaffected.
        """

    def cancel(self, request_id: str) -> bool:
        """End a request without reporting progress; False if it isn't here."""

    def step(self) -> list[Progress]:
        """Compute one step; return the progress of each sequence that has new tokens or has ended.

        A request to be pooled has one progress, with its vector or score. An engine that can't do that
        refuses it at `submit`.

        Raises:
            Exception: the engine itself can't continue, and its process must be replaced. A failure caused by
                one request ends only that request, with `FinishReason.ERROR`.
        """

    def held_tokens(self, request_id: str) -> int:
        """How many more tokens would fit if this request were cancelled; 0 if it isn't here."""

    def stats(self) -> EngineStats:
        """The engine's state and counters."""

    def check(self) -> None:
        """Assert that pages, and everything else that requests hold, are conserved."""

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        """Let these tokens end a text too; a tokenizer may name one that the model's configuration doesn't.

        Only for an engine that doesn't run anything yet.
        """
