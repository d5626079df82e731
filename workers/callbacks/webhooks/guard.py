"""Keeps webhooks from reaching what only this machine can reach (server-side request forgery).

Whoever may enqueue a job may name a URL, so by default only https to public addresses passes. A URL is judged
twice by one rule: when it is read, by what can be told without DNS, and when its host was resolved, by every
address that it has. The connection goes to one of the addresses judged, never to the name, so an answer of
the DNS that changes in between (rebinding) changes nothing. Receivers that the operator lists are exempt.
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
"""Gives the addresses of a host name, for a port; raises `OSError` when there are none."""

_ALLOWED = "; private receivers are listed in HEADRACE_WEBHOOK_ALLOW"
"""The way out, for the operator."""

LOOKUPS = 64
"""Lookups at once, each of another name. One of a dead name server lasts many seconds."""


class Resolver:
    """Asks the system, in threads of its own.

    Whoever asks for what is being looked up waits for the same answer: a thread can't be called back, so a
    name whose server is dead would otherwise take them all.
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
        return await asyncio.shield(self._lookups[asked])

    def _end(self, asked: tuple[str, int], lookup: asyncio.Future[list[str]]) -> None:
        del self._lookups[asked]
        if not lookup.cancelled():
            lookup.exception()  # seen, even where all who asked have given up


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class Guard:
    """The rule, and the operator's exceptions.

    Args:
        allow_hosts: private receivers, which may be plain http, at private addresses and on any port: host
            names and addresses, these with `:port` to allow only that one, and networks like `10.1.0.0/16`.
        ports: what others may listen on.
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
        """Take a URL apart, and refuse it for all that can be told without DNS.

        Raises:
            Refused: webhooks may not be sent there.
        """
        target = Target.of(url)
        address = _literal(target.host)
        if address is not None:
            self.check_addresses(target.secure, target.host, target.port, [address])
        elif not self._networks:  # with some, the name may lead there
            self.check_addresses(target.secure, target.host, target.port, [])
        return target

    def check_addresses(self, secure: bool, host: str, port: int, addresses: Sequence[Address]) -> None:
        """Refuse a host when one of its addresses is not for webhooks; without any, for what else is known.

        Raises:
            Refused: webhooks may not be sent there.
        """
        if {(_canonical(host), None), (_canonical(host), port)} & self._hosts:
            return
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
    """Opens connections for httpcore: looks the host up once, judges it, and connects to an address judged.

    httpcore does TLS on top, with the host's name for SNI and for the certificate.

    Args:
        secure: whether TLS follows; httpcore does not say.
        network: what connects.
    """

    def __init__(self, guard: Guard, secure: bool, network: httpcore.AsyncNetworkBackend) -> None:
        self._guard, self._secure, self._network = guard, secure, network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect within `timeout` seconds, the lookup included; addresses are tried in their order.

        Raises:
            Refused: one of the host's addresses is not for webhooks.
            httpcore.ConnectError: the host has no address, or none that answers.
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
    """The host and port of an allow-list's entry; no port stands for every one."""
    bare_v6 = entry.count(":") > 1 and not entry.startswith("[")
    try:
        parts = urlsplit(f"//[{entry}]" if bare_v6 else f"//{entry}")
        host = parts.hostname or ""
        if (":" in host or NAME.fullmatch(host)) and not re.search(r"[@?#]", entry):
            return _canonical(host), parts.port
    except ValueError:
        pass
    raise ValueError(f"can't allow the receiver {entry!r}: give a host, host:port or network")
