"""Runs a file of requests as jobs and writes a file of responses: each line once, however often it restarts.

Every request gets an idempotency key made of its file, its id and its body. To resume an interrupted run,
simply repeat it: lines answered in the output file are skipped, and a line that was enqueued before finds its
own job again. A line that can't be run is answered with its error; only the loss of Redis ends the run.

A line whose job failed in an earlier run finds that job too. To retry it, its key becomes that of the job
after the failed one, and so on, so an interrupted retry resumes like any other run.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..schemas import ids
from ..schemas.errors import (
    BrokerUnavailable,
    HeadraceError,
    InvalidJob,
    JobCancelled,
    JobExpired,
    JobFailed,
    QueueFull,
)
from ..schemas.events import JobResult
from ..schemas.keys import tag_of
from .async_client import AsyncClient, AsyncJobHandle
from .batch_answers import AnswerFile, Standing
from .batch_enqueue import Outcome, enqueue_round, first_outcomes
from .batch_lines import Line, is_stream, numbered_lines, parse_line
from .openai.format import response_body

PAGE = 64
"""Lines enqueued together."""

LINE_BYTES = 32 * 2**20
"""Maximum bytes of a line, unless eight times the largest job is more: an escape in JSON takes six bytes."""

MAX_RETRIES = 100
"""Maximum number of a line's failed jobs of earlier runs that are skipped."""

TIME_CHARACTERS = 10
"""A job's id begins with the time at which it was created."""


@dataclass(slots=True)
class Tally:
    """How far a run has come.

    Attributes:
        lines: requests in the file; for a stream, those that have arrived so far.
        skipped: lines answered by an earlier run.
        standing: errors of earlier runs that remain the answer.
        retried: errors of earlier runs that are retried.
    """

    lines: int
    skipped: int = 0
    succeeded: int = 0
    failed: int = 0
    tokens: int = 0
    standing: int = 0
    retried: int = 0

    @property
    def done(self) -> int:
        """Lines that are finished."""
        return self.skipped + self.succeeded + self.failed

    @property
    def errors(self) -> int:
        """Answers that are errors."""
        return self.failed + self.standing


