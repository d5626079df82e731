"""A generation whose sender knew the task's name alone, as the Celery worker that receives it sees it."""

from collections.abc import Mapping
from typing import Any

from celery.worker.request import Request


class GenerateRequest(Request):  # type: ignore[misc]
    """What `headrace callbacks` puts on the stream at once.

    Celery's events, logs and `inspect` see of the arguments what `show_prompts` allows. Its sender knows
    nothing of that: its message shows all of them, a webhook's secret among them.
    """

    eta = None
    """It is the job that waits: a message held back until then would be handed out again and again."""
    expires = None
    """It is the job that expires, and says so."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        shown = "", ""
        if isinstance(self.args, list | tuple) and isinstance(self.kwargs, Mapping):  # else the task fails
            shown = self.task.shown(self.args, self.kwargs)
        self._argsrepr, self._kwargsrepr = shown
        self.request_dict.update(argsrepr=shown[0], kwargsrepr=shown[1])

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `inspect` tells of it, which is never more than events do."""
        found: dict[str, Any] = super().info(safe=True)
        return found
