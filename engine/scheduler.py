"""Decides what the next step computes.

There is no prefill phase and no decode phase: in every sequence, the computed tokens catch up with the known
ones, under one budget of tokens per step. Decodes come first, because readers wait for them. Prompt chunks
fill the rest in order or, if there is an objective for the time between tokens, as much of it as there is
time for (pacing.py).

A sequence gets the pages for all its known tokens when it is admitted, so only decodes can run out of them.
Then the youngest sequence of the least urgent class gives its pages back and waits to be computed again; its
full pages stay findable, so this is cheap unless another sequence takes them.

A step may be planned before the last one's tokens are read; they count as known (`Sequence.unread`). Only
when pages run out (`short_of_pages`) must they be read first, so that a preempted sequence has no unread
token, and none is preempted for pages that an ended one is about to free.
"""

from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import ModelError
from .pacing import Pacer
from .pages import Page, PagePool
from .request import Request
from .sequence import Sequence

if TYPE_CHECKING:
    from .adapters.store import AdapterStore

MOST_SCORED = 256
"""Prompt tokens whose log-probabilities one step computes: each takes the logits of a whole vocabulary."""


@dataclass(slots=True)
class ScheduledSequence:
    """`count` tokens of one sequence to compute in this step, from `sequence.computed` on.

    Attributes:
        samples: whether the sequence will then have caught up, so that its next token is sampled; never if it
            is pooled.
    """

    sequence: Sequence
    count: int
    samples: bool


