"""Sends one webhook, once, and reports the outcome.

The status decides: a receiver that answers 2xx has the event, even if the body of its answer breaks off. The
body is read only to keep the connection usable, and only up to a limit. Everything (lookup, connection, TLS,
headers, body) shares one deadline. This uses httpcore directly, which doesn't follow redirects, keep cookies,
decompress, or read proxies from the environment.
"""

import asyncio
import importlib.metadata
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

import httpcore

from ....schemas.webhooks.signing import sign
from ....schemas.webhooks.target import Refused, Target
from .guard import GuardedBackend, ReceiverGuard

LONGEST_RETRY_AFTER_S = 86_400.0
"""The longest wait that a receiver may ask for, the same as the schedule's own."""

KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which Node closes idle connections, so no request meets one being closed."""

_NETWORK_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    OSError,
    UnicodeError,  # a name that TLS can't ask for
)


class AttemptVerdict(StrEnum):
    """What an attempt means for its delivery."""

    DELIVERED = "delivered"
    """The receiver has it: 2xx."""
    GONE = "gone"
    """The endpoint wants no more: 410."""
    REFUSED = "refused"
    """It was not sent, and never would be: the address is not allowed, or a secret can't sign."""
    RETRY = "retry"
    """Anything else: another status (redirects too), or no answer."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The outcome of one attempt.

    Attributes:
        status: the receiver's HTTP status; None if there was no answer.
        took_s: seconds from start to end.
        error: what was wrong, in one line, without secrets and without the URL's query; also set beside a 2xx
            whose body had to be cut off.
        refused: whether it was not sent at all.
        retry_after_s: seconds that the receiver asked to wait, at most `LONGEST_RETRY_AFTER_S`.
    """

    status: int | None
    took_s: float
    error: str = ""
    refused: bool = False
    retry_after_s: float | None = None

    @property
    def verdict(self) -> AttemptVerdict:
        """What it means for the delivery."""
        if self.refused:
            return AttemptVerdict.REFUSED
        if self.status is not None and 200 <= self.status < 300:
            return AttemptVerdict.DELIVERED
        return AttemptVerdict.GONE if self.status == 410 else AttemptVerdict.RETRY


@dataclass(slots=True)
class _Answer:
    """The part of the answer known so far; it outlives the deadline."""

    status: int | None = None
    retry_after_s: float | None = None
    error: str = ""


