"""Warns the sender of a task if nobody will complete it, because nobody else would."""

import logging
import time

from ...schemas import keys
from ...schemas.errors import BrokerUnavailable
from ...schemas.presence import has_name, present, serves
from ..client import Client
from ..steps import Read

KNOWN_S = 30.0
"""How long living callbacks are relied on, and how often their absence is logged."""

log = logging.getLogger("headrace")


class Followed:
    """Warns, in one process, if no callbacks of an app are alive."""

    def __init__(self) -> None:
        self._look_at: dict[str | None, float] = {}

    def check(self, client: Client, app: str | None) -> None:
        """Look once in a while; an unreachable Redis says nothing about callbacks."""
        now = time.monotonic()
        if now < self._look_at.get(app, 0.0):
            return
        # Before the look, so that threads that send meanwhile don't look too.
        self._look_at[app] = now + KNOWN_S
        operations = client._operations
        name = keys.callbacks(operations.settings.namespace)
        try:
            living = present(*client._run(operations.send(Read((("TIME",), ("HGETALL", name))))))
        except BrokerUnavailable:
            return
        if not serves(living, app):
            log.warning(_nobody(app, living))


def _nobody(app: str | None, living: frozenset[str]) -> str:
    of = f" of the Celery app {app!r}" if has_name(app) else ""
    others = f", only of {', '.join(map(repr, sorted(living)))}" if living else ""
    return (
        f"no callbacks{of} are alive{others}: generations run, but their tasks don't end until "
        "`headrace callbacks --app module:app` runs for that app"
    )
