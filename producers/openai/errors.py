"""Errors as OpenAI's API writes them, which its clients turn into their own exceptions.

Nothing here quotes what doesn't concern a client: other tenants, hosts, or what broke inside.
"""

from typing import Any

from ...schemas.errors import (
    BatchNotFound,
    BrokerUnavailable,
    DeliveryNotFound,
    FilesUnavailable,
    FileTooLarge,
    HeadraceError,
    IdempotencyConflict,
    InvalidJob,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    LimitReached,
    ModelInUse,
    QueueFull,
    RateLimited,
    ResultTimeout,
    StoredFileNotFound,
    StreamReset,
    Unauthorized,
    UnknownModel,
    WorkerNotFound,
)
from ...schemas.events import FailureCode

CLIENTS_FAULT = {
    FailureCode.INVALID: None,
    FailureCode.CONTEXT_LENGTH: "context_length_exceeded",
    FailureCode.TEMPLATE: None,
}
"""Failures of a job that its request caused, and OpenAI's codes for them."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(error: HeadraceError) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the body that tell a client about an error."""
    status, message, param, code = _told(error)
    return status, openai_error(message, error_type(status), param, code)


def error_type(status: int) -> str:
    """OpenAI's type of errors with this HTTP status."""
    return _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def openai_error(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _told(error: HeadraceError) -> tuple[int, str, str | None, str | None]:
    match error:
        case InvalidJob():
            return 400, str(error), error.field, None
        case UnknownModel():
            message = f"the model {error.model!r} does not exist here, or this key may not use it"
            return 404, message, "model", "model_not_found"
        case Unauthorized():
            return 401, str(error), None, "invalid_api_key"
        case QueueFull():
            return 503, str(error), None, error.code
        case RateLimited():
            return 429, str(error), None, "rate_limit_exceeded"
        case JobFailed():
            return _failure(error)
        case IdempotencyConflict() | JobCancelled() | JobExpired() | JobNotFound() | ResultTimeout():
            return error.http_status, str(error), None, error.code
        case StreamReset():
            return 409, str(error), None, error.code
        case StoredFileNotFound() | BatchNotFound() | FileTooLarge() | LimitReached():
            return error.http_status, str(error), None, error.code
        case DeliveryNotFound() | WorkerNotFound() | ModelInUse():  # an operator's requests
            return error.http_status, str(error), None, error.code
        case FilesUnavailable():
            return 503, "the file store is unavailable at the moment; try again", None, error.code
        case BrokerUnavailable():
            return 503, "the service is unavailable at the moment; try again", None, error.code
    return 500, "the server failed to answer this request; try again", None, error.code


def _failure(error: JobFailed) -> tuple[int, str, str | None, str | None]:
    if error.reason not in CLIENTS_FAULT:
        return 500, f"job {error.job_id} failed ({error.reason})", None, error.reason
    code = CLIENTS_FAULT[FailureCode(error.reason)] or error.reason
    param = "messages" if error.reason in (FailureCode.CONTEXT_LENGTH, FailureCode.TEMPLATE) else None
    return 400, str(error), param, code
