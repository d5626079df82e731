"""The messages of generation tasks, as their jobs' records have them.

A record says which tasks are sent when its job has ended. Whoever may write to Redis may have written that,
so a message is believed only if it is signed; and none is that names another task than the one whose id made
the job's.
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
from ...schemas.events import Record
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
        request: what Celery's trace wants to know of the message.
        ignore_result: nobody wants the result stored.
        app: the name of the app that has it; None when it has none.
        cut: something was to follow, but is not to be believed.
    """

    task_id: str
    request: dict[str, Any] = field(repr=False)
    ignore_result: bool = False
    app: str | None = None
    cut: bool = False

    def is_for(self, app: Celery) -> bool:
        """Whether it is a task of this app, as far as their names tell."""
        return self.app is None or app.main is None or self.app == app.main

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "TaskMessage":
        """The message in a job's spec; the webhook, which may have a secret, is not told to Celery.

        Raises:
            InvalidJob: it is none.
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
        """What can be believed of a message that anybody may have written: that its task is the job's.

        Raises:
            InvalidJob: it is none.
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
        unsigned: believe what is not signed, too: producers of a version that did not sign are still there.
    """

    def __init__(self, redis: Redis, namespace: str, partitions: int, *, unsigned: bool) -> None:
        self._redis, self._namespace, self._partitions = redis, namespace, partitions
        self._unsigned = unsigned
        self._key: bytes | None = None

    def of(self, record: Record, job: WireJob) -> TaskMessage:
        """The message of a job's task.

        Raises:
            InvalidJob: it is none, or is not that of this job's task.
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
    """What is wrong with a message is said without anything of it."""
    try:
        yield
    except Exception as error:
        raise InvalidJob("celery", f"is not the message of a task ({type(error).__name__})") from None


def _arguments(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in _OWN}


def _named(signatures: Sequence[Mapping[str, Any]] | None, of: str) -> list[dict[str, Any]]:
    """Callbacks with ids, so that one sent again is the same task; Celery would draw a new id each time."""
    return [
        {**found, "options": {"task_id": str(uuid5(NAMESPACE_OID, f"{of}/{number}")), **found["options"]}}
        for number, found in enumerate(signatures or ())
    ]
