"""The events of a response, numbered so that any process replays the same ones.

An event's `sequence_number` is a function of the token log, not of who sends it or in how many pieces:

    0  response.created                   4 + T  the text that was held back until the end
    1  response.in_progress               5 + T  response.output_text.done
    2  response.output_item.added         6 + T  response.content_part.done
    3  response.content_part.added        7 + T  response.output_item.done
    3 + N  the text up to token N         8 + T  response.completed, .incomplete or .failed

where N counts the answer's tokens and T is their number. Numbers grow, with gaps: several tokens may come in
one event, and a number whose text is empty has no event. A reader that has seen number `n` wants those above.
"""

from typing import Any

from ....schemas.errors import HeadraceError, JobCancelled
from ....schemas.events import Chunk, JobResult, TokenLogprob
from ..errors import error_body
from ..logprobs import token_logprobs
from .body import Response
from .items import output_text

_BEFORE_TOKENS = 3


def token_of(number: int) -> int:
    """The last of the answer's tokens that a reader has who has seen this number."""
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

    def start(self) -> list[dict[str, Any]]:
        """The event that names the response."""
        status = "queued" if self._response.echo["background"] else "in_progress"
        return [_event(0, "response.created", response=self._response.pending(status))]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk, with those that come before any text if it is the first."""
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
        response = self._response.failed(error, "".join(self._text))
        kind = "response.incomplete" if isinstance(error, JobCancelled) else "response.failed"
        # 8 + T, the last number of every response, whatever was sent before.
        return [_event(_BEFORE_TOKENS + self._tokens + 5, kind, response=response)]

    def interrupted(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends a stream whose response continues; OpenAI's clients raise it."""
        told = error_body(error)[1]["error"]
        number = _BEFORE_TOKENS + self._tokens if self._begun else 0
        return [_event(number, "error", code=told["code"], message=told["message"], param=told["param"])]

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
