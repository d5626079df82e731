"""Which jobs give way when a more urgent one doesn't fit.

A job that gives way loses nothing: it is handed back with its tokens and resumed where it stopped. The least
urgent go first and, within a class, the youngest, which have the least to compute again. No job gives way
unless together they make enough room.
"""

from collections.abc import Iterable
from typing import Protocol

from ...schemas.job import JobClass
from .running_job import RunningJob

_RANK = {job_class: rank for rank, job_class in enumerate(JobClass)}


def more_urgent(one: JobClass, other: JobClass) -> bool:
    """Whether jobs of class `one` run before those of class `other`."""
    return _RANK[one] < _RANK[other]


class Room(Protocol):
    """KV tokens and slots: how many are free, and how many a job holds."""

    @property
    def free_slots(self) -> int: ...

    @property
    def free_tokens(self) -> int: ...

    def held_tokens(self, job_id: str, /) -> int: ...


def less_urgent(running: RunningJob, job_class: JobClass) -> bool:
    """Whether the job would give way to one of `job_class`."""
    return _RANK[running.job_class] > _RANK[job_class]


def classes_above(jobs: Iterable[RunningJob]) -> tuple[JobClass, ...]:
    """The classes for which one of these jobs would give way."""
    lowest = max((_RANK[running.job_class] for running in jobs), default=0)
    return tuple(job_class for job_class in JobClass if _RANK[job_class] < lowest)


def room_made(jobs: Iterable[RunningJob], room_here: Room) -> dict[JobClass, int]:
    """About how many tokens would fit if all less urgent jobs gave way, by class; only if some would."""
    held = dict.fromkeys(JobClass, 0)
    for running in jobs:
        # What it holds now. A job at intake has no tokens yet, but its claim counted a cost for it.
        known = running.prompt_tokens + running.tokens
        held[running.job_class] += running.cost_tokens if running.preparing else known
    room: dict[JobClass, int] = {}
    free_tokens, less_urgent_tokens = room_here.free_tokens, 0
    # From batch upwards: with 100 tokens free, 400 held by batch jobs and 300 by standard ones, standard jobs
    # see room for 500 and interactive ones for 800.
    for job_class in reversed(JobClass):
        if less_urgent_tokens:
            room[job_class] = free_tokens + less_urgent_tokens
        less_urgent_tokens += held[job_class]
    return room


def who_gives_way(
    jobs: Iterable[RunningJob], room_here: Room, job_class: JobClass, cost_tokens: int
) -> list[RunningJob]:
    """The jobs to hand back so that one of `job_class` with this cost fits; empty if that isn't enough.

    Args:
        jobs: the jobs that are here now.
        room_here: what is free, and what they hold.
        job_class: class of the job that doesn't fit.
        cost_tokens: KV tokens that it needs, in whole pages.
    """
    victims = [running for running in jobs if less_urgent(running, job_class)]
    # Popped from the end: the least urgent class first, and of it the youngest.
    victims.sort(key=lambda running: (_RANK[running.job_class], running.claimed_at))
    slots, room = room_here.free_slots, room_here.free_tokens
    chosen: list[RunningJob] = []
    while slots < 1 or room < cost_tokens:
        if not victims:
            return []
        victim = victims.pop()
        chosen.append(victim)
        slots, room = slots + len(victim.choices), room + room_here.held_tokens(victim.job_id)
    return chosen
