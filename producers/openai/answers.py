"""What the answers of chat completions and completions have in common."""

from typing import Any

from ...schemas.errors import HeadraceError
from ...schemas.events import JobResult, Usage
from .errors import error_body


def usage_body(usage: Usage) -> dict[str, Any]:
    """The token counts of an answer."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


class Stream:
    """The events of one streamed answer, as the objects that follow `data:`.

    Call `start` once, `chunk` for each chunk of the job's stream, and `end` or `failed` once. The events
    depend only on the token log: to resume from an offset, feed the chunks before it too and don't send their
    events.

    Args:
        answer_id: the answer's id.
        created: when the answer was begun, in seconds since the epoch.
        include_usage: add an event that counts tokens; all others then say that their count is null.
        return_token_ids: give the ids of the tokens that each event stands for.
        n: the number of choices. Those of several end with a chunk each, and with the job they all have.
    """

    _OBJECT = ""

    def __init__(
        self,
        answer_id: str,
        model: str,
        created: int,
        include_usage: bool = False,
        return_token_ids: bool = False,
        n: int = 1,
    ) -> None:
        self._head = {"id": answer_id, "object": self._OBJECT, "created": created, "model": model}
        self._include_usage = include_usage
        self._return_token_ids = return_token_ids
        self._n = n

    def start(self) -> list[dict[str, Any]]:
        """The events before any token."""
        return []

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The events after the last token of a job that succeeded."""
        events = [self._finish(result)] if self._n == 1 else []
        if events and result.fingerprint is not None:
            events[0]["system_fingerprint"] = result.fingerprint
        if self._include_usage:
            events.append({**self._head, "choices": [], "usage": usage_body(result.usage)})
        return events

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The event that ends the stream of a job that didn't succeed; OpenAI's clients raise it."""
        return [error_body(error)[1]]

    def _finish(self, result: JobResult) -> dict[str, Any]:
        raise NotImplementedError

    def _event(self, choice: dict[str, Any]) -> dict[str, Any]:
        event = {**self._head, "choices": [choice]}
        return event | {"usage": None} if self._include_usage else event
