"""What a process says of its own health, for `/livez` and `/readyz`.

Live: its loop turns; where not, only a restart helps. Ready: it does its work; where not, it says what is in
the way. A worker whose Redis is away is live and not ready: a restart would not bring Redis back.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

TURN_S = 1.0
"""How soon a loop that turns answers."""


@dataclass(slots=True, frozen=True)
class Report:
    """The answer to one question.

    Attributes:
        problems: what is in the way, a sentence each; none where all is well.
        facts: the state of its parts.
    """

    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {"ok": not self.problems, "problems": self.problems, **self.facts}


class Health(Protocol):
    """Whoever answers; from any thread, within two seconds."""

    def live(self) -> Report:
        """Whether its loop turns."""
        ...

    def ready(self) -> Report:
        """Whether it does its work."""
        ...
