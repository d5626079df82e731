"""Errors as Anthropic's API writes them."""

from typing import Any

from ...schemas.errors import HeadraceError
from ..openai.errors import error_body as openai_error_body

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(error: HeadraceError) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the body that tell a client about an error."""
    status, body = openai_error_body(error)
    return status, anthropic_error(status, body["error"]["message"])


def anthropic_error(status: int, message: str) -> dict[str, Any]:
    """The body of an error with this HTTP status."""
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
