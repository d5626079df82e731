"""One attempt at a webhook: what goes out, and what is made of all that can come back."""

import asyncio
import gzip
import importlib.metadata
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from standardwebhooks.webhooks import Webhook

from headrace.schemas.webhooks.signing import new_secret
from headrace.workers.callbacks.webhooks.sender import AttemptVerdict

BODY = b'{"type":"job.succeeded","timestamp":"2026-01-01T00:00:00.000Z","data":{}}'
NOW_S = 1_800_000_000
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answers(*parts: bytes, close: bool = False) -> Answer:
    """Writes these bytes for every request."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()

    return answer


def status(code: int, *headers: str) -> bytes:
    """An answer without a body."""
    return "\r\n".join((f"HTTP/1.1 {code} Word", "content-length: 0", *headers, "", "")).encode()


def drips(start: bytes, drop: bytes = b"x") -> Answer:
    """Writes the start, then a drop every few milliseconds, for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return answer


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_webhook_is_one_signed_post_of_the_body_as_it_is(start_receiver, make_sender):
    receiver = await start_receiver()
    secrets, now_s = [new_secret(), "a secret in plain words"], int(time.time())
    attempt = await make_sender().send(receiver.url("/hook?a=b%20c"), "msg_1", BODY, secrets, now_s)
    assert (attempt.verdict, attempt.status, attempt.error) == (AttemptVerdict.DELIVERED, 204, "")
    (request,) = receiver.requests
    assert request.line == "POST /hook?a=b%20c HTTP/1.1"
    assert request.body == BODY
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": f"headrace/{importlib.metadata.version('headrace')}",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": request.headers["webhook-signature"],
    }
    for secret in (secrets[0], secrets[1].encode()):
        assert Webhook(secret).verify(request.body, request.headers) == json.loads(BODY)


async def test_without_secrets_there_is_no_signature(start_receiver, make_sender):
    receiver = await start_receiver()
    await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert "webhook-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize("secrets", [["short"], [new_secret(), "whsec_*"]], ids=["one", "one of two"])
async def test_with_a_secret_that_cannot_sign_nothing_is_sent(start_receiver, make_sender, secrets):
    receiver = await start_receiver()
    attempt = await make_sender().send(receiver.url(), "msg_1", BODY, secrets, NOW_S)
    assert attempt.verdict is AttemptVerdict.REFUSED
    assert "secret" in attempt.error
    assert not any(secret in attempt.error for secret in secrets)
    assert not receiver.connections


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (200, AttemptVerdict.DELIVERED),
        (202, AttemptVerdict.DELIVERED),
        (299, AttemptVerdict.DELIVERED),
        (304, AttemptVerdict.RETRY),
        (400, AttemptVerdict.RETRY),
        (404, AttemptVerdict.RETRY),
        (410, AttemptVerdict.GONE),
        (429, AttemptVerdict.RETRY),
        (500, AttemptVerdict.RETRY),
        (503, AttemptVerdict.RETRY),
        (999, AttemptVerdict.RETRY),
    ],
)
async def test_the_status_decides(start_receiver, make_sender, code, verdict):
    receiver = await start_receiver(answers(status(code)))
    attempt = await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert (attempt.status, attempt.verdict) == (code, verdict)
    assert (str(code) in attempt.error) == (code >= 300)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(start_receiver, make_sender, code):
    inside = await start_receiver()
    receiver = await start_receiver(answers(status(code, f"location: {inside.url('/admin')}")))
    attempt = await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert (attempt.status, attempt.verdict) == (code, AttemptVerdict.RETRY)
    assert "redirects are not followed" in attempt.error
    assert not inside.connections


ENDLESS = b"HTTP/1.1 %d Word\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"4000\r\n" + bytes(0x4000) + b"\r\n"


@pytest.mark.parametrize(("code", "verdict"), [(200, AttemptVerdict.DELIVERED), (500, AttemptVerdict.RETRY)])
async def test_an_endless_body_is_cut_off_and_recorded(start_receiver, make_sender, code, verdict):
    receiver = await start_receiver(drips(ENDLESS % code, CHUNK))
    attempt = await make_sender(timeout_s=60).send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert attempt.took_s < 30
    assert (attempt.status, attempt.verdict) == (code, verdict)
    assert ("cut off" if code == 200 else "500") in attempt.error


async def test_a_body_that_would_unpack_to_a_gigabyte_is_not_unpacked(start_receiver, make_sender):
    bomb = gzip.compress(bytes(10_000_000))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n"
    receiver = await start_receiver(answers(head.encode(), bomb))
    sender = make_sender(max_response_bytes=len(bomb))
    attempt = await sender.send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert (attempt.status, attempt.error) == (200, "")


