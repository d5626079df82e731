"""`AsyncResult` of a generation: it also streams, and its revoke cancels the job."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult
from redis.exceptions import NoPermissionError

from ...schemas.errors import JobCancelled, JobExpired, JobFailed, JobNotFound, ResultTimeout
from ...schemas.events import Chunk
from ..client import JobHandle


class GenerationResult(AsyncResult):  # type: ignore[misc]
    """A Celery result whose task is a generation job."""

    _job: JobHandle | None = None

    @property
    def job(self) -> JobHandle:
        """The job itself: `status()`, `stream()`, `result()`.

        Raises:
            JobNotFound: there is none (any more) for this task.
        """
        if self._job is None:
            from .task import generate  # which needs this; a pickle may be all that its reader has imported

            self._job = self.app.tasks[generate.name].client()._job_of_task(self.id)
        return self._job

    def stream(self, from_offset: int = 0) -> Iterator[Chunk]:
        """The job's chunks as they come; see `JobHandle.stream`."""
        return self.job.stream(from_offset)

    def get(  # the parameters are Celery's
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *args: Any,
        on_message: Callable[[dict[str, Any]], object] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Celery's `get`; `on_message` is also called for every chunk of the stream as it comes.

        Such a message is `{"task_id", "status": "PROGRESS", "result": {"offset", "text", "token_ids"}}`;
        Celery's own message of the end has the result.
        """
        if on_message is not None and not self.ready():
            started = time.monotonic()
            self._report_progress(on_message, timeout)
            timeout = None if timeout is None else max(0.001, timeout - (time.monotonic() - started))
        return super().get(timeout, propagate, *args, on_message=on_message, **kwargs)

    def _report_progress(
        self, on_message: Callable[[dict[str, Any]], object], timeout_s: float | None
    ) -> None:
        try:
            for chunk in self.job.stream(timeout_s=timeout_s):
                progress = {"offset": chunk.offset, "text": chunk.text, "token_ids": list(chunk.token_ids)}
                on_message({"task_id": self.id, "status": "PROGRESS", "result": progress})
        except (JobFailed, JobCancelled, JobExpired):
            return  # Celery's own result says so, and propagates or not as it was asked to
        except ResultTimeout as error:
            raise CeleryTimeoutError(str(error)) from None

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Cancel the job for good, and tell the workers at once as Celery does.

        A producer's Redis user may not speak to Celery's workers; its job is cancelled all the same.
        """
        with suppress(JobNotFound):
            self.job.cancel()
        with suppress(NoPermissionError):
            super().revoke(*args, **kwargs)
