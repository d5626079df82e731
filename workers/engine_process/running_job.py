"""One job while this worker runs it: its tokens and text, how much of them is in the log, how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ...engine import Request, TokenLogprobs
from ...schemas.events import (
    End,
    FinishReasonName,
    JobError,
    JobState,
    Output,
    PromptLogprob,
    Usage,
    chunk_payload,
)
from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.scripts import ClaimedJob, Segment
from ...schemas.wire import WireJob
from ..supervision.pipe import JobStarted
from .choice import RunningChoice, request_id
from .prepared import Prepared, Told
from .text import TextStream, TokenText


@dataclass(slots=True, eq=False)
class RunningJob:
    """A claimed job. Its log only grows; `written` follows what Redis has confirmed.

    All answers share the log. Their tokens stand there as they came, but those that are sent together are
    put in the order of the choices, so that a write has at most one chunk of each. What has been sent once
    keeps its order: Redis may have it.

    Attributes:
        tag, job_id, fence: where to write, and with which fence.
        suspect_until: the job counts as a suspect until `written` passes this offset.
        job: what it asks for; None until it is prepared, and without what only intake needs (`NOT_KEPT`).
        known: whether the roster has it.
        preparing: whether it is at intake: held here, but not in the engine yet.
        job_class, tenant: as its record says.
        cost_tokens: tokens of KV that its claim counted for it.
        claimed_at: when it was claimed, by this process's monotonic clock, in seconds.
        waited_s: how long it had waited until then, by Redis's clock.
        counted: whether the queue knew its prompt's tokens when it was claimed.
        written: tokens confirmed in the log.
        checkpointed_at: when `written` last moved, by the monotonic clock.
        broken: the worker failed over it once already.
        told: the tokenizer's answer, if it wants no other.
        embedding: the prompt's vector, if it wants that.
        score: how well its document answers its prompt, if it wants that.
        choices: its answers.
        waiting: requests for those that start once the pages of their prompt can be shared.
        first_request: the one whose pages these are.
        prompt_logprobs: what is known of the prompt's tokens; None if the job doesn't ask. Another worker
            computes them again, with the prompt.
        to_score: how many entries `prompt_logprobs` will have.
        answer_format: how its text is to be read, as it travels; None if it is read as it is.
    """

    tag: Tag
    job_id: str
    fence: str
    job: WireJob | None
    claimed_at: float
    known: bool = False
    preparing: bool = False
    job_class: JobClass = JobClass.STANDARD
    tenant: str = ""
    cost_tokens: int = 0
    notice: JobStarted | None = None
    waited_s: float = 0.0
    attempts: int = 0
    suspect_until: int | None = None
    counted: bool = True
    prompt_tokens: int = 0
    cached_tokens: int = 0
    written: int = 0
    resumed_at: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    checkpointed_at: float = 0.0
    renewed_at: float = 0.0
    ended: JobState | None = None
    finish_reason: FinishReasonName = "stop"
    error: JobError | None = None
    broken: bool = False
    told: Told | None = None
    embedding: list[float] | None = None
    score: float | None = None
    choices: list[RunningChoice] = field(default_factory=lambda: [RunningChoice()])
    waiting: list[Request] = field(default_factory=list)
    first_request: str = ""
    prompt_logprobs: list[PromptLogprob] | None = None
    to_score: int = 0
    answer_format: dict[str, Any] | None = None
    # Which choice each token is of, in the order of the log; empty while there is only one.
    _order: bytearray = field(default_factory=bytearray)
    _sealed: int = 0

    @classmethod
    def of_claim(cls, tag: Tag, claimed: ClaimedJob, now: float) -> "RunningJob":
        """Make a running job from one just claimed, for intake to read."""
        return cls(
            tag=tag,
            job_id=claimed.job_id,
            fence=claimed.fence,
            job=None,
            claimed_at=now,
            preparing=True,
            job_class=claimed.job_class,
            tenant=claimed.tenant,
            cost_tokens=claimed.cost_tokens,
            waited_s=claimed.waited_ms / 1000,
            attempts=claimed.attempts,
            suspect_until=claimed.suspect_until,
            counted=claimed.prompt_tokens > 0,
            choices=[RunningChoice(number) for number in range(claimed.choices)],
            written=claimed.offset,
            resumed_at=claimed.offset,
            checkpointed_at=now,
            renewed_at=now,
        )

    @property
    def is_suspect(self) -> bool:
        """Whether its last worker died near where it is now."""
        return self.suspect_until is not None and self.written <= self.suspect_until

    @property
    def tokens(self) -> int:
        """The number of tokens of all answers."""
        return len(self._order) if len(self.choices) > 1 else len(self.choices[0].token_ids)

    @property
    def unwritten(self) -> int:
        """The number of tokens that Redis has not confirmed yet."""
        return max(0, self.tokens - self.written)  # an earlier worker's tokens may not be read yet

    @property
    def finish_reasons(self) -> list[FinishReasonName]:
        """Why each answer ended; that of the job where it went on."""
        return [choice.finish_reason or self.finish_reason for choice in self.choices]

    def waiting_tokens(self, page_size: int) -> int:
        """The KV tokens that answers which have not begun will hold beside their prompt's full pages."""
        own = (len(request.prompt_ids) % page_size + len(request.output_ids) + 1 for request in self.waiting)
        return sum(-(-tokens // page_size) * page_size for tokens in own)

    def request_id(self, choice: RunningChoice) -> str:
        """What the engine calls an answer."""
        return request_id(self.job_id, choice.number)

    def add(
        self,
        choice: RunningChoice,
        token_ids: Sequence[int],
        logprobs: list[dict[str, Any]],
        *,
        silence_last: bool = False,
    ) -> bool:
        """Take new tokens of an answer; True when a stop string ended it at one of them."""
        before = len(choice.token_ids)
        stopped = choice.add(token_ids, logprobs, silence_last=silence_last)
        if len(self.choices) > 1:
            self._order += bytes([choice.number]) * (len(choice.token_ids) - before)
        return stopped

    def take_in(self, job: WireJob | None, texts: Sequence[TextStream], prepared: Prepared) -> None:
        """Take what intake has read; each answer continues where its part of the log ends."""
        self.job, self.notice = job, prepared.notice
        self.prompt_tokens = prepared.prompt_tokens
        replays = [prepared.replay, *prepared.others]
        self.choices = [RunningChoice(number) for number in range(len(replays))]
        with_logprobs = job is not None and job.logprobs is not None
        for choice, replay, text in zip_longest(self.choices, replays, texts):
            choice.take_in(replay, text, logprobs=with_logprobs)
            if choice.ended_by_text and choice.finish_reason is None and len(replays) > 1:
                choice.end("stop", tail=False)
        self._order = bytearray(b"".join(bytes([number]) * count for number, count in prepared.order))
        self._sealed = len(self._order)
        self.told, self.answer_format = prepared.told, prepared.answer_format
        if prepared.error is None:
            self.written = self.resumed_at = sum(replay.logged for replay in replays)

    def finish(self, number: int, reason: FinishReasonName, *, tail: bool, written: bool) -> bool:
        """End one of several answers; True if all have ended.

        Args:
            number: which one. It may have ended before, if the prompt's log-probabilities were missing.
            reason: why it ended.
            tail: whether held-back text belongs to it.
            written: whether it ended with a token that was added just now.
        """
        choice = self.choices[number]
        if choice.finish_reason is None and written:
            choice.end_with_chunk(reason, tail=tail)
        elif choice.finish_reason is None:
            choice.end(reason, tail=tail)
        return all(other.finish_reason is not None for other in self.choices)

    def end(
        self,
        state: JobState,
        finish_reason: FinishReasonName,
        error: JobError | None = None,
        *,
        tail: bool = True,
    ) -> None:
        """Mark the job as ended, with all answers that go on; `tail`: held-back text belongs to them."""
        for choice in self.choices:
            if choice.finish_reason is None:
                choice.end(finish_reason, tail=tail)
        self.ended, self.finish_reason, self.error = state, finish_reason, error
        self.preparing = False
        self.seal()

    def seal(self) -> int:
        """Fix the order of what is to be sent now; return the offset at which it ends."""
        if len(self.choices) > 1 and self._sealed < len(self._order):
            self._order[self._sealed :] = bytes(sorted(self._order[self._sealed :]))
            self._sealed = len(self._order)
        return self.tokens

    def segments(self, offset: int | None = None) -> list[Segment]:
        """The chunks that Redis has not confirmed, up to `offset` (None: all; `written`: only renew)."""
        start = self.written
        # An earlier worker's tokens may not be read yet: then `written` is ahead of what is here.
        stop = max(start, self.tokens) if offset is None else offset
        if stop <= start:
            return [Segment(self.job_id, self.fence, start, stop)]
        if len(self.choices) == 1:
            return [self._segment(self.choices[0], start, stop, start)]
        # An example: of the order 0 0 1 2 2 the first token is written. The chunks are 1..2 of choice 0, its
        # second token, 2..3 of choice 1 and 3..5 of choice 2, their first ones.
        segments = []
        while start < stop:
            number = self._order[start]
            end = next((at for at in range(start, stop) if self._order[at] != number), stop)
            first = self._order.count(number, 0, start)
            segments.append(self._segment(self.choices[number], start, end, first))
            start = end
        return segments

    def _segment(self, choice: RunningChoice, start: int, stop: int, first: int) -> Segment:
        """The chunk of a choice's tokens from `first` on that stand at `start..stop` in the log."""
        # Read before the tokens are counted: the other thread adds the last of them and then says so.
        reason = choice.finish_reason if choice.told and len(self.choices) > 1 else None
        last = first + stop - start
        logprobs = None if choice.logprobs is None else choice.logprobs[first:last]
        payload = chunk_payload(
            stop,
            choice.pieces[first:last],
            choice.token_ids[first:last],
            logprobs,
            self.answer_format if start == 0 else None,
            choice.number,
            reason if last == len(choice.token_ids) else None,
        )
        return Segment(self.job_id, self.fence, start, stop, payload)

    def end_marker(self) -> End:
        """The end marker of its stream."""
        assert self.ended is not None
        several = self.choices if len(self.choices) > 1 else ()
        return End(
            offset=max(self.tokens, self.written),
            end=self.ended,
            text=self.choices[0].tail,
            finish_reason=self.finish_reasons[0],
            error=self.error,
            choices=tuple(choice.end_mark(self.finish_reason) for choice in several if not choice.told),
        )

    def output(self) -> Output:
        """Its result."""
        first = self.choices[0].output(self.finish_reason)
        if self.told is not None:
            first |= {"text": self.told.text, "token_ids": self.told.token_ids}
        several = self.choices if len(self.choices) > 1 else ()
        return Output.model_validate(
            {
                **first,
                "token_strs": self.told and self.told.token_strs,
                "embedding": self.embedding,
                "score": self.score,
                "prompt_logprobs": self.prompt_logprobs if self.ended is JobState.SUCCEEDED else None,
                "format": self.answer_format,
                "choices": [choice.output(self.finish_reason) for choice in several],
                "usage": Usage(
                    prompt_tokens=self.prompt_tokens,
                    cached_tokens=self.cached_tokens,
                    completion_tokens=self.tokens,
                    reasoning_tokens=sum(
                        choice.reasoning_tokens(self.answer_format) for choice in self.choices
                    ),
                ),
            }
        )


def first_of_prompt(tokenizer: TokenText, token_id: int) -> PromptLogprob:
    """The entry of a prompt's first token, which has no log-probability."""
    token, digits = _spelt(tokenizer.token_bytes(token_id))
    return PromptLogprob(token_id=token_id, token=token, hex=digits)


def wire_logprobs(tokenizer: TokenText, entries: list[TokenLogprobs]) -> list[dict[str, Any]]:
    """The engine's log-probabilities with the tokens' text, as they travel."""
    return [_wire_logprob(tokenizer, entry) for entry in entries]


def _wire_logprob(tokenizer: TokenText, entry: TokenLogprobs) -> dict[str, Any]:
    token, digits = _spelt(tokenizer.token_bytes(entry.token_id))
    wire: dict[str, Any] = {"token_id": entry.token_id, "token": token, "logprob": entry.logprob}
    top = [(token_id, *_spelt(tokenizer.token_bytes(token_id)), logprob) for token_id, logprob in entry.top]
    wire["top"] = [(token_id, text, logprob) for token_id, text, _, logprob in top]
    if digits is not None:
        wire["hex"] = digits
    if any(digits is not None for _, _, digits, _ in top):
        wire["top_hex"] = [digits for _, _, digits, _ in top]
    return wire


def _spelt(token: bytes) -> tuple[str, str | None]:
    """A token's text, and its bytes if the text doesn't determine them."""
    try:
        return token.decode(), None
    except UnicodeDecodeError:
        return token.decode(errors="replace"), token.hex()