@pytest.mark.parametrize(
    ("answer", "code", "error"),
    [
        (hangs, None, "no answer within 0.3 s"),
        (drips(b"HTTP/1.1 200 OK\r\nx: "), None, "no answer within 0.3 s"),
        (drips(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), None, "no answer within 0.3 s"),
        (drips(ENDLESS % 200, b"1\r\nx\r\n"), 200, "no end of the answer's body within 0.3 s"),
        (drips(b"HTTP/1.1 503 Busy\r\ncontent-length: 9999\r\n\r\n"), 503, "no end of the answer's body"),
    ],
    ids=["silence", "slow headers", "endless interim answers", "slow body", "slow error"],
)
async def test_whatever_is_slow_ends_at_the_deadline(start_receiver, make_sender, answer, code, error):
    receiver = await start_receiver(answer)
    attempt = await make_sender(timeout_s=0.3).send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert 0.3 <= attempt.took_s < 5
    assert attempt.status == code
    assert error in attempt.error
    assert attempt.verdict is (AttemptVerdict.DELIVERED if code == 200 else AttemptVerdict.RETRY)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command 'POST'\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200",
    ],
    ids=range(9),
)
async def test_what_is_no_http_is_no_answer_and_is_not_repeated_in_the_log(
    start_receiver, make_sender, answer
):
    receiver = await start_receiver(answers(answer, close=True))
    attempt = await make_sender(timeout_s=20).send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert (attempt.status, attempt.verdict) == (None, AttemptVerdict.RETRY)
    assert attempt.error in {"the connection ended without an HTTP response", "the connection broke"}


async def test_a_connection_that_breaks_after_the_status_changes_nothing(start_receiver, make_sender):
    receiver = await start_receiver(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", close=True))
    attempt = await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert attempt.verdict is AttemptVerdict.DELIVERED
    assert attempt.error == "the answer's body broke off"


async def test_nobody_listening_is_a_failure_like_others(make_sender, free_port):
    attempt = await make_sender().send(f"http://127.0.0.1:{free_port}/?token=1", "msg_1", BODY, [], NOW_S)
    assert (attempt.status, attempt.verdict) == (None, AttemptVerdict.RETRY)
    assert attempt.error.startswith("no connection")
    assert "token" not in attempt.error


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("120", 120),
        ("0", 0),
        ("9" * 400, 86_400),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60),
        ("Fri, 15 Jan 2027 08:01:00 -0000", 60),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 15 Jan 2100 08:00:00 GMT", 86_400),
        ("-5", None),
        ("1e3", None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Jan 2027 08:01:00 GMT", None),
    ],
)
async def test_a_receiver_may_ask_for_patience_within_bounds(start_receiver, make_sender, value, wait_s):
    receiver = await start_receiver(answers(status(503, f"retry-after: {value}")))
    attempt = await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert attempt.retry_after_s == wait_s


async def test_a_connection_is_used_again_and_nothing_else_is_kept(start_receiver, make_sender):
    receiver = await start_receiver(answers(status(200, "set-cookie: a=b; path=/")))
    sender = make_sender()
    for _ in range(3):
        await sender.send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert receiver.connections == 1
    assert "cookie" not in receiver.requests[-1].headers


async def test_a_connection_with_an_unread_rest_is_not_used_again(start_receiver, make_sender):
    receiver = await start_receiver(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789"))
    sender = make_sender(max_response_bytes=8)
    for _ in range(2):
        assert (await sender.send(receiver.url(), "msg_1", BODY, [], NOW_S)).status == 200
    assert receiver.connections == 2


async def test_a_connection_that_the_receiver_closed_meanwhile_is_not_used(start_receiver, make_sender):
    receiver = await start_receiver(answers(status(200), close=True))
    sender = make_sender()
    for _ in range(3):
        assert (await sender.send(receiver.url(), "msg_1", BODY, [], NOW_S)).status == 200


async def test_no_more_connections_than_allowed_and_waiting_for_one_is_told(start_receiver, make_sender):
    receiver = await start_receiver(hangs)
    sender = make_sender(timeout_s=1, connect_s=0.2, max_connections=2)
    attempts = await asyncio.gather(
        *(sender.send(receiver.url(), "msg_1", BODY, [], NOW_S) for _ in range(3))
    )
    assert receiver.connections == 2
    assert sorted(attempt.error for attempt in attempts) == [
        "no answer within 1 s",
        "no answer within 1 s",
        "too many connections here",
    ]


async def test_a_dead_receiver_holds_up_no_other(start_receiver, make_sender):
    dead, alive = await start_receiver(hangs), await start_receiver()
    sender = make_sender(timeout_s=5)
    hanging = [asyncio.create_task(sender.send(dead.url(), "m", BODY, [], NOW_S)) for _ in range(100)]
    answered = [await sender.send(alive.url(), "m", BODY, [], NOW_S) for _ in range(20)]
    assert all(attempt.verdict is AttemptVerdict.DELIVERED for attempt in answered)
    assert not any(attempt.done() for attempt in hanging)
    for attempt in hanging:
        attempt.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_proxies_of_the_environment_are_not_used(start_receiver, make_sender, monkeypatch):
    proxy, receiver = await start_receiver(), await start_receiver()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    await make_sender().send(receiver.url(), "msg_1", BODY, [], NOW_S)
    assert (proxy.connections, receiver.connections) == (0, 1)