@dataclass(slots=True)
class Scheduler:
    """Decides which sequences run, and which of their tokens.

    Attributes:
        pacer: limits a step's prompt tokens to what the objective for its time allows; None without an
            objective.
        adapters: keeps those that requests may have; None if they can have none.
        failed: waiting sequences whose adapters can't be loaded any more, to be removed by the caller.
        running: sequences with pages and a row, most urgent first; `waiting` has those without.
        preemptions: how often a sequence lost its pages.
        prefix_query_tokens, prefix_hit_tokens: number of tokens looked up in the prefix cache, and found
            there.
    """

    pool: PagePool
    max_batch_size: int
    max_step_tokens: int
    prefix_cache: bool = True
    pacer: Pacer | None = None
    adapters: "AdapterStore | None" = None
    running: list[Sequence] = field(default_factory=list)
    waiting: list[Sequence] = field(default_factory=list)
    failed: list[Sequence] = field(default_factory=list)
    preemptions: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    _rows: list[int] = field(init=False)
    _step_tokens: int = field(init=False)
    _pooling: int = 0
    _to_score: int = field(init=False, default=MOST_SCORED)

    def __post_init__(self) -> None:
        self._step_tokens = self.max_step_tokens
        # Popped from the end: the lowest rows are taken first.
        self._rows = list(range(self.max_batch_size - 1, -1, -1))

    def add(self, sequence: Sequence) -> None:
        """Queue a new or preempted sequence by its urgency."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.urgency)

    def remove(self, sequence: Sequence, *, findable: bool = True) -> None:
        """Remove a sequence that has ended; its pages can be found until they are needed, or not at all."""
        if sequence.row < 0:
            self.waiting.remove(sequence)
            return
        if findable:
            self._remember(sequence)
        else:
            self.pool.forget(page for page in sequence.pages if page.refs == 1)
        self._stop(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Plan a step: its chunks, decodes first and pooled ones last; empty if nothing can run."""
        plan: list[ScheduledSequence] = []
        # An example, with 8 tokens a step: A and B decode, C has computed 10 of its 30 prompt tokens, D
        # waits. The plan is A 1, B 1, C 6. Once C's last 2 are planned, D is admitted and gets what is left,
        # 4: only the last sequence of a plan is ever cut.
        self._to_score = MOST_SCORED
        budget = self._plan_decodes(plan)
        budget = self._plan_prompts(plan, budget)
        passed = 0  # those that wait for an adapter, and let others pass
        while passed < len(self.waiting) and self._rows and budget > 0:
            if not self._hold_adapter(self.waiting[passed]):
                passed += 1
            elif self._admit(passed):
                budget = self._plan_chunk(plan, self.running[-1], budget)
            else:
                break
        # Admitted ones stand at the end; the next step's decodes and chunks go by urgency.
        self.running.sort(key=lambda sequence: sequence.urgency)
        if self._pooling:
            plan.sort(key=lambda scheduled: not scheduled.sequence.generates)
        return plan

    def _plan_decodes(self, plan: list[ScheduledSequence]) -> int:
        budget = self._step_tokens
        # A copy: `_grow` takes sequences out of `running` when pages run out.
        for sequence in list(self.running):
            if budget == 0:
                break
            # A row below 0: an earlier one's growth has just preempted it.
            if sequence.row >= 0 and sequence.pending == 1 and self._grow(sequence, plan):
                plan.append(ScheduledSequence(sequence, 1, samples=sequence.generates))
                budget -= 1
        if self.pacer is not None:
            self.pacer.begin(len(plan), sum(len(scheduled.sequence.tokens) for scheduled in plan))
        return self._step_tokens - len(plan)

    def shrink(self, plan: list[ScheduledSequence]) -> bool:
        """Plan only half as many tokens, because a step didn't fit the memory; False if it had a single
        token.

        Keys and values have their memory already; what grows with a step's tokens is its activations. The
        most urgent sequences continue meanwhile.
        """
        tokens = sum(scheduled.count for scheduled in plan)
        # Half of what did not fit, and not of the limit: a small step may have failed as well.
        self._step_tokens = max(1, tokens // 2)
        return tokens > 1

    def expand(self) -> None:
        """Let the next step be a little larger again, because one has fitted the memory."""
        if self._step_tokens < self.max_step_tokens:
            more = self._step_tokens // 16 + 1  # doubles in about twelve steps
            self._step_tokens = min(self.max_step_tokens, self._step_tokens + more)

    def _plan_prompts(self, plan: list[ScheduledSequence], budget: int) -> int:
        for sequence in self.running:
            if budget == 0:
                break
            if sequence.pending > 1:
                budget = self._plan_chunk(plan, sequence, budget)
        return budget

    def _plan_chunk(self, plan: list[ScheduledSequence], sequence: Sequence, budget: int) -> int:
        """Plan what fits of a sequence; return the tokens left in the budget, none if time has run out."""
        pending = sequence.pending
        count = wanted = min(pending, budget, self._most_to_score(sequence))
        if not wanted:  # the others may continue
            return budget
        if self.pacer is not None:
            count = self.pacer.take(sequence.computed, wanted)
        if count:
            plan.append(ScheduledSequence(sequence, count, samples=count == pending and sequence.generates))
            self._to_score -= len(sequence.to_score(sequence.computed, count))
        return budget - count if count == wanted else 0

    def _most_to_score(self, sequence: Sequence) -> int:
        """How many of its tokens a step can take until it would score more than it may."""
        scored = sequence.to_score(sequence.computed, sequence.pending)
        if len(scored) <= self._to_score:
            return sequence.pending
        return scored.start - sequence.computed + self._to_score

    # Pages ----------------------------------------------------------------------------------------------

    def pages_for(self, tokens: int) -> int:
        """Number of pages that hold this many tokens."""
        return -(-tokens // self.pool.page_size)

    @property
    def short_of_pages(self) -> bool:
        """Whether the next step's decodes need more pages than are free."""
        free, size = self.pool.free, self.pool.page_size
        # A decode takes a page at most, so most steps are spared the count below.
        if free >= len(self.running):
            return False
        growing = (s.pending == 1 and len(s.pages) * size <= s.computed for s in self.running)
        return sum(growing) > free

    def _grow(self, sequence: Sequence, plan: list[ScheduledSequence]) -> bool:
        """Give a decode the page it needs, if need be from a less urgent one; False if it lost its own."""
        # Position `computed` lies in a page it holds: one decode in `page_size` needs another.
        if len(sequence.pages) * self.pool.page_size > sequence.computed:
            return True
        while self.pool.free == 0:
            victim = max(self.running, key=lambda running: running.urgency)
            self._preempt(victim)
            plan[:] = [scheduled for scheduled in plan if scheduled.sequence is not victim]
            if victim is sequence:
                return False
        sequence.pages += self.pool.allocate(1)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.computed = sequence.remembered = 0
        self.preemptions += 1
        self.add(sequence)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._pooling -= not sequence.generates
        self._rows.append(sequence.row)
        self._let_go_of_adapter(sequence)
        self.pool.release(sequence.pages)
        sequence.pages, sequence.row, sequence.has_row = [], -1, False

    def _hold_adapter(self, sequence: Sequence) -> bool:
        """Hold a waiting sequence's adapter, if it has one; False if that isn't in memory for now."""
        adapter = sequence.request.adapter
        if adapter is None or sequence.failure:
            return adapter is None
        assert self.adapters is not None
        try:
            sequence.adapter = self.adapters.acquire(adapter)
        except ModelError as error:
            sequence.failure = str(error)
            self.failed.append(sequence)
        return sequence.adapter is not None

    def _let_go_of_adapter(self, sequence: Sequence) -> None:
        if sequence.adapter is not None:
            assert self.adapters is not None
            self.adapters.release(sequence.adapter)
            sequence.adapter = None

    def _admit(self, place: int) -> bool:
        """Start a waiting sequence if there are pages for its known tokens; it holds its adapter already."""
        sequence = self.waiting[place]
        found = self._find_prefix(sequence)
        fresh = self.pages_for(len(sequence.tokens)) - len(found)
        revived = sum(page.refs == 0 for page in found)
        # Otherwise it would soon be preempted again: each running sequence takes a page every page_size
        # steps.
        headroom = self.pool.total // 100 if self.running else 0
        if fresh + revived + headroom > self.pool.free:
            self._let_go_of_adapter(sequence)
            return False
        self.waiting.pop(place)
        for page in found:
            self.pool.hold(page)
        sequence.pages = found + self.pool.allocate(fresh)
        sequence.computed = len(found) * self.pool.page_size
        sequence.remembered = len(found)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = sequence.computed
            self.prefix_query_tokens += len(sequence.tokens)
            self.prefix_hit_tokens += sequence.computed
        sequence.row = self._rows.pop()
        self.running.append(sequence)
        self._pooling += not sequence.generates
        return True

    def _find_prefix(self, sequence: Sequence) -> list[Page]:
        """The cached pages of its beginning; the tokens whose logits are wanted are left to compute."""
        found: list[Page] = []
        if not self.prefix_cache or ((pooling := sequence.request.pooling) and pooling.type == "mean"):
            return found  # pages hold keys and values, not the hidden states that a mean is made of
        # With pages of 4, of 8 known tokens only the first page is looked up, of 9 both: the last token is
        # computed in any case, since its logits choose the next one.
        for index in range(sequence.reusable // self.pool.page_size):
            page = self.pool.find(self._key(sequence, index))
            if page is None:
                break
            found.append(page)
        return found

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """The key of a full page of a sequence; those of all pages before it must have been asked for."""
        keys, size = sequence.keys, self.pool.page_size
        if index == len(keys):
            # A chain: a key is made of the one before it, so equal keys mean equal beginnings.
            parent = keys[-1] if keys else self._root(sequence.request)
            keys.append(self.pool.key_of(parent, sequence.tokens[index * size : (index + 1) * size]))
        return keys[index]

    def _root(self, request: Request) -> bytes:
        adapter = request.adapter
        return self.pool.root(request.cache_salt, "" if adapter is None else adapter.fingerprint)

    def computed(self, scheduled: ScheduledSequence) -> None:
        """Count a chunk as computed before any that is planned from now on; full pages become findable."""
        sequence = scheduled.sequence
        sequence.computed += scheduled.count
        if (sequence.remembered + 1) * self.pool.page_size <= sequence.computed:
            self._remember(sequence)

    def _remember(self, sequence: Sequence) -> None:
        """Make those of its full pages findable whose tokens are known."""
        if not self.prefix_cache:
            return
        # Overlapped, the last computed token may be one that the host has not read: its page has no key yet.
        size, known = self.pool.page_size, min(sequence.computed, len(sequence.tokens))
        while (sequence.remembered + 1) * size <= known:
            index = sequence.remembered
            self.pool.remember(sequence.pages[index], self._key(sequence, index))
            sequence.remembered += 1

    def check(self) -> None:
        """Assert that pages and rows are conserved."""
        self.pool.check(sequence.pages for sequence in self.running)
        rows = sorted([*self._rows, *(sequence.row for sequence in self.running)])
        assert rows == list(range(self.max_batch_size)), f"rows are not conserved: {rows}"
        assert all(not sequence.pages and sequence.row < 0 for sequence in self.waiting)
        assert all(sequence.adapter is None for sequence in self.waiting)
        if self.adapters is not None:
            self.adapters.check(sum(sequence.adapter is not None for sequence in self.running))
