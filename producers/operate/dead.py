"""The dead letters: jobs that ended because workers died over them, and entries that no worker could read."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...schemas.errors import JobNotFound
from ...schemas.events import Output
from ...schemas.keys import Tag
from ...schemas.scripts import drop_dead, requeue_dead
from ...schemas.wire import WireJob
from ..operations import Operations
from ..steps import Read, Steps, check_name
from .overview import model_tags

PAGE = 1000
"""Letters of one queue read in one round trip."""


class DeadLetter(BaseModel):
    """One dead letter.

    Attributes:
        entry: its id in the stream of dead letters.
        job_id: the job; empty for an entry that named none.
        cause: `crashed`, `malformed entry` or `job record missing`.
        at_ms: when, by Redis's clock.
        attempts: workers that died over it while they ran nothing else.
        worker: the last of them.
        offset: tokens generated until then.
        history: what each of them was, and how it ended.
        came_from: the stream of an entry that could not be read.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    entry: str
    model: str
    partition: int = 0
    job_id: str = ""
    cause: str = ""
    at_ms: int = 0
    attempts: int = 0
    worker: str = ""
    offset: int = 0
    history: str = ""
    came_from: str = ""

    @property
    def has_job(self) -> bool:
        """Whether there is a job that can be queued again: not so of an entry that could not be read."""
        return bool(self.job_id) and self.cause == "crashed"


class DeadLetterDetails(DeadLetter):
    """One dead letter with what was kept of its job.

    Attributes:
        job: the job without defaults, the webhook's secret masked; None when it can't be read or is gone.
        text: what it had generated.
    """

    job: dict[str, Any] | None = None
    text: str = ""


def read_dead(operations: Operations, model: str | None, limit: int | None) -> Steps[list[DeadLetter]]:
    """The newest dead letters of a model, or of all models, at most `limit` of them, newest first."""
    tags = [tag for tag in (yield from model_tags(operations)) if model in {None, tag.model}]
    letters: list[DeadLetter] = []
    for tag in tags:
        letters += yield from _read_tag(operations, tag, limit)
    return sorted(letters, key=lambda letter: letter.at_ms, reverse=True)[:limit]


def _read_tag(operations: Operations, tag: Tag, limit: int | None) -> Steps[list[DeadLetter]]:
    letters: list[DeadLetter] = []
    newest = "+"
    while limit is None or len(letters) < limit:
        count = PAGE if limit is None else min(PAGE, limit - len(letters))
        (page,) = yield from operations.send(Read((("XREVRANGE", tag.dead, newest, "-", "COUNT", count),)))
        letters += [_letter(tag, entry_id, fields) for entry_id, fields in page]
        if len(page) < count:
            break
        newest = f"({letters[-1].entry}"
    return letters


def find_dead(operations: Operations, name: str) -> Steps[DeadLetter]:
    """The dead letter of a job or entry id.

    Raises:
        BadSetting: an empty name, which would be that of every entry that named no job.
        JobNotFound: there is none.
    """
    check_name("id", name)
    for letter in (yield from read_dead(operations, None, None)):
        if name in {letter.job_id, letter.entry}:
            return letter
    raise JobNotFound(name)


def show_dead(operations: Operations, name: str) -> Steps[DeadLetterDetails]:
    """The dead letter of a job or entry id, with what was kept of its job: nothing of one that is gone.

    Raises:
        BadSetting: an empty name.
        JobNotFound: there is none.
    """
    letter = yield from find_dead(operations, name)
    known = letter.model_dump()
    if not letter.job_id:
        return DeadLetterDetails(**known)
    key = _tag(operations, letter).job(letter.job_id)
    # An entry that no worker could read may name anything: what is there need not be a record.
    (kind,) = yield from operations.send(Read((("TYPE", key),)))
    if kind != b"hash":
        return DeadLetterDetails(**known)
    ((spec, result),) = yield from operations.send(Read((("HMGET", key, "spec", "result"),)))
    return DeadLetterDetails(**known, job=_shown(spec), text=_text(result))


def requeue_letter(operations: Operations, letter: DeadLetter | str, *, from_scratch: bool) -> Steps[str]:
    """Queue its job again; gives the job's id.

    Raises:
        BadSetting: an empty name.
        JobNotFound: the letter or its job is gone.
    """
    found = letter if isinstance(letter, DeadLetter) else (yield from find_dead(operations, letter))
    job_id: str = yield from operations.send(
        requeue_dead(_tag(operations, found), found.entry, from_scratch=from_scratch)
    )
    return job_id


def drop_letter(operations: Operations, letter: DeadLetter | str) -> Steps[str]:
    """Delete it, and what was kept of its job.

    Raises:
        BadSetting: an empty name.
        JobNotFound: the letter is gone.
    """
    found = letter if isinstance(letter, DeadLetter) else (yield from find_dead(operations, letter))
    job_id: str = yield from operations.send(drop_dead(_tag(operations, found), found.entry))
    return job_id


def _tag(operations: Operations, letter: DeadLetter) -> Tag:
    return Tag(letter.model, letter.partition, operations.settings.namespace)


def _letter(tag: Tag, entry_id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    known: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    return DeadLetter(
        **{name: value for name, value in known.items() if name not in {"job", "from"}},
        entry=entry_id.decode(),
        model=tag.model,
        partition=tag.partition,
        job_id=known.get("job", ""),
        came_from=known.get("from", ""),
    )


def _text(result: bytes | None) -> str:
    try:
        return Output.model_validate_json(result).text if result else ""
    except ValidationError:
        return ""


def _shown(spec: bytes | None) -> dict[str, Any] | None:
    try:
        job = WireJob.model_validate_json(spec or b"")
    except ValidationError:  # of a newer version, or damaged; shown raw it could show a secret
        return None
    hidden: dict[str, Any] = {"celery": True} | ({"webhook": {"secret"}} if job.webhook else {})
    shown = job.model_dump(mode="json", exclude_defaults=True, exclude=hidden)
    if job.webhook and job.webhook.secret:
        shown["webhook"]["secret"] = str(job.webhook.secret)
    return shown
