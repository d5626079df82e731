"""One of a job's answers while this worker generates it: its tokens, their text, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...schemas.events import ChoiceEnd, FinishReasonName
from .prepared import Replay
from .text import TextStream
from .text.reasoning_span import reasoning_tokens


def request_id(job_id: str, number: int) -> str:
    """What the engine calls a job's answer; no job's id has a #."""
    return f"{job_id}#{number}" if number else job_id


@dataclass(slots=True, eq=False)
class RunningChoice:
    """An answer. Tokens and text only grow.

    The text that became final with each token is kept by token, so that any part of the stream can be
    written again after Redis lost the tail of its log.

    Attributes:
        number: which of the job's answers it is.
        ended_by_text: whether an earlier worker's tokens ended it by a stop string.
        finish_reason: why it ended; None while it goes on.
        told: whether the chunk with its last token says so; the end marker does otherwise.
        tail: text that was held back and comes with the end marker.
    """

    number: int = 0
    text: TextStream | None = None
    token_ids: list[int] = field(default_factory=list)
    # pieces[i] is the text that became final with token_ids[i]: "" while a character or a possible stop
    # string is incomplete. So "".join(pieces[a:b]) is what a chunk of these tokens says.
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    ended_by_text: bool = False
    finish_reason: FinishReasonName | None = None
    told: bool = False
    tail: str = ""

    def add(
        self, token_ids: Sequence[int], logprobs: list[dict[str, Any]], *, silence_last: bool = False
    ) -> bool:
        """Take new tokens; True when a stop string ended it at one of them (later ones are dropped).

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

    def take_in(self, replay: Replay, text: TextStream | None, *, logprobs: bool) -> None:
        """Continue where an earlier worker's tokens end."""
        self.text, self.token_ids, self.pieces = text, replay.token_ids, replay.pieces
        self.logprobs = replay.logprobs if logprobs else None
        self.ended_by_text = replay.stopped
        self.finish_reason, self.told = replay.finish_reason, replay.finish_reason is not None

    def end(self, finish_reason: FinishReasonName, *, tail: bool) -> None:
        """Mark it as ended; `tail`: held-back text belongs to it (not so after a stop string)."""
        if tail and self.text is not None:
            self.tail = self.text.flush()
        self.finish_reason = finish_reason

    def end_with_chunk(self, finish_reason: FinishReasonName, *, tail: bool) -> None:
        """The same with the chunk of its last token, which was added just now."""
        if tail and self.text is not None:
            self.pieces[-1] += self.text.flush()
        # Last of all: the I/O thread takes it for the end of all tokens that it finds here.
        self.told, self.finish_reason = True, finish_reason

    @property
    def answer(self) -> str:
        """Its text."""
        return "".join(self.pieces) + self.tail

    def reasoning_tokens(self, answer_format: dict[str, Any] | None) -> int:
        """How many of its tokens are reasoning, for a format as it travels."""
        if self.text is None:
            return 0
        return reasoning_tokens(answer_format, self.token_ids, self.text.tokenizer.token_bytes)

    def end_mark(self, finish_reason: FinishReasonName) -> ChoiceEnd:
        """What the end marker says of it; `finish_reason` is why the job ended."""
        return ChoiceEnd(
            choice=self.number, text=self.tail, finish_reason=self.finish_reason or finish_reason
        )

    def output(self, finish_reason: FinishReasonName) -> dict[str, Any]:
        """Its part of the job's result."""
        return {
            "text": self.answer,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason or finish_reason,
            "logprobs": self.logprobs,
        }
