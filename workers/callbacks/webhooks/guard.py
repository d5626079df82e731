"""Keeps webhooks from reaching what only this machine can reach (server-side request forgery).

Anyone who may enqueue a job may name a URL, so by default only https to public addresses is allowed. A URL is
checked twice by the same rule: when it is read, by what can be told without DNS, and when its host has been
resolved, by every address. The connection is made to one of the checked addresses, never to the name, so a
DNS answer that changes in between (rebinding) has no effect. Receivers that the operator lists are exempt.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import httpcore

from ....schemas.webhooks.target import NAME, Refused, Target
from .addresses import Address, is_public, literal, plain

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host name, for a port; raises `OSError` if there are none."""

_ALLOWED = "; private receivers are listed in HEADRACE_WEBHOOK_ALLOW"
"""What the operator can do about it."""

LOOKUPS = 64
"""Maximum number of lookups at once, each of another name. With a dead name server one takes many seconds."""


class Resolver:
    """Asks the system's resolver, in threads of its own.

    Concurrent lookups of one name share an answer. A thread can't be interrupted, so a name whose server is
    dead would otherwise occupy all of them.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="headrace-lookup")
        self._lookups: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of `host` in the system's order of preference."""
        asked = (host, port)
        if asked not in self._lookups:
            lookup = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
            lookup.add_done_callback(lambda ended: self._end(asked, ended))
            self._lookups[asked] = lookup
        # Shielded: a caller that gives up must not cancel the answer that others wait for.
        return await asyncio.shield(self._lookups[asked])

    def _end(self, asked: tuple[str, int], lookup: asyncio.Future[list[str]]) -> None:
        del self._lookups[asked]
        if not lookup.cancelled():
            lookup.exception()  # retrieved even if everyone who asked has given up


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class ReceiverGuard:
    """The rule, and the operator's exceptions to it.

    Args:
        allow_hosts: private receivers, which may use plain http, private addresses and any port: host names
            and addresses, with `:port` to allow only that one, and networks like `10.1.0.0/16`.
        ports: the ports that all other receivers may use.
        resolve: how names are resolved.

    Raises:
        ValueError: an entry of `allow_hosts` is none of these.
    """

    def __init__(
        self,
        allow_hosts: Iterable[str] = (),
        ports: frozenset[int] = frozenset({443}),
        resolve: Resolve | None = None,
    ) -> None:
        self._ports = ports
        self.resolve: Resolve = resolve or Resolver()
        entries = [entry.strip().lower() for entry in allow_hosts]
        try:
            self._networks = tuple(ip_network(entry) for entry in entries if "/" in entry)
        except ValueError as error:
            raise ValueError(f"can't allow a receiver: {error}") from None
        self._hosts = frozenset(_listed(entry) for entry in entries if "/" not in entry)

    def check_url(self, url: str) -> Target:
        """Parse a URL, and refuse it for anything that can be told without DNS.

        Raises:
            Refused: webhooks may not be sent there.
        """
        target = Target.of(url)
        address = _literal(target.host)
        if address is not None:
            self.check_addresses(target.secure, target.host, target.port, [address])
        elif not self._networks:  # with networks listed, the name may resolve to one
            self.check_addresses(target.secure, target.host, target.port, [])
        return target

    def check_addresses(self, secure: bool, host: str, port: int, addresses: Sequence[Address]) -> None:
        """Refuse a host if webhooks may not be sent to one of its addresses, or for what else is known of it.

        Raises:
            Refused: webhooks may not be sent there.
        """
        if {(_canonical(host), None), (_canonical(host), port)} & self._hosts:
            return
        # All of its addresses count, since the connection goes to any of them: a name with a public and a
        # private address is refused.
        strangers = [address for address in addresses if not any(address in net for net in self._networks)]
        if addresses and not strangers:
            return
        for address in strangers:
            if not is_public(address):
                leads = "is" if host == str(address) else f"resolves to {address}, which is"
                raise Refused(f"{host} {leads} not a public address{_ALLOWED}")
        if not secure:
            raise Refused(
                f"http is only for private receivers that are allowed, and {host} isn't one{_ALLOWED}"
            )
        if port not in self._ports:
            raise Refused(f"port {port} is not one of {', '.join(map(str, sorted(self._ports)))}{_ALLOWED}")


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore: resolves the host once, checks it, and connects to a checked address.

    httpcore adds TLS, with the host's name for SNI and the certificate.

    Args:
        secure: whether TLS follows, which httpcore doesn't say.
        network: makes the connections.
    """

    def __init__(self, guard: ReceiverGuard, secure: bool, network: httpcore.AsyncNetworkBackend) -> None:
        self._guard, self._secure, self._network = guard, secure, network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect within `timeout` seconds, including the lookup; addresses are tried in order.

        Raises:
            Refused: webhooks may not be sent to one of the host's addresses.
            httpcore.ConnectError: the host has no address, or no address answers.
            httpcore.ConnectTimeout: it took too long.
        """
        clock = asyncio.get_running_loop().time
        ends_at = clock() + (timeout if timeout is not None else float("inf"))
        addresses = await self._addresses(host, port, ends_at)
        self._guard.check_addresses(self._secure, host, port, addresses)
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            share_s = None if timeout is None else max(0.0, ends_at - clock()) / left
            try:
                return await self._network.connect_tcp(
                    str(address), port, share_s, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise httpcore.ConnectError("the host has no address")

    async def _addresses(self, host: str, port: int, ends_at: float) -> list[Address]:
        address = _literal(host)
        if address is not None:
            return [address]
        try:
            async with asyncio.timeout_at(ends_at):
                found = await self._guard.resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("the host's name could not be resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the host's name can't be resolved") from None
        return [plain(ip_address(address)) for address in found]


def _literal(host: str) -> Address | None:
    try:
        return literal(host)
    except ValueError:
        raise Refused("the URL's host is not a valid address") from None


def _canonical(host: str) -> str:
    """One spelling for each host."""
    address = literal(host)
    return host.rstrip(".") if address is None else str(address)


def _listed(entry: str) -> tuple[str, int | None]:
    """The host and port of an allow-list entry; no port means every port."""
    bare_v6 = entry.count(":") > 1 and not entry.startswith("[")
    try:
        parts = urlsplit(f"//[{entry}]" if bare_v6 else f"//{entry}")
        host = parts.hostname or ""
        if (":" in host or NAME.fullmatch(host)) and not re.search(r"[@?#]", entry):
            return _canonical(host), parts.port
    except ValueError:
        pass
    raise ValueError(f"can't allow the receiver {entry!r}: give a host, host:port or network")