class Sender:
    """Sends webhooks; used in one event loop, from any number of tasks.

    Args:
        timeout_s: the deadline of a whole attempt.
        connect_s: the limit for lookup and TCP connection, and again for the TLS handshake.
        max_response_bytes: how much of an answer's body is read.
        max_connections: maximum number of connections, over all receivers; at least the number of attempts at
        once.
        user_agent: by default `headrace/<version>`.
        tls: decides which certificates to trust; by default those of the system's and certifi's authorities.
        network: makes the connections; by default with asyncio's sockets.
    """

    def __init__(
        self,
        guard: ReceiverGuard,
        *,
        timeout_s: float = 15.0,
        connect_s: float = 5.0,
        max_response_bytes: int = 16_384,
        max_connections: int = 256,
        user_agent: str | None = None,
        tls: ssl.SSLContext | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._guard = guard
        self._timeout_s = timeout_s
        self._timeouts = {"connect": connect_s, "pool": connect_s}
        self._max_response_bytes = max_response_bytes
        self._user_agent = user_agent or f"headrace/{importlib.metadata.version('headrace')}"
        tls, network = tls or httpcore.default_ssl_context(), network or httpcore.AnyIOBackend()
        self._pools = {  # one per scheme, because the code that opens a connection isn't told the scheme
            secure: httpcore.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=max_connections,
                keepalive_expiry=KEEPALIVE_S,
                network_backend=GuardedBackend(guard, secure, network),
            )
            for secure in (True, False)
        }

    async def send(
        self, url: str, webhook_id: str, body: bytes, secrets: Sequence[str], timestamp_s: int
    ) -> Attempt:
        """Make one attempt. Anything that the network and the receiver do is returned; nothing is raised.

        Args:
            url: where to send it.
            webhook_id: the same for every attempt of one delivery.
            body: the JSON payload.
            secrets: each one signs; without any there is no signature.
            timestamp_s: now, in seconds since the epoch.
        """
        started = time.monotonic()
        answer = _Answer()
        try:
            target = self._guard.check_url(url)
            # No request was made yet, so a refusal here is certain to have reached nobody.
            headers = self._headers(target, webhook_id, body, secrets, timestamp_s)
        except (Refused, ValueError) as error:  # the URL; the id or a secret
            return Attempt(None, time.monotonic() - started, str(error), refused=True)
        refused = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(target, headers, body, timestamp_s, answer)
        except Refused as error:
            answer.error, refused = str(error), True
        except TimeoutError:
            what = "answer" if answer.status is None else "end of the answer's body"
            answer.error = f"no {what} within {self._timeout_s:g} s"
        except _NETWORK_ERRORS as error:
            answer.error = _told(error) if answer.status is None else "the answer's body broke off"
        took_s = time.monotonic() - started
        return Attempt(answer.status, took_s, answer.error, refused, answer.retry_after_s)

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _headers(
        self, target: Target, webhook_id: str, body: bytes, secrets: Sequence[str], timestamp_s: int
    ) -> list[tuple[str, str]]:
        signature = sign(webhook_id, timestamp_s, body, secrets)
        headers = [
            ("host", target.authority),
            ("user-agent", self._user_agent),
            # Asked for as it is, since nothing here decompresses.
            ("accept-encoding", "identity"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("webhook-id", webhook_id),
            ("webhook-timestamp", str(timestamp_s)),
        ]
        return [*headers, ("webhook-signature", signature)] if signature else headers

    async def _exchange(
        self, target: Target, headers: list[tuple[str, str]], body: bytes, now_s: int, answer: _Answer
    ) -> None:
        scheme = b"https" if target.secure else b"http"
        url = httpcore.URL(
            scheme=scheme, host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        stream = self._pools[target.secure].stream(
            "POST", url, headers=headers, content=body, extensions={"timeout": self._timeouts}
        )
        async with stream as response:
            # Known from here on, even if the body breaks off or doesn't end before the deadline.
            answer.status = response.status
            if response.status >= 300:
                redirected = ", redirects are not followed" if response.status < 400 else ""
                answer.error = f"status {response.status}{redirected}"
                answer.retry_after_s = _retry_after_s(response.headers, now_s)
            read_bytes = 0
            async for part in response.aiter_stream():
                read_bytes += len(part)
                if read_bytes > self._max_response_bytes:
                    answer.error = answer.error or f"a body over {self._max_response_bytes} bytes, cut off"
                    break


def _told(error: Exception) -> str:
    """An error in one line, without the receiver's bytes, which some errors contain."""
    match error:
        case httpcore.ConnectTimeout():
            return str(error) or "no connection in time"
        case httpcore.PoolTimeout():
            return "too many connections here"
        case httpcore.ProtocolError():
            return "the connection ended without an HTTP response"
        case httpcore.ReadError() | httpcore.WriteError():
            return "the connection broke"
    # For logs and the operator's screen: no control characters, no essays.
    reason = "".join(char for char in str(error) if char.isprintable())[:160]
    return f"no connection: {reason or type(error).__name__}"


def _retry_after_s(headers: Sequence[tuple[bytes, bytes]], now_s: int) -> float | None:
    """The header `Retry-After`, a number of seconds or a date; None if it is neither."""
    value = next(
        (value.decode("latin-1").strip() for name, value in headers if name.lower() == b"retry-after"), ""
    )
    wait_s: float | None = None
    # isdigit alone also takes digits that float() refuses, ² for one.
    if value.isascii() and value.isdigit():
        wait_s = float(value)
    else:
        with suppress(ValueError, TypeError, OverflowError):
            at = parsedate_to_datetime(value)
            wait_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_s
    return None if wait_s is None else min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)
