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
    """A suspect is to be tried alone here."""
    OVERFLOW = "overflow"
    """Its prompt has more tokens than the claim's estimate, and they don't fit now."""


def release(tag: Tag, segment: Segment, reason: ReleaseReason, prompt_tokens: int = 0) -> Call[Advance]:
    """Give the job back with its progress, to be resumed ahead of the lanes; counts as no attempt.

    `prompt_tokens`, when known, makes the next claim's estimate exact.
    """
    return script("release").call(
        tag.base, parse_answer, **segment.args, prompt_tokens=prompt_tokens, reason=reason.value
    )
