"""Messages: results as answers and streams."""

import json
from typing import Any

from ...schemas.answers import Arguments, CallBegin, Content, Delta, Reasoning
from ...schemas.errors import HeadraceError
from ...schemas.events import Chunk, JobResult, Usage
from ...schemas.plain_json import check_json
from ..answer_reader import AnswerReader
from .errors import error_body

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
"""Stop reasons by a job's finish reason; a job doesn't say whether its text or a stop sequence ended it."""


def message_body(result: JobResult, model: str) -> dict[str, Any]:
    """The answer of a job that succeeded."""
    body = _message(result.job_id, model)
    body["content"] = _blocks(result)
    body["stop_reason"] = STOP_REASONS[result.finish_reason]
    body["usage"] = usage_body(result.usage)
    return body


def _blocks(result: JobResult) -> list[dict[str, Any]]:
    if result.format is None:
        return [_block(result.text)]
    blocks = [] if result.reasoning is None else [_thinking(result.reasoning)]
    if result.content is not None:
        blocks.append(_block(result.content))
    blocks += [
        _tool_use(call.id, call.function.name, _input(call.function.arguments))
        for call in result.tool_calls or ()
    ]
    return blocks


def _input(arguments: str) -> dict[str, Any]:
    """The arguments of a call; those that were broken off, or that no JSON holds, are left out."""
    try:
        found = check_json(json.loads(arguments))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def usage_body(usage: Usage) -> dict[str, Any]:
    """The token counts of an answer; `input_tokens` are those that weren't in the cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def count_body(result: JobResult) -> dict[str, Any]:
    """The answer to a request that counts the tokens of a prompt."""
    return {"input_tokens": result.usage.prompt_tokens}


class MessageStream:
    """The events of a streamed message, as the objects that follow `data:`; each is named by its `type`.

    Call `start` once, `chunk` for each chunk of the job's stream, and `end` or `failed` once.
    """

    def __init__(self, job_id: str, model: str) -> None:
        self._job_id, self._model = job_id, model
        self._answer = AnswerReader(job_id)
        self._index = -1
        self._kind: tuple[str, int] | None = None

    def start(self) -> list[dict[str, Any]]:
        """The events before any block. The prompt has not been counted yet; the last event counts it."""
        return [
            {"type": "message_start", "message": _message(self._job_id, self._model)},
            {"type": "ping"},
        ]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk; none if it tells nothing."""
        return [event for delta in self._answer.read(chunk) for event in self._told(delta)]

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The events after the last token of a job that succeeded."""
        rest = [event for delta in self._answer.end() for event in self._told(delta)]
        if self._index < 0 and not rest:
            rest = self._begin(("text", 0), _block(""))
        delta = {"stop_reason": STOP_REASONS[result.finish_reason], "stop_sequence": None}
        return [
            *rest,
            *self._stop(),
            {"type": "message_delta", "delta": delta, "usage": usage_body(result.usage)},
            {"type": "message_stop"},
        ]

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends the stream of a job that didn't succeed; Anthropic's clients raise it."""
        return [error_body(error)[1]]

    def _told(self, delta: Delta) -> list[dict[str, Any]]:
        match delta:
            case Content(text):
                return self._in(("text", 0), _block(""), {"type": "text_delta", "text": text})
            case Reasoning(text):
                told = {"type": "thinking_delta", "thinking": text}
                return self._in(("thinking", 0), _thinking(""), told)
            case CallBegin(index, name):
                return self._begin(("call", index), _tool_use(self._answer.call_id(index), name, {}))
            case Arguments(index, text):
                told = {"type": "input_json_delta", "partial_json": text}
                return self._in(("call", index), {}, told)

    def _in(
        self, kind: tuple[str, int], block: dict[str, Any], delta: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A delta, within a block of its kind."""
        begun = [] if self._kind == kind else self._begin(kind, block)
        return [*begun, {"type": "content_block_delta", "index": self._index, "delta": delta}]

    def _begin(self, kind: tuple[str, int], block: dict[str, Any]) -> list[dict[str, Any]]:
        stopped = self._stop()
        self._index, self._kind = self._index + 1, kind
        return [*stopped, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _stop(self) -> list[dict[str, Any]]:
        if self._kind is None:
            return []
        self._kind = None
        return [{"type": "content_block_stop", "index": self._index}]


def _message(job_id: str, model: str) -> dict[str, Any]:
    return {
        "id": f"msg_{job_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_body(Usage()),
    }


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "citations": None}


def _thinking(text: str) -> dict[str, Any]:
    # No model here signs what it thinks; clients send the block back as they got it.
    return {"type": "thinking", "thinking": text, "signature": ""}


def _tool_use(call_id: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}
