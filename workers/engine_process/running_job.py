"""One job while this worker runs it: its tokens and text, how much of them is in the log, how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...engine import TokenLogprobs
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
from .prepared import Prepared, Told
from .text import TextStream, TokenText


@dataclass(slots=True, eq=False)
class RunningJob:
    """A claimed job. Tokens and text only grow; `written` follows what Redis has confirmed.

    The text that became final with each token is kept by token, so that any part of the stream can be
    written again after Redis lost the tail of its log.

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
        ended_by_text: whether an earlier worker's tokens ended it by a stop string.
        prompt_logprobs: what is known of the prompt's tokens; None if the job doesn't ask. Another worker
            computes them again, with the prompt.
        to_score: how many entries `prompt_logprobs` will have.
        answer_format: how its text is to be read, as it travels; None if it is read as it is.
    """

    tag: Tag
    job_id: str
    fence: str
    job: WireJob | None
    text: TextStream | None
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
    token_ids: list[int] = field(default_factory=list)
    # pieces[i] is the text that became final with token_ids[i]: "" while a character or a possible stop
    # string is incomplete. So "".join(pieces[a:b]) is what a chunk of these tokens says.
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    written: int = 0
    resumed_at: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    checkpointed_at: float = 0.0
    renewed_at: float = 0.0
    tail: str = ""
    ended: JobState | None = None
    finish_reason: FinishReasonName = "stop"
    error: JobError | None = None
    broken: bool = False
    told: Told | None = None
    embedding: list[float] | None = None
    score: float | None = None
    ended_by_text: bool = False
    prompt_logprobs: list[PromptLogprob] | None = None
    to_score: int = 0
    answer_format: dict[str, Any] | None = None

    @classmethod
    def of_claim(cls, tag: Tag, claimed: ClaimedJob, now: float) -> "RunningJob":
        """Make a running job from one just claimed, for intake to read."""
        return cls(
            tag=tag,
            job_id=claimed.job_id,
            fence=claimed.fence,
            job=None,
            text=None,
            claimed_at=now,
            preparing=True,
            job_class=claimed.job_class,
            tenant=claimed.tenant,
            cost_tokens=claimed.cost_tokens,
            waited_s=claimed.waited_ms / 1000,
            attempts=claimed.attempts,
            suspect_until=claimed.suspect_until,
            counted=claimed.prompt_tokens > 0,
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
    def unwritten(self) -> int:
        """The number of tokens that Redis has not confirmed yet."""
        return max(0, len(self.token_ids) - self.written)  # an earlier worker's tokens may not be read yet

    def add(
        self, token_ids: Sequence[int], logprobs: list[dict[str, Any]], *, silence_last: bool = False
    ) -> bool:
        """Take new tokens; True when a stop string ended the job at one of them (later ones are dropped).

        `silence_last` keeps the text of a stop token out of the answer.
        """
        assert self.text is not None
        if self.logprobs is not None:
            self.logprobs += logprobs
        # Fewer pieces than tokens: a stop string was complete at the last of them.
        pieces, stopped = self.text.take(token_ids[:-1] if silence_last else token_ids)
        self.pieces += pieces
        self.token_ids += token_ids[: len(pieces)]
        if stopped:
            if self.logprobs is not None:
                del self.logprobs[len(self.token_ids) :]
            return True
        if silence_last:
            self.token_ids += token_ids[-1:]
            self.pieces.append("")
        return False

    def take_in(self, job: WireJob | None, text: TextStream | None, prepared: Prepared) -> None:
        """Take what intake has read; the job continues where its log ends."""
        replay = prepared.replay
        self.job, self.text, self.notice = job, text, prepared.notice
        self.prompt_tokens = prepared.prompt_tokens
        self.token_ids, self.pieces = replay.token_ids, replay.pieces
        self.logprobs = replay.logprobs if job is not None and job.logprobs is not None else None
        self.told, self.answer_format = prepared.told, prepared.answer_format
        if prepared.error is None:
            self.written = self.resumed_at = replay.logged

    def end(
        self,
        state: JobState,
        finish_reason: FinishReasonName,
        error: JobError | None = None,
        *,
        tail: bool = True,
    ) -> None:
        """Mark the job as ended; `tail`: held-back text belongs to it (not so after a stop string)."""
        if tail and self.text is not None:
            self.tail = self.text.flush()
        self.ended, self.finish_reason, self.error = state, finish_reason, error
        self.preparing = False

    def segment(self, offset: int | None = None) -> Segment:
        """The segment that Redis has not confirmed, up to `offset` (None: all; `written`: only renew)."""
        start = self.written
        # An earlier worker's tokens may not be read yet: then `written` is ahead of what is here.
        stop = max(start, len(self.token_ids)) if offset is None else offset
        payload = ""
        if stop > start:
            logprobs = None if self.logprobs is None else self.logprobs[start:stop]
            first = self.answer_format if start == 0 else None
            payload = chunk_payload(
                stop, self.pieces[start:stop], self.token_ids[start:stop], logprobs, first
            )
        return Segment(self.job_id, self.fence, start, stop, payload)

    def end_marker(self) -> End:
        """The end marker of its stream."""
        assert self.ended is not None
        return End(
            offset=max(len(self.token_ids), self.written),
            end=self.ended,
            text=self.tail,
            finish_reason=self.finish_reason,
            error=self.error,
        )

    def output(self) -> Output:
        """Its result."""
        told = self.told or Told("".join(self.pieces) + self.tail, self.token_ids)
        return Output.model_validate(
            {
                "text": told.text,
                "token_ids": told.token_ids,
                "token_strs": told.token_strs,
                "embedding": self.embedding,
                "score": self.score,
                "finish_reason": self.finish_reason,
                "logprobs": self.logprobs,
                "prompt_logprobs": self.prompt_logprobs if self.ended is JobState.SUCCEEDED else None,
                "format": self.answer_format,
                "usage": Usage(
                    prompt_tokens=self.prompt_tokens,
                    cached_tokens=self.cached_tokens,
                    completion_tokens=len(self.token_ids),
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
