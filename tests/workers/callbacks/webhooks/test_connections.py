"""Connections are made to addresses that were judged, and to no others."""

import asyncio
import socket
import threading
from typing import Any

import httpcore
import pytest

from headrace.workers.callbacks.webhooks.guard import LOOKUPS, ReceiverGuard, Resolver
from headrace.workers.callbacks.webhooks.sender import AttemptVerdict

LOOPBACK = "127.0.0.1"
PUBLIC = "93.184.215.14"
URL = "https://hooks.example/hook"
SEND = ("msg_1", b"{}", (), 1_800_000_000)


class Internet(httpcore.AsyncNetworkBackend):
    """Stands in for all addresses, and leads every connection to one port of this machine."""

    def __init__(self, port: int) -> None:
        self.connected: list[tuple[str, int]] = []
        self._port, self._sockets = port, httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *options: Any) -> httpcore.AsyncNetworkStream:
        """Note where to, and connect to the port."""
        self.connected.append((host, port))
        return await self._sockets.connect_tcp(LOOPBACK, self._port, *options)


class Names:
    """A DNS whose answers change: each lookup takes the next, the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        """The next answer."""
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture
async def receiver(start_receiver, tls_of):
    """A receiver with a certificate for hooks.example."""
    return await start_receiver(tls=tls_of("hooks.example"))


@pytest.fixture
def internet(receiver) -> Internet:
    """All addresses lead to the receiver."""
    return Internet(receiver.port)


@pytest.fixture
def reach(make_sender, internet, tls):
    """`reach(names, allow=())` makes a sender in that internet."""
    return lambda names, allow=(), **options: make_sender(
        ReceiverGuard(allow, resolve=names), network=internet, tls=tls, **options
    )


async def test_a_name_is_looked_up_once_and_its_address_connected_to(reach, receiver, internet):
    names = Names([PUBLIC])
    attempt = await reach(names).send(URL, *SEND)
    assert attempt.verdict is AttemptVerdict.DELIVERED, attempt.error
    assert names.asked == ["hooks.example"]
    assert internet.connected == [(PUBLIC, 443)]
    assert receiver.requests[0].headers["host"] == "hooks.example"


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.7"],
        [LOOPBACK],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:10.0.0.7"],
        ["fe80::1%lo"],
        [PUBLIC, "10.0.0.7"],
    ],
    ids=lambda addresses: addresses[-1] + ("" if len(addresses) == 1 else " beside a public one"),
)
async def test_a_name_that_leads_to_a_private_address_is_refused(reach, receiver, internet, addresses):
    attempt = await reach(Names(addresses)).send(URL, *SEND)
    assert (attempt.verdict, attempt.status) == (AttemptVerdict.REFUSED, None)
    assert "hooks.example resolves to" in attempt.error
    assert internet.connected == []


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.1.2.3/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://[::ffff:127.0.0.1]/",
        "https://hooks.example:22/",
        "http://hooks.example/",
    ],
)
async def test_what_the_url_itself_gives_away_is_refused_before_any_lookup(reach, internet, url):
    names = Names([PUBLIC])
    attempt = await reach(names).send(url, *SEND)
    assert (attempt.verdict, attempt.status) == (AttemptVerdict.REFUSED, None)
    assert attempt.error
    assert (names.asked, internet.connected) == ([], [])


async def test_a_name_that_changes_after_the_check_is_not_followed(reach, internet):
    names = Names([PUBLIC], [LOOPBACK])
    sender = reach(names)
    assert (await sender.send(URL, *SEND)).verdict is AttemptVerdict.DELIVERED
    assert names.asked == ["hooks.example"]  # one lookup, so there is no second answer to connect to
    await sender.aclose()
    assert (await sender.send(URL, *SEND)).verdict is AttemptVerdict.REFUSED
    assert internet.connected == [(PUBLIC, 443)]


async def test_an_open_connection_is_not_looked_up_again(reach, internet):
    names = Names([PUBLIC], [LOOPBACK])
    sender = reach(names)
    for _ in range(3):
        assert (await sender.send(URL, *SEND)).verdict is AttemptVerdict.DELIVERED
    assert len(names.asked) == len(internet.connected) == 1


async def test_certificates_are_verified_by_name_not_by_address(reach, make_sender, receiver, internet, tls):
    wrong = await reach(Names([PUBLIC])).send("https://other.example/", *SEND)
    untrusting = make_sender(ReceiverGuard(resolve=Names([PUBLIC])), network=internet)
    unknown = await untrusting.send(URL, *SEND)
    for attempt in (wrong, unknown):
        assert (attempt.verdict, attempt.status) == (AttemptVerdict.RETRY, None)
        assert "certificate verify failed" in attempt.error
    assert receiver.requests == []


async def test_an_authority_of_the_operators_own_is_trusted(
    make_sender, internet, authority, tmp_path, monkeypatch
):
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    sender = make_sender(ReceiverGuard(resolve=Names([PUBLIC])), network=internet)
    assert (await sender.send(URL, *SEND)).verdict is AttemptVerdict.DELIVERED


@pytest.mark.parametrize("allow", ["hooks.example", "hooks.example:443", "10.0.0.0/24"])
async def test_a_listed_receiver_may_be_private(reach, internet, allow):
    attempt = await reach(Names(["10.0.0.7"]), [allow]).send(URL, *SEND)
    assert attempt.verdict is AttemptVerdict.DELIVERED, attempt.error
    assert internet.connected == [("10.0.0.7", 443)]


async def test_plain_http_to_a_name_needs_all_its_addresses_in_a_listed_network(start_receiver, make_sender):
    receiver = await start_receiver()
    internet = Internet(receiver.port)
    for addresses, verdict in (
        (["10.0.0.7"], AttemptVerdict.DELIVERED),
        (["10.0.0.7", PUBLIC], AttemptVerdict.REFUSED),
        ([PUBLIC], AttemptVerdict.REFUSED),
        (["10.9.0.7"], AttemptVerdict.REFUSED),
    ):
        sender = make_sender(ReceiverGuard(["10.0.0.0/24"], resolve=Names(addresses)), network=internet)
        attempt = await sender.send("http://receiver.internal:8080/", *SEND)
        assert attempt.verdict is verdict, (addresses, attempt.error)
    assert internet.connected == [("10.0.0.7", 8080)]


async def test_the_next_address_is_tried_when_one_does_not_answer(make_sender, receiver, tls):
    class Halved(Internet):
        async def connect_tcp(self, host: str, *options: Any) -> httpcore.AsyncNetworkStream:
            stream = await super().connect_tcp(host, *options)
            if ":" not in host:
                return stream
            await stream.aclose()
            raise httpcore.ConnectError("no route")

    internet = Halved(receiver.port)
    sender = make_sender(ReceiverGuard(resolve=Names(["2606:4700::1111", PUBLIC])), network=internet, tls=tls)
    assert (await sender.send(URL, *SEND)).verdict is AttemptVerdict.DELIVERED
    assert internet.connected == [("2606:4700::1111", 443), (PUBLIC, 443)]


@pytest.mark.parametrize("problem", [OSError("no such name"), UnicodeError("label"), "slow", "empty"])
async def test_a_name_without_addresses_is_tried_again_later(reach, internet, problem):
    async def names(host: str, port: int) -> list[str]:
        if isinstance(problem, Exception):
            raise problem
        if problem == "slow":
            await asyncio.get_running_loop().create_future()
        return []

    attempt = await reach(names, connect_s=0.1).send(URL, *SEND)
    assert (attempt.verdict, attempt.status) == (AttemptVerdict.RETRY, None)
    assert "host" in attempt.error
    assert internet.connected == []


async def test_the_system_resolves_names_when_nobody_else_does(start_receiver, make_sender):
    receiver = await start_receiver()
    assert LOOPBACK in await Resolver()("localhost", receiver.port)
    attempt = await make_sender().send(f"https://localhost:{receiver.port}/", *SEND)
    assert attempt.verdict is AttemptVerdict.REFUSED
    sender = make_sender(ReceiverGuard(["localhost"]))
    attempt = await sender.send(f"http://localhost:{receiver.port}/", *SEND)
    assert attempt.verdict is AttemptVerdict.DELIVERED


async def test_a_name_whose_lookup_hangs_does_not_hold_up_the_others(monkeypatch):
    answered, asked = threading.Event(), []

    def lookup(host: str, *args: object, **options: object) -> object:
        asked.append(host)
        if host == "dead.example":
            answered.wait(30)
        return [(0, 0, 0, "", (LOOPBACK, 443))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    resolve = Resolver()
    hanging = [asyncio.create_task(resolve("dead.example", 443)) for _ in range(LOOKUPS + 1)]
    try:
        assert await asyncio.wait_for(resolve("live.example", 443), 10) == [LOOPBACK]
        hanging.pop().cancel()  # whoever gives up leaves the answer to the others
    finally:
        answered.set()
    assert await asyncio.gather(*hanging) == [[LOOPBACK]] * LOOKUPS
    assert await resolve("dead.example", 443) == [LOOPBACK]
    assert asked == ["dead.example", "live.example", "dead.example"]
