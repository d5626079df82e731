"""Every error headrace raises on purpose.

    HeadraceError
    ├── BadSetting            a setting or argument is wrong; nothing was sent
    ├── InvalidJob            a field of the job is wrong; nothing was enqueued
    ├── UnknownModel          no worker has ever served that model here
    ├── QueueFull             the lane is at its limit; try again after `retry_after_s`
    ├── RateLimited           the tenant is over its rate; try again after `retry_after_s`
    ├── Unauthorized          credentials are missing or wrong
    ├── IdempotencyConflict   the key was used with another request body
    ├── JobsRefused           some jobs of an enqueue_many were refused; the others are enqueued
    ├── JobNotFound           no such job, or its retention has ended
    ├── WorkerNotFound        no such worker, or more than one with that name
    ├── ModelInUse            the model still has workers or jobs and can't be forgotten
    ├── DeliveryNotFound      no such webhook delivery, or its retention has ended
    ├── StoredFileNotFound    no such uploaded file, or its retention has ended
    ├── BatchNotFound         no such batch, or its retention has ended
    ├── FileTooLarge          the upload has more bytes than a file may have; nothing is kept of it
    ├── LimitReached          the tenant has as many batches or files as it may; nothing was made
    ├── FilesUnavailable      the file store can't be reached, refuses, or has no room
    ├── BadPolicy             a tenant's name, policy or secret is wrong; nothing was changed
    ├── JobFailed             the job ended `failed`
    ├── JobCancelled          the job ended `cancelled`
    ├── JobExpired            the job ended `expired`
    ├── StreamReset           the token log no longer holds what this reader has seen
    ├── RecordDamaged         the job's record in Redis was damaged, or is another program's
    ├── ResultTimeout         the job has not ended within the reader's own time limit
    ├── BrokerUnavailable     Redis can't be reached, refuses, or is too old
    └── StackError            a part of `headrace up` or `demo` couldn't be started, or ended
        ├── EmbeddedRedisError    it was the bundled Redis
        └── DemoFailed            all parts ran, but the tour did not show what it is for

The engine knows tokens only, and has errors of its own (`engine/errors.py`); a worker turns them into the
failure of a job or the last sentence of its log.

Each leaf has a wire `code` (stable, for programs), an `http_status` (for gateways) and an `exit_status` (for
the command line). Its message is a sentence that names what was wrong, the value, and what to do about it.
"""

from collections.abc import Sequence
from typing import ClassVar


