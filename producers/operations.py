"""What producers ask of the queue, as operations that neither block nor await (see `steps`)."""

import random
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ..schemas import ids, keys
from ..schemas.adapters import ModelAdapter
from ..schemas.errors import BrokerUnavailable, HeadraceError, InvalidJob, JobNotFound, UnknownModel
from ..schemas.events import JobStatus
from ..schemas.job import Job
from ..schemas.keys import Tag
from ..schemas.record import Record, intact
from ..schemas.redis.connection import check_version
from ..schemas.routes import MOST_ALIASES
from ..schemas.scripts import Call, CancelStatus, cancel, enqueue
from ..schemas.settings.queue import QueueSettings
from ..schemas.wire import WireJob
from .routing import AliasFound, ModelRequest, keep_routed, routed_models
from .steps import Calls, Compute, Confirmed, Read, Request, ServerInfo, Steps, Write, persist
from .waiting import Waits

BATCH_JOBS = 500
BATCH_BYTES = 4 * 2**20
"""A pipeline carries at most this many jobs, or about this much prompt, whichever is reached first."""

LARGE_BYTES = 64 * 2**10
"""A larger job is written beside the event loop."""

MAX_RETRIES = 10
"""A Celery task that was retried more often than this is not found by its id."""

KNOWN_S = 60.0
"""A model seen among the served ones is assumed to stay there for this long."""

JobLike = Job | Mapping[str, Any]


