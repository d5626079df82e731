"""The dead letters: jobs that ended because workers died over them, and entries that no worker could read."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..schemas.errors import JobNotFound
from ..schemas.keys import Tag
from ..schemas.scripts import drop_dead, requeue_dead
from .operations import Operations
from .overview import model_tags
from .steps import Read, Steps

PAGE = 1000
"""Letters of one queue read at once."""


class DeadLetter(BaseModel):
    """One dead letter.

    Attributes:
        entry: its id in the stream of dead letters.
        job_id: the job; empty for an entry that named none.
        cause: `crashed`, `malformed entry` or `job record missing`.
        at_ms: when, by Redis's clock.
        attempts: workers that died over it.
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


def read_dead(operations: Operations, model: str | None, limit: int) -> Steps[list[DeadLetter]]:
    """The newest dead letters of a model, or of all models, at most `limit` of them, newest first."""
    tags = [tag for tag in (yield from model_tags(operations)) if model in {None, tag.model}]
    count = min(limit, PAGE)
    reads = [("XREVRANGE", tag.dead, "+", "-", "COUNT", count) for tag in tags]
    found = yield from operations.send(Read(reads))
    letters = [
        _letter(tag, entry_id, fields)
        for tag, entries in zip(tags, found, strict=True)
        for entry_id, fields in entries
    ]
    return sorted(letters, key=lambda letter: letter.at_ms, reverse=True)[:limit]


def find_dead(operations: Operations, name: str) -> Steps[DeadLetter]:
    """The dead letter of a job or entry id.

    Raises:
        JobNotFound: there is none.
    """
    for letter in (yield from read_dead(operations, None, PAGE)):
        if name in {letter.job_id, letter.entry}:
            return letter
    raise JobNotFound(name)


def requeue_letter(operations: Operations, letter: DeadLetter, *, from_scratch: bool) -> Steps[str]:
    """Queue its job again; gives the job's id.

    Raises:
        JobNotFound: the letter or its job is gone.
    """
    job_id: str = yield from operations.send(
        requeue_dead(_tag(operations, letter), letter.entry, from_scratch=from_scratch)
    )
    return job_id


def drop_letter(operations: Operations, letter: DeadLetter) -> Steps[str]:
    """Delete it, and what was kept of its job.

    Raises:
        JobNotFound: the letter is gone.
    """
    job_id: str = yield from operations.send(drop_dead(_tag(operations, letter), letter.entry))
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
