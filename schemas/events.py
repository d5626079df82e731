"""What workers publish about a job: chunks, the end marker, the result and the status."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from .answers import AnswerFormat, call_id, parse
from .choices import MAX_CHOICES
from .embed import Vector
from .job import JobClass


class JobState(StrEnum):
    """Where a job is: delayed → queued → running → one of the four terminal states."""

    DELAYED = "delayed"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


class FailureCode(StrEnum):
    """Why a job ended `failed`."""

    INVALID = "invalid_job"
    """The worker can't read the job, or an option doesn't fit the model."""
    CONTEXT_LENGTH = "context_length"
    """The prompt leaves no room for a token in the model's context."""
    TEMPLATE = "template_error"
    """The chat template is missing or refused the messages."""
    CRASHED = "crashed"
    """Workers died over the job `max_attempts` times; it is in the dead letters."""
    MODEL_CHANGED = "model_changed"
    """The model that made its tokens is no longer served, and `on_model_change` says that such jobs fail."""
    ENGINE = "engine_error"
    """The engine refused the job; the message says why."""


Bytes = bytes
"""The type `bytes`, for classes that have an attribute of that name."""

FinishReasonName = Literal["stop", "length", "cancelled", "expired", "error"]
"""Why a worker ended a job."""


class _Published(BaseModel):
    """Base of what workers publish. Readers ignore fields that a newer worker adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


_IfSeveral = Field(exclude_if=lambda value: not value)
"""Left out where a job asks for one answer, as if there were no such field."""


def _least(value: object) -> object:
    return LEAST_LOGPROB if value is None else value


LEAST_LOGPROB = -9999.0
"""Stands for anything lower, and for minus infinity, which JSON can't express; earlier workers wrote null."""

Logprob = Annotated[float, BeforeValidator(_least)]


class _Token(_Published):
    token_id: int
    token: str
    top: tuple[tuple[int, str, Logprob], ...] = ()
    hex: str | None = None
    top_hex: tuple[str | None, ...] = ()

    @property
    def bytes(self) -> Bytes:
        """The token's bytes; joined over a stream, they are its text in UTF-8."""
        return _bytes_of(self.token, self.hex)

    @property
    def top_bytes(self) -> tuple[Bytes, ...]:
        """The bytes of each of `top`."""
        spelt = self.top_hex or (None,) * len(self.top)
        return tuple(_bytes_of(token, digits) for (_, token, _), digits in zip(self.top, spelt, strict=True))


class TokenLogprob(_Token):
    """One token with its log-probability, and the most likely tokens at its position in order.

    Attributes:
        token: its text; a part of a character is shown as U+FFFD.
        top: id, text and log-probability of each of the most likely tokens.
        hex: the token's bytes, if they differ from those of `token`.
        top_hex: the same for each of `top`, if any of them differ.
    """

    logprob: Logprob


class PromptLogprob(_Token):
    """The same for a token of a prompt; None for the first, since nothing says how likely that is."""

    logprob: float | None = None


def _bytes_of(token: str, digits: str | None) -> Bytes:
    return token.encode() if digits is None else bytes.fromhex(digits)


class FunctionDelta(_Published):
    """More of a call: first its function's name, then pieces of the arguments."""

    name: str | None = None
    arguments: str = ""


class ToolCallDelta(_Published):
    """More of a call of a tool, in OpenAI's shape; `id` comes with the first piece of each."""

    index: int
    id: str | None = None
    function: FunctionDelta


