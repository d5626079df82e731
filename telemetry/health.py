"""What a process reports about its own health, for `/livez` and `/readyz`.

Live means that its loop is running; if not, only a restart helps. Ready means that it can do its work; if
not, it says what prevents it. A worker that can't reach Redis is live but not ready: a restart would not
bring Redis back.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

TURN_S = 1.0
"""How soon a running loop answers."""


@dataclass(slots=True, frozen=True)
class Report:
    """The answer to one health check.

    Attributes:
        problems: what is wrong, one sentence each; empty if all is well.
        facts: the state of the process's parts.
    """

    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {"ok": not self.problems, "problems": self.problems, **self.facts}


class Health(Protocol):
    """Answers health checks, from any thread, within two seconds."""

    def live(self) -> Report:
        """Whether the process's loop is running."""
        ...

    def ready(self) -> Report:
        """Whether the process can do its work."""
        ...
