"""What applies to every request: its id, the size of its body, the headers of its response, its log line.

It is the outermost part of the app, so an error that nothing else has handled is answered here, with a body
that says nothing about it.
"""

import re
import time
from secrets import token_hex

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import Refusal, answer
from .state import Gateway

UPLOADS = ("/v1/files",)
"""Paths whose bodies may be as large as a file."""

FORM_BYTES = 64 * 2**10
"""What the form around an uploaded file may take."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}

log = structlog.get_logger(__name__)


class Guard:
    """Wraps the app; see the module's docstring."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        self._always = dict(_SECURITY)
        if gateway.settings.gateway_tls_cert is not None:
            self._always["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{token_hex(12)}"
        request = _GuardedRequest(self._app, self._gateway, self._always, scope, send, request_id)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await request.handle(headers, receive)


class _GuardedRequest:
    def __init__(
        self,
        app: ASGIApp,
        gateway: Gateway,
        always: dict[str, str],
        scope: Scope,
        send: Send,
        request_id: str,
    ) -> None:
        self._app, self._gateway, self._always = app, gateway, always
        self._scope, self._send, self._id = scope, send, request_id
        self._status: int | None = None
        self._began = time.perf_counter()
        settings = gateway.settings
        self._most = (
            settings.max_file_bytes + FORM_BYTES
            if scope["path"] in UPLOADS
            else settings.gateway_max_body_bytes
        )
        self._read = 0

    async def handle(self, headers: Headers, receive: Receive) -> None:
        async def counted() -> Message:
            message = await receive()
            # Counted as it arrives: a chunked body states no length.
            self._read += len(message.get("body", b""))
            if self._read > self._most:
                raise self._too_large()
            return message

        try:
            self._check_length(headers)
            await self._app(self._scope, counted, self._sent)
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("request_failed", path=self._route)
            if self._status is not None:
                # Too late for another status. Breaking off is the only way to say that what was sent is not
                # all.
                raise ConnectionError("the response had begun") from None
            response = await answer(Request(self._scope), error)
            await response(self._scope, receive, self._sent)
        finally:
            self._note()

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        # Twenty digits are more than any size; int() takes long to read thousands.
        if length.isdecimal() and int(length[:20]) > self._most:
            raise self._too_large()

    def _too_large(self) -> Refusal:
        message = f"The body is larger than {self._most} bytes."
        return Refusal(413, message, code="request_too_large", headers={"connection": "close"})

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._id
            headers.update(self._scope.get("state", {}).get("headers", {}))
            for name, value in self._always.items():
                headers.setdefault(name, value)
        await self._send(message)

    @property
    def _route(self) -> str:
        return str(getattr(self._scope.get("route"), "path", "other"))

    def _note(self) -> None:
        took_s = time.perf_counter() - self._began
        method = self._scope["method"] if self._scope["method"] in METHODS else "other"
        self._gateway.metrics.answered(self._route, method, self._status or 499, took_s)
        log.info(
            "request",
            route=self._route,
            method=method,
            status=self._status,
            took_ms=round(1000 * took_s, 1),
            tenant=self._scope.get("state", {}).get("tenant"),
        )
