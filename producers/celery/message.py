"""Diverts Celery messages for `generate` into the queue's stream instead of the broker."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from celery.utils.time import maybe_make_aware
from kombu.utils.json import dumps as to_json

from ...schemas.celery_task import read_headers, sign_part, task_job_id
from ...schemas.errors import InvalidJob
from ...schemas.job import Job, JobClass
from ...schemas.presence import has_name
from ...schemas.settings.celery import CelerySettings
from ...schemas.wire import WireJob
from ..client import Client
from ..operate.models import only_model
from ..routing import AliasFound, whom

RETRIED_S = 0.001
"""Replaces a due time or deadline in the past: a moment from now."""


class StreamProducer:
    """Takes the place of a kombu producer, and enqueues the job that the message asks for.

    Everything but `publish` is the real producer's, so that result backends can use it.
    """

    def __init__(
        self,
        producer: Any,
        client: Client,
        settings: CelerySettings,
        job_class: JobClass | None,
        app_name: str | None,
    ) -> None:
        self._producer, self._client, self._settings = producer, client, settings
        self._job_class, self._app_name = job_class, app_name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, headers: Mapping[str, Any], **properties: Any) -> None:
        """Enqueue the job; sending the same message again has no further effect.

        Raises:
            InvalidJob, UnknownModel, QueueFull, RateLimited, BrokerUnavailable: as `Client.enqueue`.
        """
        headers, (args, kwargs, embed) = _of_any_protocol(headers, body)
        fields = job_fields(args, kwargs)
        if fields.get("model") is None:
            fields["model"] = default_model(self._settings, self._client)
        if self._job_class is not None:
            # What the call itself asks for comes before its queue or route.
            fields.setdefault("job_class", self._job_class)
        if headers.get("eta"):
            fields["delay_s"] = max(RETRIED_S, _seconds_until(headers["eta"]))
        if headers.get("expires"):
            fields["deadline_s"] = max(RETRIED_S, _seconds_until(headers["expires"]))
        job, part = Job.make(**fields), celery_part(headers, embed, properties, self._app_name)
        try:
            self._enqueue(job, part)
        except AliasFound:
            # Sent again, a task must find its job: the same model is chosen for it while the weights stay.
            who = whom(job.tenant, job.metadata) or read_headers(part).id
            key = job.idempotency_key
            routed = self._client.admin.routed_model(
                job.model, who=who, tenant=job.tenant, idempotency_key=key
            )
            sent = WireJob.of(job).sent_to(routed.model)
            self._enqueue(self._client._run(self._client._operations.adapted(sent)), part)
            self._client.admin.keep_routed(routed)

    def _enqueue(self, job: Job, part: str) -> None:
        operations = self._client._operations
        # From the task's id: when Celery publishes again after a lost reply, it is the same job.
        job_id = task_job_id(read_headers(part), job.model, operations.settings.partitions)
        signed = sign_part(part, job_id, self._client._run(operations.celery_key()))
        self._client._enqueue(WireJob.of(job).completing(signed), job_id)


def _of_any_protocol(
    headers: Mapping[str, Any], body: Any
) -> tuple[Mapping[str, Any], tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]]:
    """A message's headers and body in Celery's second protocol; the first has everything in the body."""
    # The second protocol's body is a list: args, kwargs, and what is embedded.
    if not isinstance(body, Mapping):
        return headers, body
    embed = {name: body.get(name) for name in ("callbacks", "errbacks", "chain", "chord")}
    kept = {name: value for name, value in body.items() if name not in {"args", "kwargs", *embed}}
    named = {"group": kept.pop("taskset", None)}
    return {**headers, **kept, **named}, (body["args"], body["kwargs"], embed)


def default_model(settings: CelerySettings, client: Client) -> str:
    """The model for a task that names none.

    Raises:
        InvalidJob: no default is set, and no model or more than one is served.
    """
    chosen = settings.default_model
    return only_model(client.models()) if chosen is None else chosen


def job_fields(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `Job` from the task's arguments.

    The only positional argument is the prompt, or the result of the previous task in a chain: a text, or the
    result of a generation, of which the text is used.

    Raises:
        InvalidJob: there is more than one positional argument, or it has no text.
    """
    fields = {name: value for name, value in kwargs.items() if value is not None}
    if not args:
        return fields
    if len(args) > 1:
        raise InvalidJob(
            "prompt", f"is the only positional argument, but {len(args)} were given; name the others"
        )
    (prompt,) = args
    if isinstance(prompt, Mapping) and "text" in prompt:
        prompt = prompt["text"]
    if "prompt" in fields or "messages" in fields or "prompt_token_ids" in fields:
        raise InvalidJob(
            "prompt",
            "is given twice, by position (or the previous task) and by name; .si() ignores the previous task",
        )
    fields["prompt"] = prompt
    return fields


def celery_part(
    headers: Mapping[str, Any],
    embed: Mapping[str, Any],
    properties: Mapping[str, Any],
    app_name: str | None = None,
) -> str:
    """The message without its arguments, as JSON, with which the task is completed when the job has ended.

    It names the app that must complete it, because of the app's broker and result backend, unless the app has
    no name of its own: `Celery(__name__)` in a script is called `__main__`.

    Raises:
        InvalidJob: a callback's arguments can't be written as JSON; pickles are neither made nor read.
    """
    kept = {
        name: properties[name] for name in ("correlation_id", "reply_to", "priority") if name in properties
    }
    part: dict[str, Any] = {"headers": dict(headers), "embed": dict(embed), "properties": kept}
    if has_name(app_name):
        part["app"] = app_name
    try:
        text: str = to_json(part)
        read_headers(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJob("link", f"the task's callbacks can't be written as JSON: {error}") from None
    return text


def _seconds_until(moment: str) -> float:
    when = maybe_make_aware(datetime.fromisoformat(moment))
    return float((when - datetime.now(UTC)).total_seconds())
