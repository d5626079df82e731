"""Reading one job: its stream from any token offset, and its result.

Live messages and the durable log carry the same chunks, and each chunk says which tokens it holds; a `Cursor`
takes every token once and in order from either. The log is read first, at every gap, and whenever messages
may have been missed (see `mailbox`). In between the reader waits, and looks at the log by itself after some
silence, so that a lost message can't make it wait forever.
"""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..schemas.errors import (
    BadSetting,
    HeadraceError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    RecordDamaged,
    ResultTimeout,
    StreamReset,
)
from ..schemas.events import Chunk, End, Event, JobError, JobResult, JobState, parse_event
from ..schemas.keys import Tag
from ..schemas.record import DAMAGE, Record, intact
from .mailbox import Listening, Mailbox, S, Signal
from .operations import Operations
from .steps import Compute, Listen, Read, Steps, check_seconds
from .waiting import EXPLAIN_S, explain

LOG_PAGE = 1000
"""Log entries read at once; limits memory, and how long one reader occupies Redis."""

OUTAGE_S = 120.0
"""How long a reader waits for an unreachable Redis."""

SILENCE_S = 5.0
MAX_SILENCE_S = 30.0
"""A reader that hears nothing looks at the log after this long, then ever less often."""

_RESULT_FIELDS = (
    "state",
    "result",
    "error",
    "attempts",
    "worker",
    "enqueued_ms",
    "started_ms",
    "first_token_ms",
    "finished_ms",
    "fingerprint",
    "restarts",
    "mixed",
)


class Gap(Exception):
    """An event doesn't follow what has been seen: an earlier one was missed."""


@dataclass(slots=True)
class Cursor:
    """What one reader has seen of a stream.

    Attributes:
        seen: tokens seen; nothing at or before this offset is delivered.
        end: the end marker, once seen.
    """

    job_id: str
    seen: int
    end: End | None = None
    _delivered: bool = False

    def take(self, event: Event) -> Chunk | None:
        """Return the new part of `event` as a chunk.

        Raises:
            Gap: tokens before it were missed.
            StreamReset: the stream now has fewer tokens than were delivered.
        """
        if isinstance(event, End):
            self._check_follows(event.offset)
            self.end = event
            # The ends of several answers are taken by `take_all`.
            return Chunk(offset=event.offset, text=event.text) if event.text and not event.choices else None
        if event.offset <= self.seen:
            return None
        # A reader that starts after token 5 may meet a chunk of tokens 4 to 8: it gets 6 to 8. A reader that
        # has had tokens already meets no such chunk in a whole log, so one tells of a reset.
        if event.start < self.seen and not self._delivered:
            _, event = event.split(self.seen)
        self._check_follows(event.start)
        self.seen, self._delivered = event.offset, True
        return event

    def take_all(self, payloads: Iterable[bytes]) -> tuple[list[Chunk], Gap | StreamReset | None]:
        """Take new chunks from log entries or messages, up to the first that can't be taken, and say why."""
        chunks: list[Chunk] = []
        try:
            for payload in payloads:
                event = parse_event(payload)
                chunk = self.take(event)
                if chunk is not None:
                    chunks.append(chunk)
                if isinstance(event, End):
                    chunks += (Chunk(offset=event.offset, **ended.__dict__) for ended in event.choices)
        except (Gap, StreamReset) as obstacle:
            return chunks, obstacle
        except DAMAGE as error:  # as `intact` does, without what that costs for each message
            raise RecordDamaged(self.job_id) from error
        return chunks, None

    def _check_follows(self, start: int) -> None:
        if start > self.seen:
            raise Gap
        if start < self.seen:
            raise StreamReset(self.job_id, self.seen, start)


