"""The main part of a batch: its lines as jobs, a number of them at a time, and their results as answers.

Nothing is lost with the process. A line is enqueued under its own key, so that enqueueing it again finds the
same job; a job's result stays in Redis; what was answered is in the parts. Any trouble simply ends the run:
the next one skips the answered lines and finds the others' jobs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from ...schemas.errors import (
    BrokerUnavailable,
    HeadraceError,
    JobCancelled,
    JobExpired,
    JobNotFound,
    QueueFull,
    RateLimited,
)
from ...schemas.job import Job
from ..async_client import AsyncClient, AsyncJobHandle
from ..batch_enqueue import Outcome, enqueue_round, first_outcomes
from ..batch_lines import Line
from . import answers
from .parts import Parts
from .record import BatchStatus, RequestBatch
from .requests import job_of, numbered

PAGE = 64
"""Number of lines enqueued together."""

SLOT_BYTES = 64 * 2**10
"""A line this large takes a second slot, and so on, so that what is in flight stays bounded in memory too."""

LONGEST_PAUSE_S = 5.0
"""While the queue is full, enqueueing is tried again at least this often."""


class Stopped:
    """Whether the batch should end early, and how."""

    def __init__(self) -> None:
        self.outcome: BatchStatus | None = None
        self._said = asyncio.Event()

    def say(self, outcome: BatchStatus) -> None:
        """End the batch in this way; the first call counts."""
        self.outcome = self.outcome or outcome
        self._said.set()

    async def within(self, seconds: float) -> bool:
        """Wait until the batch should end, for at most this long."""
        try:
            async with asyncio.timeout(seconds):
                return await self._said.wait()
        except TimeoutError:
            return False

    async def wait(self) -> None:
        """Wait until the batch should end."""
        await self._said.wait()


class Feed:
    """One run over the unanswered lines of a batch.

    Args:
        read: yields the file's content from its beginning.
        most_bytes: maximum size of a line.
        in_flight: slots for jobs that are enqueued and not yet answered; a large line takes several.
    """

    def __init__(
        self,
        client: AsyncClient,
        batch: RequestBatch,
        read: Callable[[], AsyncIterator[bytes]],
        parts: Parts,
        stopped: Stopped,
        *,
        most_bytes: int,
        in_flight: int,
    ) -> None:
        self._client, self._batch, self._read, self._parts = client, batch, read, parts
        self._stopped, self._most_bytes = stopped, most_bytes
        self._in_flight = in_flight
        self._slots = asyncio.Semaphore(in_flight)
        self._jobs: dict[int, AsyncJobHandle] = {}

    async def run(self) -> None:
        """Answer every line that has no answer yet; when the batch is stopped, the rest are answered as too
        late.

        Raises:
            HeadraceError: it can't continue now.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                canceller = tasks.create_task(self._cancel_when_stopped())
                tasks.create_task(self._parts.keep_flushing())
                async with asyncio.TaskGroup() as lines:
                    async for page in self._pages():
                        await self._take(page, lines)
                # Nothing is left to cancel, and it would wait for a stop that may never come.
                canceller.cancel()
                self._parts.close()
        except ExceptionGroup as failures:
            raise _first(failures) from None

    async def _pages(self) -> AsyncIterator[list[tuple[int, Line, int]]]:
        """The unanswered lines, with their numbers and the slots that they take: no more than there are."""
        answered, most = self._parts.answered(), min(PAGE, self._in_flight)
        batch, page, taken = self._batch, list[tuple[int, Line, int]](), 0
        async for block in numbered(self._read(), self._most_bytes):
            for number, text in block:
                if number in answered:
                    continue
                slots = min(self._in_flight, 1 + len(text) // SLOT_BYTES)
                # `_take` acquires a page's slots all at once; with more than there are, it would wait
                # forever.
                if len(page) == most or taken + slots > self._in_flight:
                    yield page
                    page, taken = [], 0
                line = job_of(number, text, batch.id, batch.asked, self._most_bytes)
                page.append((number, line, slots))
                taken += slots
            await asyncio.sleep(0)  # a file of answered lines must not keep others waiting
        if page:
            yield page

    async def _take(self, page: list[tuple[int, Line, int]], tasks: asyncio.TaskGroup) -> None:
        for _ in range(sum(slots for *_, slots in page)):
            await self._slots.acquire()
        outcomes = await self._enqueue([line for _, line, _ in page])
        for (number, line, slots), outcome in zip(page, outcomes, strict=True):
            task = tasks.create_task(self._answer(number, line, outcome))
            task.add_done_callback(partial(self._free, slots))

    def _free(self, slots: int, _: object) -> None:
        for _ in range(slots):
            self._slots.release()

    async def _enqueue(self, lines: list[Line]) -> list[Outcome | None]:
        """The lines' jobs, once there is room for them; None for those that are too late."""
        outcomes = first_outcomes(lines)
        while self._stopped.outcome is None and None in outcomes:
            pause_s = await enqueue_round(self._client, lines, outcomes, (QueueFull, RateLimited))
            if pause_s:
                await self._stopped.within(min(pause_s, LONGEST_PAUSE_S))
        return outcomes

    async def _answer(self, number: int, line: Line, outcome: Outcome | None) -> None:
        # Not enqueued before the end. A line that has a job is cancelled below, unless its result came first.
        if self._stopped.outcome is not None and not isinstance(outcome, AsyncJobHandle):
            late = answers.unanswered(number, line.custom_id, self._batch.id, self._stopped.outcome)
            await self._parts.add(late)
            return
        assert outcome is not None
        job_id = None
        try:
            while True:
                if isinstance(outcome, HeadraceError):
                    raise outcome
                job_id = outcome.id
                # Noted before the look at `outcome`: a stop at this moment is seen here or by the canceller.
                self._jobs[number] = outcome
                if self._stopped.outcome is not None:
                    await outcome.cancel()
                try:
                    result = await outcome.result()
                    break
                except JobNotFound:  # it ended, and so did its retention, while no process ran the batch
                    line = line.after(outcome.id)
                    (again,) = await self._enqueue([line])
                    outcome = again or JobCancelled(job_id)
            assert isinstance(line.job, Job)
            answer = answers.succeeded(number, line, line.job.model, job_id, result)
        except BrokerUnavailable:
            raise
        except (JobCancelled, JobExpired) as error:
            ended = self._stopped.outcome
            if ended is None:
                answer = answers.refused(number, line, self._batch.id, job_id, error)
            else:
                answer = answers.unanswered(number, line.custom_id, self._batch.id, ended)
        except HeadraceError as error:
            answer = answers.refused(number, line, self._batch.id, job_id, error)
        finally:
            self._jobs.pop(number, None)
        await self._parts.add(answer)

    async def _cancel_when_stopped(self) -> None:
        await self._stopped.wait()
        for job in list(self._jobs.values()):
            await job.cancel()


def _first(failures: BaseExceptionGroup[Any]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
