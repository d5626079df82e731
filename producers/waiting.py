"""Why a job has not ended, decided only here, from one bounded look at Redis.

The client's log, the command line, `ResultTimeout` and Celery's results all show `Waiting.text` instead of
wording their own. It names the biggest obstacle, since the others don't matter until that is removed.
"""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ..schemas.errors import BrokerUnavailable
from ..schemas.events import JobState
from ..schemas.job import JobClass
from ..schemas.keys import Tag
from .steps import Read, ServerInfo, Steps

if TYPE_CHECKING:
    from .operations import Operations

EXPLAIN_S = 1.5
"""A reader that has waited for this long without a sign is told why."""

SILENT_S = 10.0
"""A worker sends a heartbeat every second; one silent for this long is probably gone."""

MOST_WORKERS = 32
MOST_AHEAD = 200
"""Maximum number of workers, and of jobs ahead, that are looked at."""


class WaitReason(StrEnum):
    """What a job is waiting for."""

    DELAYED = "delayed"
    PAUSED = "paused"
    NO_WORKER = "no_worker"
    CLASS_NOT_SERVED = "class_not_served"
    DRAINING = "draining"
    TENANT_LIMIT = "tenant_limit"
    OTHER_MODEL = "other_model"
    SUSPECT = "suspect"
    QUEUE = "queue"
    WORKER_SILENT = "worker_silent"
    RUNNING = "running"
    ENDED = "ended"
    NO_JOB = "no_job"
    NO_CALLBACKS = "no_callbacks"


_EXPECTED = frozenset({WaitReason.DELAYED, WaitReason.RUNNING, WaitReason.ENDED, WaitReason.NO_JOB})


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job has not ended.

    Attributes:
        text: half a sentence, as in "the job waits: no worker serves model 'm' now".
    """

    reason: WaitReason
    text: str

    @property
    def expected(self) -> bool:
        """Whether the wait is as requested, so that nobody needs a warning."""
        return self.reason in _EXPECTED


class Waits:
    """Logs why one client's jobs wait: once per job, and only for a few if there are many.

    Args:
        a_minute: maximum number of lines per minute.
    """

    def __init__(self, a_minute: int = 10) -> None:
        self._log = logging.getLogger("headrace")
        self._told: deque[str] = deque(maxlen=1000)
        # When the last lines were written, the oldest first: another is due a minute after that one.
        self._lines: deque[float] = deque([-math.inf] * a_minute, maxlen=a_minute)

    def tell(self, operations: "Operations", job_id: str) -> Steps[None]:
        """Log what the job is waiting for, unless nobody needs to know."""
        if self.takes(job_id):
            waiting = yield from explain(operations, job_id)
            if waiting is not None and not waiting.expected:
                self.say(f"job {job_id}", waiting.text)

    def takes(self, name: str) -> bool:
        """Whether another line may be logged; the room is taken before Redis is asked anything."""
        now = time.monotonic()
        if name in self._told or now - self._lines[0] < 60:
            return False
        self._told.append(name)
        self._lines.append(now)
        return True

    def say(self, who: str, why: str) -> None:
        """Write the line."""
        self._log.warning("%s waits: %s", who, why)


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker, and the seconds since its last heartbeat."""

    id: str
    silent_s: float
    classes: tuple[str, ...] = tuple(JobClass)
    draining: bool = False
    fingerprint: str = ""

    @property
    def alive(self) -> bool:
        return self.silent_s < SILENT_S


def explain(operations: "Operations", job_id: str) -> Steps[Waiting | None]:
    """Why the job has not ended; None if that is unknown, or there is no such job."""
    try:
        return (yield from explain_at(operations.tag_of(job_id), job_id))
    except BrokerUnavailable:
        return None


def explain_at(tag: Tag, job_id: str) -> Steps[Waiting | None]:
    """Why the job has not ended, from these keys; None if that can't be known, or there is no such job."""
    try:
        return (yield from _explain(tag, job_id))
    except ValueError:  # the record in Redis was damaged
        return None


