"""One request on its way through the engine."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .pages import Page
from .request import FinishReason, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .adapters.folder import AdapterWeights


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one request.

    Attributes:
        tokens: prompt and output known so far.
        unread: number of tokens sampled by launched steps that the host has not read yet; at most one when a
            step is planned.
        computed: number of tokens whose keys and values are in its pages, or will be by a launched step; at
            least one less than `tokens` and `unread` together.
        pages: its block table; append-only while it runs.
        remembered: number of full pages made findable so far.
        keys: the keys of its first full pages, as far as they have been asked for.
        arrival: its place in the order of arrival.
        row: its row in the batch; -1 while it waits.
        has_row: whether the row holds its tokens and pages yet.
        cached_tokens: length of the prefix found in the cache at its first admission; None before that.
        limit: maximum number of tokens, prompt and output.
        pooled: float32 [hidden], the sum of the hidden states that have been read, if it is pooled.
        adapter: the weights of the request's adapter, which it holds while it has a row.
        failure: why no next token can be chosen, if that is known.
        prompt_length: number of tokens that are the prompt's.
        scored: number of the prompt's tokens that need no log-probability any more: the first, those that the
            request leaves out, and those whose was read.
        ends: why it ends once they all are, if its tokens were complete when it came.
    """

    request: Request
    tokens: list[int]
    arrival: int
    limit: int
    computed: int = 0
    unread: int = 0
    pages: list[Page] = field(default_factory=list)
    remembered: int = 0
    # Kept when it loses its pages: the tokens stay the same, and so do the keys.
    keys: list[bytes] = field(default_factory=list)
    row: int = -1
    has_row: bool = False
    cached_tokens: int | None = None
    pooled: "NDArray[np.float32] | None" = None
    adapter: "AdapterWeights | None" = None
    failure: str = ""
    scored: int = 0
    ends: FinishReason | None = None
    prompt_length: int = field(init=False)
    _full_length: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_length = len(self.request.prompt_ids)
        asked = self.request.prompt_logprobs is not None
        self.scored = max(1, self.request.unscored) if asked else self.prompt_length
        self._full_length = min(self.limit, self.prompt_length + self.request.params.max_tokens)

    @property
    def pending(self) -> int:
        """Number of tokens to compute before the next one can be sampled; 1 is a decode, 0 is the end."""
        # A prompt of 30 of which 10 are computed has 20 pending; after its last chunk, with a token sampled
        # and not read, 1; with that token its last, 0: nothing more is wanted of it.
        known = len(self.tokens) + self.unread
        return known - self.computed if known < self._full_length or not self.unread else 0

    @property
    def generates(self) -> bool:
        """Whether tokens follow its prompt; otherwise it is pooled."""
        return self.request.pooling is None

    @property
    def reusable(self) -> int:
        """Number of tokens at its beginning that need not be computed if their keys and values are there."""
        # Position i gives the log-probability of token i + 1, so that of 5 tokens scored 4 need no logits.
        return self.scored - 1 if self.scored < self.prompt_length else len(self.tokens) - 1

    def to_score(self, start: int, count: int) -> range:
        """Which of `count` tokens from position `start` on have the log-probability of the prompt's next."""
        return range(max(start, self.scored - 1), min(start + count, self.prompt_length - 1))

    def of_its_prompt(self, reason: FinishReason) -> "Sequence":
        """What is left of a new sequence that has all its tokens: its prompt, which has no scores yet."""
        request = self.request
        request = replace(request, output_ids=[], params=replace(request.params, max_tokens=0))
        return Sequence(request, list(request.prompt_ids), self.arrival, self.limit, ends=reason)

    @property
    def urgency(self) -> tuple[int, int]:
        """Sort key: lower values are served first and preempted last."""
        return self.request.priority, self.arrival

    def finish_reason(self, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Why it ends with its last token, if it does."""
        params, known = self.request.params, len(self.tokens)
        # Without an output token there is nothing to end by, though a prompt may end with an EOS.
        # A constraint's mask holds ends back by itself, but not where it allows nothing else.
        least = 0 if self.request.constraint is not None else params.min_tokens
        if known > self.prompt_length and known >= self.prompt_length + least:
            last = self.tokens[-1]
            if last in params.stop_token_ids or (not params.ignore_eos and last in eos_token_ids):
                return FinishReason.STOP
        return FinishReason.LENGTH if known >= self._full_length else None