class Chunk(_Published):
    """The next piece of a stream.

    Attributes:
        offset: tokens generated so far, including this chunk's; the cursor for `from_offset`.
        text: text that became final with these tokens. It may be empty: an unfinished character or a possible
            stop string is held back for a later chunk.
        token_ids: the tokens of this chunk.
        logprobs: one entry per token, if the job asked for them.
        lengths: how many characters (Unicode code points) of `text` are of each token but the last;
            empty if there is one token, or an earlier worker wrote the chunk.
        format: in the first chunk of a stream, how to read its text; None if it is read as it is.
        choice: which of the job's answers these tokens are of; 0 unless it asks for several.
        finish_reason: why that answer ended with this chunk, if it did and the job asks for several; `text`
            is then its rest. That of any other answer comes with the end marker.
        content, reasoning, tool_calls: what `text` says, as `JobHandle.stream` tells it of a job whose text
            is read in a format; None otherwise, and where it says nothing of the kind.
    """

    offset: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    lengths: tuple[int, ...] = Field(default=(), repr=False)
    format: AnswerFormat | None = Field(default=None, repr=False)
    choice: Annotated[int, Field(ge=0, lt=MAX_CHOICES), _IfSeveral] = 0
    finish_reason: Annotated[FinishReasonName | Literal["tool_calls"] | None, _IfSeveral] = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] | None = None

    @property
    def start(self) -> int:
        """The offset at which this chunk starts."""
        return self.offset - len(self.token_ids)

    @property
    def pieces(self) -> list[str]:
        """The text of each token; all of it is the last one's if where it divides isn't known."""
        if len(self.lengths) != len(self.token_ids) - 1:
            return [""] * (len(self.token_ids) - 1) + [self.text]
        bounds = [0, *accumulate(self.lengths), len(self.text)]
        return [self.text[start:end] for start, end in pairwise(bounds)]

    def split(self, offset: int) -> tuple[Self, Self]:
        """What it says up to an offset within it, and the rest.

        All of the text is in the rest if where it divides isn't known.
        """
        count = offset - self.start
        known = len(self.lengths) == len(self.token_ids) - 1
        at = sum(self.lengths[:count]) if known else 0
        logprobs = self.logprobs or ()
        before = {
            "offset": offset,
            "text": self.text[:at],
            "token_ids": self.token_ids[:count],
            "logprobs": self.logprobs and logprobs[:count],
            "lengths": self.lengths[: count - 1],
            "finish_reason": None,
        }
        after = {
            "text": self.text[at:],
            "token_ids": self.token_ids[count:],
            "logprobs": self.logprobs and logprobs[count:],
            "lengths": self.lengths[count:],
        }
        return self.model_copy(update=before), self.model_copy(update=after)


class JobError(_Published):
    """Why a job failed, or was cancelled without having been asked for: a stable code and a sentence."""

    code: str
    message: str


class ChoiceEnd(_Published):
    """The end of one of several answers; `text` was held back and became final with it."""

    choice: Annotated[int, Field(ge=0, lt=MAX_CHOICES)]
    text: str = ""
    finish_reason: FinishReasonName


class End(_Published):
    """The end marker of a stream.

    Attributes:
        end: the terminal state.
        text: text that was held back and became final with the end.
        choices: the same for each answer that no chunk ended, if the job asks for several; `text` and
            `finish_reason` are those of the first answer then. A job that ended without its worker has none.
    """

    offset: int
    end: JobState
    text: str = ""
    finish_reason: FinishReasonName
    error: JobError | None = None
    choices: Annotated[tuple[ChoiceEnd, ...], _IfSeveral] = ()


class Usage(_Published):
    """Token counts of a job.

    Attributes:
        cached_tokens: those of the prompt that came from the prefix cache.
        reasoning_tokens: those of the completion that are reasoning, as far as the model marks it.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class Timings(_Published):
    """Seconds, by Redis's clock, in the queue, until the first token and until the end."""

    queued_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None


class FunctionCall(_Published):
    """A function and its arguments, an object in JSON as the model wrote it: it may be broken off."""

    name: str
    arguments: str


class ToolCall(_Published):
    """A call of a tool, in OpenAI's shape. Its id is the same for everybody who reads the job."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Choice(_Published):
    """One of several answers; its attributes are as in `JobResult`."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReasonName | Literal["tool_calls"]
    logprobs: tuple[TokenLogprob, ...] | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None


class Output(_Published):
    """The result as the worker writes it, without what the job's record already holds.

    Attributes:
        choices: every answer, if the job asked for several (`n`); the result itself is the first.
        token_strs: the names of `token_ids` in the vocabulary, if a job of the tokenizer asked for them.
        embedding: the prompt's vector, if the job asked for it; in JSON float32 in base64.
        score: how well a document answers the prompt, if the job asked for it; from 0 to 1 for most models.
        prompt_logprobs: one entry for each token of the prompt, or of the job's `continuation`, if the job
            asked for them and succeeded.
        format: how to read the text; None if it is read as it is.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReasonName | Literal["tool_calls"]
    logprobs: tuple[TokenLogprob, ...] | None = None
    usage: Usage = Usage()
    token_strs: tuple[str, ...] | None = None
    embedding: Vector | None = None
    score: float | None = None
    prompt_logprobs: tuple[PromptLogprob, ...] | None = None
    format: AnswerFormat | None = Field(default=None, repr=False)
    choices: Annotated[tuple[Choice, ...], _IfSeveral] = ()


class JobResult(Output):
    """The outcome of an ended job, readable until its retention ends.

    `text` is all that the model wrote; what it says is in `content`, `reasoning` and `tool_calls`.

    Attributes:
        finish_reason: `tool_calls` if the model called tools and stopped.
        content: the answer without reasoning and calls; None if there is nothing else in the text.
        reasoning: what the model wrote before its answer, if that is marked.
        tool_calls: the calls of tools, if there are any.
        fingerprint: that of the model that made its tokens, or the last of them; None from an older worker.
        restarts: how often its tokens were discarded, because their model was no longer served or on request
            (`headrace dead requeue --from-scratch`).
        mixed: whether more than one model made its tokens.
    """

    job_id: str
    state: JobState
    error: JobError | None = None
    timings: Timings = Timings()
    attempts: int = 0
    worker: str | None = None
    fingerprint: str | None = None
    restarts: int = 0
    mixed: bool = False
    # How to read the text is for readers of headrace's own: others are given what it says.
    format: AnswerFormat | None = Field(default=None, repr=False, exclude=True)
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None

    def read(self) -> Self:
        """The same with what its text says."""
        if self.format is None or self.state is not JobState.SUCCEEDED:
            return self
        told: list[Choice] = [
            choice.model_copy(
                update=said_by(self.format, choice.text, choice.finish_reason, answer_id(self.job_id, number))
            )
            for number, choice in enumerate(self.choices)
        ]
        said = said_by(self.format, self.text, self.finish_reason, self.job_id)
        return self.model_copy(update={**said, "choices": tuple(told)})

    def answers(self) -> list[Self]:
        """The result for each of its answers, as if it were the only one."""
        if not self.choices:
            return [self]
        return [self.model_copy(update={**choice.__dict__, "choices": ()}) for choice in self.choices]


def answer_id(job_id: str, choice: int) -> str:
    """What the ids of an answer's calls are made from."""
    return f"{job_id}#{choice}" if choice else job_id


