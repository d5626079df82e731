"""One request on its way through the engine."""

from dataclasses import dataclass, field

from .pages import Page
from .request import FinishReason, Request


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one request.

    Attributes:
        tokens: prompt and output known so far.
        unread: tokens sampled by launched steps that the host has not read yet; one at most when a step is
            planned.
        computed: tokens whose keys and values are, or by a launched step will be, in its pages; it trails
            `tokens` and what is unread by at least one.
        pages: its block table; append-only while it runs.
        remembered: full pages made findable so far.
        keys: what the first full pages of its tokens are known by, as far as that was asked.
        arrival: order of arrival, for who came last.
        row: its row in the batch; -1 while it waits.
        has_row: whether the row holds its tokens and pages yet.
        cached_tokens: prefix found in the cache at its first admission; None before that.
        limit: most tokens, prompt and output, it may come to.
    """

    request: Request
    tokens: list[int]
    arrival: int
    limit: int
    computed: int = 0
    unread: int = 0
    pages: list[Page] = field(default_factory=list)
    remembered: int = 0
    keys: list[bytes] = field(default_factory=list)
    row: int = -1
    has_row: bool = False
    cached_tokens: int | None = None
    _prompt_length: int = field(init=False)
    _full_length: int = field(init=False)

    def __post_init__(self) -> None:
        self._prompt_length = len(self.request.prompt_ids)
        self._full_length = min(self.limit, self._prompt_length + self.request.params.max_tokens)

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 is a decode, 0 that no more is wanted."""
        known = len(self.tokens) + self.unread
        return known - self.computed if known < self._full_length or not self.unread else 0

    @property
    def urgency(self) -> tuple[int, int]:
        """Sort key: lower numbers are served first and preempted last."""
        return self.request.priority, self.arrival

    def finish_reason(self, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Why it ends with its last token, if it does."""
        params, known = self.request.params, len(self.tokens)
        if known > self._prompt_length and known >= self._prompt_length + params.min_tokens:
            last = self.tokens[-1]
            if last in params.stop_token_ids or (not params.ignore_eos and last in eos_token_ids):
                return FinishReason.STOP
        return FinishReason.LENGTH if known >= self._full_length else None