class HeadraceError(Exception):
    """Base of every error in this package. Errors can be pickled, and travel as Celery results.

    Attributes:
        args: the arguments that construct an equal error.
        code: the wire code.
        http_status: the status that a gateway answers with.
        exit_status: the exit status of a command.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *args: object) -> None:
        self._message = message
        self.args = args or (message,)

    def __str__(self) -> str:
        return self._message

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call the class with the message alone.
        return type(self), self.args


class BadSetting(HeadraceError, ValueError):
    """A setting or argument is wrong; the message names it, its value and what is allowed."""

    code = "bad_setting"
    exit_status = 2


class InvalidJob(HeadraceError, ValueError):
    """A field of the job is wrong; nothing was enqueued.

    Attributes:
        field: the name of the wrong field, dotted if nested.
        reason: what is wrong with it and what is allowed.
    """

    code = "invalid_job"
    http_status = 400
    exit_status = 2

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}", field, reason)
        self.field = field
        self.reason = reason


class UnknownModel(HeadraceError, LookupError):
    """No worker has ever served this model on this Redis."""

    code = "unknown_model"
    http_status = 404
    exit_status = 3

    def __init__(self, model: str, known: list[str]) -> None:
        served = ", ".join(sorted(known)) or "no models yet"
        super().__init__(
            f"model {model!r} is not served here (served: {served}); start a worker with "
            f"`headrace worker --model {model}`, or enqueue without the check: Client(check_model=False), "
            "headrace enqueue --no-check-model",
            model,
            known,
        )
        self.model = model
        self.known = known


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{max(value, 0.1):.1f} s"


class _RetryLater(HeadraceError):
    http_status = 429
    exit_status = 7

    def __init__(self, message: str, retry_after_s: float, *args: object) -> None:
        super().__init__(f"{message}; try again in {_seconds(retry_after_s)}", *args)
        self.retry_after_s = retry_after_s


class QueueFull(_RetryLater):
    """The lane is at its limit; nothing was enqueued, and nothing was dropped to make room.

    Attributes:
        depth: jobs now queued in the lane.
        queued_bytes: bytes now queued in the lane.
        retry_after_s: when there is likely to be room, judging by how fast jobs have been ending.
    """

    code = "queue_full"
    http_status = 503

    def __init__(self, lane: str, depth: int, queued_bytes: int, retry_after_s: float) -> None:
        message = f"lane {lane} is full: {depth} jobs, {queued_bytes} bytes queued"
        super().__init__(message, retry_after_s, lane, depth, queued_bytes, retry_after_s)
        self.depth = depth
        self.queued_bytes = queued_bytes


class RateLimited(_RetryLater):
    """The tenant has used up its rate per minute; nothing was enqueued.

    Attributes:
        retry_after_s: when the same job will be accepted, if the tenant sends nothing else until then.
    """

    code = "rate_limited"

    def __init__(self, tenant: str, limit: float, of_what: str, retry_after_s: float) -> None:
        message = f"tenant {tenant!r} is over its rate of {limit:g} {of_what}"
        super().__init__(message, retry_after_s, tenant, limit, of_what, retry_after_s)
        self.tenant = tenant


class Unauthorized(HeadraceError, PermissionError):
    """Credentials are missing or wrong."""

    code = "unauthorized"
    http_status = 401
    exit_status = 12


class IdempotencyConflict(HeadraceError):
    """The idempotency key was used before with another request body.

    Attributes:
        job_id: the job that the key belongs to.
    """

    code = "idempotency_conflict"
    http_status = 409
    exit_status = 10

    def __init__(self, key: str, job_id: str) -> None:
        super().__init__(
            f"idempotency_key {key!r} already belongs to job {job_id} with a different body; "
            "use a new key for a new request",
            key,
            job_id,
        )
        self.job_id = job_id


class JobsRefused(HeadraceError):
    """Some jobs of an `enqueue_many` were refused; the others are enqueued.

    Attributes:
        outcomes: for each job, in order, its handle or the `HeadraceError` that refused it.
    """

    code = "jobs_refused"
    http_status = 400
    exit_status = 2

    def __init__(self, outcomes: Sequence[object]) -> None:
        refused = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, HeadraceError)]
        position, error = refused[0]
        super().__init__(
            f"{len(refused)} of {len(outcomes)} jobs were refused, the others are enqueued (see .outcomes); "
            f"the first was job {position}: {error}",
            outcomes,
        )
        self.outcomes = outcomes


class JobNotFound(HeadraceError, LookupError):
    """There is no such job, or its retention has ended."""

    code = "job_not_found"
    http_status = 404
    exit_status = 3

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}: the id is wrong, or its retention has ended", job_id)
        self.job_id = job_id


class WorkerNotFound(HeadraceError, LookupError):
    """No worker heard from in the last minute has that name, or more than one does."""

    code = "worker_not_found"
    http_status = 404
    exit_status = 3

    def __init__(self, worker_id: str, known: list[str]) -> None:
        listed = ", ".join(known) or "no worker"
        super().__init__(f"{worker_id!r} does not name one worker; alive: {listed}", worker_id, known)


class ModelInUse(HeadraceError):
    """The model still has workers or jobs and can't be forgotten."""

    code = "model_in_use"
    http_status = 409

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"model {model!r} is in use: {why}", model, why)
        self.model = model


class DeliveryNotFound(HeadraceError, LookupError):
    """There is no webhook delivery with this id, or its retention has ended."""

    code = "delivery_not_found"
    http_status = 404
    exit_status = 3

    def __init__(self, delivery_id: str) -> None:
        super().__init__(
            f"no webhook delivery {delivery_id!r}, or no longer; see `headrace webhooks list`", delivery_id
        )


class _NotStored(HeadraceError, LookupError):
    http_status = 404
    exit_status = 3
    what: ClassVar[str]

    def __init__(self, name: str) -> None:
        super().__init__(f"no {self.what} {name!r}: the id is wrong, or its retention has ended", name)


class StoredFileNotFound(_NotStored):
    """There is no uploaded file with this id, or its retention has ended."""

    code = "file_not_found"
    what = "file"


class BatchNotFound(_NotStored):
    """There is no batch with this id, or its retention has ended."""

    code = "batch_not_found"
    what = "batch"


class FileTooLarge(HeadraceError, ValueError):
    """The upload has more bytes than a file may have; nothing is kept of it."""

    code = "file_too_large"
    http_status = 413
    exit_status = 2

    def __init__(self, most: int) -> None:
        super().__init__(f"file: has more than {most} bytes (max_file_bytes); split it into several", most)


class LimitReached(HeadraceError):
    """The tenant has as many open batches, or as many or as large files, as it may; nothing was made.

    Attributes:
        limit: the policy's field that says how many.
        most: its value.
    """

    code = "limit_reached"
    http_status = 429
    exit_status = 5

    def __init__(self, tenant: str, limit: str, most: int) -> None:
        what, way_out = _LIMITED[limit]
        reason = f"tenant {tenant} may have {most} {what} ({limit}): {way_out}, or ask for a higher limit"
        super().__init__(reason, tenant, limit, most)
        self.limit, self.most = limit, most


