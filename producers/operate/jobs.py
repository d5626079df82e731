"""Listing jobs, newest first.

Each queue has an index of its jobs by when they were enqueued. A call reads a bounded number of records from
there and says where the next one continues, so it is quick no matter how many jobs there are and how few of
them are wanted.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from ...schemas.errors import BadSetting
from ...schemas.events import JobState, JobStatus
from ...schemas.keys import Tag
from ...schemas.record import Record
from ..operations import Operations
from ..steps import Read, ServerInfo, Steps, check_seconds
from .chosen import Chosen, tags_of
from .overview import model_tags

MOST_LOOKS = 10_000
"""Number of records that one call looks at, in round trips of `ROUND`: less than a second, even beside other
work."""

ROUND = 500
"""Number of records read in one round trip."""

_CURSOR = re.compile(r"(\d{1,16})/([0-9a-z]{26}\.\d{1,4}\.[A-Za-z0-9_.~-]{1,128})")
_SHOWN = (
    *("state", "class", "tenant", "offset", "attempts", "worker", "fingerprint", "restarts", "retry_of"),
    *("enqueued_ms", "started_ms", "first_token_ms", "finished_ms", "error", "metadata"),
)
"""The fields that are read: not the spec and the result, which may be large."""


class JobPage(BaseModel):
    """Some of the jobs that were asked for.

    Attributes:
        jobs: the jobs, the newest first.
        cursor: where the next page begins, for another call with the same filters; None after the last page.
            A page may be short or empty without being the last.
    """

    model_config = ConfigDict(frozen=True)

    jobs: list[JobStatus]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs are listed: those that match everything that is set.

    Attributes:
        metadata: keys and values that a job's metadata must have.
        min_age_s, max_age_s: time since a job was enqueued.
    """

    chosen: Chosen
    state: JobState | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    min_age_s: float | None = None
    max_age_s: float | None = None

    @classmethod
    def of(
        cls,
        chosen: Chosen,
        state: JobState | str | None,
        metadata: Mapping[str, str] | None,
        min_age_s: float | None,
        max_age_s: float | None,
    ) -> "Wanted":
        """The filters of these values.

        Raises:
            BadSetting: there is no such state, or a wrong number of seconds.
        """
        check_seconds("min_age_s", min_age_s)
        check_seconds("max_age_s", max_age_s)
        try:
            known = None if state is None else JobState(state)
        except ValueError:
            raise BadSetting(f"state = {state!r}: must be one of {', '.join(JobState)}") from None
        return cls(chosen, known, metadata or {}, min_age_s, max_age_s)

    def holds(self, job: JobStatus) -> bool:
        """Whether the job is one of these, apart from its age."""
        return (
            self.state in {None, job.state}
            and self.chosen.job_class in {None, job.job_class}
            and self.chosen.tenant in {None, job.tenant}
            and self.metadata.items() <= job.metadata.items()
        )


ListPlace = tuple[float, str]
"""Where a job is in the list: when it was enqueued, in ms, and its id. The newest comes first."""


