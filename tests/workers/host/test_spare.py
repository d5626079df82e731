"""The engine process in reserve: whose place it takes, and that it ends with everything else."""

import selectors
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from headrace.workers.host import child_process, memory
from headrace.workers.host.backoff import RestartBackoff
from headrace.workers.host.spare import Spare, SpareState
from headrace.workers.settings import WorkerSettings

from ...support.waiting import WAIT_S
from .conftest import FAST, Run, all_ready

Supervise = Callable[..., Run]
Eventually = Callable[..., Any]


def spare_of(run: Run) -> int:
    """The process id of a spare that is ready; 0 while there is none."""
    info = run.info
    return int(info["spare_pid"]) if info["spare"] == "ready" else 0


def test_the_spare_takes_the_place_of_an_engine_process_that_died_and_another_follows(
    supervise: Supervise, eventually: Eventually
) -> None:
    run = supervise("serve", spare_engine=True)
    spare = psutil.Process(eventually(lambda: spare_of(run)))
    assert (spare.name(), spare.num_threads(), spare.nice()) == ("headrace-spare", 1, psutil.Process().nice())
    psutil.Process(run.pid()).kill()
    eventually(lambda: run.info.get("engine_0_pid") == spare.pid and all_ready(run))
    assert spare.name() != "headrace-spare"
    assert run.metric("engine_restarts_total") == 1
    assert eventually(lambda: spare_of(run)) != spare.pid


def test_a_spare_that_dies_is_replaced_and_no_engine_process_notices(
    supervise: Supervise, eventually: Eventually
) -> None:
    run = supervise("serve", spare_engine=True)
    spare, engine = eventually(lambda: spare_of(run)), run.pid()
    with capture_logs() as logs:
        psutil.Process(spare).kill()
        assert eventually(lambda: (found := spare_of(run)) != spare and found)
    assert [line["status"] for line in logs if line["event"] == "spare_died"] == [-9]
    assert (run.pid(), run.metric("engine_restarts_total")) == (engine, 0)


def test_a_spare_ends_when_its_host_is_paused_and_comes_back_when_that_is_over(
    supervise: Supervise, eventually: Eventually
) -> None:
    run = supervise("serve", spare_engine=True)
    spare = eventually(lambda: spare_of(run))
    run.supervisor.pause()
    eventually(lambda: run.info["engine_0_state"] == "ended")
    assert (run.info["spare"], run.info["spare_pid"]) == ("none", 0)
    eventually(lambda: not psutil.pid_exists(spare))
    run.supervisor.resume()
    spare = eventually(lambda: spare_of(run))
    run.supervisor.drain()
    assert run.ended.get(timeout=20) == 0
    assert not psutil.pid_exists(spare)


def test_no_spare_passes_for_ready_before_it_has_imported(
    engine_command: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[SpareState] = []

    def seen_by_another_thread(spare: Spare, name: str, value: object) -> None:
        object.__setattr__(spare, name, value)
        states.append(spare.state)

    with selectors.DefaultSelector() as selector:
        settings = WorkerSettings(redis_url="redis://localhost/0", spare_engine=True)
        spare = Spare(settings, engine_command("serve"), 1, selector, RestartBackoff(FAST))
        spare.start(0.0)
        while spare.state is not SpareState.READY:
            selector.select(WAIT_S)
            spare.attend()
        first = spare.take()
        assert first is not None
        monkeypatch.setattr(Spare, "__setattr__", seen_by_another_thread)
        spare.start(0.0)
        spare.close()
        first.kill()
        assert first.reap() == -9
    assert states
    assert SpareState.READY not in states


def test_a_spare_that_outlives_its_kill_holds_up_neither_a_pause_nor_the_end(
    supervise: Supervise, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "EXIT_S", 0.2)
    run = supervise("serve", spare_engine=True)
    spare = psutil.Process(eventually(lambda: spare_of(run)))
    process = run.supervisor._spare._process
    monkeypatch.setattr(process, "kill", lambda: None)  # as if the kernel waited for a disk
    with capture_logs() as logs:
        run.supervisor.pause()
        eventually(lambda: run.info["engine_0_state"] == "ended")
        assert (run.info["spare"], spare.is_running()) == ("none", True)
        run.supervisor.drain()
        assert run.ended.get(timeout=20) == 0
    assert [line["pid"] for line in logs if line["event"] == "process_left_behind"] == [spare.pid]
    spare.kill()
    assert process._process.wait(WAIT_S) == -9


def test_there_is_no_spare_before_engine_processes_are_ready(
    supervise: Supervise, eventually: Eventually
) -> None:
    with capture_logs() as logs:
        run = supervise("crash", spare_engine=True)
        eventually(lambda: sum(line["event"] == "engine_died" for line in logs) >= 3)
    assert (run.info["spare"], run.info["spare_pid"]) == ("none", 0)
    assert not any(line["event"].startswith("spare") for line in logs)


def test_where_memory_is_short_there_is_no_spare_and_the_log_says_so(
    supervise: Supervise, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 512000 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    with capture_logs() as logs:
        run = supervise("serve", spare_engine=True)
        eventually(lambda: [line for line in logs if line["event"] == "spare_not_started"])
    assert "500 MiB" in next(line["reason"] for line in logs if line["event"] == "spare_not_started")
    assert all_ready(run)
    assert run.info["spare"] == "none"


def test_what_is_available_is_what_the_tightest_control_group_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    assert memory.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemAvailable: 8000 kB\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/pod/worker\n")
    group = tmp_path / "pod" / "worker"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("7000\n")
    assert memory.available_bytes() == 8000 * 1024
    (group.parent / "memory.max").write_text("10000\n")
    (group.parent / "memory.current").write_text("7000\n")
    (group.parent / "memory.stat").write_text("anon 5000\ninactive_file 1000\n")
    assert memory.available_bytes() == 4000
