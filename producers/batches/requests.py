"""The lines of a batch's file: checked when the batch is new, read as jobs when it runs.

A fault of the file as such (a line that isn't JSON, a repeated `custom_id`, another endpoint) fails the batch
before anything runs. A fault in one request's body becomes that line's own answer.
"""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ...schemas.errors import HeadraceError, InvalidJob
from ...schemas.job import Job, JobClass
from ...schemas.redaction import shown_name
from ...schemas.wire import WireJob
from ..batch_lines import Line, LineSplitter, digest, line_key, read_request
from ..openai.format import job_fields
from .record import BatchSpec

MOST_LINES = 50_000
MOST_ERRORS = 100
"""Maximum number of a file's faults that are listed; reading stops at the last of them."""

LONGEST_ID = 512

_OURS = frozenset(
    {
        *("tenant", "job_class", "idempotency_key", "webhook", "priority"),
        *("delay_s", "deadline_s", "max_runtime_s", "max_attempts"),
    }
)
"""Arguments of a job that the batch decides, not its lines."""

_MODEL = re.compile(r"[\w./-]{1,128}")


@dataclass(slots=True)
class Findings:
    """What a batch's file holds.

    Attributes:
        lines: how many requests there are.
        models: the models that they name, as far as that is more than one.
        faults: what is wrong, as OpenAI's API lists it.
    """

    lines: int = 0
    models: set[str] = field(default_factory=set)
    faults: list[dict[str, Any]] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def check(self, number: int, text: bytes, endpoint: str, most_bytes: int) -> None:
        """Check one line."""
        self.lines += 1
        if self.lines > MOST_LINES:
            reason = f"the file has more than {MOST_LINES} requests; split it into several batches"
            self._fault("too_many_requests", number, reason, None)
            return
        try:
            request = _request(text, endpoint, most_bytes)
        except InvalidJob as reason:
            code = "invalid_json_line" if reason.field == "line" else "invalid_request"
            self._fault(code, number, str(reason), reason.field)
            return
        custom_id = request["custom_id"]
        # Digests: 50,000 ids of full length would take tens of megabytes for each batch that is checked.
        name = digest(json.dumps(custom_id))
        if name in self._seen:
            reason_ = "custom_id: another line has the same"
            self._fault("duplicate_custom_id", number, reason_, "custom_id")
        self._seen.add(name)
        model = request["body"].get("model")
        # Two are enough to know that the batch has no single model.
        if isinstance(model, str) and _MODEL.fullmatch(model) and len(self.models) < 2:
            self.models.add(model)

    def _fault(self, code: str, line: int | None, message: str, param: str | None) -> None:
        if len(self.faults) < MOST_ERRORS:
            self.faults.append({"code": code, "line": line, "message": message, "param": param})

    @property
    def full(self) -> bool:
        """Whether there are enough faults that no more are looked for."""
        return len(self.faults) >= MOST_ERRORS or self.lines > MOST_LINES

    def end(self) -> None:
        """Note faults of the file as a whole."""
        if not self.lines:
            self._fault("empty_file", None, "the file has no requests", None)


async def numbered(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[list[tuple[int, bytes]]]:
    """Yield the non-blank lines of a content that comes in pieces, with their numbers."""
    splitter = LineSplitter("the file", most_bytes)
    async for piece in pieces:
        if page := splitter.feed(piece):
            yield page
    if page := splitter.end():
        yield page


def job_of(number: int, text: bytes, batch_id: str, asked: BatchSpec, most_bytes: int) -> Line:
    """The job of a line whose form has been checked, or why there can't be one.

    The job's idempotency key is made of the batch, the line and what it asks for, so enqueueing the line
    again finds the same job.
    """
    custom_id = f"line-{number}"
    try:
        request = _request(text, asked.endpoint, most_bytes)
        custom_id, body = request["custom_id"], request["body"]
        if ours := sorted(_OURS & body.keys()):
            raise InvalidJob(ours[0], "is no option of this endpoint")
        fields = {"stream": False, **job_fields(asked.endpoint, body)}
        if "model" not in fields:
            raise InvalidJob("model", "must name the model")
        if asked.models is not None and fields["model"] not in asked.models:
            raise InvalidJob("model", "is not one that this key may use")
        # The deadline counts from when the job is enqueued, so it may be later than the batch's expiry; at
        # that the run cancels the job. It is for jobs whose run has died.
        fields |= {"tenant": asked.tenant, "job_class": JobClass.BATCH, "deadline_s": asked.window_s}
        job = Job.make(**fields)
        key = line_key(batch_id, f"{number} {custom_id}", fields)
        keyed = WireJob.of(job.model_copy(update={"idempotency_key": key}))
        job = keyed.sent_to(asked.model_of(job.model, key))
    except HeadraceError as reason:
        return Line(custom_id, asked.endpoint, reason)
    return Line(custom_id, asked.endpoint, job, body)


def _request(text: bytes, endpoint: str, most_bytes: int) -> dict[str, Any]:
    """A line's request.

    Raises:
        InvalidJob: it doesn't have the form of one.
    """
    if len(text) > most_bytes:
        raise InvalidJob("line", f"has more than {most_bytes} bytes")
    request, repeated = read_request(text)
    if repeated is not None:
        raise InvalidJob(repeated, "is given more than once")
    custom_id = request.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= LONGEST_ID:
        raise InvalidJob("custom_id", f"must be a string of 1 to {LONGEST_ID} characters")
    if request.get("method", "POST") != "POST":
        raise InvalidJob("method", "must be POST")
    if request.get("url") != endpoint:
        raise InvalidJob("url", f"must be the batch's endpoint, {endpoint}")
    if not isinstance(request.get("body"), dict):
        raise InvalidJob("body", "must be the request's JSON object")
    if more := sorted(request.keys() - {"custom_id", "method", "url", "body"}):
        raise InvalidJob(shown_name(more[0]), "is not a field of a request")
    return request
