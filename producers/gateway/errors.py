"""Every refusal of the gateway, as OpenAI's error body: `{"error": {message, type, param, code}}`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from ...schemas.errors import (
    BrokerUnavailable,
    HeadraceError,
    InvalidJob,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    QueueFull,
    RateLimited,
    ResultTimeout,
    StreamReset,
    Unauthorized,
    UnknownModel,
)
from ...schemas.events import FailureCode

RETRY_S = 2
"""When to try again while Redis is away."""

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CLIENTS_FAULT = (FailureCode.INVALID, FailureCode.CONTEXT_LENGTH, FailureCode.TEMPLATE)


class Refusal(Exception):
    """A request is refused.

    Args:
        status: the HTTP status.
        message: what was wrong and what to do about it; never anything internal.
        code: for programs.
        param: the field that is wrong.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def kind(self) -> str:
        """OpenAI's error type."""
        if self.status >= 500:
            return "server_error"
        return _KINDS.get(self.status, "invalid_request_error")


def not_found(what: str, name: str) -> Refusal:
    """The answer for what doesn't exist and for what belongs to another tenant: they look the same."""
    return Refusal(404, f"No such {what}: {name[:200]!r}.", code="not_found")


def refusal_of(error: Exception) -> Refusal:
    """How an error is answered. Whatever isn't foreseen is a 500 that says nothing about it."""
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
    match error:
        case InvalidJob():
            return Refusal(400, str(error), code=error.code, param=error.field)
        case UnknownModel():
            return unknown_model(error.model)
        case JobNotFound():
            return not_found("job", str(error.job_id))
        case QueueFull() | RateLimited():
            status = 503 if isinstance(error, QueueFull) else 429
            return Refusal(status, str(error), code=error.code, headers=retry_after(error.retry_after_s))
        case BrokerUnavailable():
            message = "The queue can't be reached at the moment; try again."
            return Refusal(503, message, code=error.code, headers=retry_after(RETRY_S))
        case JobFailed():
            code = error.reason
            if code == FailureCode.CONTEXT_LENGTH:
                code = "context_length_exceeded"
            status = 400 if error.reason in _CLIENTS_FAULT else 500
            return Refusal(status, str(error), code=code)
        case JobCancelled() | JobExpired() | ResultTimeout() | StreamReset() | Unauthorized():
            return Refusal(error.http_status, str(error), code=error.code)
    if 400 <= error.http_status < 500:
        return Refusal(error.http_status, str(error), code=error.code)
    return Refusal(error.http_status, "The gateway failed to answer this request.", code=error.code)


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


async def answer(_: Request | None, error: Exception) -> JSONResponse:
    """The response to a request that ended with this error."""
    refusal = refusal_of(error)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)
