import select
import socket
from collections.abc import Iterator

import pytest

from headrace.workers.supervision import pipe
from headrace.workers.supervision.pipe import (
    Drain,
    Drained,
    EnginePipe,
    Fatal,
    HostPipe,
    Imported,
    JobStarted,
    LaunchEngine,
    Message,
    Ready,
    Starting,
    Stats,
    Stop,
    decode,
    encode,
)

STATS = Stats(running=1, waiting=2, pages_total=3, pages_free=4)
EVERY_MESSAGE: list[Message] = [
    LaunchEngine("worker-1", 0, 2, 20.0, '{"redis_url": "redis://:pw@h"}', "/tmp/metrics", "GPU-1"),
    Imported(),
    Drain(),
    Stop(),
    Starting(),
    Ready("worker-1", "demo", "served", 100, 2048),
    STATS,
    Drained(3),
    Fatal("line one\nline two: ü"),
]


@pytest.fixture
def ends() -> Iterator[tuple[HostPipe, EnginePipe]]:
    host, engine = socket.socketpair()
    host_pipe, engine_pipe = HostPipe(host), EnginePipe(engine)
    yield host_pipe, engine_pipe
    host_pipe.close()
    engine_pipe.close()


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_every_message_arrives_as_it_was_sent(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b'["Nonsense", {}]', b'["Drained", {}]', b'["Drain", 1]']
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a message between host and engine"):
        decode(line)


def test_messages_keep_their_order_and_receiving_never_waits(ends: tuple[HostPipe, EnginePipe]) -> None:
    host, engine = ends
    assert host.receive() == []
    for message in (Starting(), STATS, Drained(1)):
        engine.send(message)
    assert host.receive() == [Starting(), STATS, Drained(1)]
    assert not host.closed


def test_a_side_that_does_not_read_holds_the_other_up_at_nothing(
    ends: tuple[HostPipe, EnginePipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "MOST_KEPT_BYTES", 1 << 20)
    host, engine = ends
    news = [JobStarted(f"job-{number}", "t", "x" * 900, "") for number in range(5000)]
    for message in news:
        engine.send(message)
    engine.send(Drained(3))  # what is more than news is kept
    assert len(engine._outgoing) < (1 << 20) + 4096
    heard: list[Message] = []
    while Drained(3) not in heard:
        heard += host.receive(wait_s=1.0)
        engine.receive()
    assert heard[:-1] == news[: len(heard) - 1]


def test_one_message_at_a_time_leaves_the_others_for_later(ends: tuple[HostPipe, EnginePipe]) -> None:
    host, engine = ends
    host.send(Drain())
    host.send(Stop())
    assert engine.receive_one(wait_s=1.0) == Drain()
    assert engine.receive() == [Stop()]
    assert engine.receive_one(wait_s=0.0) is None


def test_a_message_cut_in_two_arrives_when_it_is_whole() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        pipe = HostPipe(theirs)
        line = encode(Fatal("no such model"))
        ours.sendall(line[:9])
        assert pipe.receive() == []
        ours.sendall(line[9:] + encode(Starting())[:4])
        assert pipe.receive() == [Fatal("no such model")]
        pipe.close()


def test_the_end_is_seen_after_the_last_words(ends: tuple[HostPipe, EnginePipe]) -> None:
    host, engine = ends
    engine.send(Fatal("why"))
    engine.close()
    assert select.select([host], [], [], 1.0)[0] == [host]
    assert host.receive() == [Fatal("why")]
    assert host.closed
    assert host.receive() == []
    host.send(Drain())  # nobody is there: dropped, no error


def test_a_side_that_does_not_listen_blocks_nobody_and_loses_only_stats(
    ends: tuple[HostPipe, EnginePipe],
) -> None:
    host, engine = ends
    for _ in range(50_000):
        engine.send(STATS)
    engine.send(Drained(7))
    heard = []
    while not heard or not isinstance(heard[-1], Drained):
        heard += host.receive()
        engine.receive()  # also hands on what the socket could not take
    assert heard[-1] == Drained(7)
    assert len(heard) < 50_000


def test_a_launch_does_not_print_what_may_hold_a_password() -> None:
    assert "pw" not in repr(EVERY_MESSAGE[0])
