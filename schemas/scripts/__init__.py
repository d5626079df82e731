"""Every state change of the queue: one Lua file with one typed caller, each atomic and single-slot.

A caller builds a `Call` (nothing is sent); `run`, `run_many` and their async twins send it.
"""

from ..redis.call import (
    Call,
    Script,
    one,
    run,
    run_async,
    run_confirmed,
    run_confirmed_async,
    run_many,
    run_many_async,
)
from .accept_delivery import accept_delivery
from .advance import Advance, AdvanceStatus, Segment, advance
from .advance_batch import BatchPart, advance_batch
from .cancel import CancelStatus, cancel, purge
from .claim import ClaimedJob, ClaimReply, ClaimRequest, claim
from .claim_batch import claim_batch
from .claim_deliveries import DeliveriesReply, DueDelivery, claim_deliveries
from .drain import drain
from .drop_dead import drop_dead
from .drop_entry import drop_entry
from .end_batch import end_batch
from .ended import Ended
from .enqueue import enqueue
from .finish import finish
from .heartbeat import HeartbeatReply, forget_worker, heartbeat
from .pause import pause, resume
from .recover import Recovered, recover
from .release import ReleaseReason, release
from .replay_delivery import replay_delivery
from .requeue_dead import requeue_dead
from .set_route import set_route
from .settle_delivery import settle_delivery
from .trial import trial
from .upkeep import ModelChange, UpkeepCounts, UpkeepReply, upkeep

__all__ = [
    "Advance",
    "AdvanceStatus",
    "BatchPart",
    "Call",
    "CancelStatus",
    "ClaimReply",
    "ClaimRequest",
    "ClaimedJob",
    "DeliveriesReply",
    "DueDelivery",
    "Ended",
    "HeartbeatReply",
    "ModelChange",
    "Recovered",
    "ReleaseReason",
    "Script",
    "Segment",
    "UpkeepCounts",
    "UpkeepReply",
    "accept_delivery",
    "advance",
    "advance_batch",
    "cancel",
    "claim",
    "claim_batch",
    "claim_deliveries",
    "drain",
    "drop_dead",
    "drop_entry",
    "end_batch",
    "enqueue",
    "finish",
    "forget_worker",
    "heartbeat",
    "one",
    "pause",
    "purge",
    "recover",
    "release",
    "replay_delivery",
    "requeue_dead",
    "resume",
    "run",
    "run_async",
    "run_confirmed",
    "run_confirmed_async",
    "run_many",
    "run_many_async",
    "set_route",
    "settle_delivery",
    "trial",
    "upkeep",
]
