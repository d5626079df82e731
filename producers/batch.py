"""A file of requests as jobs, and a file of responses: each line once, however often it is begun again.

Every request gets an idempotency key made of its file, its id and its body. A run that was interrupted is
simply repeated: lines answered in the output file are skipped, and a line that was enqueued before meets its
own job again. A line that can't be run becomes a line with its error; only the loss of Redis ends the run.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..schemas.errors import BrokerUnavailable, HeadraceError, InvalidJob, JobsRefused, QueueFull
from ..schemas.events import JobResult
from ..schemas.job import Job
from ..schemas.redaction import shown_name
from .async_client import AsyncClient, AsyncJobHandle
from .openai_format import CHAT_URL, COMPLETIONS_URL, job_fields, response_body

PAGE = 64
"""Lines enqueued together."""

Outcome = AsyncJobHandle | HeadraceError


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Attributes:
        custom_id: the request's name; `line-<number>` when it has none.
        url: OpenAI's endpoint; None for a line that is a job's own arguments.
        job: what to run, or why it can't be.
    """

    custom_id: str
    url: str | None
    job: Job | HeadraceError


@dataclass(slots=True)
class Tally:
    """How far a run is."""

    lines: int
    skipped: int = 0
    succeeded: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def done(self) -> int:
        """Lines that need nothing more."""
        return self.skipped + self.succeeded + self.failed


@dataclass(slots=True)
class BatchRun:
    """One run of a file of requests.

    Args:
        requests, responses: JSON lines; `responses` may hold those of an earlier run.
        defaults: arguments for lines that don't have them.
        in_flight: most jobs enqueued and not yet answered.
        changed: called after every line.
    """

    client: AsyncClient
    requests: Path
    responses: Path
    defaults: dict[str, Any]
    in_flight: int
    changed: Callable[[Tally], None]
    tally: Tally = field(default_factory=lambda: Tally(0))

    async def run(self) -> Tally:
        """Answer every line that is not answered yet.

        Raises:
            BrokerUnavailable: Redis was away for too long; run again to go on.
            HeadraceError: the output file holds something else.
            OSError: a file can't be read or written.
        """
        answered = answered_ids(self.responses)
        with self.requests.open("rb") as requests:
            self.tally.lines = sum(1 for text in requests if text.strip())
        slots = asyncio.Semaphore(self.in_flight)
        with self.requests.open("rb") as requests, self.responses.open("a", buffering=1) as responses:
            lines = self._unanswered(requests, answered)
            self.changed(self.tally)
            try:
                async with asyncio.TaskGroup() as tasks:
                    while page := list(islice(lines, min(PAGE, self.in_flight))):
                        for _ in page:
                            await slots.acquire()
                        for line, outcome in zip(page, await self._enqueue(page), strict=True):
                            task = tasks.create_task(self._answer(line, outcome, responses.write))
                            task.add_done_callback(lambda _: slots.release())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return self.tally

    def _unanswered(self, requests: Iterable[bytes], answered: set[str]) -> Iterator[Line]:
        seen: set[str] = set()
        for number, text in enumerate(requests, start=1):
            if not text.strip():
                continue
            line = parse_line(number, text, self.defaults, str(self.requests.resolve()))
            if line.custom_id in answered:
                self.tally.skipped += 1
            elif line.custom_id in seen:
                error = InvalidJob("custom_id", f"{line.custom_id!r} is in the file more than once")
                yield Line(line.custom_id, line.url, error)
            else:
                yield line
            seen.add(line.custom_id)

    async def _enqueue(self, page: list[Line]) -> list[Outcome]:
        """Enqueue what can be; waits while the queue is full."""
        outcomes: list[Outcome | None] = [
            line.job if isinstance(line.job, HeadraceError) else None for line in page
        ]
        while True:
            waiting = [position for position, outcome in enumerate(outcomes) if outcome is None]
            jobs = [job for position in waiting if isinstance(job := page[position].job, Job)]
            try:
                accepted: list[Any] = list(await self.client.enqueue_many(jobs))
            except JobsRefused as refused:
                accepted = list(refused.outcomes)
            pause_s = 0.0
            for position, outcome in zip(waiting, accepted, strict=True):
                if isinstance(outcome, BrokerUnavailable):
                    raise outcome
                if isinstance(outcome, QueueFull):
                    pause_s = max(pause_s, outcome.retry_after_s)
                else:
                    outcomes[position] = outcome
            if not pause_s:
                return [outcome for outcome in outcomes if outcome is not None]
            await asyncio.sleep(pause_s)

    async def _answer(self, line: Line, outcome: Outcome, write: Callable[[str], object]) -> None:
        response: dict[str, Any] | None = None
        error: dict[str, str] | None = None
        job_id = None if isinstance(outcome, HeadraceError) else outcome.id
        try:
            if isinstance(outcome, HeadraceError):
                raise outcome
            result = await outcome.result()
            response = {"status_code": 200, "request_id": job_id, "body": _body(line, result)}
            self.tally.succeeded += 1
            self.tally.tokens += len(result.token_ids)
        except BrokerUnavailable:
            raise
        except HeadraceError as failure:
            error = {"code": failure.code, "message": str(failure)}
        except (LookupError, TypeError, ValueError) as failure:  # damaged from outside
            reason = f"the result of job {job_id} can't be read ({type(failure).__name__})"
            error = {"code": HeadraceError.code, "message": reason}
        self.tally.failed += error is not None
        answer = {"id": job_id, "custom_id": line.custom_id, "response": response, "error": error}
        write(_written(answer) + "\n")
        self.changed(self.tally)