def _explain(tag: Tag, job_id: str) -> Steps[Waiting | None]:
    fields = ("state", "class", "tenant", "stream", "entry", "worker", "offset", "fingerprint")
    info = yield ServerInfo()
    record, due, running, members = yield Read(
        (
            ("HMGET", tag.job(job_id), *fields),
            ("ZSCORE", tag.delayed, job_id),
            ("ZCARD", tag.leases),
            ("ZRANGE", tag.workers, -MOST_WORKERS, -1, "WITHSCORES"),
        )
    )
    job = {name: (value or b"").decode() for name, value in zip(fields, record, strict=True)}
    if not job["state"]:
        return None
    now_ms = int(info["server_time_usec"]) // 1000
    # RESP2 replies with members and scores in turns.
    names = [name.decode() for name in members[::2]]
    # A second look, since the first says what to ask for. If the job has moved on between them, the answer is
    # a moment old; nothing is decided by it.
    said, policy, all_others, has_running, paused, ahead, urgent = yield from _details(tag, job, names)
    workers = [
        _worker(name, (now_ms - float(heard_ms)) / 1000, facts)
        for name, heard_ms, facts in zip(names, members[1::2], said, strict=True)
    ]
    match JobState(job["state"]):
        case JobState.DELAYED:
            left_s = max(0.0, (float(due or now_ms) - now_ms) / 1000)
            return Waiting(WaitReason.DELAYED, f"it was asked to wait another {left_s:.0f} s")
        case JobState.RUNNING:
            return _running(job, workers)
        case JobState.QUEUED:
            limit = _limit(policy, all_others)
            # In this order: a pause holds a job whatever else is true, and without a worker no limit matters.
            return (
                _paused(tag, job, paused)
                or _unserved(tag.model, job, workers)
                or _held_back(job, limit, has_running, workers)
                or Waiting(WaitReason.QUEUE, _queue(job, ahead, urgent, running, workers))
            )
        case _:
            return Waiting(WaitReason.ENDED, f"it has ended ({job['state']})")


def _details(tag: Tag, job: dict[str, str], workers: Sequence[str]) -> Steps[tuple[Any, ...]]:
    """Read what each worker reports, the tenant's limits and running jobs, and which jobs are ahead."""
    urgent = [tag.backlog(each) for each in JobClass if _rank(each) < _rank(job["class"])]
    before = ("XRANGE", job["stream"], "-", f"({job['entry']}", "COUNT", MOST_AHEAD)
    replies = yield Read(
        (
            ("HGET", tag.tenants, job["tenant"]),
            ("HGET", tag.tenants, "*"),
            ("SCARD", tag.running(job["tenant"])),
            ("HMGET", tag.paused, *_parts(job)),
            *(("HMGET", tag.worker(name), "classes", "drain", "fingerprint") for name in workers),
            *(("ZCARD", key) for key in urgent),
            *((before,) if job["stream"] and job["entry"] else ()),
        )
    )
    policy, all_others, has_running, paused, *rest = replies
    said, rest = rest[: len(workers)], rest[len(workers) :]
    # The last reply, if it was asked for: a job may have no entry while it is between two streams.
    ahead = len(rest[len(urgent)]) if len(rest) > len(urgent) else 0
    return said, policy, all_others, has_running, paused, ahead, sum(rest[: len(urgent)])


def _rank(job_class: str) -> int:
    return list(JobClass).index(JobClass(job_class))


def _worker(name: str, silent_s: float, facts: Sequence[bytes | None]) -> _Worker:
    classes, drain, fingerprint = ((value or b"").decode() for value in facts)
    served = tuple(classes.split(",")) if classes else tuple(JobClass)
    return _Worker(name, silent_s, served, bool(drain), fingerprint)


def _limit(*policies: bytes | None) -> int | None:
    """How many jobs the tenant may have running, by its own policy or the default."""
    for policy in policies:
        if policy is not None:
            # As the scripts read it (`policy_of`): what was damaged limits nothing.
            with suppress(AttributeError, TypeError, ValueError, RecursionError):
                most = json.loads(policy).get("max_running")
                return None if most is None else int(most)
            return None
    return None


