"""Take back a dead worker's jobs."""

from typing import Any, NamedTuple

from ..keys import Tag
from ..redis.call import Call, script
from ..settings.queue import QueueSettings
from .ended import Ended, read_ended
from .upkeep import ITEMS_A_CALL, SUSPECT_MARGIN_TOKENS


class Recovered(NamedTuple):
    """How many jobs one call took back, how many it left to the next, and those that have ended."""

    jobs: int
    left: int
    ended: list[Ended]


def recover(
    tag: Tag, worker_id: str, settings: QueueSettings, *, blamed: bool, how: str = ""
) -> Call[Recovered]:
    """Queue the jobs of a worker whose process has ended, without waiting for their leases.

    Call it until none is left. `blamed` says that the process ended because of something it ran (a crash, not
    a SIGKILL from outside), which makes its jobs suspects, to be tried alone. `how` it ended goes into their
    history.
    """

    def parse(reply: Any) -> Recovered:
        jobs, left, ended = reply
        return Recovered(int(jobs), int(left), read_ended(ended))

    return script("recover").call(
        tag.base,
        parse,
        worker=worker_id,
        blamed=int(blamed),
        suspect_margin=SUSPECT_MARGIN_TOKENS,
        dead_retention_ms=round(settings.dead_retention_s * 1000),
        how=how,
        limit=ITEMS_A_CALL,
        most_attempts=settings.max_attempts,
    )
