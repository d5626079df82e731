"""Give a running job back."""

from enum import StrEnum

from ..keys import Tag
from ..redis.call import Call, script
from .advance import Advance, Segment, parse_answer


class ReleaseReason(StrEnum):
    """Why a worker gives a job back."""

    DRAIN = "drain"
    """The worker is shutting down."""
    PREEMPTED = "preempted"
    """Its pages are needed for a more urgent class."""
    TRIAL = "trial"
    """A suspect must be tried alone here."""
    OVERFLOW = "overflow"
    """Its prompt has more tokens than the claim estimated, and they don't fit now."""


def release(tag: Tag, segment: Segment, reason: ReleaseReason, prompt_tokens: int = 0) -> Call[Advance]:
    """Give the job back with its progress, to be resumed ahead of the lanes. No attempt is counted.

    `prompt_tokens`, if known, makes the next claim's estimate exact.
    """
    return script("release").call(
        tag.base, parse_answer, **segment.args, prompt_tokens=prompt_tokens, reason=reason.value
    )