class Silence:
    """How long to wait for news before looking at the log, and how long in total.

    Attributes:
        job_id: the job whose wait is explained.
        others: how many other jobs are awaited together with it.
    """

    __slots__ = ("_deadline", "_tell_at", "_timeout_s", "_wait_s", "job_id", "others")

    def __init__(self, job_id: str, timeout_s: float | None) -> None:
        self.job_id, self.others, self._timeout_s = job_id, 0, timeout_s
        now = time.monotonic()
        self._deadline = None if timeout_s is None else now + timeout_s
        self._tell_at: float | None = now + EXPLAIN_S
        self._wait_s = SILENCE_S

    @property
    def left_s(self) -> float:
        """The time left to the reader, at most `OUTAGE_S`."""
        if self._deadline is None:
            return OUTAGE_S
        return min(OUTAGE_S, max(0.0, self._deadline - time.monotonic()))

    def wait(self, operations: Operations, mailbox: Listening) -> Steps[None]:
        """Wait for news, and after a long silence have the log looked at.

        After a short silence, warn once about why the job waits.

        Raises:
            ResultTimeout: the reader's time is up.
        """
        if self._tell_at is not None:
            wait_s = min(max(0.0, self._tell_at - time.monotonic()), self.left_s)
            if wait_s > 0 and (yield Listen(mailbox, wait_s)):
                self._wait_s = SILENCE_S
                return
            if time.monotonic() >= self._tell_at:
                self._tell_at = None
                yield from operations.waits.tell(operations, self.job_id)
        # Jittered: readers that were cut off together would else look at the log together.
        wait_s = min(self._wait_s * random.uniform(0.8, 1.2), self.left_s)
        if wait_s <= 0:
            why = yield from explain(operations, self.job_id)
            raise ResultTimeout(self.job_id, self._timeout_s or 0.0, why.text if why else "", self.others)
        if (yield Listen(mailbox, wait_s)):
            self._wait_s = SILENCE_S
            return
        self._wait_s = min(2 * self._wait_s, MAX_SILENCE_S)
        mailbox.resync()

    def started(self) -> None:
        """Note that the job has started, so that no warning about waiting is needed."""
        self._tell_at = None


@dataclass(slots=True)
class StreamReader:
    """One stream, a handful of chunks at a time."""

    operations: Operations
    tag: Tag
    mailbox: Mailbox[Any]
    cursor: Cursor
    _silence: Silence
    _expected_restarts: int | None = None
    _failure: HeadraceError | None = None
    _restarts: int | None = None

    def read(self) -> Steps[list[Chunk] | None]:
        """Return the next chunks, or None after the end of a job that succeeded.

        Raises:
            JobFailed, JobCancelled, JobExpired: after the last chunk, if the job ended that way.
            ResultTimeout, JobNotFound, StreamReset, BrokerUnavailable: see `JobHandle.stream`.
        """
        if self._failure is not None:
            raise self._failure
        if self.cursor.end is not None:
            raise_unless_succeeded(self.cursor.job_id, self.cursor.end.end, self.cursor.end.error)
            return None
        while True:
            payloads = self.mailbox.take()
            chunks = (yield from self._from_log()) if payloads is None else self._live(payloads)
            if chunks or self.cursor.end or self._failure:
                self._silence.started()
                return chunks
            yield from self._silence.wait(self.operations, self.mailbox)

    def _live(self, payloads: list[bytes]) -> list[Chunk]:
        chunks, obstacle = self.cursor.take_all(payloads)
        if isinstance(obstacle, Gap):
            self.mailbox.resync()
        else:
            self._failure = obstacle
        return chunks

    def _from_log(self) -> Steps[list[Chunk]]:
        job_id, seen = self.cursor.job_id, self.cursor.seen
        # The record first: the log read after it is then at least as new, and a terminal record has its end.
        record = ("HMGET", self.tag.job(job_id), "state", "offset", "restarts")
        log = ("XRANGE", self.tag.out(job_id), f"({seen}-0", "+", "COUNT", LOG_PAGE)
        found, entries = yield from self.operations.send(Read((record, log)), self._silence.left_s)
        state, offset, restarts = found
        if state is None:
            raise JobNotFound(job_id)
        known, self._restarts = self._restarts, int(restarts or 0)
        if self._expected_restarts not in {None, self._restarts}:
            raise StreamReset(job_id, seen, 0)
        # A restart empties the log and begins again at 0, so offsets that fit prove nothing.
        if known not in {None, self._restarts} and seen:  # what follows may come from another model
            raise StreamReset(job_id, seen, 0)
        if int(offset or 0) < seen:
            raise StreamReset(job_id, seen, int(offset or 0))
        if state == b"running":
            self._silence.started()
        chunks, obstacle = self.cursor.take_all(fields[b"event"] for _, fields in entries)
        # A full page is probably not all: the rest is read before the reader waits for anything.
        whole = len(entries) < LOG_PAGE
        if isinstance(obstacle, StreamReset):
            self._failure = obstacle
        # The record said that it has ended, and the log that was read after it has no end marker.
        elif obstacle or (whole and not self.cursor.end and JobState(state.decode()).terminal):
            self._failure = HeadraceError(
                f"the token log of job {job_id} has a gap after token {self.cursor.seen}: it was changed "
                "from outside; job.result() has the output as its worker wrote it at the end"
            )
        elif not whole:
            self.mailbox.resync()
        return chunks


