"""Many jobs, each given as it ends.

Every job has a mailbox of its own, and all mailboxes one event. A message puts its job on the list of those
to look at, so that the work done is in proportion to what happened, not to how many jobs are waited for.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from ..schemas.errors import BadSetting
from ..schemas.events import JobState
from .mailbox import Filler, Mailbox, Signal
from .operations import Operations
from .producer import Handle
from .reading import Silence, may_end
from .steps import Read, Steps, check_seconds

LOOKS = 500
"""Records looked at in one round trip."""

_GOES_ON = {state.value.encode() for state in JobState if not state.terminal}

H = TypeVar("H", bound=Handle[Any])


class _Bell:
    """The signal of one job's mailbox: the first ring puts the job on the list, any wakes the reader."""

    __slots__ = ("_job_id", "_news", "_on_list", "_to_look_at")

    def __init__(self, job_id: str, to_look_at: deque[str], news: Signal) -> None:
        self._job_id, self._to_look_at, self._news = job_id, to_look_at, news
        self._on_list = True  # every job is looked at once before anything is waited for

    # Both are called under the mailbox's lock, so that no message falls between taking and listing.
    def set(self) -> None:
        if not self._on_list:
            self._on_list = True
            self._to_look_at.append(self._job_id)
        self._news.set()

    def clear(self) -> None:
        self._on_list = False


class Completed(Generic[H]):
    """The jobs that have not been given yet; a `Listening` for news of any of them.

    Args:
        operations: the client's.
        jobs: handles; one that is named twice is given once.
        timeout_s: how long to wait for all of them.
        news: set while there is something to look at.

    Raises:
        BadSetting: something is no handle, or no number of seconds.
    """

    def __init__(
        self, operations: Operations, jobs: Iterable[H], timeout_s: float | None, news: Signal
    ) -> None:
        check_seconds("timeout_s", timeout_s)
        self.news = news
        self._operations = operations
        self._jobs = _by_id(jobs)
        self._to_look_at = deque(self._jobs)
        self._mailboxes = {
            job_id: Mailbox(operations.tag_of(job_id).chan(job_id), _Bell(job_id, self._to_look_at, news))
            for job_id in self._jobs
        }
        self._hub: Filler | None = None
        self._silence = Silence("", timeout_s)

    def next(self) -> Steps[list[H]]:
        """Those that have ended since the last call, at least one; none once all have been given.

        Raises:
            ResultTimeout, BrokerUnavailable: see `Client.as_completed`.
        """
        while self._mailboxes:
            self.news.clear()  # before the list is read: what rings from here on is seen the next time
            ended = yield from self._look()
            if ended:
                return [self._jobs[job_id] for job_id in ended]
            self._silence.job_id, self._silence.others = next(iter(self._mailboxes)), len(self._mailboxes) - 1
            yield from self._silence.wait(self._operations, self)
        return []

    def _look(self) -> Steps[list[str]]:
        doubtful = []
        # As many as are listed now; those that ring meanwhile are looked at in the next round.
        for _ in range(len(self._to_look_at)):
            job_id = self._to_look_at.popleft()
            if mailbox := self._mailboxes.get(job_id):
                payloads = mailbox.take()
                # Chunks alone mean that it continues: only a job that may have ended costs a read.
                if payloads is None or any(map(may_end, payloads)):
                    doubtful.append(job_id)
        ended: list[str] = []
        for start in range(0, len(doubtful), LOOKS):
            page = doubtful[start : start + LOOKS]
            reads = [("HGET", self._operations.tag_of(job_id).job(job_id), "state") for job_id in page]
            states = yield from self._operations.send(Read(reads), self._silence.left_s)
            ended += [job_id for job_id, state in zip(page, states, strict=True) if state not in _GOES_ON]
            if ended or b"running" in states:
                self._silence.started()
        for job_id in ended:
            self._mailboxes.pop(job_id).leave()
        return ended

    def join(self, hub: Filler) -> None:
        """See `Listening.join`."""
        if self._hub is not hub:
            self._hub = hub
            for mailbox in self._mailboxes.values():
                mailbox.join(hub)

    def resync(self) -> None:
        """See `Listening.resync`."""
        for mailbox in self._mailboxes.values():
            mailbox.resync()

    def leave(self) -> None:
        """Listen no longer."""
        for mailbox in self._mailboxes.values():
            mailbox.leave()


def _by_id(jobs: Iterable[H]) -> dict[str, H]:
    by_id: dict[str, H] = {}
    for job in jobs if isinstance(jobs, Iterable) else (jobs,):
        if not isinstance(job, Handle):
            raise BadSetting(f"jobs: {job!r} is not a handle; client.job(job_id) makes one")
        by_id.setdefault(job.id, job)
    return by_id