def _written(answer: dict[str, Any]) -> str:
    """The answer as JSON in UTF-8; half a character, which a line's own id may have, as its escape."""
    text = json.dumps(answer, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(answer)
    return text


def _body(line: Line, result: JobResult) -> dict[str, Any]:
    if line.url is None or isinstance(line.job, HeadraceError):
        return result.model_dump(mode="json", exclude_none=True)
    return response_body(line.url, line.job.model, result)


def parse_line(number: int, text: bytes, defaults: dict[str, Any], source: str) -> Line:
    """The request in line `number` of the file `source`: OpenAI's form, or a job's own arguments."""
    custom_id, url = f"line-{number}", None
    try:
        request, repeated = _read(text)
        custom_id = _custom_id(request.pop("custom_id", None)) or custom_id
        url, fields = _asked(request, repeated)
        job = Job.make(**{"stream": False, **defaults, **fields})
        if job.idempotency_key is None:
            key = _key(source, custom_id, {**defaults, **fields})
            job = job.model_copy(update={"idempotency_key": key})
    except InvalidJob as reason:
        return Line(custom_id, url, reason)
    return Line(custom_id, url, job)


def _asked(request: dict[str, Any], repeated: str | None) -> tuple[str | None, dict[str, Any]]:
    """The endpoint of a request in OpenAI's form, and a job's arguments.

    Raises:
        InvalidJob: it is no request.
    """
    if repeated is not None:
        raise InvalidJob(repeated, "is given more than once")
    if "url" not in request and "body" not in request:
        return None, request
    url, body = _url(request.get("url")), request.get("body")
    if not isinstance(body, dict):
        raise InvalidJob("body", "must be the request's JSON object")
    return url, job_fields(url, body)


def _read(text: bytes) -> tuple[dict[str, Any], str | None]:
    """The object in a line, and the first name that it, or an object in it, has more than once.

    Raises:
        InvalidJob: the line is no JSON, or no object, or lists and objects are nested too deep in it.
    """
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                repeated.append(name)
            found[name] = value
        return found

    try:
        request = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise InvalidJob("line", "is nested too deep") from None
    except ValueError as error:
        raise InvalidJob("line", f"is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidJob("line", "is no JSON object")
    return request, shown_name(repeated[0]) if repeated else None


def _custom_id(given: object) -> str | None:
    if isinstance(given, str) or given is None:
        return given
    if isinstance(given, int | float):
        return json.dumps(given)
    raise InvalidJob("custom_id", f"must be a text (got {type(given).__name__})")


def _url(given: object) -> str:
    """An endpoint's path; what is no path may be a whole address, with what is secret in it."""
    if not isinstance(given, str) or not re.fullmatch(r"[\w./-]{1,80}", given):
        raise InvalidJob("url", f"must be {CHAT_URL} or {COMPLETIONS_URL}")
    return given


def _key(source: str, custom_id: str, fields: dict[str, Any]) -> str:
    """The idempotency key of a line; the fields are known to be valid."""
    identity = json.dumps([source, custom_id, fields], sort_keys=True).encode()
    return f"batch-{hashlib.blake2b(identity, digest_size=16).hexdigest()}"


def answered_ids(responses: Path) -> set[str]:
    """The ids that have an answer in the file; a last line that was torn by a crash is cut off.

    Raises:
        HeadraceError: the file holds something else.
    """
    answered: set[str] = set()
    if not responses.exists():
        return answered
    with responses.open("rb+") as file:
        whole = 0
        for text in file:
            if not text.endswith(b"\n"):
                break
            whole += len(text)
            try:
                answered.add(json.loads(text)["custom_id"])
            except (ValueError, TypeError, KeyError):
                raise HeadraceError(
                    f"{responses} holds something else than a batch's answers; choose another output file"
                ) from None
        file.truncate(whole)
    return answered
