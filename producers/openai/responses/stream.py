"""The events of a response, numbered so that any process replays the same ones.

An event's `sequence_number` is a function of the token log, not of who sends it or in how many pieces:

    0  response.created                   4 + T  the text that was held back until the end
    1  response.in_progress               5 + T  response.output_text.done
    2  response.output_item.added         6 + T  response.content_part.done
    3  response.content_part.added        7 + T  response.output_item.done
    3 + N  the text up to token N         8 + T  response.completed, .incomplete or .failed

An answer that is read in a format, as those with tools are, has other items. There, event i about token N has
the number 1000 * (N + 1) + i, and what comes after the last token counts as another token.

In both, N counts the answer's tokens and T is their number. Numbers grow, with gaps: several tokens may come
in one event, and a number whose text is empty has no event. A reader that has seen number `n` wants those
above.
"""

from collections.abc import Iterable
from typing import Any

from ....schemas.answers import AnswerFormat
from ....schemas.errors import HeadraceError, JobCancelled
from ....schemas.events import Chunk, JobResult, TokenLogprob
from ...answer_reader import AnswerReader
from ..errors import error_body
from ..logprobs import token_logprobs
from .body import Response
from .items import output_text
from .output import OutputItems

_BEFORE_TOKENS = 3


_A_TOKEN = 1000
"""Numbers for the events about one token."""


def token_of(number: int) -> int:
    """The last of a plain answer's tokens that a reader has who has seen this number."""
    return max(0, number - _BEFORE_TOKENS)


class ResponseStream:
    """The events of one response, as the objects that follow `data:`.

    Call `start` once, `chunk` for each chunk of the job's stream from its first token, and `end` or `failed`
    once.
    """

    def __init__(self, response: Response) -> None:
        self._response = response
        self._tokens = 0
        self._text: list[str] = []
        self._begun = False
        self._answer = AnswerReader(response.job_id)
        self._output: OutputItems | None = None
        self._format: AnswerFormat | None = None

    def start(self) -> list[dict[str, Any]]:
        """The event that names the response."""
        status = "queued" if self._response.echo["background"] else "in_progress"
        return [_event(0, "response.created", response=self._response.pending(status))]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk, with those that come before any text if it is the first."""
        if chunk.format is not None and not self._begun:
            self._format = chunk.format
            self._output = OutputItems(self._response.job_id, chunk.format)
        if self._output is not None:
            return self._read(self._output, chunk)
        events = self._begin()
        self._tokens = chunk.offset
        self._text.append(chunk.text)
        if chunk.text or chunk.logprobs:
            # A chunk without tokens is the text that was held back until the end: 4 + T above.
            number = _BEFORE_TOKENS + chunk.offset + (0 if chunk.token_ids else 1)
            told = _told(chunk.logprobs or ())
            events.append(self._of_text(number, "delta", delta=chunk.text, logprobs=told))
        return events

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The events after the last token of a job that succeeded."""
        if self._output is None and result.format is not None:  # there were no tokens
            self._output = OutputItems(self._response.job_id, result.format)
        if self._output is not None:
            return self._end(self._output, result)
        response, last = self._response.ended(result), _BEFORE_TOKENS + self._tokens + 1
        (message,) = response["output"]
        (part,) = message["content"]
        told = _told(result.logprobs or ())
        return [
            *self._begin(),
            self._of_text(last + 1, "done", text=result.text, logprobs=told),
            self._of_part(last + 2, "done", part),
            self._of_item(last + 3, "done", message),
            _event(last + 4, f"response.{response['status']}", response=response),
        ]

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends a response without an answer; OpenAI has none for a cancelled one."""
        response = self._response.failed(error, "".join(self._text), self._format)
        kind = "response.incomplete" if isinstance(error, JobCancelled) else "response.failed"
        # 8 + T, the last number of every response, whatever was sent before.
        last = _BEFORE_TOKENS + self._tokens + 5
        if self._output is not None:
            last = _A_TOKEN * (self._tokens + 4)
        return [_event(last, kind, response=response)]

    def interrupted(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends a stream whose response continues; OpenAI's clients raise it."""
        told = error_body(error)[1]["error"]
        number = _BEFORE_TOKENS + self._tokens if self._begun else 0
        if self._output is not None:
            number = _A_TOKEN * (self._tokens + 1)
        return [_event(number, "error", code=told["code"], message=told["message"], param=told["param"])]

    def _read(self, output: OutputItems, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk of a text that is read in a format, token by token."""
        events, rest = self._progress(), chunk
        while rest.token_ids:
            token, rest = rest.split(rest.start + 1)
            self._tokens = token.offset
            events += self._numbered(self._tokens, self._of(output, token))
        if rest.text:
            # Without tokens it is what was held back until the end.
            place = self._tokens + (0 if chunk.token_ids else 1)
            events += self._numbered(place, self._of(output, rest))
        return events

    def _of(self, output: OutputItems, token: Chunk) -> list[dict[str, Any]]:
        self._text.append(token.text)
        told = _told(token.logprobs or ())
        return [event for delta in self._answer.read(token) for event in output.take(delta, told)]

    def _end(self, output: OutputItems, result: JobResult) -> list[dict[str, Any]]:
        response = self._response.ended(result)
        last = "incomplete" if response["status"] == "incomplete" else "completed"
        events = [event for delta in self._answer.end() for event in output.take(delta)]
        events += output.end(last)
        events.append({"type": f"response.{response['status']}", "response": response})
        return self._progress() + self._numbered(self._tokens + 2, events)

    def _progress(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        return [_event(1, "response.in_progress", response=self._response.pending("in_progress"))]

    @staticmethod
    def _numbered(token: int, events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        first = _A_TOKEN * (token + 1)
        return [{"sequence_number": first + at, **event} for at, event in enumerate(events)]

    def _begin(self) -> list[dict[str, Any]]:
        if self._begun:
            return []
        self._begun = True
        empty = {**self._response.message("in_progress", ""), "content": []}
        return [
            _event(1, "response.in_progress", response=self._response.pending("in_progress")),
            self._of_item(2, "added", empty),
            self._of_part(3, "added", output_text("")),
        ]

    def _of_item(self, number: int, what: str, item: dict[str, Any]) -> dict[str, Any]:
        return _event(number, f"response.output_item.{what}", output_index=0, item=item)

    def _of_part(self, number: int, what: str, part: dict[str, Any]) -> dict[str, Any]:
        return self._in_item(number, f"response.content_part.{what}", part=part)

    def _of_text(self, number: int, what: str, **more: Any) -> dict[str, Any]:
        return self._in_item(number, f"response.output_text.{what}", **more)

    def _in_item(self, number: int, kind: str, **more: Any) -> dict[str, Any]:
        return _event(number, kind, item_id=self._response.item_id, output_index=0, content_index=0, **more)


def _event(number: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "sequence_number": number, **more}


def _told(tokens: tuple[TokenLogprob, ...] | tuple[()]) -> list[dict[str, Any]]:
    """Log-probabilities as events tell them: without bytes."""
    return [
        {
            "token": entry["token"],
            "logprob": entry["logprob"],
            "top_logprobs": [
                {"token": top["token"], "logprob": top["logprob"]} for top in entry["top_logprobs"]
            ],
        }
        for entry in token_logprobs(tokens)
    ]
