"""A generation that was sent by the task's name, as seen by the Celery worker that receives it."""

from collections.abc import Mapping
from typing import Any

from celery.worker.request import Request


class GenerateRequest(Request):  # type: ignore[misc]
    """A request that `headrace callbacks` puts on the stream at once.

    Celery's events, logs and `inspect` see only as much of the arguments as `show_prompts` allows. The sender
    doesn't know about that, so its message shows all of them, including a webhook's secret.
    """

    eta = None
    """Don't hold the message back, or it would be redelivered again and again: the job waits instead."""
    expires = None
    """Don't expire the message: the job expires instead, and reports it."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        shown = "", ""
        if isinstance(self.args, list | tuple) and isinstance(self.kwargs, Mapping):  # else the task fails
            shown = self.task.shown(self.args, self.kwargs)
        self._argsrepr, self._kwargsrepr = shown
        self.request_dict.update(argsrepr=shown[0], kwargsrepr=shown[1])

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `inspect` shows, which is never more than events do."""
        found: dict[str, Any] = super().info(safe=True)
        return found
