"""The commands of headrace's Celery workers: `celery -A headrace.celery control drain`, `inspect kv_stats` …

Celery keeps commands in one registry per process. Importing this module declares them, both for senders and
for the workers that carry them out; any other Celery worker answers that it can't.
"""

from typing import Any

from celery.worker.control import control_command, inspect_command

ATTRIBUTE = "headrace"
"""The attribute of Celery's worker object in which our steps put what carries out the commands."""


def operated(state: Any) -> Any:
    """What carries out commands in this process; None if the Celery worker isn't one of headrace's."""
    return getattr(state.consumer.controller, ATTRIBUTE, None)


def _carry_out(state: Any, command: str, *args: Any) -> Any:
    act = getattr(operated(state), command, None)
    if act is None:
        return {"error": f"this Celery worker can't {command}: it hosts no engine"}
    return {"ok": act(*args)}


@control_command(args=[("finish_s", float)], signature="[finish_s=0]")  # type: ignore[untyped-decorator]
def drain(state: Any, finish_s: float = 0.0, **_: Any) -> Any:
    """Hand all jobs over and stop the engines; the host keeps running, for `undrain`."""
    return _carry_out(state, "drain", float(finish_s))


@control_command()  # type: ignore[untyped-decorator]
def undrain(state: Any, **_: Any) -> Any:
    """Start the engines again after `drain`."""
    return _carry_out(state, "undrain")


@control_command(args=[("job_id", str)], signature="<job or task id>")  # type: ignore[untyped-decorator]
def cancel(state: Any, job_id: str, **_: Any) -> Any:
    """Cancel a generation, waiting or running; the id is the job's or the Celery task's."""
    return _carry_out(state, "cancel", job_id)


@inspect_command()  # type: ignore[untyped-decorator]
def kv_stats(state: Any, **_: Any) -> Any:
    """KV pages and jobs of each engine."""
    act = getattr(operated(state), "kv_stats", None)
    return act() if act is not None else []
