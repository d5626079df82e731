"""The messages of generation tasks, as kept in their jobs' records.

A record says which tasks are sent when its job has ended. Anyone who can write to Redis may have written
that, so a message is trusted only if it is signed, and only if it names the task from whose id the job's was
derived.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from celery import Celery
from kombu.utils.json import loads as from_json
from redis import Redis

from ...schemas import keys
from ...schemas.celery_task import is_signed, read_headers, task_job_id
from ...schemas.errors import InvalidJob
from ...schemas.record import Record
from ...schemas.redis.connection import broker_errors
from ...schemas.wire import WireJob

NAME = "headrace.generate"
FOLLOWERS = ("callbacks", "errbacks", "chain", "chord")

_OWN = {"celery", "webhook", "v"}


@dataclass(slots=True, frozen=True)
class TaskMessage:
    """The message of a generation task, as its producer kept it in the job.

    Attributes:
        task_id: the task's id.
        request: the part of the message that Celery's trace needs.
        ignore_result: whether the result should not be stored.
        app: the name of its app; None if the app has no name.
        cut: whether followers were removed because they can't be trusted.
    """

    task_id: str
    request: dict[str, Any] = field(repr=False)
    ignore_result: bool = False
    app: str | None = None
    cut: bool = False

    def is_for(self, app: Celery) -> bool:
        """Whether it is a task of this app, judging by their names."""
        return self.app is None or app.main is None or self.app == app.main

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "TaskMessage":
        """Read the message in a job's spec, keeping from Celery the webhook, which may contain a secret.

        Raises:
            InvalidJob: it isn't a task's message.
        """
        with _reading():
            part = from_json(spec["celery"])
            headers, embed, properties = part["headers"], part["embed"], part["properties"]
            request = {
                **headers,
                **embed,
                "callbacks": _named(embed.get("callbacks"), f"{headers['id']}/link"),
                "errbacks": _named(embed.get("errbacks"), f"{headers['id']}/link_error"),
                "args": (),
                "kwargs": _arguments(spec),
                "reply_to": properties.get("reply_to"),
                "correlation_id": properties.get("correlation_id", headers["id"]),
                "delivery_info": {"priority": properties.get("priority"), "redelivered": False},
                "is_eager": False,
            }
            return cls(headers["id"], request, bool(headers.get("ignore_result")), part.get("app"))

    @classmethod
    def unsigned(cls, spec: Mapping[str, Any]) -> "TaskMessage":
        """Reduce a message that anyone may have written to what can be trusted: that its task is the job's.

        Raises:
            InvalidJob: it isn't a task's message.
        """
        headers = read_headers(spec["celery"])
        with _reading():
            part = from_json(spec["celery"])
            cut = any(part["embed"].get(name) for name in FOLLOWERS)
        request = {
            **headers.model_dump(exclude_none=True),
            "task": NAME,
            **dict.fromkeys(FOLLOWERS),
            "args": (),
            "kwargs": _arguments(spec),
            "reply_to": None,
            "correlation_id": headers.id,
            "delivery_info": {"priority": None, "redelivered": False},
            "is_eager": False,
        }
        app = part.get("app")
        return cls(headers.id, request, app=app if isinstance(app, str) else None, cut=cut)


class Messages:
    """Reads the messages of one namespace.

    Args:
        partitions: queues that a model's jobs are spread over.
        unsigned: also trust unsigned messages, for producers of a version that didn't sign.
    """

    def __init__(self, redis: Redis, namespace: str, partitions: int, *, unsigned: bool) -> None:
        self._redis, self._namespace, self._partitions = redis, namespace, partitions
        self._unsigned = unsigned
        self._key: bytes | None = None

    def of(self, record: Record, job: WireJob) -> TaskMessage:
        """The message of a job's task.

        Raises:
            InvalidJob: it isn't a message, or not that of this job's task.
            BrokerUnavailable: Redis can't be reached.
        """
        assert job.celery is not None
        headers = read_headers(job.celery)
        if record.job_id != task_job_id(headers, job.model, self._partitions):
            raise InvalidJob("celery", "is the message of another job's task")
        spec = json.loads(record.fields["spec"])
        if self._unsigned or self._is_signed(record.job_id, job.celery):
            return TaskMessage.of(spec)
        return TaskMessage.unsigned(spec)

    def _is_signed(self, job_id: str, celery: str) -> bool:
        if self._key is not None and is_signed(celery, job_id, self._key):
            return True
        with broker_errors():
            kept: Any = self._redis.get(keys.celery_key(self._namespace))
        self._key = kept
        return kept is not None and is_signed(celery, job_id, kept)


@contextmanager
def _reading() -> Iterator[None]:
    """Report what is wrong with a message without quoting it."""
    try:
        yield
    except Exception as error:
        raise InvalidJob("celery", f"is not the message of a task ({type(error).__name__})") from None


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in _OWN}


def _named(signatures: Sequence[Mapping[str, Any]] | None, of: str) -> list[dict[str, Any]]:
    """Give callbacks ids, so that one sent again is the same task; Celery would make a new id each time."""
    return [
        {**found, "options": {"task_id": str(uuid5(NAMESPACE_OID, f"{of}/{number}")), **found["options"]}}
        for number, found in enumerate(signatures or ())
    ]