_LIMITED = {
    "max_open_batches": ("batches that have not ended", "wait for one to end or cancel one"),
    "max_files": ("files", "delete some"),
    "max_stored_bytes": ("bytes in files", "delete some"),
}


class FilesUnavailable(HeadraceError, ConnectionError):
    """The file store can't be reached, refuses, or has no room."""

    code = "files_unavailable"
    http_status = 503
    exit_status = 8


class BadPolicy(HeadraceError, ValueError):
    """A tenant's name, policy or secret, an API key or a model alias is wrong; nothing was changed."""

    code = "bad_policy"
    http_status = 400
    exit_status = 2


class _JobEnded(HeadraceError):
    def __init__(self, job_id: str, message: str, *more: object) -> None:
        super().__init__(f"job {job_id} {message}", job_id, *more)
        self.job_id = job_id


class JobFailed(_JobEnded):
    """The job ended `failed`.

    Attributes:
        reason: the wire code of the failure (`context_length`, `crashed`, ...; see `FailureCode`).
    """

    code = "job_failed"
    exit_status = 4

    def __init__(self, job_id: str, reason: str, message: str) -> None:
        super().__init__(job_id, f"failed ({reason}): {message}", reason, message)
        self.reason = reason


class JobCancelled(_JobEnded):
    """The job ended `cancelled`.

    Attributes:
        reason: why, if anything but a request to cancel this job; empty otherwise.
    """

    code = "job_cancelled"
    http_status = 409
    exit_status = 5

    def __init__(self, job_id: str, reason: str = "") -> None:
        super().__init__(job_id, f"was cancelled: {reason}" if reason else "was cancelled", reason)
        self.reason = reason


class JobExpired(_JobEnded):
    """The job ended `expired`: its deadline passed before it was done."""

    code = "job_expired"
    http_status = 504
    exit_status = 6

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, "expired: its deadline passed before it was done")


class StreamReset(HeadraceError):
    """The token log no longer holds what this reader has seen: Redis lost its tail in a failover, or the job
    started over because its model was no longer served.

    Attributes:
        seen: the reader's offset in tokens.
        offset: the log's offset in tokens; `job.stream(from_offset=offset)` continues from there.
    """

    code = "stream_reset"
    http_status = 409
    exit_status = 11

    def __init__(self, job_id: str, seen: int, offset: int) -> None:
        super().__init__(
            f"the stream of job {job_id} was reset: this reader has seen {seen} tokens, but the log now "
            f"has {offset}; discard everything after token {offset}, then stream with from_offset={offset}",
            job_id,
            seen,
            offset,
        )
        self.job_id = job_id
        self.seen = seen
        self.offset = offset


class RecordDamaged(HeadraceError, ValueError):
    """A job's record in Redis can't be read: it was damaged from outside, or another program wrote it."""

    code = "record_damaged"
    http_status = 500

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"the record of job {job_id} in Redis can't be read: it was damaged from outside, or another "
            "program wrote it; enqueue the job again",
            job_id,
        )
        self.job_id = job_id


class ResultTimeout(HeadraceError, TimeoutError):
    """The job has not ended within the reader's own time limit; it continues.

    Attributes:
        job_id: the job, or the first of several.
        why: what the job is waiting for, if known: a worker, the jobs ahead of it, a limit.
        others: how many other jobs that were awaited together with it have not ended either.
    """

    code = "result_timeout"
    http_status = 504
    exit_status = 9

    def __init__(self, job_id: str, timeout_s: float, why: str = "", others: int = 0) -> None:
        reason = f": {why}" if why else ""
        who, they = f"job {job_id} has", "It continues"
        if others:
            more = "1 other" if others == 1 else f"{others} others"
            who, they = f"job {job_id} and {more} have", "They continue"
        message = f"{who} not ended within {timeout_s:g} s{reason}. {they}; ask again later"
        super().__init__(message, job_id, timeout_s, why, others)
        self.job_id = job_id
        self.why = why
        self.others = others


class BrokerUnavailable(HeadraceError, ConnectionError):
    """Redis can't be reached, refuses the command, or is too old."""

    code = "broker_unavailable"
    http_status = 503
    exit_status = 8


class StackError(HeadraceError):
    """A part of `headrace up` or `demo` couldn't be started, or ended; the message says which and why."""

    code = "stack_error"


class EmbeddedRedisError(StackError):
    """The bundled Redis could not be found or started; the message says why and what to do."""

    code = "embedded_redis_error"


class DemoFailed(StackError):
    """The tour of `headrace demo` ran and did not show what it is for; the message says why."""

    code = "demo_failed"
