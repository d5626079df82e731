"""What a host knows of an engine process that is starting."""

import socket
from types import SimpleNamespace

from structlog.testing import capture_logs

from headrace.workers.host.engine_child import EngineChild
from headrace.workers.host.facts import stats_fields
from headrace.workers.settings import WorkerSettings
from headrace.workers.supervision.pipe import EnginePipe, HostPipe, LaunchEngine, Ready, Starting

SETTINGS = WorkerSettings(start_s=100)
LAUNCH = LaunchEngine("engine-1", index=0, threads=1, grace_s=1.0, settings="")


def test_a_download_that_goes_on_is_no_slow_start_and_shows_in_the_log_and_to_celery():
    ours, theirs = socket.socketpair()
    pipe, engine, killed = HostPipe(ours), EnginePipe(theirs), []
    process = SimpleNamespace(pid=1, pipe=pipe, kill=lambda *signum: killed.append(signum))
    child = EngineChild(process, LAUNCH, now=0.0)
    place = SimpleNamespace(index=0, child=child)

    def hears(message: Starting | Ready, now: float) -> None:
        engine.send(message)
        child.listen(now)

    with ours, theirs, capture_logs() as logs:
        hears(Starting(), 1.0)
        assert "engine_0_download" not in stats_fields([place])
        hears(Starting("5.2 of 9.9 GB"), 90.0)
        child.look(150.0, SETTINGS)
        assert not killed
        assert stats_fields([place])["engine_0_download"] == "5.2 of 9.9 GB"
        child.look(191.0, SETTINGS)
        assert killed
    assert [(line["event"], line.get("download")) for line in logs] == [
        ("engine_starting", "5.2 of 9.9 GB"),
        ("engine_start_too_long", None),
    ]
