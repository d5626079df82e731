"""`AsyncResult` of a generation: it also streams, and its revoke cancels the job."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from celery.exceptions import NotRegistered
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult
from redis.exceptions import NoPermissionError

from ...schemas.errors import (
    BrokerUnavailable,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    ResultTimeout,
)
from ...schemas.events import Chunk
from ..client import Client, JobHandle
from ..waiting import EXPLAIN_S, Waiting
from .waiting import UNREGISTERED, explain_task


class _NotYet(Exception):
    """Raised if there is no result after a moment."""


class GenerationResult(AsyncResult):  # type: ignore[misc]
    """A Celery result whose task is a generation job."""

    _job: JobHandle | None = None

    @property
    def job(self) -> JobHandle:
        """The job itself: `status()`, `stream()`, `result()`.

        Raises:
            JobNotFound: there is no job for this task, or no longer.
        """
        if self._job is None:
            self._job = self._client._job_of_task(self.id)
        return self._job

    @property
    def _client(self) -> Client:
        from .task import generate  # which needs this; a pickle may be all that its reader has imported

        client: Client = self.app.tasks[generate.name].client()
        return client

    def stream(self, from_offset: int = 0) -> Iterator[Chunk]:
        """Yield the job's chunks as they arrive; see `JobHandle.stream`."""
        return self.job.stream(from_offset)

    def get(  # the parameters are Celery's
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *args: Any,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Celery's `get`, which also calls `on_message` for every chunk of the stream as it arrives.

        Such a message is `{"task_id", "status": "PROGRESS", "result": {"offset", "text", "token_ids"}}`,
        with `choice` for any of several answers but the first.
        Celery's own message at the end holds the result.
        """
        started = time.monotonic()

        def left() -> float | None:
            # Some of Celery's backends take 0 for no limit.
            return None if timeout is None else max(0.001, timeout - (time.monotonic() - started))

        def wait(timeout_s: float | None) -> Any:
            get = super(GenerationResult, self).get
            return get(timeout_s, propagate, *args, on_message=on_message, **kwargs)

        reported = on_message is not None and not self.ready()
        if on_message is not None and reported:
            self._report_progress(on_message, timeout)
        try:
            # First a short wait: if it is over without a result, the log says why, and the rest is waited
            # for.
            if not reported and (timeout is None or timeout > EXPLAIN_S):
                with suppress(_NotYet):
                    return self._unless_late(wait)
                self._tell()
            return wait(left())
        except NotRegistered as error:
            raise NotRegistered(f"{error.args[0]}: {UNREGISTERED}") from None
        except CeleryTimeoutError as error:
            if self.ready():  # it is the task's own
                raise
            why = self._why()
            raise CeleryTimeoutError(f"{error}: {why.text}" if why else str(error)) from None

    def _unless_late(self, wait: Callable[[float], Any]) -> Any:
        try:
            return wait(EXPLAIN_S)
        except CeleryTimeoutError:
            if self.ready():
                raise
            raise _NotYet from None

    def _tell(self) -> None:
        """Log why there is no result yet."""
        waits = self._client._operations.waits
        if waits.takes(self.id) and (why := self._why()) is not None and not why.expected:
            waits.say(f"task {self.id}", why.text)

    def _why(self) -> Waiting | None:
        try:
            return explain_task(self._client, self.app, self.job)
        except JobNotFound:
            return explain_task(self._client, self.app, None)
        except BrokerUnavailable:
            return None

    def _report_progress(
        self, on_message: Callable[[dict[str, Any]], object], timeout_s: float | None
    ) -> None:
        try:
            for chunk in self.job.stream(timeout_s=timeout_s):
                progress = {"offset": chunk.offset, "text": chunk.text, "token_ids": list(chunk.token_ids)}
                if chunk.choice:
                    progress["choice"] = chunk.choice
                on_message({"task_id": self.id, "status": "PROGRESS", "result": progress})
        except (JobFailed, JobCancelled, JobExpired):
            return  # Celery's own result says so, and propagates or not as it was asked to
        except ResultTimeout as error:
            raise CeleryTimeoutError(str(error)) from None

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Cancel the job for good, and tell the workers at once, as Celery does.

        A producer's Redis user may not be allowed to talk to Celery's workers; the job is cancelled even
        then.
        """
        with suppress(JobNotFound):
            self.job.cancel()
        with suppress(NoPermissionError):
            super().revoke(*args, **kwargs)
