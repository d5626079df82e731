import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from headrace.local.embedded_redis import EmbeddedRedis, binary, server
from headrace.local.embedded_redis.binary import find_binary
from headrace.schemas.errors import EmbeddedRedisError
from headrace.schemas.redis.connection import connect

REAL_BINARY = find_binary()


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a server onto an otherwise empty PATH that answers --version with `says`, else is the real one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, says: str) -> Path:
        script = folder / name
        script.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{says}"; else exec "{REAL_BINARY}" "$@"; fi\n'
        )
        script.chmod(0o755)
        return script

    return put


def test_is_durable_and_evicts_nothing(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.url) as redis:
        config = redis.config_get("*")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["save"] == ""
    assert config["maxmemory-policy"] == "noeviction"
    assert config["bind"] == "127.0.0.1"
    assert config["protected-mode"] == "yes"
    assert own_redis.data_dir.stat().st_mode & 0o077 == 0


def test_keeps_data_and_address_over_a_stop(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "new" / "folder with spaces") as embedded:
        url, pid = embedded.url, embedded.pid
        with connect(url) as redis:
            redis.set("a", "1")
            embedded.stop()
            assert not psutil.pid_exists(pid)
            embedded.start()
            assert embedded.url == url
            assert redis.get("a") == b"1"


def test_keeps_acknowledged_writes_over_a_kill(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.url) as redis:
        for number in range(500):
            redis.rpush("log", number)
        own_redis.kill()
        own_redis.start()
        assert redis.llen("log") == 500


def test_a_given_folder_survives_and_a_temporary_one_does_not(tmp_path: Path) -> None:
    with EmbeddedRedis() as temporary, EmbeddedRedis(tmp_path) as given, connect(given.url) as redis:
        redis.set("a", "1")
        folder = temporary.data_dir
        assert folder.is_dir()
    assert not folder.exists()
    with EmbeddedRedis(tmp_path) as again, connect(again.url) as redis:
        assert redis.get("a") == b"1"


def test_the_temporary_folder_of_a_killed_process_goes_when_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os\n"
        "from headrace.local.embedded_redis import EmbeddedRedis\n"
        "embedded = EmbeddedRedis()\n"
        "embedded.start()\n"
        "print(embedded.pid, embedded.data_dir, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    pid, folder = killed.stdout.split()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(timeout=5)
    foreign = tmp_path / "headrace-redis-no-lock"
    foreign.mkdir()
    with EmbeddedRedis() as living:
        assert Path(folder).is_dir()  # it is too young to be sure
        for old in (Path(folder), living.data_dir, foreign):
            os.utime(old, (0, 0))
        with EmbeddedRedis(Path(folder)) as recovered:
            os.utime(folder, (0, 0))
            with EmbeddedRedis(), connect(recovered.url) as redis:
                assert redis.config_get("dir")["dir"] == folder
                assert (Path(folder) / "appendonlydir").is_dir() or (Path(folder) / "appendonly.aof").exists()
        os.utime(folder, (0, 0))
        with EmbeddedRedis():
            assert not Path(folder).exists()
            assert living.data_dir.is_dir()
            assert foreign.is_dir()


def test_a_removal_that_was_cut_short_is_ended_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned = tmp_path / "headrace-redis-abandoned"
    (abandoned / "appendonlydir").mkdir(parents=True)
    (abandoned / "owner.lock").touch()

    def cut_short(*_: object) -> None:
        raise OSError("the process is killed here")

    for end in (cut_short, shutil.rmtree):
        assert abandoned.is_dir()
        os.utime(abandoned, (0, 0))
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", end)
            own = EmbeddedRedis()
        own.close()
    assert not abandoned.exists()


def test_a_temporary_folder_that_somebody_deleted_may_be_closed() -> None:
    embedded = EmbeddedRedis()
    shutil.rmtree(embedded.data_dir)
    embedded.close()


def test_start_and_stop_may_be_repeated(own_redis: EmbeddedRedis) -> None:
    pid = own_redis.pid
    own_redis.start()
    assert own_redis.pid == pid
    own_redis.stop()
    own_redis.stop()
    with pytest.raises(EmbeddedRedisError, match="not running"):
        own_redis.kill()


