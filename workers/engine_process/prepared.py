"""Intake's requests and answers, as they travel between the two processes."""

import json
from array import array
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from ...schemas.events import FinishReasonName, JobError
from ..supervision.pipe import JobStarted
from .text import Held, Position

NOT_KEPT = frozenset(
    {
        *("prompt", "messages", "prompt_token_ids", "tools", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "max_reasoning_tokens", "chat_template_kwargs", "metadata", "webhook"),
        *("celery", "idempotency_key"),
        *("response_format", "structured_outputs", "continuation", "document"),
    }
)
"""Fields of a job that may be large and aren't needed once it is prepared."""


PIECE = 64
"""Tokens whose log-probabilities share a line, which limits how long reading it holds the interpreter."""


@dataclass(slots=True, frozen=True)
class Asked:
    """A job to prepare.

    Attributes:
        spec: the job as its producer wrote it.
        offset: number of tokens in its log.
        log: the log's entries, as in Redis.
        context_tokens: maximum number of tokens of prompt and output together.
    """

    job_id: str
    spec: bytes
    context_tokens: int
    offset: int = 0
    log: list[bytes] = field(default_factory=list)

    def to_wire(self) -> bytes:
        """For the intake process: JSON and, behind a newline, the spec and the log's entries."""
        parts = [self.spec, *self.log]
        head = [self.job_id, self.context_tokens, self.offset, [len(part) for part in parts]]
        return b"".join([json.dumps(head).encode(), b"\n", *parts])

    @classmethod
    def from_wire(cls, message: bytes) -> "Asked":
        """What `to_wire` made."""
        start = message.index(b"\n") + 1
        job_id, context_tokens, offset, sizes = json.loads(message[:start])
        parts = []
        for size in sizes:
            parts.append(message[start : start + size])
            start += size
        spec, *log = parts
        return cls(job_id, spec, context_tokens, offset, log)


@dataclass(slots=True)
class Replay:
    """What an earlier worker generated.

    Attributes:
        pieces: the text that became final with each token.
        stopped: whether a stop string ended the job at the last token.
        position: the text's state, to continue from there.
        logged: number of tokens in the log.
        finish_reason: why it ended, if the log says so.
    """

    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    position: Position | None = None
    logged: int = 0
    finish_reason: FinishReasonName | None = None


@dataclass(slots=True)
class Told:
    """What the tokenizer says to a job that asks nothing else.

    Attributes:
        text: the text of its token ids.
        token_ids: the token ids of its prompt.
        token_strs: their names in the vocabulary; None if it doesn't ask for them.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    token_strs: list[str] | None = None


@dataclass(slots=True)
class Prepared:
    """A job that has been read.

    Attributes:
        error: why it can't run; None if it can.
        trace: the traceback of an unforeseen error.
        fields: the job's fields without `NOT_KEPT`, as in JSON; None if it can't be read.
        prompt_bytes: size of the prompt's text.
        prompt_field: the field in which the prompt was given.
        prompt_ids: the prompt.
        notice: the notice for the host.
        replay: what an earlier worker generated.
        others: the same for each further answer, if the job asks for several.
        order: which answer the log's tokens are of, in its order: pairs of an answer and a number of tokens.
        told: the answer, if nothing is to be generated.
        grammar: what the answer follows; None if it may be any text.
        guidance: what parts of it follow, as it travels; None if nothing guides them.
        answer_format: how the answer is to be read, as it travels; None if it is read as it is.
        bad_words: the token ids of the words that must not be generated.
        continuation_tokens: how many of the prompt's last tokens are a continuation to score.
        scores: whether the prompt is a query and a document to score.
    """

    error: JobError | None = None
    trace: str = ""
    fields: dict[str, Any] | None = None
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    prompt_field: str = "prompt"
    prompt_ids: list[int] = field(default_factory=list)
    notice: JobStarted | None = None
    replay: Replay = field(default_factory=Replay)
    others: list[Replay] = field(default_factory=list)
    order: list[tuple[int, int]] = field(default_factory=list)
    told: Told | None = None
    grammar: str | None = None
    guidance: dict[str, Any] | None = None
    answer_format: dict[str, Any] | None = None
    bad_words: list[list[int]] = field(default_factory=list)
    continuation_tokens: int = 0
    scores: bool = False

    def to_wire(self) -> bytes:
        """For the engine process: lines of JSON and, behind them, the prompt's token ids."""
        replays = [self.replay, *self.others]
        pieces = [
            [replay.logprobs[at : at + PIECE] for at in range(0, len(replay.logprobs), PIECE)]
            for replay in replays
        ]
        body = {
            "error": self.error and self.error.model_dump(),
            "trace": self.trace,
            "fields": self.fields,
            "prompt_bytes": self.prompt_bytes,
            "prompt_tokens": self.prompt_tokens,
            "prompt_field": self.prompt_field,
            "notice": self.notice and asdict(self.notice),
            "replays": [
                asdict(replace(replay, logprobs=[])) | {"position": replay.position} for replay in replays
            ],
            "order": self.order,
            "told": self.told and asdict(self.told),
            "grammar": self.grammar,
            "guidance": self.guidance,
            "answer_format": self.answer_format,
            "bad_words": self.bad_words,
            "continuation_tokens": self.continuation_tokens,
            "scores": self.scores,
            "pieces": [len(own) for own in pieces],
        }
        lines = [json.dumps(part).encode() + b"\n" for part in (body, *chain.from_iterable(pieces))]
        return b"".join([*lines, array("i", self.prompt_ids).tobytes()])

    @classmethod
    def from_wire(cls, message: bytes) -> "Prepared":
        """What `to_wire` made."""
        body, at = _line(message, 0)
        replays = [Replay(**replay) for replay in body.pop("replays")]
        for replay, count in zip(replays, body.pop("pieces"), strict=True):
            for _ in range(count):
                piece, at = _line(message, at)
                replay.logprobs += piece
            if replay.position is not None:
                tokens, text, early = replay.position
                replay.position = Position(Held(*tokens), text, early)
        error, notice, told = body.pop("error"), body.pop("notice"), body.pop("told")
        return cls(
            error=error and JobError(**error),
            notice=notice and JobStarted(**notice),
            replay=replays[0],
            others=replays[1:],
            told=told and Told(**told),
            prompt_ids=array("i", message[at:]).tolist(),
            **body,
        )


def _line(message: bytes, start: int) -> tuple[Any, int]:
    """The JSON in the line that begins at `start`, and where the next line begins."""
    end = message.index(b"\n", start)
    return json.loads(message[start:end]), end + 1
