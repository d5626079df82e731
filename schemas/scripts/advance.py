"""Publish new tokens of running jobs and renew their leases."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..keys import Tag
from ..redis.call import Arg, Call, script, text


@dataclass(slots=True)
class Segment:
    """Tokens `start..offset` of a running job's stream, as its owner writes them.

    Attributes:
        payload: the chunk as JSON (`chunk_payload`); empty renews the lease only.
    """

    job_id: str
    fence: str
    start: int
    offset: int
    payload: str = ""

    @property
    def args(self) -> dict[str, Arg]:
        """The arguments of scripts that write one segment."""
        return {
            "id": self.job_id,
            "fence": self.fence,
            "from": self.start,
            "to": self.offset,
            "payload": self.payload,
        }


class AdvanceStatus(StrEnum):
    """The outcome of a write."""

    OK = "ok"
    CANCELLED = "cancelled"
    """Written; the producer wants the job to end."""
    EXPIRED = "expired"
    """Written; the job's deadline has passed."""
    FENCED = "fenced"
    """Refused: the job belongs to another worker now, or has ended."""
    GONE = "gone"
    """Refused: the job's record doesn't exist."""
    BEHIND = "behind"
    """Refused: the log ends at `log_offset`; send again from there."""
    DAMAGED = "damaged"
    """Refused: the job's keys were changed from outside and can't be written."""
    ALREADY = "already"
    """The job had already ended; nothing was done."""


@dataclass(slots=True)
class Advance:
    """The answer to one write; `log_offset` is set with `BEHIND`."""

    status: AdvanceStatus
    log_offset: int = 0


def parse_answer(reply: bytes | str) -> Advance:
    """The answer of `advance`, `finish` and `release` for one job."""
    status, _, detail = text(reply).partition(" ")
    return Advance(AdvanceStatus(status), int(detail) if status == "behind" else 0)


def advance(tag: Tag, lease_ms: int, segments: Sequence[Segment]) -> Call[list[Advance]]:
    """Write the segments and renew every job's lease; one answer per segment, in order."""
    args: list[Arg] = []
    for segment in segments:
        args += (segment.job_id, segment.fence, segment.start, segment.offset, segment.payload)

    def parse(reply: list[Any]) -> list[Advance]:
        return [parse_answer(answer) for answer in reply]

    return script("advance").call(tag.base, parse, *args, lease_ms=lease_ms)