def test_a_paused_server_can_be_stopped(own_redis: EmbeddedRedis) -> None:
    pid = own_redis.pid
    own_redis.kill(signal.SIGSTOP)
    own_redis.stop()
    assert not psutil.pid_exists(pid)


def test_the_thread_that_starts_it_may_end() -> None:
    with EmbeddedRedis() as embedded:
        embedded.stop()
        starter = threading.Thread(target=embedded.start)
        starter.start()
        starter.join()
        with connect(embedded.url) as redis:
            assert redis.ping()


@pytest.mark.parametrize(
    "how", ["os.kill(os.getpid(), 9)", "os._exit(3)", "sys.exit(0)", "raise SystemError"]
)
def test_ends_with_its_parent(how: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from headrace.local.embedded_redis import EmbeddedRedis\n"
        "embedded = EmbeddedRedis(Path(sys.argv[1]))\n"
        "embedded.start()\n"
        "print(embedded.pid, flush=True)\n"
        f"sys.stdin.read()\n{how}\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with parent:
        assert parent.stdout is not None
        redis = psutil.Process(int(parent.stdout.readline()))
        assert redis.is_running()
        assert psutil.Process(redis.pid).ppid() == parent.pid
        parent.communicate()
    redis.wait(timeout=5)


def test_ctrl_c_in_the_terminal_does_not_reach_it(own_redis: EmbeddedRedis) -> None:
    assert os.getpgid(own_redis.pid) != os.getpgrp()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("redis-server", "Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=0"),
        ("valkey-server", "Valkey server v=8.1.0 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=0"),
        ("redis-server", "Redis server v=6.2.0 sha=00000000:0 malloc=libc bits=64 build=0"),
    ],
)
def test_a_new_enough_server_on_the_path_is_used(
    name: str, says: str, on_path: Callable[[str, str], Path]
) -> None:
    script = on_path(name, says)
    assert find_binary() == script
    with EmbeddedRedis() as embedded, connect(embedded.url) as redis:
        assert redis.ping()


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "Redis server v=5.0.7 sha=0", "what?"])
def test_a_too_old_server_on_the_path_is_passed_over(says: str, on_path: Callable[[str, str], Path]) -> None:
    script = on_path("redis-server", says)
    assert find_binary() != script
    newer = on_path("valkey-server", "Valkey server v=7.2.5 sha=0")
    assert find_binary() == newer


def test_without_any_server_the_error_names_the_ways_out(
    on_path: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = on_path("redis-server", "Redis server v=6.0.16 sha=0")
    monkeypatch.setattr(binary.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError) as caught, EmbeddedRedis():
        pass
    for part in (f"{script} (6.0)", "6.2", "redis-server", "headrace[embedded]", "--redis"):
        assert part in str(caught.value)


def test_a_taken_port_that_was_asked_for_is_an_error(free_port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(EmbeddedRedisError, match=rf"(?s)on port {free_port} ended.*Address already in use"),
        EmbeddedRedis(port=free_port),
    ):
        pass


def test_a_chosen_port_that_another_redis_takes_first_is_chosen_anew(
    own_redis: EmbeddedRedis, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(own_redis.url.split(":")[-1].split("/")[0])
    ports = iter([taken, free_port])
    monkeypatch.setattr(server, "free_port", lambda: next(ports))
    with EmbeddedRedis() as second:
        assert second.url == f"redis://127.0.0.1:{free_port}/0"
        assert second.pid != own_redis.pid


def test_a_folder_belongs_to_one_server(own_redis: EmbeddedRedis) -> None:
    with pytest.raises(EmbeddedRedisError, match="in use by another"):
        EmbeddedRedis(own_redis.data_dir).start()


def test_a_server_that_can_not_start_says_why(own_redis: EmbeddedRedis) -> None:
    with connect(own_redis.url) as redis:
        redis.set("a", "1")
    own_redis.stop()
    (log,) = own_redis.data_dir.rglob("*.aof")  # since Redis 7 in a folder of its own
    log.write_bytes(b"not an append-only file\n" * 10)
    with pytest.raises(EmbeddedRedisError, match="Bad file format reading the append only file"):
        own_redis.start()


def test_it_has_no_url_before_it_has_a_port(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="never started"):
        _ = EmbeddedRedis(tmp_path).url
    assert EmbeddedRedis(tmp_path, port=12345).url == "redis://127.0.0.1:12345/0"
