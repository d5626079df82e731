"""Enqueueing the lines of a batch, round by round; lines that find no room are left for the next round."""

from collections.abc import Sequence
from typing import Any

from ..schemas.errors import BrokerUnavailable, HeadraceError, JobsRefused, QueueFull, RateLimited
from ..schemas.job import Job
from .async_client import AsyncClient, AsyncJobHandle
from .batch_lines import Line

Outcome = AsyncJobHandle | HeadraceError
"""A line's job, or why it has none."""


def first_outcomes(lines: Sequence[Line]) -> list[Outcome | None]:
    """The refusals of lines that are no jobs; None for those that are to be enqueued."""
    return [line.job if isinstance(line.job, HeadraceError) else None for line in lines]


async def enqueue_round(
    client: AsyncClient,
    lines: Sequence[Line],
    outcomes: list[Outcome | None],
    no_room: tuple[type[QueueFull | RateLimited], ...],
) -> float:
    """Enqueue the lines that have no outcome yet, and write what became of them into `outcomes`.

    Args:
        client: enqueues them.
        lines: the lines, some of which may have an outcome already.
        outcomes: by line; None stays for one that found no room.
        no_room: refusals that pass by waiting.

    Returns:
        Seconds to wait before the next round; 0 if every line has an outcome.

    Raises:
        BrokerUnavailable: Redis was unreachable for too long.
    """
    waiting = [position for position, outcome in enumerate(outcomes) if outcome is None]
    jobs = [job for position in waiting if isinstance(job := lines[position].job, Job)]
    try:
        accepted: list[Any] = list(await client.enqueue_many(jobs))
    except JobsRefused as refused:
        accepted = list(refused.outcomes)
    pause_s = 0.0
    for position, outcome in zip(waiting, accepted, strict=True):
        # Whether it was accepted is unknown. The next run enqueues it under the same key, and finds out.
        if isinstance(outcome, BrokerUnavailable):
            raise outcome
        if isinstance(outcome, no_room):
            pause_s = max(pause_s, outcome.retry_after_s)
        else:
            outcomes[position] = outcome
    return pause_s
