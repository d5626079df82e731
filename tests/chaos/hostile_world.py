"""What hostile tenants need beside a fleet: a model with a gullible template, callbacks, and a last look."""

import json
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Self

from redis import Redis

from headrace.schemas.keys import Tag, is_permanent
from headrace.workers.models import resolve_model

from ..support.processes import flags, launch
from .attacks import TEMPLATE
from .fleet import ROOT

HANGING_S = 3.0
SENDS_AT_ONCE = 64
"""Fewer than there are origins that hang."""


def hostile_model(folder: Path) -> Path:
    """The built-in model with a template that some messages hold up."""
    model = folder / "model"
    if not model.exists():
        shutil.copytree(resolve_model("demo"), model)
        (model / "chat_template.jinja").write_text(TEMPLATE)
    return model


class Callbacks:
    """`headrace callbacks`; a context manager.

    Attributes:
        complaints: what its log may not say, once it has been stopped.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.complaints: list[str] = []
        self._log = log
        told = flags(
            webhook_allow="127.0.0.0/8", webhook_timeout_s=HANGING_S, webhook_concurrency=SENDS_AT_ONCE
        )
        command = "headrace.cli", "callbacks", *told
        self._process = launch("-m", *command, log=log, cwd=ROOT, HEADRACE_REDIS_URL=url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for its end."""
        self._process.terminate()
        status = self._process.wait(timeout=30)
        if status != 0:
            self.complaints.append(f"callbacks ended with status {status}")
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                if line not in _CELERY_SAYS:
                    self.complaints.append(f"callbacks wrote {line!r}")
                continue
            if event.get("level") in {"error", "critical"} and event.get("event") not in _MEANT:
                self.complaints.append(f"callbacks: {line}")


_CELERY_SAYS = {"", "worker: Warm shutdown (MainProcess)"}
_MEANT = {"outbox_entry_dropped"}
"""Of records that can't be read."""


def left_over(redis: Redis, tag: Tag, known: AbstractSet[str]) -> Iterator[str]:
    """Keys of jobs that nobody enqueued or that stay for ever, and jobs that still wait or run."""
    for raw in redis.scan_iter(f"{tag.base}:*", count=1000):
        key = raw.decode()
        kind, _, name = key.removeprefix(f"{tag.base}:").partition(":")
        if kind in {"job", "out"} and name not in known:
            yield f"{key} is nobody's"
        if redis.ttl(raw) == -1 and not is_permanent(key):
            yield f"{key} stays for ever"
        if kind in _EMPTY:
            yield f"{key} is not empty"


_EMPTY = {
    *("lane", "retry", "suspects", "backlog", "queued_bytes", "parked"),
    *("leases", "held", "running", "deadlines"),
    *("delayed", "delayed_jobs", "delayed_bytes"),
}