class Operations:
    """One client's operations, and what it knows about the queue. Thread-safe: fields are replaced whole.

    Args:
        settings: how jobs are kept.
        check_model: refuse jobs for models that were never served here.
        retry_s: how long an operation is retried while the connection is lost.
        wait_replicas: how many replicas must have a job before it counts as enqueued.
        wait_s: how long each try waits for them.
    """

    def __init__(
        self,
        settings: QueueSettings,
        *,
        check_model: bool,
        retry_s: float,
        wait_replicas: int = 0,
        wait_s: float = 1.0,
    ) -> None:
        self._wait_replicas, self._wait_s = wait_replicas, wait_s
        self.settings = settings
        self.retry_s = retry_s
        self.waits = Waits()
        self._check_model = check_model
        self._known_until: dict[str, float] = {}
        self._aliases: frozenset[str] = frozenset()  # names that were aliases when they were last asked for
        self._version_checked = False
        # Offered to Redis at the first use, which keeps it if there is none.
        self._celery_key, self._celery_key_until = secrets.token_hex(32).encode(), 0.0

    def tag_of(self, job_id: str) -> Tag:
        """The tag of a job's keys.

        Raises:
            JobNotFound: `job_id` is not the id of any job.
        """
        return keys.tag_of(job_id, self.settings.namespace)

    def send(self, request: Request, patience_s: float | None = None) -> Steps[Any]:
        """Return the reply to `request` from a Redis that is new enough, retrying for `patience_s`."""
        patience_s = self.retry_s if patience_s is None else patience_s
        if not self._version_checked:
            info = yield from persist(ServerInfo(), patience_s)
            check_version(info)
            self._version_checked = True
        return (yield from persist(request, patience_s))

    def enqueue(self, job: Job, job_id: str | None = None, *, retry_of: str = "") -> Steps[str]:
        """Enqueue one job, under the caller's id if there is one, and return its id.

        Raises:
            AliasFound: it has the caller's id, which names its model, and asks for an alias.
        """
        (outcome,) = yield from self.enqueue_named([job], job_id, retry_of=retry_of)
        if isinstance(outcome, AliasFound) and job_id is None:
            (outcome,) = yield from self._enqueue_routed([job])
        if isinstance(outcome, str):
            return outcome
        raise outcome

    def _accept(self, calls: list[Call[str | None]]) -> Steps[list[Any]]:
        """Send jobs and, with `wait_replicas`, repeat until that many replicas have them."""
        if not self._wait_replicas:
            accepted: list[Any] = yield from self.send(Calls(calls))
            return accepted
        give_up_at, wait_ms = time.monotonic() + self.retry_s, max(1, round(1000 * self._wait_s))
        while True:
            # The same calls again: enqueue answers a repeated id with the job that it made.
            request = Confirmed(calls, self._wait_replicas, wait_ms)
            reply: tuple[list[Any], int] = yield from self.send(request)
            results, confirmed = reply
            if confirmed >= self._wait_replicas:
                return results
            if time.monotonic() >= give_up_at:
                raise BrokerUnavailable(
                    f"{confirmed} of {self._wait_replicas} replicas have confirmed in {self._wait_s:g} s. "
                    "The job is accepted, but would be lost with the primary; with an idempotency_key it is "
                    "safe to enqueue it again"
                )

    def enqueue_many(self, jobs: Iterable[JobLike]) -> Steps[list[str | HeadraceError]]:
        """Enqueue jobs in pipelines; return each one's id, or why it was refused.

        Raises:
            BrokerUnavailable: Redis was lost before any job was accepted.
        """
        outcomes: list[str | HeadraceError] = []
        outage: BrokerUnavailable | None = None
        for batch in _batches(_jobs(jobs)):
            if outage is None:
                try:
                    outcomes += yield from self._enqueue_batch(batch)
                    continue
                except BrokerUnavailable as error:
                    outage = error
            # The rest is not sent, but is still taken from the iterable: every job has an outcome.
            outcomes += [outage] * len(batch)
        if outage is not None and not any(isinstance(outcome, str) for outcome in outcomes):
            raise outage
        return outcomes

    def _enqueue_batch(self, batch: list[Job | HeadraceError]) -> Steps[list[str | HeadraceError]]:
        found = yield from self.enqueue_named(batch)
        outcomes = [each for each in found if not isinstance(each, AliasFound)]
        if len(outcomes) == len(found):
            return outcomes
        # In the order in which they were given.
        aliased = [job for job, each in zip(batch, found, strict=True) if isinstance(each, AliasFound)]
        routed = iter((yield from self._enqueue_routed([job for job in aliased if isinstance(job, Job)])))
        return [next(routed) if isinstance(each, AliasFound) else each for each in found]

    def enqueue_named(
        self, jobs: Sequence[Job | HeadraceError], job_id: str | None = None, *, retry_of: str = ""
    ) -> Steps[list[str | HeadraceError | AliasFound]]:
        """Enqueue jobs in one pipeline, but none that asks for an alias; return what became of each."""
        wanted = {
            job.model
            for job in jobs
            if isinstance(job, Job) and (_is_chosen(job) or job.model not in self._aliases)
        }
        chosen = any(isinstance(job, Job) and _is_chosen(job) for job in jobs)
        known, adapters = yield from self._known_models(wanted, self._check_model or chosen)
        # Whoever names the job itself has named its model with it: see `adapted`.
        if adapters and job_id is None:
            jobs = [_adapted(job, adapters) for job in jobs]
        prepare = partial(self._prepare_all, jobs, known, job_id, retry_of)
        prepared = (yield Compute(prepare)) if any(map(_is_large, jobs)) else prepare()
        calls = [call for call in prepared if isinstance(call, Call)]
        replies = iter((yield from self._accept(calls)) if calls else ())
        return [_outcome(next(replies)) if isinstance(item, Call) else item for item in prepared]

    def _prepare_all(
        self, jobs: Sequence[Job | HeadraceError], known: list[str], job_id: str | None, retry_of: str
    ) -> list[Call[str | None] | HeadraceError | AliasFound]:
        return [self._prepare(job, known, job_id, retry_of) for job in jobs]

    def _prepare(
        self, job: Job | HeadraceError, known: list[str], job_id: str | None, retry_of: str
    ) -> Call[str | None] | HeadraceError | AliasFound:
        if isinstance(job, HeadraceError):
            return job
        try:
            call = self._call(job, job_id, retry_of)
            if not self._check_model or job.model in known:
                return call
            if _is_chosen(job):
                return UnknownModel(job.model, known)
            return AliasFound()  # unless it is an unknown model
        except HeadraceError as refusal:
            return refusal
        except Exception as error:  # made without validation, or changed afterwards
            return InvalidJob("job", f"can't be written ({type(error).__name__})")

    def _enqueue_routed(self, jobs: Sequence[Job]) -> Steps[list[str | HeadraceError]]:
        """Enqueue jobs, each for the model that its alias leads to."""
        routed = yield from routed_models(self, [ModelRequest.by(job) for job in jobs])
        asked = {job.model for job in jobs}
        aliases = {job.model for job, each in zip(jobs, routed, strict=True) if job.model != each.model}
        # Forgotten now and then, so that they are bounded; learning them again costs a round trip.
        known = (self._aliases - asked) | aliases
        self._aliases = known if len(known) <= MOST_ALIASES else frozenset(aliases)
        sent = [WireJob.of(job).sent_to(each.model) for job, each in zip(jobs, routed, strict=True)]
        found = yield from self.enqueue_named(sent)
        outcomes = [each for each in found if not isinstance(each, AliasFound)]  # there are none
        accepted = zip(routed, outcomes, strict=True)
        yield from keep_routed(self, [each for each, outcome in accepted if isinstance(outcome, str)])
        return outcomes

    def _call(self, job: Job, job_id: str | None = None, retry_of: str = "") -> Call[str | None]:
        job_id = job_id or ids.new_job_id(job.model, self._partition(job))
        return enqueue(self.tag_of(job_id), job_id, job, self.settings, retry_of=retry_of)

    def _partition(self, job: Job) -> int:
        if job.idempotency_key is None:
            return random.randrange(self.settings.partitions)
        return self._partition_of_key(job.tenant, job.idempotency_key)

    def _partition_of_key(self, tenant: str, idempotency_key: str) -> int:
        # A repeated request must meet the first one's key, which lives in the same partition.
        return zlib.crc32(f"{tenant}:{idempotency_key}".encode()) % self.settings.partitions

    def idem(self, model: str, tenant: str, idempotency_key: str) -> str:
        """The key that holds the job of an idempotent request to `model`."""
        partition = self._partition_of_key(tenant, idempotency_key)
        return Tag(model, partition, self.settings.namespace).idem(tenant, idempotency_key)

    def serves(self, model: str) -> bool:
        """Whether the model is known to have been served here, without asking."""
        return self._known_until.get(model, 0.0) > time.monotonic()

    def adapted(self, job: WireJob) -> Steps[WireJob]:
        """The job for its model's base and with its adapter, if its model is an adapter's name."""
        _, adapters = yield from self._known_models([job.model])
        return job if (adapter := adapters.get(job.model)) is None else job.adapted(adapter)

    def _known_models(
        self, wanted: Iterable[str], ask: bool = True
    ) -> Steps[tuple[list[str], dict[str, ModelAdapter]]]:
        """The models served here and the adapters among `wanted`, read if `ask` and one isn't known."""
        now = time.monotonic()
        unknown = [model for model in wanted if self._known_until.get(model, 0.0) <= now]
        if not unknown or not ask:
            return list(self._known_until), {}
        namespace = self.settings.namespace
        names, records = yield from self.send(
            Read((("HKEYS", keys.models(namespace)), ("HMGET", keys.adapters(namespace), *unknown)))
        )
        served = [name.decode() for name in names]
        self._known_until = dict.fromkeys(served, now + KNOWN_S)
        found = zip(unknown, map(ModelAdapter.read, records), strict=True)
        # A model that has come to be served under an adapter's name goes first, always.
        return served, {
            name: adapter for name, adapter in found if adapter is not None and name not in self._known_until
        }

    def status(self, job_id: str) -> Steps[JobStatus]:
        """Where the job is.

        Raises:
            JobNotFound: there is no such job.
            RecordDamaged: its record can't be read.
        """
        (fields,) = yield from self.send(Read((("HGETALL", self.tag_of(job_id).job(job_id)),)))
        if not fields:
            raise JobNotFound(job_id)
        with intact(job_id):
            return Record(job_id, {name.decode(): value.decode() for name, value in fields.items()}).status()

    def celery_key(self) -> Steps[bytes]:
        """The key that signs what is to follow from the jobs of Celery tasks; made when there is none."""
        now = time.monotonic()
        if now < self._celery_key_until:
            return self._celery_key
        name = keys.celery_key(self.settings.namespace)
        # What was used before is kept, should Redis have come back without it.
        commands = (("SET", name, self._celery_key.decode(), "NX"), ("GET", name))
        _, kept = yield from self.send(Write(commands))
        self._celery_key, self._celery_key_until = kept, now + KNOWN_S
        return self._celery_key

    def job_of_task(self, task_id: str) -> Steps[str]:
        """The id of a Celery task's job; the latest job if the task was retried.

        Raises:
            JobNotFound: there is no such job, or its retention has ended.
        """
        (models,) = yield from self.send(Read((("HKEYS", keys.models(self.settings.namespace)),)))
        known = [
            ids.job_id_of(identity, model.decode(), self.settings.partitions)
            # A task's retries are jobs of their own, the latest first; which model ran it is not in its id.
            for identity in (*(f"{task_id}/{retry}" for retry in range(MAX_RETRIES, 0, -1)), task_id)
            for model in models
        ]
        found = yield from self.send(Read([("EXISTS", self.tag_of(job_id).job(job_id)) for job_id in known]))
        for job_id, exists in zip(known, found, strict=True):
            if exists:
                return job_id
        raise JobNotFound(task_id)

    def cancel(self, job_id: str) -> Steps[CancelStatus]:
        """Cancel the job."""
        status: CancelStatus = yield from self.send(cancel(self.tag_of(job_id), job_id))
        return status


