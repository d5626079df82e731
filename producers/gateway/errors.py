"""Every refusal of the gateway, as OpenAI's error body: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from ...schemas.errors import (
    BrokerUnavailable,
    DeliveryNotFound,
    FilesUnavailable,
    HeadraceError,
    JobNotFound,
    LimitReached,
    QueueFull,
    RateLimited,
    UnknownModel,
    WorkerNotFound,
)
from ..anthropic.errors import anthropic_error
from ..openai.errors import error_body, error_type, openai_error

log = structlog.get_logger(__name__)

ANTHROPICS = "/v1/messages"
"""Below this path errors are told as Anthropic tells them."""

RETRY_S = 2
"""After how many seconds to try again while Redis can't be reached."""


class Refusal(Exception):
    """A request is refused.

    Args:
        status: the HTTP status.
        message: what was wrong and what to do about it; never anything internal.
        code: for programs.
        param: the field that is wrong.
        kind: OpenAI's error type; by default that of the status.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.kind = kind or error_type(status)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error body."""
        return openai_error(self.message, self.kind, self.param, self.code)


def not_found(what: str, name: str) -> Refusal:
    """The answer for what doesn't exist and for what belongs to another tenant: they look the same."""
    return Refusal(404, f"No such {what}: {name[:200]!r}.", code="not_found")


def refusal_of(error: Exception) -> Refusal:
    """The answer to an error. An unforeseen one is a 500 that says nothing about it."""
    match error:
        case Refusal():
            return error
        case HeadraceError():
            return _of_headrace(error)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return _of_http(error)
    return Refusal(500, "The gateway failed to answer this request.", code="internal_error")


def _of_headrace(error: HeadraceError) -> Refusal:
    if isinstance(error, JobNotFound):
        return not_found("job", str(error.job_id))
    if isinstance(error, UnknownModel):
        return unknown_model(error.model)
    if isinstance(error, WorkerNotFound | DeliveryNotFound):  # only operators ask for these
        return Refusal(error.http_status, str(error), code=error.code)
    status, body = error_body(error)
    told = body["error"]
    if status >= 500 and 400 <= error.http_status < 500:  # it says nothing that its reader may not know
        return Refusal(error.http_status, str(error), code=error.code)
    headers = None
    if isinstance(error, QueueFull | RateLimited):
        headers = retry_after(error.retry_after_s)
    elif isinstance(error, BrokerUnavailable | FilesUnavailable):
        headers = retry_after(RETRY_S)
    elif isinstance(error, LimitReached):  # OpenAI's clients would send the file again at once
        headers = {"x-should-retry": "false"}
    return Refusal(
        status, told["message"], code=told["code"], param=told["param"], kind=told["type"], headers=headers
    )


def unknown_model(model: str) -> Refusal:
    """The answer for a model that isn't served, and for one that the key may not use."""
    message = f"The model {model[:200]!r} does not exist or you do not have access to it."
    return Refusal(404, message, code="model_not_found", param="model")


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to try again, in whole seconds."""
    return {"retry-after": str(max(1, -int(-seconds // 1)))}


def _of_validation(error: RequestValidationError) -> Refusal:
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return Refusal(422, f"{name}: {first['msg']}", code="invalid_parameter", param=name)


def _of_http(error: HTTPException) -> Refusal:
    headers = error.headers
    if error.status_code == 404:
        return Refusal(404, "There is no such URL here.", code="unknown_url", headers=headers)
    if error.status_code == 405:
        message = "This URL doesn't have this method."
        return Refusal(405, message, code="method_not_allowed", headers=headers)
    status = HTTPStatus(error.status_code)
    return Refusal(status, f"{status.phrase}.", code=status.name.lower(), headers=headers)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The response to a request that ended with this error."""
    refusal = refusal_of(error)
    if isinstance(error, FilesUnavailable):
        # Its reason is the operator's affair, and the only one that nothing else reports.
        log.warning("files_unavailable", reason=str(error))
    return JSONResponse(body_at(request.scope["path"], refusal), refusal.status, refusal.headers)


def body_at(path: str, refusal: Refusal) -> dict[str, Any]:
    """The body of a refusal, as the API at that path writes it."""
    if path.startswith(ANTHROPICS):
        return anthropic_error(refusal.status, refusal.message)
    return refusal.body
