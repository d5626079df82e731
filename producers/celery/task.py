"""The task `headrace.generate`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from celery import Task, shared_task
from celery.exceptions import Ignore

from ...schemas.errors import InvalidJob, JobExpired, JobFailed
from ...schemas.events import JobResult
from ...schemas.job import JobClass
from ...schemas.redaction import shown
from ...schemas.settings.celery import CelerySettings
from ..client import Client
from .followed import Followed
from .message import StreamProducer, default_model, job_fields
from .result import GenerationResult

if TYPE_CHECKING:
    from celery import Signature

NAME = "headrace.generate"

OUTCOME = "headrace_outcome"
"""The request's attribute through which `headrace callbacks` passes the outcome, as a function that returns
or raises it."""


class GenerateTask(Task):  # type: ignore[misc]
    """A task that no Celery worker runs: its jobs go to the stream and come back as outcomes."""

    name = NAME
    Request = f"{__package__}.request:GenerateRequest"  # by name: only who receives it needs Celery's worker
    typing = False  # the job's own validation names the field
    throws = (JobFailed, JobExpired)  # nothing to log a traceback for: the job's own record says why
    track_started = False  # it has started when its job has, which the completion stores
    acks_late = True
    _connected: tuple[int, CelerySettings, Client] | None = None
    _followed = Followed()

    def _connection(self) -> tuple[CelerySettings, Client]:
        # A pool's process is forked from one that may have connected: a connection can't be shared.
        if self._connected is None or self._connected[0] != os.getpid():
            settings = CelerySettings.load()
            self._connected = (os.getpid(), settings, Client.from_env(settings.redis_url))
        return self._connected[1:]

    def client(self) -> Client:
        """The client of the Redis that holds the jobs, one per process."""
        return self._connection()[1]

    def shown(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """The arguments as `argsrepr` and `kwargsrepr`, as far as they may be shown."""
        return shown(args, kwargs, self._connection()[0].show_prompts)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> GenerationResult:  # noqa: N802 (Celery's name)
        """The result of a generation by its task id."""
        kwargs = {"backend": self.backend, "task_name": self.name, "app": self.app, **kwargs}
        return GenerationResult(task_id, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> GenerationResult:
        """Enqueue a generation; the arguments are those of `Client.enqueue`."""
        return self.apply_async(args, kwargs)

    if TYPE_CHECKING:  # Celery has no types, so checkers would guess

        def s(self, *args: Any, **kwargs: Any) -> "Signature": ...

        def si(self, *args: Any, **kwargs: Any) -> "Signature": ...

    def apply_async(  # the parameters are Celery's
        self,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        *rest: Any,
        **options: Any,
    ) -> GenerationResult:
        """Enqueue a generation. Celery's options have their usual meaning, as far as it applies to a job.

        `countdown` and `eta` delay it, and `expires` is its deadline. Its class is `queue` ("interactive",
        "standard" or "batch"), or else follows from `priority` (the most urgent third of the broker's scale
        is "interactive", the least urgent "batch"), or else from a route in the app's `task_routes`, in the
        same way. Serializers, compression, exchanges and time limits don't apply.

        Raises:
            InvalidJob, UnknownModel, QueueFull, RateLimited, BrokerUnavailable: as `Client.enqueue`.
        """
        if self.app.conf.task_always_eager:
            return cast(
                "GenerationResult", super().apply_async(args, kwargs, task_id, producer, *rest, **options)
            )
        settings, client = self._connection()
        job_class = self._class_of(options.pop("queue", None), options.get("priority"))
        if job_class is None:
            job_class = self._routed(args, kwargs, options)
        options["argsrepr"], options["kwargsrepr"] = self.shown(args or (), kwargs or {})
        options["serializer"] = "json"
        with self.app.producer_or_acquire(producer) as real:
            stream = StreamProducer(real, client, settings, job_class, self.app.main)
            sent = super().apply_async(args, kwargs, task_id, stream, *rest, **options)
        self._followed.check(client, self.app.main)
        return cast("GenerationResult", sent)

    def _class_of(self, queue: object, priority: int | None) -> JobClass | None:
        if queue is not None:
            name = str(getattr(queue, "name", queue))
            if name not in tuple(JobClass):
                raise InvalidJob("queue", f"must be one of {', '.join(JobClass)} (got {name!r})")
            return JobClass(name)
        if priority is None:
            return None
        if not 0 <= priority <= 9:
            raise InvalidJob("priority", f"must be 0 to 9 (got {priority!r})")
        # With Redis, 0 is the most urgent; with AMQP, the least.
        amqp = self.app.connection_for_write().transport.driver_type == "amqp"
        # 0 to 2 of ten are the most urgent third, 3 to 6 the middle, 7 to 9 the rest.
        rank = 9 - priority if amqp else priority
        return JobClass.INTERACTIVE if rank < 3 else JobClass.STANDARD if rank < 7 else JobClass.BATCH

    def _routed(
        self, args: tuple[Any, ...] | None, kwargs: dict[str, Any] | None, options: dict[str, Any]
    ) -> JobClass | None:
        """The class according to `task_routes`; None for a route to any other queue."""
        route = self.app.amqp.router.lookup_route(self.name, args or (), kwargs or {}, dict(options), self)
        if isinstance(route, str):
            route = {"queue": route}
        elif route is None:
            return None
        queue = route.get("queue")
        named = str(getattr(queue, "name", queue)) in tuple(JobClass)
        return self._class_of(queue if named else None, route.get("priority"))

    def carry_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Run the task in a Celery process.

        `headrace callbacks` takes the outcome. A direct or eager call generates in place. A message that came
        through the broker, because it was sent by name, goes to the stream.
        """
        outcome = getattr(self.request, OUTCOME, None)
        if outcome is not None:
            result: dict[str, Any] = outcome()
            return result
        if self.request.called_directly or self.request.is_eager:
            return self._generate(args, kwargs)
        self.apply_async(args, kwargs, **self._options_by_name())
        raise Ignore

    def _options_by_name(self) -> dict[str, Any]:
        """The options of the message being handled, whose queue is Celery's and implies no class."""
        request = self.request
        options = {**request.as_execution_options(), "eta": request.eta}
        if request.ignore_result is not None:
            options["ignore_result"] = request.ignore_result
        if priority := request.delivery_info.get("priority"):  # 0 is also what kombu sends for none
            options["priority"] = priority
        return options

    def _generate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        settings, client = self._connection()
        fields = job_fields(args, kwargs)
        if fields.get("model") is None:
            fields["model"] = default_model(settings, client)
        return task_result(client.enqueue(**fields).result())

    def map(self, it: Iterable[Any]) -> NoReturn:
        """Refuse: a map would run in one Celery worker, one call after the other."""
        _refuse("map", "group(generate.s(prompt) for prompt in prompts)")

    def starmap(self, it: Iterable[Any]) -> NoReturn:
        """Refuse; see `map`."""
        _refuse("starmap", "group(generate.s(*args) for args in calls)")

    def chunks(self, it: Iterable[Any], n: int) -> NoReturn:
        """Refuse; see `map`."""
        _refuse("chunks", "group(generate.s(prompt) for prompt in prompts)")


def _refuse(form: str, instead: str) -> NoReturn:
    raise NotImplementedError(
        f"generate.{form} would run one generation after the other inside a Celery worker; use {instead}: "
        "headrace batches them"
    )


def task_result(result: JobResult) -> dict[str, Any]:
    """A job's result as the task's result: plain JSON, with `text` first."""
    return result.model_dump(mode="json", exclude_none=True)


if TYPE_CHECKING:
    generate: GenerateTask
else:

    @shared_task(base=GenerateTask, bind=True, name=NAME)
    def generate(self: GenerateTask, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Generate: `generate.delay("Once upon a time", model="demo", max_tokens=64).get()["text"]`.

        The arguments are those of `Client.enqueue`. The result is the job's result as a dict: `text`,
        `token_ids`, `finish_reason`, `usage`, `timings`, `job_id` and so on.
        """
        return self.carry_out(args, kwargs)
