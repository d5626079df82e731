import signal
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from headrace.workers.host import engine_child
from headrace.workers.host.backoff import RestartPolicy
from headrace.workers.host.celery_view import CeleryView
from headrace.workers.host.supervisor import Supervisor
from headrace.workers.metrics import HostMetrics
from headrace.workers.settings import WorkerSettings

from .conftest import FAST, Run, all_ready


def test_every_place_gets_an_engine_process_and_its_state_shows(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("serve", engines=2)
    eventually(lambda: {"engine_0_running", "engine_1_running"} <= run.info.keys())
    info = run.info
    assert info["engines"] == 2
    assert info["engine_0_worker"] != info["engine_1_worker"]
    assert (info["engine_0_running"], info["engine_0_waiting"], info["engine_0_pages_free"]) == (1, 2, 5)
    assert all(isinstance(value, str | int) for value in info.values())
    assert eventually(lambda: run.metric("engines_ready") == 2)


def test_a_killed_engine_process_is_followed_by_another_under_a_new_name(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("serve")
    eventually(lambda: all_ready(run))
    first, worker = run.pid(), run.info["engine_0_worker"]
    psutil.Process(first).kill()
    eventually(lambda: run.info.get("engine_0_pid", first) != first and all_ready(run))
    assert run.info["engine_0_worker"] != worker
    assert run.metric("engine_restarts_total") == 1


def test_a_crash_loop_is_said_loudly_and_goes_on(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    view, sent = CeleryView(end=lambda job_id: None), Queue[tuple[str, dict[str, Any]]]()
    dispatcher = SimpleNamespace(send=lambda event, **fields: sent.put((event, fields)))
    hub = SimpleNamespace(call_soon=lambda tell: tell())
    view.attach(SimpleNamespace(hub=hub, event_dispatcher=dispatcher))
    with capture_logs() as logs:
        run = supervise("crash", on_engine=view.engine)
        eventually(lambda: sum(line["event"] == "engine_crash_loop" for line in logs) >= 2)
    assert run.metric("engines_crash_looping") == 1
    deaths = [line for line in logs if line["event"] == "engine_died"]
    assert [line["restart_in_s"] for line in deaths[:3]] == [0.01, 0.02, 0.05]
    assert {line["status"] for line in deaths} == {-signal.SIGKILL}
    assert {line["log_level"] for line in logs if line["event"] == "engine_crash_loop"} == {"error"}
    told = [sent.get(timeout=20) for _ in range(4)]
    assert [event for event, _ in told] == 3 * ["worker-engine-died"] + ["worker-engine-crash-loop"]
    assert told[-1][1]["restart_in_s"] == 0.05
    assert run.ended.empty()


def test_what_can_never_run_is_said_once_and_ends_all_with_failure(supervise: Callable[..., Run]) -> None:
    with capture_logs() as logs:
        run = supervise("fatal", engines=2)
        assert run.ended.get(timeout=20) == 1
    reasons = [line["reason"] for line in logs if line["event"] == "engine_cannot_run"]
    assert reasons == ["no such model: nowhere/none"]


def test_where_one_has_served_another_that_can_not_is_followed_by_more(
    supervise: Callable[..., Run], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    with capture_logs() as logs:
        run = supervise("fatal_again", model=str(tmp_path / "ran"))
        eventually(lambda: all_ready(run))
        psutil.Process(run.pid()).kill()
        eventually(lambda: sum(line["event"] == "engine_cannot_run" for line in logs) >= 2)
    assert run.ended.empty()


def test_an_engine_process_that_has_no_jobs_yet_is_not_waited_for(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    with capture_logs() as logs:
        run = supervise("loading", drain_s=600)
        eventually(lambda: "engine_0_pid" in run.info)
        run.supervisor.drain()
        assert run.ended.get(timeout=20) == 0
    assert "engine_killed" not in {line["event"] for line in logs}


def test_a_drain_ends_when_every_job_is_handed_over(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("serve", engines=2)
    eventually(lambda: all_ready(run))
    with capture_logs() as logs:
        run.supervisor.drain()
        assert run.ended.get(timeout=20) == 0
    events = [line["event"] for line in logs]
    assert events.count("engine_drained") == events.count("engine_ended") == 2
    assert run.info["engine_0_state"] == "ended"
    assert run.metric("engine_restarts_total") == 0


def test_a_drain_before_the_model_is_loaded_ends_too(supervise: Callable[..., Run]) -> None:
    run = supervise("serve")
    run.supervisor.drain()
    assert run.ended.get(timeout=20) == 0


def test_a_drain_between_two_engine_processes_ends_at_once(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("crash", RestartPolicy(first_s=600, most_s=600))
    eventually(lambda: run.info["engine_0_state"] == "ended")
    run.supervisor.drain()
    assert run.ended.get(timeout=5) == 0


def test_an_engine_process_that_does_not_end_in_time_is_killed(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("deaf", drain_s=0.2)
    eventually(lambda: all_ready(run))
    pid = run.pid()
    run.supervisor.drain()
    assert run.ended.get(timeout=20) == 0
    assert not psutil.pid_exists(pid)


def test_an_engine_process_that_ends_its_pipe_but_not_itself_is_killed_and_replaced(
    supervise: Callable[..., Run], eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_child, "EXIT_S", 0.1)
    with capture_logs() as logs:
        run = supervise("silent")
        eventually(lambda: [line for line in logs if line["event"] == "engine_started"][1:])
    assert next(line["status"] for line in logs if line["event"] == "engine_died") == -signal.SIGKILL
    assert run.ended.empty()


def test_an_engine_process_that_talks_but_gets_nowhere_is_killed_and_replaced(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    with capture_logs() as logs:
        run = supervise("late", wedged_s=100)
        eventually(lambda: sum(line["event"] == "engine_wedged" for line in logs) >= 2)
    wedged = next(line for line in logs if line["event"] == "engine_wedged")
    assert (wedged["exchange_s"], wedged["log_level"]) == (1e6, "error")
    assert run.ended.empty()


def test_a_start_that_takes_too_long_is_said_while_it_lasts_and_ended(
    supervise: Callable[..., Run], eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_child, "STARTING_S", 0.1)
    with capture_logs() as logs:
        run = supervise("loading", start_s=1.5)
        eventually(lambda: [line for line in logs if line["event"] == "engine_died"])
    events = [line["event"] for line in logs]
    assert events.count("engine_starting") >= 2
    assert "start_s=1.5" in next(line["reason"] for line in logs if line["event"] == "engine_start_too_long")
    assert run.ended.empty()


def test_kill_does_not_wait_for_the_grace(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("deaf", drain_s=600)
    eventually(lambda: all_ready(run))
    run.supervisor.drain()
    eventually(lambda: run.info["draining"])
    run.supervisor.kill()
    assert run.ended.get(timeout=20) == 0


def test_the_password_of_redis_is_neither_on_a_command_line_nor_in_an_environment(
    supervise: Callable[..., Run], eventually: Callable[..., Any]
) -> None:
    run = supervise("serve", threads=3)
    eventually(lambda: all_ready(run))
    process = psutil.Process(run.pid())
    assert process.environ()["OMP_NUM_THREADS"] == "3"
    assert "hunter2" not in " ".join([*process.cmdline(), *process.environ().values()])


def test_a_supervisor_never_started_ends_at_once(engine_command: Callable[[str], list[str]]) -> None:
    supervisor = Supervisor(
        WorkerSettings(), engine_command("serve"), HostMetrics("demo"), on_end=lambda status: None
    )
    supervisor.kill()
    supervisor.join()


def test_a_machine_that_starts_no_process_is_tried_again(eventually: Callable[..., Any]) -> None:
    with capture_logs() as logs:
        ended = Queue[int]()
        supervisor = Supervisor(
            WorkerSettings(), ["/nonexistent"], HostMetrics("demo"), on_end=ended.put, policy=FAST
        )
        supervisor.start()
        eventually(lambda: sum(line["event"] == "engine_not_started" for line in logs) >= 2)
        supervisor.drain()
        assert ended.get(timeout=5) == 0
