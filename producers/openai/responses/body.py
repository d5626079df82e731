"""Response objects: what a response is at the moment, in each of OpenAI's statuses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....schemas.answers import AnswerFormat
from ....schemas.errors import HeadraceError, JobCancelled, JobFailed
from ....schemas.events import JobResult, TokenLogprob, Usage
from ....schemas.webhooks.openai_events import INCOMPLETE, RESPONSE
from ..errors import CLIENTS_FAULT, error_body
from ..logprobs import token_logprobs
from .items import output_message, output_text
from .output import output_of


@dataclass(frozen=True, slots=True)
class Response:
    """One response, of which every status can be shown.

    Args:
        job_id: the job behind it, from which its ids are made.
        created: when it was made, in seconds since the epoch.
        echo: what it repeats of its request; see `ResponseRequest`.
    """

    job_id: str
    created: int
    echo: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The response's id."""
        return f"{RESPONSE}{self.job_id}"

    @property
    def item_id(self) -> str:
        """The id of the message in its output."""
        return f"msg_{self.job_id}"

    def pending(self, status: str) -> dict[str, Any]:
        """The response while it is `queued` or `in_progress`."""
        return self._body(status)

    def ended(self, result: JobResult) -> dict[str, Any]:
        """The response of a job that succeeded: completed, or incomplete for want of tokens."""
        reason = INCOMPLETE.get(result.finish_reason)
        status = "incomplete" if reason else "completed"
        ended = self._body(status, self.output(status, result))
        ended["usage"] = usage_body(result.usage)
        if reason:
            ended["incomplete_details"] = {"reason": reason}
        elif result.timings.total_s is not None:
            ended["completed_at"] = self.created + int(result.timings.total_s)
        return ended

    def output(self, status: str, result: JobResult) -> list[dict[str, Any]]:
        """What is in its output."""
        if result.format is None:
            return [self.message(status, result.text, result.logprobs or ())]
        told = token_logprobs(result.logprobs or ())
        return output_of(self.job_id, result.format, result.text, status, told)

    def failed(
        self, error: HeadraceError, text: str = "", answer_format: AnswerFormat | None = None
    ) -> dict[str, Any]:
        """The response of a job that was cancelled, expired or failed, with what there is of its text."""
        output = [self.message("incomplete", text)] if text else []
        if answer_format is not None:
            output = output_of(self.job_id, answer_format, text, "incomplete")
        if isinstance(error, JobCancelled):
            return self._body("cancelled", output)
        asked_wrongly = isinstance(error, JobFailed) and error.reason in CLIENTS_FAULT
        message = error_body(error)[1]["error"]["message"]
        failed = self._body("failed", output)
        failed["error"] = {"code": "invalid_prompt" if asked_wrongly else "server_error", "message": message}
        return failed

    def message(self, status: str, text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
        """The message in its output."""
        return output_message(self.item_id, status, output_text(text, token_logprobs(logprobs)))

    def _body(self, status: str, output: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "output": list(output),
            "usage": None,
            **self.echo,
        }


def usage_body(usage: Usage) -> dict[str, Any]:
    """The token counts of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