def stream_reader(
    operations: Operations,
    job_id: str,
    from_offset: int,
    timeout_s: float | None,
    news: Signal,
    *,
    restarts: int | None = None,
) -> StreamReader:
    """Make a reader of the job's stream from `from_offset` on, for at most `timeout_s`, woken by `news`.

    With `restarts`, the stream is reset unless the job has been started over exactly this often.

    Raises:
        BadSetting: the offset is negative or not a number, or the limit isn't a number of seconds.
    """
    if isinstance(from_offset, bool) or not isinstance(from_offset, int) or from_offset < 0:
        raise BadSetting(f"from_offset = {from_offset!r}: must be a number of tokens, 0 or more")
    check_seconds("timeout_s", timeout_s)
    tag = operations.tag_of(job_id)
    mailbox, cursor = Mailbox(tag.chan(job_id), news), Cursor(job_id, from_offset)
    return StreamReader(operations, tag, mailbox, cursor, Silence(job_id, timeout_s), restarts)


def read_before(operations: Operations, job_id: str, offset: int) -> Steps[list[Chunk]]:
    """What a reader that begins at an offset needs of what is before; nothing if text is read as it is."""
    out = operations.tag_of(job_id).out(job_id)
    cursor, before = Cursor(job_id, 0), list[Chunk]()
    while cursor.seen < offset and cursor.end is None:
        count = LOG_PAGE if cursor.seen else 1
        command = ("XRANGE", out, f"({cursor.seen}-0", "+", "COUNT", count)
        (entries,) = yield from operations.send(Read((command,)), OUTAGE_S)
        chunks, _ = cursor.take_all(fields[b"event"] for _, fields in entries)
        if not chunks:
            return []  # it is gone, or damaged: the reader that follows says so
        if not before and chunks[0].format is None:
            return []
        for chunk in chunks:
            within = chunk.start < offset < chunk.offset
            if chunk.start < offset:
                before.append(chunk.split(offset)[0] if within else chunk)
    return before


def result_mailbox(operations: Operations, job_id: str, news: S) -> Mailbox[S]:
    """The mailbox for `read_result`."""
    return Mailbox(operations.tag_of(job_id).chan(job_id), news)


def read_result(
    operations: Operations, job_id: str, mailbox: Mailbox[Any], timeout_s: float | None, *, new: bool = False
) -> Steps[JobResult]:
    """Wait for a job's end and return its result; one that is `new` is not looked at before listening.

    Raises:
        BadSetting: `timeout_s` isn't a number of seconds.
        ResultTimeout: the job has not ended within `timeout_s`.
        JobFailed, JobCancelled, JobExpired: the job ended that way.
        JobNotFound, BrokerUnavailable: see `JobHandle.result`.
    """
    check_seconds("timeout_s", timeout_s)
    job, silence = operations.tag_of(job_id).job(job_id), Silence(job_id, timeout_s)
    if new:  # it is looked at as soon as Redis confirms the subscription
        yield from silence.wait(operations, mailbox)
    while True:
        payloads = mailbox.take()
        if payloads is None or any(map(may_end, payloads)):
            values = yield from operations.send(Read((("HMGET", job, *_RESULT_FIELDS),)), silence.left_s)
            with intact(job_id):
                record = Record(job_id, _present(_RESULT_FIELDS, values[0]))
                if "state" not in record.fields:
                    raise JobNotFound(job_id)
                if record.state.terminal:
                    raise_unless_succeeded(job_id, record.state, record.error)
                    if record.is_large:
                        result: JobResult = yield Compute(partial(_read_beside, record))
                        return result
                    return record.result()
            if record.state is JobState.RUNNING:
                silence.started()
        yield from silence.wait(operations, mailbox)


def _read_beside(record: Record) -> JobResult:
    with intact(record.job_id):  # what it raises doesn't come back through the steps
        return record.result()


def may_end(payload: bytes) -> bool:
    """Whether a message announces a job's end. If it can't be read, the job's record tells."""
    try:
        return isinstance(parse_event(payload), End)
    except ValueError:
        return True


def _present(names: tuple[str, ...], values: list[bytes | None]) -> dict[str, str]:
    return {name: value.decode() for name, value in zip(names, values, strict=True) if value is not None}


def raise_unless_succeeded(job_id: str, state: JobState, error: JobError | None) -> None:
    match state:
        case JobState.FAILED:
            raise JobFailed(job_id, *(error.code, error.message) if error else ("unknown", "no reason given"))
        case JobState.CANCELLED:
            raise JobCancelled(job_id, error.message if error else "")
        case JobState.EXPIRED:
            raise JobExpired(job_id)