def _job(item: object) -> Job | HeadraceError:
    if isinstance(item, Job):
        return item
    if not isinstance(item, Mapping) or not all(isinstance(name, str) for name in item):
        return InvalidJob(
            "job", f"must be a Job or a dict of enqueue's arguments (got {type(item).__name__})"
        )
    try:
        return Job.make(**item)
    except InvalidJob as error:
        return error


def _jobs(items: Iterable[object]) -> Iterator[Job | HeadraceError]:
    """Yield each item as a job or as an error; the last may be the error that ended the iterable early."""
    try:
        for item in items:
            yield _job(item)
    except Exception as error:
        ended = HeadraceError(f"there are no more jobs: the iterable raised {type(error).__name__}")
        ended.__cause__ = error
        yield ended


def _adapted(job: Job | HeadraceError, adapters: Mapping[str, ModelAdapter]) -> Job | HeadraceError:
    """The job for its adapter, if its model is the name of one."""
    adapter = adapters.get(job.model) if isinstance(job, Job) else None
    return job if adapter is None or not isinstance(job, Job) else WireJob.of(job).adapted(adapter)


def _is_chosen(job: Job) -> bool:
    """Whether the job's model was chosen for it, so that its name is no alias's."""
    return isinstance(job, WireJob) and job.chosen