def list_jobs(
    operations: Operations, model: str | None, wanted: Wanted, limit: int, cursor: str | None
) -> Steps[JobPage]:
    """The newest of the wanted jobs after `cursor`, at most `limit`.

    Raises:
        BadSetting: a wrong limit or cursor, or an empty name.
        UnknownModel: no worker has ever served that model here.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_LOOKS:
        raise BadSetting(f"limit = {limit!r}: must be a number from 1 to {MOST_LOOKS:,}")
    before = _place(cursor)
    tags = yield from (model_tags(operations) if model is None else tags_of(operations, model))
    info = yield from operations.send(ServerInfo())
    now_ms = int(info["server_time_usec"]) // 1000
    if wanted.min_age_s:
        before = min(before, (now_ms - math.floor(wanted.min_age_s * 1000), chr(0x10FFFF)))
    oldest_ms = 0 if wanted.max_age_s is None else max(0, now_ms - math.ceil(wanted.max_age_s * 1000))
    found: list[JobStatus] = []
    running = None
    if wanted.state is JobState.RUNNING:  # these few are found in another way
        running = yield from _running(operations, tags)
    for _ in range(MOST_LOOKS // ROUND):
        if running is None:
            places, is_end = yield from _next(operations, tags, before, oldest_ms)
        else:
            places, is_end = [place for place in running if (oldest_ms, "") <= place < before], True
        for place, job in (yield from _read(operations, places)):
            # Past jobs that weren't wanted too, so that the next page doesn't look at them again.
            before = place
            if job is not None and wanted.holds(job):
                found.append(job)
                if len(found) == limit:
                    return JobPage(jobs=found, cursor=_cursor(before))
        if is_end:
            return JobPage(jobs=found)
    return JobPage(jobs=found, cursor=_cursor(before))


def _next(
    operations: Operations, tags: Sequence[Tag], before: ListPlace, oldest_ms: int
) -> Steps[tuple[list[ListPlace], bool]]:
    """The next places of all queues together, and whether these are the last.

    Each queue is asked for its next few. Beyond the first place at which one of them may have more, the order
    is not known yet.
    """
    count = max(8, ROUND // max(1, len(tags)))
    while True:
        newest = "+inf" if math.isinf(before[0]) else f"{before[0]:.0f}"
        window = (newest, oldest_ms, "BYSCORE", "REV", "LIMIT", 0, count, "WITHSCORES")
        replies = yield from operations.send(Read([("ZRANGE", tag.jobs, *window) for tag in tags]))
        queues = [list(_places(reply)) for reply in replies]
        horizon = max((queue[-1] for queue in queues if len(queue) == count), default=(0, ""))
        places = sorted(
            {place for queue in queues for place in queue if horizon <= place < before}, reverse=True
        )
        is_end = horizon == (0, "")
        if places or is_end:
            return places, is_end
        count *= 4  # that many were enqueued within one millisecond


def _running(operations: Operations, tags: Sequence[Tag]) -> Steps[list[ListPlace]]:
    """The places of the running jobs, at most `MOST_LOOKS` of a queue."""
    leases = [("ZRANGE", tag.leases, 0, MOST_LOOKS - 1) for tag in tags]
    found = [
        (tag, job_id.decode())
        for tag, ids in zip(tags, (yield from operations.send(Read(leases))), strict=True)
        for job_id in ids
    ]
    scores = [("ZSCORE", tag.jobs, job_id) for tag, job_id in found]
    enqueued = yield from operations.send(Read(scores))
    return sorted(
        ((float(at_ms or 0), job_id) for (_, job_id), at_ms in zip(found, enqueued, strict=True)),
        reverse=True,
    )


def _places(reply: Sequence[bytes]) -> Iterator[ListPlace]:
    for job_id, score in zip(reply[::2], reply[1::2], strict=True):
        yield float(score), job_id.decode()


def _read(
    operations: Operations, places: Sequence[ListPlace]
) -> Steps[list[tuple[ListPlace, JobStatus | None]]]:
    """The jobs at these places; None if the record is gone or was damaged."""
    tags = [operations.tag_of(job_id) for _, job_id in places]
    rows = yield from operations.send(
        Read([("HMGET", tag.job(place[1]), *_SHOWN) for tag, place in zip(tags, places, strict=True)])
    )
    return [
        (place, _job(tag.model, place[1], row)) for tag, place, row in zip(tags, places, rows, strict=True)
    ]


def _job(model: str, job_id: str, row: Sequence[bytes | None]) -> JobStatus | None:
    with suppress(LookupError, TypeError, ValueError):
        known = {name: value.decode() for name, value in zip(_SHOWN, row, strict=True) if value is not None}
        return Record(job_id, known).listed(model) if known else None
    return None


def _place(cursor: str | None) -> ListPlace:
    if cursor is None:
        return math.inf, ""
    match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if match is None:
        raise BadSetting(f"cursor = {cursor!r}: must be the cursor of a page of jobs")
    return int(match[1]), match[2]


def _cursor(place: ListPlace) -> str:
    return f"{place[0]:.0f}/{place[1]}"
