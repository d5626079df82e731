"""What time does to a queue."""

from typing import Any, NamedTuple

from ..keys import Tag
from ..settings import QueueSettings
from .call import Call, script

ITEMS_A_CALL = 100
"""Bounds how long one call holds Redis up."""

SUSPECT_MARGIN_TOKENS = 8
"""A recovered job stops being a suspect this far past its last published token: its worker may have
sampled a few more before it died, and generation is the same again up to there. Doubles up to three times
with each death after the second, for a worker whose tokens were further ahead of the log."""

WORKER_SILENCE_S = 60.0
"""A worker that has not been heard of for this long is forgotten."""


class UpkeepReply(NamedTuple):
    """How many items of each kind the call dealt with, and how many jobs wait now."""

    promoted: int
    expired: int
    recovered: int
    dead: int
    workers: int
    queued: int


def upkeep(tag: Tag, settings: QueueSettings, lease_ms: int = 10_000) -> Call[UpkeepReply]:
    """Promote due jobs, expire deadlines, recover jobs of lapsed leases, forget silent workers.

    To be called several times in `lease_ms`: when it was not, Redis may have been away, and lapsed leases get
    that time to be renewed.
    """

    def parse(reply: list[Any]) -> UpkeepReply:
        return UpkeepReply(*(int(count) for count in reply))

    args = (
        ITEMS_A_CALL,
        SUSPECT_MARGIN_TOKENS,
        round(WORKER_SILENCE_S * 1000),
        round(settings.dead_retention_s * 1000),
        lease_ms,
        settings.max_attempts,
    )
    return Call(script("upkeep"), tag.base, args, parse)