@dataclass(slots=True)
class BatchRun:
    """One run of a file of requests.

    Args:
        requests, responses: JSON lines, `-` for standard input and output; `responses` may hold those of an
            earlier run.
        defaults: arguments for lines that don't have them.
        in_flight: maximum number of jobs enqueued but not yet answered.
        changed: called after every line.
        errors: where errors go; by default to `responses`.
        retry_failed: retry the lines whose answer is an error.
        no_model: what lines are told that name no model, where the defaults have none either.
    """

    client: AsyncClient
    requests: Path
    responses: Path
    defaults: dict[str, Any]
    in_flight: int
    changed: Callable[[Tally], None]
    errors: Path | None = None
    retry_failed: bool = False
    no_model: str = ""
    tally: Tally = field(default_factory=lambda: Tally(0))
    _began: str = ""
    _source: str = ""
    _line_bytes: int = LINE_BYTES

    async def run(self) -> Tally:
        """Answer every line that is not answered yet.

        Raises:
            BrokerUnavailable: Redis was unreachable for too long; run again to resume.
            HeadraceError: the output file holds something else, or another run is writing it.
            OSError: a file can't be read or written.
        """
        # How the id of a job begins that is made now; those of this run sort at or after it.
        self._began = ids.new_job_id("m")[:TIME_CHARACTERS]
        self._line_bytes = max(LINE_BYTES, 8 * self.client._operations.settings.limits.max_job_bytes)
        with ExitStack() as files:
            responses = files.enter_context(AnswerFile(self.responses))
            errors = files.enter_context(AnswerFile(self.errors)) if self.errors is not None else responses
            self._source = self._name_of_requests(responses)
            answered = self._standing(responses, errors)
            if not is_stream(self.requests):
                async for page in numbered_lines(self.requests, self._line_bytes):
                    self.tally.lines += len(page)
            await self._run(answered, responses, errors)
        return self.tally

    def _standing(self, responses: AnswerFile, errors: AnswerFile) -> set[str]:
        """The ids that need no answer."""
        found: Standing = responses.standing | errors.standing
        if not self.retry_failed:
            self.tally.standing = len(found.failed)
            return found.answered
        self.tally.retried = len(found.failed)
        # A set, because both are one file unless --errors names another.
        for file in {responses, errors}:
            file.drop_failed()
        return found.answered - found.failed

    def _name_of_requests(self, responses: AnswerFile) -> str:
        """What tells these lines from equal ones of another file; for a stream, the file of its answers."""
        if not is_stream(self.requests):
            return str(self.requests.resolve())
        return f"- {self.responses.resolve()}" if responses.kept else uuid4().hex

    async def _run(self, answered: set[str], responses: AnswerFile, errors: AnswerFile) -> None:
        slots = asyncio.Semaphore(self.in_flight)
        self.changed(self.tally)
        try:
            async with asyncio.TaskGroup() as tasks:
                async for page in self._unanswered(answered):
                    # All of a page's slots before any of it is enqueued, so that no more than `in_flight`
                    # jobs are unanswered.
                    for _ in page:
                        await slots.acquire()
                    for line, outcome in zip(page, await self._enqueue(page), strict=True):
                        task = tasks.create_task(self._answer(line, outcome, responses, errors))
                        task.add_done_callback(lambda _: slots.release())
        except ExceptionGroup as failures:
            # The first to fail; it made the task group cancel the others.
            raise failures.exceptions[0] from None

    async def _unanswered(self, answered: set[str]) -> AsyncIterator[list[Line]]:
        most, counted = min(PAGE, self.in_flight), not is_stream(self.requests)
        seen: set[str] = set()
        async for numbered in numbered_lines(self.requests, self._line_bytes):
            self.tally.lines += 0 if counted else len(numbered)
            page: list[Line] = []
            for number, text in numbered:
                line = parse_line(number, text, self.defaults, self._source, self._line_bytes, self.no_model)
                if line.custom_id in seen:
                    line = _again(line, number, seen)
                seen.add(line.custom_id)
                # Only after it was noted as seen: a repetition further down must be an error in every run,
                # not only in the first.
                if line.custom_id in answered:
                    self.tally.skipped += 1
                    continue
                page.append(line)
                if len(page) == most:
                    yield page
                    page = []
            if page:
                yield page

    async def _enqueue(self, page: list[Line]) -> list[Outcome]:
        """Enqueue what can be enqueued, waiting while the queue is full."""
        outcomes = first_outcomes(page)
        while True:
            pause_s = await enqueue_round(self.client, page, outcomes, (QueueFull,))
            if not pause_s:
                return [outcome for outcome in outcomes if outcome is not None]
            await asyncio.sleep(pause_s)

    async def _answer(self, line: Line, outcome: Outcome, responses: AnswerFile, errors: AnswerFile) -> None:
        response: dict[str, Any] | None = None
        error: dict[str, str] | None = None
        job_id = None if isinstance(outcome, HeadraceError) else outcome.id
        try:
            job, result = await self._result(line, outcome)
            job_id = job.id
            response = {"status_code": 200, "request_id": job_id, "body": _body(line, job, result)}
            self.tally.succeeded += 1
            self.tally.tokens += len(result.token_ids)
        # Says nothing about the line. The run ends, and the next one finds this job by its key.
        except BrokerUnavailable:
            raise
        except (JobFailed, JobCancelled, JobExpired) as failure:
            job_id = failure.job_id
            error = {"code": failure.code, "message": str(failure)}
        except HeadraceError as failure:
            error = {"code": failure.code, "message": str(failure)}
        except (LookupError, TypeError, ValueError) as failure:  # damaged from outside
            reason = f"the result of job {job_id} can't be read ({type(failure).__name__})"
            error = {"code": HeadraceError.code, "message": reason}
        self.tally.failed += error is not None
        answer = {"id": job_id, "custom_id": line.custom_id, "response": response, "error": error}
        (errors if error else responses).write(answer)
        self.changed(self.tally)

    async def _result(self, line: Line, outcome: Outcome) -> tuple[AsyncJobHandle, JobResult]:
        """The result of a line's job or, when retrying, of the first job that this run created."""
        for _ in range(MAX_RETRIES):
            if isinstance(outcome, HeadraceError):
                raise outcome
            try:
                return outcome, await outcome.result()
            except (JobFailed, JobCancelled, JobExpired):
                # Ids sort by time: a job that this run has made is its own answer, whichever way it ended.
                if not self.retry_failed or outcome.id[:TIME_CHARACTERS] >= self._began:
                    raise
            line = line.after(outcome.id)
            (outcome,) = await self._enqueue([line])
        raise HeadraceError(f"{MAX_RETRIES} jobs of this line have failed")


def _again(line: Line, number: int, seen: set[str]) -> Line:
    """The answer to a line whose id another line has: an error under a name of its own."""
    name = f"line-{number}"
    while name in seen:
        name += "'"
    return Line(name, line.url, InvalidJob("custom_id", f"{line.custom_id!r} is in the file more than once"))


def _body(line: Line, job: AsyncJobHandle, result: JobResult) -> dict[str, Any]:
    if line.url is None or isinstance(line.job, HeadraceError):
        return result.model_dump(mode="json", exclude_none=True)
    # The line may name an alias; the job's id names the model that answered.
    return response_body(line.url, tag_of(job.id).model, result, line.body)
