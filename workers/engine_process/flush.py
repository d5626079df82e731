"""One round trip with the queue: everything that the engine process reports and asks, in one pipeline.

The main loop decides what goes in, and steps the engine meanwhile. `Queue.exchange` runs in the I/O thread,
which also writes the chunks' JSON and sends claimed jobs to intake, so that the loop isn't delayed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from redis import Redis

from ...schemas.errors import BrokerUnavailable
from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.redis.call import text
from ...schemas.redis.connection import broker_errors, is_cluster
from ...schemas.scripts import (
    Advance,
    AdvanceStatus,
    Call,
    ClaimedJob,
    ClaimReply,
    ClaimRequest,
    Ended,
    HeartbeatReply,
    ModelChange,
    ReleaseReason,
    Segment,
    UpkeepCounts,
    UpkeepReply,
    advance,
    claim,
    finish,
    forget_worker,
    heartbeat,
    release,
    run_many,
    trial,
    upkeep,
)
from ...schemas.settings.queue import QueueSettings
from .intake.lanes import Intake
from .registration import Registration
from .running_job import RunningJob

Answered = list[tuple[RunningJob, Advance | Exception]]


@dataclass(slots=True)
class Flush:
    """What to report and ask.

    Attributes:
        advances: jobs to publish, each up to the given offset; one equal to `written` only renews the lease.
        finishes: jobs that have ended.
        releases: jobs to give back.
        claim: what can be taken now, and from which queue.
        facts: what the worker's heartbeat reports; None sends no heartbeat.
        trials: classes of which this worker, which holds jobs, could try suspects; None doesn't ask.
        tokens_per_byte: estimate for prompts whose tokens have not been counted.
        upkeep: whether to do the queue's upkeep too.
        wait_s: if nothing runs here, how long to wait for the bell first.
    """

    advances: list[tuple[RunningJob, int]] = field(default_factory=list)
    finishes: list[RunningJob] = field(default_factory=list)
    releases: list[tuple[RunningJob, ReleaseReason]] = field(default_factory=list)
    claim: tuple[Tag, ClaimRequest] | None = None
    facts: Mapping[str, str | int] | None = None
    trials: Sequence[JobClass] | None = None
    tokens_per_byte: float = 0.5
    upkeep: bool = False
    wait_s: float = 0.0


@dataclass(slots=True)
class FlushReply:
    """Redis's answers, and the claimed jobs.

    Attributes:
        advanced: one answer per job; `sent` is the offset that the answer is about.
        jobs: the claimed jobs, each with what the queue knows of it. They are at intake already, unless the
            claim asked what is held here.
        ended: jobs that upkeep or the claim has ended.
        trial: whether this worker should give its jobs back and try suspects of this queue.
        drain_s: this worker should stop, after at most this long; None if not.
        beaten: why the heartbeat was refused, empty if it wasn't; None if none was sent.
        other_models: fingerprints of other models that are served under this worker's name.
        took_s: duration of the round trip, without the wait for the bell.
    """

    advanced: list[tuple[RunningJob, int, Advance | Exception]] = field(default_factory=list)
    finished: Answered = field(default_factory=list)
    released: Answered = field(default_factory=list)
    jobs: list[tuple[RunningJob, ClaimedJob]] = field(default_factory=list)
    claimed: ClaimReply | None = None
    ended: list[Ended] = field(default_factory=list)
    upkeep: UpkeepCounts | None = None
    trial: Tag | None = None
    drain_s: float | None = None
    beaten: str | None = None
    other_models: set[str] = field(default_factory=set)
    took_s: float = 0.0
    claim_error: Exception | None = None


class Unwritable(Exception):
    """A job's part of the flush can't be written; the other jobs in the flush are unaffected."""


def _answered(answers: Answered, running: RunningJob, answer: Advance | Exception) -> None:
    answers.append((running, answer))


def _unwritable(error: Exception) -> Unwritable:
    unwritable = Unwritable(f"{type(error).__name__}: {error}")
    unwritable.__cause__ = error
    return unwritable


_WRITTEN = {AdvanceStatus.OK, AdvanceStatus.CANCELLED, AdvanceStatus.EXPIRED}


def _in_one(answers: list[Advance], counts: list[int]) -> Iterator[Advance]:
    """One answer for each job: to its first segment that was not written, otherwise to its last."""
    at = 0
    for count in counts:
        own = answers[at : at + count]
        at += count
        yield next((answer for answer in own if answer.status not in _WRITTEN), own[-1])


@contextmanager
def _answering(answers: Answered, running: RunningJob) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        answers.append((running, _unwritable(error)))


class _Pipeline:
    """Calls in order, each with what to do with its result."""

    def __init__(self) -> None:
        self._calls: list[Call[Any]] = []
        self._handlers: list[Callable[[Any], None]] = []

    def add(self, call: Call[Any], handler: Callable[[Any], None]) -> None:
        self._calls.append(call)
        self._handlers.append(handler)

    def run(self, redis: Redis) -> None:
        if self._calls:
            for handler, result in zip(self._handlers, run_many(redis, self._calls), strict=True):
                handler(result)


@dataclass(slots=True)
class Queue:
    """The engine process's side of the queue: one model's partitions on one Redis.

    Attributes:
        fingerprint: identifies the model and its tokenizer.
        model_change: what to do with jobs whose model is gone; None leaves them to other workers.
    """

    redis: Redis
    tags: list[Tag]
    worker_id: str
    lease_ms: int
    settings: QueueSettings
    intake: Intake
    registration: Registration
    fingerprint: str = ""
    model_change: ModelChange | None = None

    def exchange(self, flush: Flush) -> FlushReply:
        """Send `flush` and return the answers.

        Raises:
            BrokerUnavailable: Redis could not be reached. What it did is unknown, and sending the same again
                is safe.
        """
        # Before the pipeline: what it is to claim depends on which bell rings.
        if flush.wait_s > 0:
            self._wait_for_bell(flush)
        started = time.monotonic()
        reply, pipeline = FlushReply(), _Pipeline()
        self._add_advances(pipeline, flush, reply)
        for running in flush.finishes:
            with _answering(reply.finished, running):
                *before, last = running.segments()
                call = finish(running.tag, last, running.end_marker(), running.output())
                self._add_before(pipeline, running.tag, before)
                pipeline.add(call, partial(_answered, reply.finished, running))
        for running, reason in flush.releases:
            with _answering(reply.released, running):
                *before, last = running.segments()
                call = release(running.tag, last, reason, running.prompt_tokens)
                self._add_before(pipeline, running.tag, before)
                pipeline.add(call, partial(_answered, reply.released, running))
        self._add_upkeep(pipeline, flush, reply)
        if flush.claim is not None:
            # Last, so that the room that ends and releases make is free by then.
            pipeline.add(claim(*flush.claim), lambda result: self._admit(flush, reply, result))
        pipeline.run(self.redis)
        if flush.upkeep:
            self.registration.keep()
        if flush.claim is not None and not flush.claim[1].resync:
            for running, claimed in reply.jobs:
                self.intake.put(running, claimed)
        reply.took_s = time.monotonic() - started
        return reply

    def _add_before(self, pipeline: _Pipeline, tag: Tag, segments: list[Segment]) -> None:
        """Write what comes before a job's last segment; what the last is answered counts for all."""
        if segments:
            pipeline.add(advance(tag, self.lease_ms, segments), lambda _: None)

    def _add_advances(self, pipeline: _Pipeline, flush: Flush, reply: FlushReply) -> None:
        by_tag: dict[Tag, list[tuple[RunningJob, int]]] = defaultdict(list)
        for running, offset in flush.advances:
            by_tag[running.tag].append((running, offset))
        for tag, jobs in by_tag.items():
            segments: list[Segment] = []
            counts: list[int] = []
            for running, offset in jobs[:]:
                try:
                    own = running.segments(offset)
                    segments += own
                    counts.append(len(own))
                except Exception as error:
                    reply.advanced.append((running, offset, _unwritable(error)))
                    # The others' segments are written all the same; hence the copy above.
                    jobs.remove((running, offset))
            if not segments:
                continue

            def answered(
                answers: list[Advance] | Exception,
                jobs: list[tuple[RunningJob, int]] = jobs,
                counts: list[int] = counts,
            ) -> None:
                each: Iterable[Advance | Exception]
                each = [answers] * len(jobs) if isinstance(answers, Exception) else _in_one(answers, counts)
                reply.advanced += [(*job, answer) for job, answer in zip(jobs, each, strict=True)]

            pipeline.add(advance(tag, self.lease_ms, segments), answered)

    def _add_upkeep(self, pipeline: _Pipeline, flush: Flush, reply: FlushReply) -> None:
        def upkept(result: UpkeepReply | Exception) -> None:
            if isinstance(result, UpkeepReply):
                counts, ended = result
                nothing = (0,) * len(counts)
                reply.upkeep = UpkeepCounts(*map(sum, zip(reply.upkeep or nothing, counts, strict=True)))
                reply.ended += ended

        def beaten(result: HeartbeatReply | Exception) -> None:
            if isinstance(result, Exception):
                reply.beaten = str(result)
            else:
                reply.beaten = reply.beaten or ""
                reply.drain_s = reply.drain_s if result.drain_s is None else result.drain_s
                reply.other_models |= set(result.others)

        def asked(tag: Tag, result: bool | Exception) -> None:
            if result is True:
                reply.trial = tag

        for tag in self.tags:
            if flush.trials is not None:
                ratio = flush.tokens_per_byte
                call = trial(tag, self.worker_id, self.lease_ms, flush.trials, self.fingerprint, ratio)
                pipeline.add(call, partial(asked, tag))
            if flush.facts is not None:
                pipeline.add(heartbeat(tag, self.worker_id, flush.facts), beaten)
            if flush.upkeep:
                pipeline.add(upkeep(tag, self.settings, self.lease_ms, self.model_change), upkept)

    def _admit(self, flush: Flush, reply: FlushReply, result: ClaimReply | Exception) -> None:
        if isinstance(result, Exception):
            reply.claim_error = result
            return
        assert flush.claim is not None
        reply.claimed = result
        reply.ended += result.ended
        now = time.monotonic()
        reply.jobs = [(RunningJob.of_claim(flush.claim[0], claimed, now), claimed) for claimed in result.jobs]

    def _wait_for_bell(self, flush: Flush) -> None:
        """Wait; if a bell rings, it says which queue to claim from."""
        bells = {tag.bell: tag for tag in self.tags}
        if (
            is_cluster(self.redis) and flush.claim is not None
        ):  # the bells are on several nodes: wait for one at a time
            bells = {flush.claim[0].bell: flush.claim[0]}
            # So that a round through all queues takes as long as one wait at all bells would.
            flush.wait_s /= len(self.tags)
        with broker_errors():
            rung = self.redis.blpop(list(bells), timeout=flush.wait_s)
        if rung is not None and flush.claim is not None:
            flush.claim = bells[text(rung[0])], flush.claim[1]

    def leave(self) -> None:
        """Remove this worker from the list; if Redis is unreachable, it forgets the worker by itself."""
        for tag in self.tags:
            try:
                forget_worker(self.redis, tag, self.worker_id)
            except BrokerUnavailable:
                return
