"""Where the embedded Redis of `headrace up` listens: where clients look, else always in the same place."""

import socket
from pathlib import Path

import pytest

from headrace.local.embedded_redis import EmbeddedRedis, ports
from headrace.local.embedded_redis.ports import keep_port, preferred_port


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch, free_port: int) -> int:
    """A port of the test's own in place of 6379."""
    monkeypatch.setattr(ports, "USUAL", free_port)
    return free_port


def test_the_usual_port_is_redis_own():
    assert ports.USUAL == 6379


def test_the_usual_port_is_preferred_when_it_is_free(tmp_path: Path, usual: int):
    keep_port(tmp_path, 20_001)
    assert preferred_port(tmp_path) == usual


def test_where_the_usual_port_is_taken_the_one_before_is_taken_again(tmp_path: Path, usual: int):
    with socket.create_server(("127.0.0.1", usual)):
        assert preferred_port(tmp_path) is None
        with EmbeddedRedis(tmp_path / "redis", preferred=usual) as first:
            assert first.port != usual
            keep_port(tmp_path, first.port)
        with EmbeddedRedis(tmp_path / "redis", preferred=preferred_port(tmp_path)) as second:
            assert second.port == first.port


def test_the_usual_port_needs_no_note(tmp_path: Path, usual: int):
    keep_port(tmp_path, usual)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("note", ["", "many", "6379\n6380"])
def test_a_note_that_is_no_port_is_passed_over(tmp_path: Path, usual: int, note: str):
    (tmp_path / "redis.port").write_text(note)
    with socket.create_server(("127.0.0.1", usual)):
        assert preferred_port(tmp_path) is None