def said_by(answer_format: AnswerFormat, text: str, finish_reason: str, call_prefix: str) -> dict[str, Any]:
    """What a text in this format says, as attributes of a `JobResult` or a `Choice`."""
    message = parse(answer_format, text)
    calls = tuple(
        ToolCall(
            id=call_id(call_prefix, index, answer_format),
            function=FunctionCall(name=call.name, arguments=call.arguments),
        )
        for index, call in enumerate(message.calls)
    )
    return {
        "content": message.content or (None if calls or message.reasoning else ""),
        "reasoning": message.reasoning or None,
        "tool_calls": calls or None,
        "finish_reason": "tool_calls" if calls and finish_reason == "stop" else finish_reason,
    }


class JobStatus(_Published):
    """Where a job is now. `offset` is the number of tokens so far, of all its `n` answers.

    Times are ms since the epoch, by Redis's clock; `fingerprint` and `restarts` are as in `JobResult`;
    `retry_of` is the job that this one was enqueued to repeat.
    """

    job_id: str
    model: str
    state: JobState
    job_class: JobClass
    tenant: str
    offset: int = 0
    attempts: int = 0
    worker: str | None = None
    fingerprint: str | None = None
    restarts: int = 0
    enqueued_ms: int
    started_ms: int | None = None
    first_token_ms: int | None = None
    finished_ms: int | None = None
    error: JobError | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    retry_of: str | None = None
    n: Annotated[int, Field(exclude_if=lambda n: n == 1)] = 1


Event = Chunk | End
# Left to right: only an end marker has `end`, so what fails as one is a chunk.
_event = TypeAdapter[Event](Annotated[End | Chunk, Field(union_mode="left_to_right")])
_chunk = TypeAdapter(Chunk)


def parse_event(payload: bytes | str) -> Event:
    """The chunk or end marker in a log entry or Pub/Sub message."""
    # Quotes inside of strings are escaped, so what has no such name is no end marker: nearly all are chunks.
    if isinstance(payload, bytes) and b'"end"' not in payload:
        return _chunk.validate_json(payload)
    return _event.validate_json(payload)


def chunk_payload(
    offset: int,
    pieces: Sequence[str],
    token_ids: Sequence[int],
    logprobs: list[dict[str, Any]] | None,
    answer_format: Mapping[str, Any] | None = None,
    choice: int = 0,
    finish_reason: str | None = None,
) -> str:
    """The wire form of a `Chunk`, written without a pydantic model because every flush makes one.

    Args:
        offset: tokens generated so far, with these.
        pieces: the text that became final with each token.
        token_ids: the tokens.
        logprobs: one entry for each token, if the job asked for them.
        answer_format: how to read the text, in the first chunk.
        choice: which answer the tokens are of.
        finish_reason: why that answer ends with them, if it does, in a job that asks for several.
    """
    body: dict[str, Any] = {"offset": offset, "text": "".join(pieces), "token_ids": token_ids}
    # Next to the tokens, in this order: the scripts that assemble a log's output read no further.
    if choice:
        body["choice"] = choice
    if finish_reason is not None:
        body["finish_reason"] = finish_reason
    if logprobs is not None:
        body["logprobs"] = logprobs
    if len(pieces) > 1:
        body["lengths"] = list(map(len, pieces[:-1]))
    if answer_format is not None:
        body["format"] = answer_format
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