def _parts(job: dict[str, str]) -> tuple[str, ...]:
    return "*:*", f"{job['class']}:*", f"*:{job['tenant']}", f"{job['class']}:{job['tenant']}"


def _paused(tag: Tag, job: dict[str, str], since: Sequence[bytes | None]) -> Waiting | None:
    """Whether the job is held in its lane; jobs that have left it continue."""
    if job["stream"] != tag.lane(job["class"], job["tenant"]):
        return None
    for part, paused in zip(_parts(job), since, strict=True):
        if paused is not None:
            job_class, _, tenant = part.partition(":")
            options = "" if job_class == "*" else f" --class {job_class}"
            options += "" if tenant == "*" else f" --tenant {tenant}"
            text = f"it was paused by an operator (headrace queues resume {tag.model}{options})"
            return Waiting(WaitReason.PAUSED, text)
    return None


def _unserved(model: str, job: dict[str, str], workers: Sequence[_Worker]) -> Waiting | None:
    living = [worker for worker in workers if worker.alive]
    if not living:
        last = min((worker.silent_s for worker in workers), default=None)
        heard = "" if last is None else f" (the last one was heard from {last:.0f} s ago)"
        text = f"no worker serves model {model!r} now{heard}; start one: headrace worker --model {model}"
        return Waiting(WaitReason.NO_WORKER, text)
    serving = [worker for worker in living if job["class"] in worker.classes]
    if not serving:
        text = f"no worker of model {model!r} serves the class {job['class']} (headrace worker --classes)"
        return Waiting(WaitReason.CLASS_NOT_SERVED, text)
    if all(worker.draining for worker in serving):
        text = f"the workers of model {model!r} are being drained; start one: headrace worker --model {model}"
        return Waiting(WaitReason.DRAINING, text)
    return None


def _held_back(
    job: dict[str, str], limit: int | None, has_running: int, workers: Sequence[_Worker]
) -> Waiting | None:
    if limit is not None and has_running >= limit:
        tenant = job["tenant"]
        text = (
            f"tenant {tenant!r} has {has_running} {_jobs(has_running)} running and may have {limit} "
            f"(headrace tenants show {tenant})"
        )
        return Waiting(WaitReason.TENANT_LIMIT, text)
    made_by = job["fingerprint"] if int(job["offset"] or 0) else ""
    # A worker that has not said yet what it serves may be the right one.
    if made_by and all(worker.fingerprint not in {"", made_by} for worker in workers if worker.alive):
        text = "the model that made its tokens is no longer served; see headrace worker --on-model-change"
        return Waiting(WaitReason.OTHER_MODEL, text)
    if ":suspects:" in job["stream"]:
        return Waiting(WaitReason.SUSPECT, "a worker died over it, so it waits to be tried alone")
    return None


def _queue(job: dict[str, str], ahead: int, urgent: int, running: int, workers: Sequence[_Worker]) -> str:
    living = sum(worker.alive for worker in workers)
    many = f"{ahead} or more" if ahead == MOST_AHEAD else f"{ahead}"
    place = f"queued behind {many} {_jobs(ahead)}" if ahead else "next in the queue"
    text = f"it is {place} of tenant {job['tenant']!r} in class {job['class']}"
    if urgent:
        others = "and more urgent ones" if ahead else "after more urgent ones"
        text += f" {others} of {urgent} {'tenant' if urgent == 1 else 'tenants'}"
    return f"{text}; {running} {_jobs(running)} run on {living} {'worker' if living == 1 else 'workers'}"


def _running(job: dict[str, str], workers: Sequence[_Worker]) -> Waiting:
    found = next((worker for worker in workers if worker.id == job["worker"]), None)
    tokens = int(job["offset"] or 0)
    if found is not None and found.alive:
        return Waiting(WaitReason.RUNNING, f"it runs on {found.id} and has {tokens} tokens")
    text = f"its worker {job['worker']} is silent; the job resumes at token {tokens} on another"
    if not any(worker.alive for worker in workers):
        text += ", but there is none now"
    return Waiting(WaitReason.WORKER_SILENT, text)


def _jobs(count: int) -> str:
    return "job" if count == 1 else "jobs"
