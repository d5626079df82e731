"""Messages: results as answers and streams."""

from typing import Any

from ...schemas.errors import HeadraceError
from ...schemas.events import Chunk, JobResult, Usage
from .errors import error_body

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
"""Stop reasons by a job's finish reason; a job doesn't say whether its text or a stop sequence ended it."""


def message_body(result: JobResult, model: str) -> dict[str, Any]:
    """The answer of a job that succeeded."""
    body = _message(result.job_id, model)
    body["content"] = [_block(result.text)]
    body["stop_reason"] = STOP_REASONS[result.finish_reason]
    body["usage"] = usage_body(result.usage)
    return body


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

    def start(self) -> list[dict[str, Any]]:
        """The events before any text. The prompt has not been counted yet; the last event counts it."""
        return [
            {"type": "message_start", "message": _message(self._job_id, self._model)},
            {"type": "content_block_start", "index": 0, "content_block": _block("")},
            {"type": "ping"},
        ]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The event of a chunk; none if it has no text."""
        if not chunk.text:
            return []
        delta = {"type": "text_delta", "text": chunk.text}
        return [{"type": "content_block_delta", "index": 0, "delta": delta}]

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The events after the last token of a job that succeeded."""
        delta = {"stop_reason": STOP_REASONS[result.finish_reason], "stop_sequence": None}
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": usage_body(result.usage)},
            {"type": "message_stop"},
        ]

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends the stream of a job that didn't succeed; Anthropic's clients raise it."""
        return [error_body(error)[1]]


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