def _is_large(job: Job | HeadraceError) -> bool:
    """Whether writing the job takes long enough to be noticed by others."""
    if isinstance(job, HeadraceError):
        return False
    try:
        size = 8 * len(job.prompt_token_ids or ()) + len(job.prompt or "")
        size += sum(len(message.content or "") for message in job.messages or ())
    except (AttributeError, TypeError):  # changed after it was validated: it is refused when it is written
        return False
    return size > LARGE_BYTES


def _outcome(reply: str | Exception | None) -> str | HeadraceError | AliasFound:
    if reply is None:
        return AliasFound()
    if isinstance(reply, str | HeadraceError):
        return reply
    defect = HeadraceError(f"its reply can't be read ({type(reply).__name__}); it may have been enqueued")
    defect.__cause__ = reply
    return defect


def _batches(items: Iterator[Job | HeadraceError]) -> Iterator[list[Job | HeadraceError]]:
    batch: list[Job | HeadraceError] = []
    size = 0
    for item in items:
        batch.append(item)
        with suppress(Exception):  # a job that can't be written, which is refused when it is sent
            # A token id is some six digits and a comma as JSON.
            size += item.prompt_bytes + 8 * len(item.prompt_token_ids or ()) if isinstance(item, Job) else 0
        if len(batch) == BATCH_JOBS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
