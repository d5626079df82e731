"""The requests of a batch: lines of JSON, each read as a job or as the error that refuses it.

A line may have any length, and a file may have no end: only the beginning of a line that is too long is kept,
and input that doesn't arrive at once (from a pipe or a terminal) is awaited without blocking anything else.
"""

import asyncio
import hashlib
import io
import json
import re
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..schemas.errors import HeadraceError, InvalidJob
from ..schemas.job import Job
from ..schemas.redaction import shown_name
from .openai.format import ENDPOINTS, job_fields

STANDARD = Path("-")
"""Standard input, or standard output."""

BLOCK = 64 * 1024

ENDLESS = 2**30
"""A line with this many bytes isn't one, and its file isn't a file of lines."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Attributes:
        custom_id: the request's name; `line-<number>` if it has none.
        url: OpenAI's endpoint; None for a line that is a job's own arguments.
        job: what to run, or why it can't be.
        body: the request as it was sent to that endpoint.
    """

    custom_id: str
    url: str | None
    job: Job | HeadraceError
    body: Mapping[str, Any] = field(default_factory=dict)

    def after(self, job_id: str) -> "Line":
        """The same request as a new job, after `job_id`; always the same new job."""
        assert isinstance(self.job, Job)
        key = f"{self.job.idempotency_key} after {job_id}"
        return replace(self, job=self.job.model_copy(update={"idempotency_key": digest(key)}))


def is_stream(path: Path) -> bool:
    """Whether a file can only be read once: standard input, a pipe, a terminal or another device."""
    return path == STANDARD or not path.is_file()


class LineSplitter:
    """Splits what arrives in blocks into numbered lines; blank ones are left out.

    Of a line with more than `most_bytes`, only the first `most_bytes + 1` are kept.
    """

    __slots__ = ("_held", "_most_bytes", "_number", "_size", "_source")

    def __init__(self, source: str, most_bytes: int) -> None:
        self._source, self._most_bytes = source, most_bytes
        self._number, self._size, self._held = 1, 0, bytearray()

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """The lines that end in this block.

        Raises:
            HeadraceError: a line has no end.
        """
        page = []
        *ends, rest = block.split(b"\n")
        for end in ends:
            self._hold(end)
            if self._held.strip():
                page.append((self._number, bytes(self._held)))
            self._held.clear()
            self._number, self._size = self._number + 1, 0
        self._hold(rest)
        self._size += len(rest)
        if self._size > ENDLESS:
            raise HeadraceError(
                f"line {self._number} of {self._source} has no end: is this a file of JSON lines?"
            )
        return page

    def end(self) -> list[tuple[int, bytes]]:
        """The last line, if nothing ended it."""
        return [(self._number, bytes(self._held))] if self._held.strip() else []

    def _hold(self, piece: bytes) -> None:
        # One byte more than allowed is kept, by which the line is known to be too long.
        self._held += piece[: self._most_bytes + 1 - len(self._held)]


async def numbered_lines(path: Path, most_bytes: int) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the non-blank lines of a file with their numbers, as many at a time as have arrived.

    Of a line with more than `most_bytes`, only the first `most_bytes + 1` are returned.

    Raises:
        HeadraceError: a line has no end.
        OSError: the file can't be read.
    """
    splitter = LineSplitter(str(path), most_bytes)
    waits = is_stream(path)
    with _opened(path) as file:
        while block := await _next_block(file) if waits else file.read(BLOCK):
            if page := splitter.feed(block):
                yield page
    if page := splitter.end():
        yield page


def _opened(path: Path) -> io.FileIO:
    standard = path == STANDARD
    return io.FileIO(0 if standard else path, closefd=not standard)


async def _next_block(file: io.FileIO) -> bytes:
    """Read the next input in a daemon thread, which needn't be waited for when giving up."""
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

    # asyncio's own executor would be waited for at the end, and with it for a terminal's next line.
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
    """Parse the request in line `number` of the file `source`: OpenAI's form, or a job's own arguments.

    `no_model` says what to do about a line that names no model, if the defaults have none either.
    """
    custom_id, url = f"line-{number}", None
    try:
        if most_bytes is not None and len(text) > most_bytes:
            raise InvalidJob("line", f"has more than {most_bytes} bytes")  # noqa: TRY301 - one way out for all
        request, repeated = read_request(text)
        custom_id = _custom_id(request.pop("custom_id", None)) or custom_id
        url, fields = _asked(request, repeated)
        if fields.get("model", "") is None:  # as an argument that was not given
            del fields["model"]
        if no_model and "model" not in {**defaults, **fields}:
            raise InvalidJob("model", f"line {number} names none: {no_model}")  # noqa: TRY301 - as above
        # Nobody reads these streams, so workers may checkpoint them less often.
        job = Job.make(**{"stream": False, **defaults, **fields})
        if job.idempotency_key is None:
            key = line_key(source, custom_id, {**defaults, **fields})
            job = job.model_copy(update={"idempotency_key": key})
    except InvalidJob as reason:
        return Line(custom_id, url, reason)
    return Line(custom_id, url, job, request.get("body", {}) if url else {})


def _asked(request: dict[str, Any], repeated: str | None) -> tuple[str | None, dict[str, Any]]:
    """The endpoint of a request in OpenAI's form, and the job's arguments.

    Raises:
        InvalidJob: it isn't a request.
    """
    if repeated is not None:
        raise InvalidJob(repeated, "is given more than once")
    if "url" not in request and "body" not in request:
        return None, request
    url, body = _url(request.get("url")), request.get("body")
    if not isinstance(body, dict):
        raise InvalidJob("body", "must be the request's JSON object")
    return url, job_fields(url, body)


def read_request(text: bytes) -> tuple[dict[str, Any], str | None]:
    """The object in a line, and the first duplicate name in it or in an object inside it.

    Raises:
        InvalidJob: the line isn't JSON, isn't an object, or is nested too deeply.
    """
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                # json.loads would keep the last of two equal names, and silently drop what the first one
                # asked for.
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
    # OpenAI takes only strings, but scripts number their lines; the answer has the number as text.
    if isinstance(given, int | float):
        return json.dumps(given)
    raise InvalidJob("custom_id", f"must be a string (got {type(given).__name__})")


def _url(given: object) -> str:
    """An endpoint's path, for errors; anything else may be a whole URL that contains a secret."""
    if not isinstance(given, str) or not re.fullmatch(r"[\w./-]{1,80}", given):
        raise InvalidJob("url", f"must be one of {', '.join(ENDPOINTS)}")
    return given


def line_key(source: str, custom_id: str, fields: dict[str, Any]) -> str:
    """The idempotency key of a line, whose fields are known to be valid."""
    # Sorted names: a file that was written again with its fields in another order finds its jobs.
    return digest(json.dumps([source, custom_id, fields], sort_keys=True))


def digest(identity: str) -> str:
    return f"batch-{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"
