"""A response's output as it grows: reasoning, messages and calls of functions, and the events about them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ....schemas.answers import (
    AnswerFormat,
    AnswerParser,
    Arguments,
    CallBegin,
    Content,
    Delta,
    Reasoning,
    call_id,
)
from .items import output_message, output_text

Event = dict[str, Any]


class OutputItems:
    """The items that an answer's pieces make, one after the other.

    Args:
        job_id: the job behind the response, from which the items' ids are made.
        answer_format: how its text is read.

    Attributes:
        items: those that are done, as OpenAI's API lists them.
    """

    def __init__(self, job_id: str, answer_format: AnswerFormat) -> None:
        self._job_id, self._format = job_id, answer_format
        self._kind: tuple[str, int] | None = None
        self._item: dict[str, Any] = {}
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self.items: list[dict[str, Any]] = []

    def take(self, delta: Delta, logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[Event]:
        """The events of a piece; those of a message's have log-probabilities, if they are given."""
        match delta:
            case Content(text):
                yield from self._within(("message", 0), self._message)
                self._logprobs += logprobs
                yield self._told("output_text.delta", delta=text, logprobs=list(logprobs))
            case Reasoning(text):
                yield from self._within(("reasoning", 0), self._reasoning)
                yield self._told("reasoning_text.delta", delta=text)
            case CallBegin(index, name):
                yield from self._within(("call", index), lambda: self._call(index, name))
                return
            case Arguments(_, text):
                yield self._told("function_call_arguments.delta", delta=text)
        self._text.append(text)

    def end(self, status: str = "completed") -> Iterator[Event]:
        """The events that end the last item."""
        if self._kind is None:
            return
        kind, text, done = self._kind[0], "".join(self._text), {**self._item, "status": status}
        if kind == "message":
            part = output_text(text, self._logprobs)
            done["content"] = [part]
            yield self._told("output_text.done", text=text, logprobs=self._logprobs)
            yield self._told("content_part.done", part=part)
        elif kind == "reasoning":
            done["content"] = [{"type": "reasoning_text", "text": text}]
            yield self._told("reasoning_text.done", text=text)
        else:
            done["arguments"] = text
            yield self._told("function_call_arguments.done", arguments=text)
        yield self._event("output_item.done", item=done)
        self.items.append(done)
        self._kind, self._text, self._logprobs = None, [], []

    def _within(self, kind: tuple[str, int], made: Callable[[], dict[str, Any]]) -> Iterator[Event]:
        """The events that begin an item, unless the piece continues the last one."""
        if self._kind == kind:
            return
        yield from self.end()
        self._kind, self._item = kind, made()
        yield self._event("output_item.added", item=self._item)
        if kind[0] == "message":
            yield self._told("content_part.added", part=output_text(""))

    def _message(self) -> dict[str, Any]:
        return output_message(self._id("msg", "message"), "in_progress")

    def _reasoning(self) -> dict[str, Any]:
        name = self._id("rs", "reasoning")
        return {"id": name, "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}

    def _call(self, index: int, name: str) -> dict[str, Any]:
        called = call_id(self._job_id, index, self._format)
        head = {"id": f"fc_{self._job_id}_{index}", "type": "function_call", "call_id": called}
        return {**head, "name": name, "arguments": "", "status": "in_progress"}

    def _id(self, prefix: str, kind: str) -> str:
        """The id of an item; the first of its kind is called after the job alone."""
        earlier = sum(item["type"] == kind for item in self.items)
        return f"{prefix}_{self._job_id}" + (f"_{earlier}" if earlier else "")

    def _told(self, kind: str, **more: Any) -> Event:
        place = {} if kind.startswith("function") else {"content_index": 0}
        return self._event(kind, item_id=self._item["id"], **place, **more)

    def _event(self, kind: str, **more: Any) -> Event:
        return {"type": f"response.{kind}", "output_index": len(self.items), **more}


def output_of(
    job_id: str, answer_format: AnswerFormat, text: str, status: str, logprobs: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """The output of a whole text; its last item may be incomplete."""
    output, parser = OutputItems(job_id, answer_format), AnswerParser(answer_format)
    for delta in [*parser.feed(text), *parser.end()]:
        _spend(output.take(delta))
    _spend(output.end(status))
    for item in output.items:
        if item["type"] == "message" and logprobs:
            item["content"][0]["logprobs"] = list(logprobs)
            break
    return output.items


def _spend(events: Iterable[Event]) -> None:
    for _ in events:
        pass
