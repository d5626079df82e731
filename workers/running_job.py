"""One job while this worker runs it: its tokens and text, what of them is in the log, how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine import TokenLogprobs
from ..schemas.events import End, FinishReasonName, JobError, JobState, Output, Usage, chunk_payload
from ..schemas.keys import Tag
from ..schemas.scripts import Segment
from ..schemas.wire import WireJob
from .text import TextStream, Tokenizer


@dataclass(slots=True, eq=False)
class RunningJob:
    """A claimed job. Tokens and text only grow; `written` follows what Redis has confirmed.

    The text that became final with each token is kept by token, so that any part of the stream can be
    written again after Redis lost the tail of its log.

    Attributes:
        tag, job_id, fence: where and as whom to write.
        suspect_until: the job counts as a suspect until `written` passes this offset.
        claimed_at: when it was claimed, by this process's monotonic clock, in seconds.
        waited_s: how long it had waited until then, by Redis's clock.
        counted: whether the queue knew its prompt's tokens when it was claimed.
        written: tokens confirmed in the log.
        checkpointed_at: when `written` last moved, by the monotonic clock.
    """

    tag: Tag
    job_id: str
    fence: str
    job: WireJob | None
    text: TextStream | None
    claimed_at: float
    waited_s: float = 0.0
    attempts: int = 0
    suspect_until: int | None = None
    counted: bool = True
    prompt_tokens: int = 0
    cached_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    written: int = 0
    resumed_at: int = 0
    last_token_at: float | None = None
    checkpointed_at: float = 0.0
    renewed_at: float = 0.0
    tail: str = ""
    ended: JobState | None = None
    finish_reason: FinishReasonName = "stop"
    error: JobError | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether its last worker died near where it is now."""
        return self.suspect_until is not None and self.written <= self.suspect_until

    @property
    def unwritten(self) -> int:
        """Tokens that Redis has not confirmed yet."""
        return len(self.token_ids) - self.written

    def add(
        self, token_ids: Sequence[int], logprobs: list[dict[str, Any]], *, silence_last: bool = False
    ) -> bool:
        """Take new tokens; True when a stop string ended the job at one of them (later ones are dropped).

        `silence_last` keeps the text of a stop token out of the answer.
        """
        assert self.text is not None
        if self.logprobs is not None:
            self.logprobs += logprobs
        spoken = token_ids[:-1] if silence_last else token_ids
        for token_id in spoken:
            emitted = self.text.add(token_id)
            self.token_ids.append(token_id)
            self.pieces.append(emitted.text)
            if emitted.stop_hit is not None:
                if self.logprobs is not None:
                    del self.logprobs[len(self.token_ids) :]
                return True
        if silence_last:
            self.token_ids += token_ids[-1:]
            self.pieces.append("")
        return False

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

    def segment(self, offset: int | None = None) -> Segment:
        """What Redis has not confirmed yet, up to `offset` (None: all; `written`: only renew the lease)."""
        start, stop = self.written, len(self.token_ids) if offset is None else offset
        payload = ""
        if stop > start:
            logprobs = None if self.logprobs is None else self.logprobs[start:stop]
            text = "".join(self.pieces[start:stop])
            payload = chunk_payload(stop, text, self.token_ids[start:stop], logprobs)
        return Segment(self.job_id, self.fence, start, stop, payload)

    def end_marker(self) -> End:
        """The end of its stream."""
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
        return Output.model_validate(
            {
                "text": "".join(self.pieces) + self.tail,
                "token_ids": self.token_ids,
                "finish_reason": self.finish_reason,
                "logprobs": self.logprobs,
                "usage": Usage(
                    prompt_tokens=self.prompt_tokens,
                    cached_tokens=self.cached_tokens,
                    completion_tokens=len(self.token_ids),
                ),
            }
        )


def wire_logprobs(tokenizer: Tokenizer, entries: list[TokenLogprobs]) -> list[dict[str, Any]]:
    """The engine's log-probabilities with the tokens' text, as they travel."""
    return [
        {
            "token_id": entry.token_id,
            "token": tokenizer.token_text(entry.token_id),
            "logprob": entry.logprob,
            "top": [(token_id, tokenizer.token_text(token_id), logprob) for token_id, logprob in entry.top],
        }
        for entry in entries
    ]
