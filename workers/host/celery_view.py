"""What Celery sees of the host: each running job as a task, and events about the engine processes.

A job isn't a Celery message and its host has no pool. Each job therefore gets a `Request` that Celery's own
state and events understand: `inspect active`, `inspect query_task`, Flower's list of tasks, `revoke`.

Celery's state belongs to its consumer's thread. Other threads put their news into a queue that this thread
empties. While the consumer reconnects, news is late but not lost; in a long outage the oldest is dropped.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.request import Request

from ..supervision.pipe import JobLeft, JobStarted

TASK = "headrace.generate"

_REVOKED = {"cancelled", "expired"}
_GONE = {"engine-died", "engine-ended"}

MOST_NEWS = 10_000
"""News kept while Celery's broker is unreachable; a few megabytes."""

News = Callable[[Any], None]


class JobRequest(Request):  # type: ignore[misc]
    """A running job in Celery's eyes.

    Args:
        started: the engine process's notice.
        consumer: Celery's consumer.
        end: cancels the job.
    """

    def __init__(self, started: JobStarted, consumer: Any, end: Callable[[str], object]) -> None:
        headers = {
            "id": started.task_id,
            "task": TASK,
            "argsrepr": started.args,
            "kwargsrepr": started.kwargs,
            "root_id": started.root_id or started.task_id,
            "parent_id": started.parent_id,
            "retries": started.retries,
            # Callbacks store the result, in the backend of the app that sent the task.
            "ignore_result": True,
        }
        body: tuple[str, str, dict[str, Any]] = (started.args, started.kwargs, {})
        message = SimpleNamespace(headers=headers, body=body, delivery_info={}, properties={})
        super().__init__(
            message,
            app=consumer.app,
            hostname=consumer.hostname,
            eventer=consumer.event_dispatcher,
            task=consumer.app.tasks[TASK],
            decoded=True,
        )
        self._job_id, self._end = started.job_id, end

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Cancel the job: there is no process to kill."""
        self._end(self._job_id)

    cancel = terminate

    def announce(self) -> None:
        """Tell Celery that the job runs here."""
        state.task_reserved(self)
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=self.parent_id,
            retries=self.request_dict["retries"],
        )
        self.on_accepted(os.getpid(), time.monotonic())

    def left(self, how: str, shown: str) -> None:
        """Tell Celery that the job no longer runs here."""
        state.task_ready(self, successful=how == "succeeded")
        runtime = time.time() - (self.time_start or time.time())
        if how in _REVOKED:
            self.send_event("task-revoked", terminated=True, signum=None, expired=how == "expired")
        elif how == "succeeded":
            self.send_event("task-succeeded", result=shown, runtime=runtime)
        elif how == "failed":
            self.send_event("task-failed", exception=shown, traceback="")
        else:  # it continues on another worker, which announces it again
            self.send_event("task-retried", exception=f"continues elsewhere: {how}", traceback="")


class CeleryView:
    """Keeps Celery's picture of the host up to date. `job` and `engine` may be called from any thread.

    Args:
        end: cancels a job.
    """

    def __init__(self, end: Callable[[str], object]) -> None:
        self._end = end
        self._news: deque[tuple[News, str]] = deque()  # each with the id of the job that it removes, if any
        self._requests: dict[str, tuple[str, JobRequest]] = {}
        self._consumer: Any = None
        self._nobody_listens = False

    def job(self, engine: str, notice: JobStarted | JobLeft) -> None:
        """Pass on an engine process's notice about a job."""

        def start(consumer: Any) -> None:
            assert isinstance(notice, JobStarted)
            request = JobRequest(notice, consumer, self._end)
            self._requests[notice.job_id] = engine, request
            request.announce()

        def leave(consumer: Any) -> None:
            assert isinstance(notice, JobLeft)
            known = self._requests.get(notice.job_id)
            if known is not None and known[0] == engine:
                del self._requests[notice.job_id]
                known[1].left(notice.how, notice.shown)

        if isinstance(notice, JobStarted):
            self._tell(start)
        else:
            self._tell(leave, leaving=notice.job_id)

    def engine(self, event: str, engine: str, **fields: str | float) -> None:
        """Send an event about an engine process: `engine-ready`, `engine-died`, `engine-crash-loop` …"""

        def send(consumer: Any) -> None:
            if event in _GONE:
                self._lose(engine)
            consumer.event_dispatcher.send(f"worker-{event}", engine=engine, **fields)

        self._tell(send)

    def _tell(self, news: News, leaving: str = "") -> None:
        if self._nobody_listens:
            return
        while len(self._news) >= MOST_NEWS:
            _, left = self._news.popleft()
            self._requests.pop(
                left, None
            )  # its end won't be announced, so it must not look as if it ran forever
        self._news.append((news, leaving))
        consumer = self._consumer
        if consumer is not None:
            # The hub is the consumer's event loop: what it calls runs in the consumer's thread.
            consumer.hub.call_soon(self._catch_up)

    # On the consumer's thread -----------------------------------------------------------------------------

    def attach(self, consumer: Any) -> None:
        """Celery is connected: announce again the requests that it knew before."""
        self._nobody_listens = consumer.hub is None or consumer.event_dispatcher is None
        if self._nobody_listens:
            self._news.clear()
            return
        for _, request in list(self._requests.values()):
            request.eventer = consumer.event_dispatcher
            state.task_reserved(request)
            state.active_requests.add(request)
        self._consumer = consumer
        self._catch_up()

    def detach(self) -> None:
        """Celery reconnects, or ends."""
        self._consumer = None

    def _lose(self, engine: str) -> None:
        """Remove the jobs that an engine process had not handed over."""
        for job_id, (owner, request) in list(self._requests.items()):
            if owner == engine:
                del self._requests[job_id]
                request.left("its engine ended", "")

    def _catch_up(self) -> None:
        while self._news and (consumer := self._consumer) is not None:
            news, _ = self._news.popleft()
            news(consumer)


class CeleryViewStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Attaches the view whenever Celery connects."""

    requires = ("celery.worker.consumer.tasks:Tasks", "celery.worker.consumer.events:Events")

    def start(self, consumer: Any) -> None:
        """Celery is connected."""
        _view(consumer).attach(consumer)

    def stop(self, consumer: Any) -> None:
        """Celery reconnects, or ends."""
        _view(consumer).detach()


def _view(consumer: Any) -> CeleryView:
    view: CeleryView = consumer.controller.headrace.celery_view
    return view


def add_task(app: Celery) -> None:
    """Add the task that every `JobRequest` is a request of. No message for it is ever sent here.

    If the shared task of this name has been imported, the app has it already and Celery would keep it, so it
    is removed first.
    """
    app.finalize(auto=True)
    app.tasks.pop(TASK, None)
    app.task(name=TASK, ignore_result=True, shared=False)(_not_here)


def _not_here() -> None:
    raise NotImplementedError("generations are claimed from their stream, never from a Celery queue")
