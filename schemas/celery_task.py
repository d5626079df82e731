"""The part of a Celery task's message that travels in its job, and how to tell that `generate` wrote it.

It says which tasks are sent when the job has ended, so nobody else may have written it. It is signed together
with the job's id, with a key that no job contains, and the job's id is derived from the task's.
"""

import hashlib
import hmac
import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .ids import job_id_of
from .plain_json import check_json

DEEPEST = 200
"""Levels of JSON in a message; each level of a canvas takes several."""

_SIGNED = re.compile(r'(.*),"signature":"([0-9a-f]{64})"\}', re.DOTALL)

_Id = Annotated[str, Field(min_length=1, max_length=255)]


class TaskHeaders(BaseModel):
    """A task's headers, without what follows it; `argsrepr` and `kwargsrepr` hold only what may be shown."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: _Id
    root_id: _Id | None = None
    parent_id: _Id | None = None
    retries: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None


class _TaskPart(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    headers: TaskHeaders
    embed: dict[str, Any]
    properties: dict[str, Any]
    app: str | None = None


def read_headers(celery: str) -> TaskHeaders:
    """Read the headers of a task's message, and check the whole message.

    Raises:
        ValueError: it isn't a task's message.
    """
    return _read(celery).headers


def read_app(celery: str) -> str | None:
    """The name of a task's Celery app; None if the app has no name.

    Raises:
        ValueError: it isn't a task's message.
    """
    return _read(celery).app


def _read(celery: str) -> _TaskPart:
    try:
        return _TaskPart.model_validate(check_json(json.loads(celery), DEEPEST))
    except (ValidationError, ValueError, RecursionError):
        raise ValueError(
            "must be the JSON of a task's message; generate.delay() of headrace.celery makes it"
        ) from None


def sign_part(part: str, job_id: str, key: bytes) -> str:
    """Add a signature to the part, as its last field."""
    # Appended to the text as it is: parsed and written again, the JSON could differ from what was signed.
    return f'{part[:-1]},"signature":"{_signature(part, job_id, key)}"}}'


def is_signed(celery: str, job_id: str, key: bytes) -> bool:
    """Whether `sign_part` made the part for this job."""
    found = _SIGNED.fullmatch(celery)
    return found is not None and hmac.compare_digest(_signature(f"{found[1]}}}", job_id, key), found[2])


def task_job_id(headers: TaskHeaders, model: str, partitions: int) -> str:
    """The id of a task's only job; a retry of the task is another job."""
    # The same task sent twice is one job: that is what makes a repeated publish harmless.
    identity = f"{headers.id}/{headers.retries}" if headers.retries else headers.id
    return job_id_of(identity, model, partitions)


def _signature(part: str, job_id: str, key: bytes) -> str:
    # With the job's id, so that a part can't be moved to another job; ids have no newline.
    signed = f"{job_id}\n{part}".encode(errors="surrogatepass")
    return hmac.new(key, signed, hashlib.sha256).hexdigest()
