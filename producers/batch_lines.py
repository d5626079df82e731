"""The requests of a batch: lines of JSON, each read as a job or as the reason why it is none.

A line may be of any length and a file without an end: of a line that is too long its beginning is held, and
what does not come at once (a pipe, a terminal) is waited for beside everything else.
"""

import asyncio
import hashlib
import io
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..schemas.errors import HeadraceError, InvalidJob
from ..schemas.job import Job
from ..schemas.redaction import shown_name
from .openai.format import CHAT_URL, COMPLETIONS_URL, job_fields

STANDARD = Path("-")
"""Standard input, or standard output."""

BLOCK = 64 * 1024

ENDLESS = 2**30
"""A line of so many bytes is none, and neither is what it is in a file of lines."""


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

    def after(self, job_id: str) -> "Line":
        """The same request as another job than `job_id`, which it was; the same one each time."""
        assert isinstance(self.job, Job)
        key = f"{self.job.idempotency_key} after {job_id}"
        return replace(self, job=self.job.model_copy(update={"idempotency_key": _digest(key)}))


def is_stream(path: Path) -> bool:
    """Whether a file is read once, as it comes: standard input, a pipe, a terminal or another device."""
    return path == STANDARD or not path.is_file()


async def numbered_lines(path: Path, most_bytes: int) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The lines of a file that are not blank, with their numbers, as many at a time as have come.

    Of a line with more than `most_bytes` the first `most_bytes + 1` are given.

    Raises:
        HeadraceError: a line has no end.
        OSError: the file can't be read.
    """
    number, size, held = 1, 0, bytearray()
    waits = is_stream(path)
    with _opened(path) as file:
        while block := await _next_block(file) if waits else file.read(BLOCK):
            page = []
            *ends, rest = block.split(b"\n")
            for end in ends:
                held += end[: most_bytes + 1 - len(held)]
                if held.strip():
                    page.append((number, bytes(held)))
                held.clear()
                number, size = number + 1, 0
            held += rest[: most_bytes + 1 - len(held)]
            size += len(rest)
            if size > ENDLESS:
                raise HeadraceError(f"line {number} of {path} has no end: is this a file of JSON lines?")
            if page:
                yield page
    if held.strip():
        yield [(number, bytes(held))]


def _opened(path: Path) -> io.FileIO:
    standard = path == STANDARD
    return io.FileIO(0 if standard else path, closefd=not standard)


async def _next_block(file: io.FileIO) -> bytes:
    """What comes next; read in a daemon thread, which nobody who gives up needs to wait for."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    def tell(block: bytes, error: OSError | None) -> None:
        if not came.done():
            came.set_exception(error) if error else came.set_result(block)

    def read() -> None:
        block, failure = b"", None
        try:
            block = file.read(BLOCK)
        except OSError as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, block, failure)

    threading.Thread(target=read, daemon=True).start()
    return await came


def parse_line(
    number: int,
    text: bytes,
    defaults: dict[str, Any],
    source: str,
    most_bytes: int | None = None,
    no_model: str = "",
) -> Line:
    """The request in line `number` of the file `source`: OpenAI's form, or a job's own arguments.

    `no_model` says what can be done about a line that names no model where the defaults have none.
    """
    custom_id, url = f"line-{number}", None
    try:
        if most_bytes is not None and len(text) > most_bytes:
            raise InvalidJob("line", f"has more than {most_bytes} bytes")  # noqa: TRY301 - one way out for all
        request, repeated = _read(text)
        custom_id = _custom_id(request.pop("custom_id", None)) or custom_id
        url, fields = _asked(request, repeated)
        if fields.get("model", "") is None:  # as an argument that was not given
            del fields["model"]
        if no_model and "model" not in {**defaults, **fields}:
            raise InvalidJob("model", f"line {number} names none: {no_model}")  # noqa: TRY301 - as above
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
        raise InvalidJob("line", "is nested too deeply") from None
    except ValueError as error:
        raise InvalidJob("line", f"is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidJob("line", "is not a JSON object")
    return request, shown_name(repeated[0]) if repeated else None


def _custom_id(given: object) -> str | None:
    if isinstance(given, str) or given is None:
        return given
    if isinstance(given, int | float):
        return json.dumps(given)
    raise InvalidJob("custom_id", f"must be a string (got {type(given).__name__})")


def _url(given: object) -> str:
    """An endpoint's path; what is no path may be a whole address, with what is secret in it."""
    if not isinstance(given, str) or not re.fullmatch(r"[\w./-]{1,80}", given):
        raise InvalidJob("url", f"must be {CHAT_URL} or {COMPLETIONS_URL}")
    return given


def _key(source: str, custom_id: str, fields: dict[str, Any]) -> str:
    """The idempotency key of a line; the fields are known to be valid."""
    return _digest(json.dumps([source, custom_id, fields], sort_keys=True))


def _digest(identity: str) -> str:
    return f"batch-{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"
