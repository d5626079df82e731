"""The lines of a batch's output and error files, as OpenAI's API writes them."""

from typing import Any

from ...schemas.errors import HeadraceError, JobCancelled, JobExpired
from ...schemas.events import JobResult
from ..batch_lines import Line
from ..openai.errors import error_body
from ..openai.format import response_body
from .parts import LineAnswer
from .record import BatchStatus

_UNANSWERED = {
    BatchStatus.EXPIRED: ("batch_expired", "the completion window ended before this request did"),
    BatchStatus.CANCELLED: ("batch_cancelled", "the batch was cancelled before this request was done"),
}


def succeeded(number: int, line: Line, model: str, job_id: str, result: JobResult) -> LineAnswer:
    """The answer of a job that succeeded."""
    assert line.url is not None
    body = response_body(line.url, model, result, line.body)
    response = {"status_code": 200, "request_id": job_id, "body": body}
    usage = result.usage
    answer = _answer(batch_request(job_id), line.custom_id, response, None)
    return LineAnswer(number, answer, usage.prompt_tokens, usage.completion_tokens)


def refused(number: int, line: Line, batch_id: str, job_id: str | None, error: HeadraceError) -> LineAnswer:
    """The answer of a line without a job, or whose job failed."""
    name = batch_request(job_id or f"{batch_id}.{number}")
    if isinstance(
        error, JobCancelled | JobExpired
    ):  # by someone who named the job, so it is not this batch's answer
        said = {"code": error.code, "message": str(error)}
        return LineAnswer(number, _answer(name, line.custom_id, None, said))
    status, body = error_body(error)
    response = {"status_code": status, "request_id": job_id or name, "body": body}
    return LineAnswer(number, _answer(name, line.custom_id, response, None))


def unanswered(number: int, custom_id: str, batch_id: str, outcome: BatchStatus) -> LineAnswer:
    """The answer of a line that the batch ended before."""
    code, message = _UNANSWERED[outcome]
    error = {"code": code, "message": message}
    return LineAnswer(number, _answer(batch_request(f"{batch_id}.{number}"), custom_id, None, error))


def batch_request(name: str) -> str:
    """The id of an answer."""
    return f"batch_req_{name}"


def _answer(name: str, custom_id: str, response: Any, error: Any) -> dict[str, Any]:
    return {"id": name, "custom_id": custom_id, "response": response, "error": error}
