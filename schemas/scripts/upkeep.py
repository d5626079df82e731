"""Do what becomes due in a queue as time passes."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ..keys import Tag
from ..redis.call import Call, script
from ..settings.queue import QueueSettings
from .ended import Ended, read_ended

ITEMS_A_CALL = 100
"""Limits how long one call occupies Redis."""

SUSPECT_MARGIN_TOKENS = 8
"""A recovered job stops being a suspect this far past its last published token: its worker may have
sampled a few more before it died, and generation is the same again up to there. Doubles up to three times
with each death after the second, for a worker whose tokens were further ahead of the log."""

WORKER_SILENCE_S = 60.0
"""A worker that has been silent for this long is forgotten."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What happens to jobs with tokens once no worker has their model.

    Attributes:
        action: they start over, continue with another model, or fail.
        grace_s: how long no worker with the model may have been heard from.
    """

    action: Literal["restart", "resume", "fail"] = "restart"
    grace_s: float = 30.0


class UpkeepCounts(NamedTuple):
    """How many items of each kind the call handled, and how many jobs wait now.

    Attributes:
        model_changed: jobs whose model was gone, and which were restarted, resumed or failed.
    """

    promoted: int
    expired: int
    recovered: int
    dead: int
    workers: int
    model_changed: int
    queued: int


class UpkeepReply(NamedTuple):
    """What one call did.

    Attributes:
        ended: jobs whose deadline has passed, whose workers died too often, or whose model is gone.
    """

    counts: UpkeepCounts
    ended: list[Ended]


def upkeep(
    tag: Tag, settings: QueueSettings, lease_ms: int = 10_000, model_change: ModelChange | None = None
) -> Call[UpkeepReply]:
    """Promote due jobs, expire deadlines, recover jobs of lapsed leases, forget silent workers.

    Call it several times per `lease_ms`: otherwise Redis may have been unreachable, and lapsed leases get
    that time to be renewed. Without a `model_change`, jobs whose model is gone are left to other workers.
    """

    def parse(reply: list[Any]) -> UpkeepReply:
        # In the order of the fields of `UpkeepCounts`, which is that of the script's reply.
        *counts, ended = reply
        return UpkeepReply(UpkeepCounts(*map(int, counts)), read_ended(ended))

    return script("upkeep").call(
        tag.base,
        parse,
        limit=ITEMS_A_CALL,
        suspect_margin=SUSPECT_MARGIN_TOKENS,
        worker_silence_ms=round(WORKER_SILENCE_S * 1000),
        dead_retention_ms=round(settings.dead_retention_s * 1000),
        lease_ms=lease_ms,
        most_attempts=settings.max_attempts,
        model_grace_ms=round(model_change.grace_s * 1000) if model_change else 0,
        on_model_change=model_change.action if model_change else "",
    )
