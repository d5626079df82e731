"""Take the jobs of a dead worker back."""

from typing import Any

from ..keys import Tag
from ..settings import QueueSettings
from .call import Call, script
from .upkeep import SUSPECT_MARGIN_TOKENS


def recover(tag: Tag, worker_id: str, settings: QueueSettings, *, blamed: bool, how: str = "") -> Call[int]:
    """Queue the jobs of a worker whose process has ended, without waiting for their leases; gives how many.

    `blamed` says that it ended by something it ran (a crash, not a SIGKILL from outside): its jobs are
    suspects then, to be run one at a time. `how` it ended goes into their history.
    """

    def parse(reply: Any) -> int:
        return int(reply)

    args = (worker_id, int(blamed), SUSPECT_MARGIN_TOKENS, round(settings.dead_retention_s * 1000), how)
    return Call(script("recover"), tag.base, args, parse)
